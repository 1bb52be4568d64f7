"""Strikes keys out of texts: by their exact values, in every way that they get written, and by their looks.

Providers repeat keys in their errors, proxies repeat whole requests, and a traceback repeats anything. What leaves the
program passes through `scrub` first. Imports nothing heavy: the command line's last resort uses it too.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

STRUCK = "[key]"

_SHORTEST = 8
"""Characters. What is shorter (`EMPTY`, `none`, `ollama`) is a placeholder, and a word that texts may need."""

_HOLDS_A_KEY = re.compile(
    r"(?i)(?:^|_)(?:(?:API)?_?KEY(?:_ID)?|TOKEN|SECRET|PASSWORD|PASSWD|PAT|CREDENTIALS?)(?:_|$)"
)
_LOOKS = re.compile(
    r"""(?x)
    \b(?:sk|rk|pk)-[A-Za-z0-9_*.-]{6,}                            # OpenAI, Anthropic, OpenRouter, DeepSeek
    | \b(?:AIza|hf_|gsk_|xai-|nvapi-|pplx-|fw_|r8_|ghp_|csk-|tgp_v1_)[A-Za-z0-9_-]{12,}
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
    | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_.-]+                    # a JSON web token
    | (?i:\b(?:bearer|basic)\s+)(?=\S*[0-9=*])[A-Za-z0-9._~+/=*-]{8,}
    | [A-Za-z0-9_-]{2,}\*{3,}[A-Za-z0-9_*-]*                       # masked by the provider: the ends are still telling
    | (?i:\b(?:api[-_\x20]?key|x-api-key|access[-_\x20]?token|secret|password)["']?\s*[:=]\s*["']?)(?!\[key\])[^\s"',;&]{6,}
    """
)

_RUN = re.compile(r"[A-Za-z0-9]+")

_registered: set[str] = set()


def register(*values: str) -> None:
    """Name values to strike out that no variable with a telling name holds (a proxy's password, an oddly named key)."""
    _registered.update(values)


class Striker:
    """Strikes certain values out of texts, in whatever way they are written.

    Texts get quoted by JSON, by Python's repr, by URLs and HTML, one in the other, and put into lower case on the way. So a
    value is looked for letter by letter, each as itself or as its escape, with any number of backslashes between.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._wanted: list[tuple[str, re.Pattern[str]]] = []
        for value in sorted({value.strip() for value in values}, key=len, reverse=True):
            if len(value) >= _SHORTEST:
                # The longest part that no quoting changes: where it is not, nothing is, and to look for it is quick.
                part = max(_RUN.findall(value), key=len, default="").lower()
                letters = [_letter(letter) for letter in value if letter != "\\"]
                self._wanted.append((part, re.compile(r"(?:\\|%5[Cc])*".join(letters), re.IGNORECASE)))

    def strike(self, text: str) -> str:
        """Return the text with STRUCK in the place of each value: the same text where there is none."""
        if not self._wanted:
            return text
        lower = text.lower()
        for part, pattern in self._wanted:
            if part in lower:
                text = pattern.sub(STRUCK, text)
        return text


def _letter(letter: str) -> str:
    """Return a pattern of the ways to write one letter."""
    if letter.isascii() and letter.isalnum():
        return letter
    ways = [re.escape(letter), re.escape(html.escape(letter)), f"&#{ord(letter)};", f"&#x{ord(letter):x};"]
    ways += [re.escape(quote(letter, safe="")), re.escape(json.dumps(letter)[1:-1].lstrip("\\"))]
    if letter == " ":
        ways += [r"\s+", r"\+"]
    ways.append(re.escape(ascii(letter)[1:-1].lstrip("\\")))
    return f"(?:{'|'.join(dict.fromkeys(ways))})"


def striker() -> Striker:
    """Return what strikes out every secret that this process may have sent: registered ones and the environment's."""
    found = {value for name, value in os.environ.items() if _HOLDS_A_KEY.search(name)}
    return _striker(frozenset(found | _registered))


@lru_cache(maxsize=4)
def _striker(values: frozenset[str]) -> Striker:
    return Striker(values)


def scrub(text: str) -> str:
    """Return `text` without any key that we know, and without what looks like one."""
    return _LOOKS.sub(STRUCK, striker().strike(text))


def looks_like_key(text: str) -> bool:
    """Whether a text that should be a variable's name is rather a key itself."""
    if _LOOKS.search(text) or not re.fullmatch(r"[A-Z_][A-Z0-9_]*", text):
        return True
    return (
        "_" not in text
        and len(text) >= 16
        and re.search(r"[0-9]", text) is not None
        and text not in os.environ
    )

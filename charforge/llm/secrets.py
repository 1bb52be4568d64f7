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
from urllib.parse import quote, quote_plus

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

_registered: set[str] = set()


def register(*values: str) -> None:
    """Name values to strike out that no variable with a telling name holds (a proxy's password, an oddly named key)."""
    _registered.update(values)


def spellings(values: Iterable[str]) -> tuple[str, ...]:
    """Return secrets as they may be written (plain, in JSON, in JSON in JSON, in URLs, HTML, Python), longest first."""
    found = set()
    for value in values:
        value = value.strip()  # noqa: PLW2901 - as the lanes send it
        if len(value) < _SHORTEST:
            continue
        escaped = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
        escaped |= {each.replace("/", "\\/") for each in escaped}
        escaped |= {json.dumps(each)[1:-1] for each in escaped} | {repr(value)[1:-1], ascii(value)[1:-1]}
        escaped |= {quote(value), quote(value, safe=""), quote_plus(value), html.escape(value)}
        escaped.add(" ".join(value.split()))
        found |= escaped
    return tuple(sorted(found, key=len, reverse=True))


def known() -> tuple[str, ...]:
    """Return every secret that this process may have sent, in all spellings: registered ones and the environment's."""
    values = {value for name, value in os.environ.items() if _HOLDS_A_KEY.search(name)}
    return spellings(values | _registered)


def strike(text: str, secrets: Iterable[str]) -> str:
    """Return `text` without these exact spellings."""
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, STRUCK)
    return text


def scrub(text: str) -> str:
    """Return `text` without any key that we know, and without what looks like one."""
    return _LOOKS.sub(STRUCK, strike(text, known()))


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

"""Fills the report's page. Everything that reaches it as text is data: cleaned, then escaped.

The page needs no script and no request: its policy forbids both, and allows exactly its own style sheet by digest.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = ("page.html.j2", "style.css")
"""What lies beside this module and shapes the page: part of the report stage's code."""

_KEPT = {"\n", "\t"}


def clean(text: str) -> str:
    """Return text without control characters, terminal codes' escapes, text direction overrides and lone surrogates.

    Joiners (U+200C, U+200D) stay: scripts and emoji need them. Idempotent.
    """
    return "".join(
        character
        for character in text.replace("\r\n", "\n").replace("\r", "\n")
        if character in _KEPT
        or character in "\u200c\u200d\u00ad"
        or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}
    )


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> tuple[Any, str]:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_read(FILES[0])), _read(FILES[1])


def policy(style: str) -> str:
    """Return the page's Content-Security-Policy: nothing from anywhere, and this one style sheet."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def fill(values: Mapping[str, Any]) -> str:
    """Return the page as HTML text. Values of type Markup are put in as they are; all other text is escaped."""
    template, style = _template()
    style = f"\n{style}"
    # Cleaned as a whole, so that nothing gets past it, plots included; what is taken out is never part of markup.
    return clean(template.render(**values, style=Markup(style), policy=policy(style)))  # noqa: S704  # our own file

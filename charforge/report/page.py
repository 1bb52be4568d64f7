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

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = "page.html.j2"
STYLE = "style.css"
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
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def policy(style: str) -> str:
    """Return the page's Content-Security-Policy: nothing from anywhere, and this one style sheet."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def fill(values: Mapping[str, Any], template: str = PAGE) -> str:
    """Return a page as HTML text. Values of type Markup are put in as they are; all other text is escaped.

    `template` is a file beside this module; besides `values` it gets `style`, the style sheet, and its `policy`.
    """
    style = f"\n{_read(STYLE)}"
    filled = _environment().get_template(template).render(**values, style=Markup(style), policy=policy(style))  # noqa: S704  # our own file
    # Cleaned as a whole, so that nothing gets past it, plots included; what is taken out is never part of markup.
    return clean(filled)

"""Numbers and nested data as a reader sees them. Pure functions; text comes back unescaped."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DIMENSIONS = ("memorization", "values", "personality", "hallucination", "stability")
"""In the order in which a page shows them; others follow by name."""

_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def in_words(number: int) -> str:
    """Return a small number as an English word, any other in digits."""
    return _SMALL[number] if number < len(_SMALL) else str(number)


def count(number: int) -> str:
    """Return a whole number with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def size(number: int) -> str:
    """Return a number of parameters, such as 135M."""
    for unit, letter in ((10**9, "B"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.0f}{letter}" if number >= 10 * unit else f"{number / unit:.1f}{letter}"
    return count(number)


def figure(value: Any) -> str | None:
    """Return a number for a table, whole numbers whole; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return count(value) if isinstance(value, int) else f"{value:.1f}"


def finite(value: Any) -> float | None:
    """Return a finite number as a float, None for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def anchor(kind: str, identity: str) -> str:
    """Return the id of an element of the page that stands for a record: safe and short whatever the record's id holds."""
    return f"{kind}-{hashlib.sha256(identity.encode('utf-8', 'replace')).hexdigest()[:12]}"


def amount(unit: str, value: float, *, signed: bool = False) -> str:
    """Return a value of a metric as text: shares in percent, differences of shares in points where `signed`."""
    sign = ("+" if value > 0 else "−" if value < 0 else "±") if signed else "−" if value < 0 else ""
    size = abs(value)
    if unit == "share":
        percent = 100 * size
        digits = 1 if 0 < percent < 9.95 else 0
        return f"{sign}{percent:.{digits}f}" + ("" if signed else "\u202f%")
    if unit == "count" and size == int(size):
        return sign + count(int(size))
    return f"{sign}{size:.1f}" if unit in {"words", "count"} else f"{sign}{size:.2f}"


def between(unit: str, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Return an interval as text, empty where it could not be computed."""
    if low is None or high is None:
        return ""
    return f"{amount(unit, low, signed=signed)} to {amount(unit, high, signed=signed)}"


def listed(several: Sequence[str], last: str = "and") -> str:
    """Return `a, b and c`."""
    return f"{', '.join(several[:-1])} {last} {several[-1]}" if len(several) > 1 else "".join(several)


def in_order(by_dimension: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return what there is of each dimension, in the paper's order: a file of JSON has its keys sorted."""
    place = {name: at for at, name in enumerate(DIMENSIONS)}
    return sorted(by_dimension.items(), key=lambda item: (place.get(item[0], len(place)), item[0]))


def shortened(text: str, limit: int) -> str:
    """Return text of at most `limit` characters and an ellipsis that says that there was more."""
    return text if len(text) <= limit else f"{text[:limit].rstrip()} …"


def flat(data: Any, path: str = "") -> list[tuple[str, str]]:
    """Return nested JSON data as (dotted path, text), in the data's order."""
    if isinstance(data, dict) and data:
        return [
            row for key, value in data.items() for row in flat(value, f"{path}.{key}" if path else str(key))
        ]
    if isinstance(data, list | tuple) and any(isinstance(value, dict | list | tuple) for value in data):
        return [row for index, value in enumerate(data) for row in flat(value, f"{path}.{index}")]
    if isinstance(data, list | tuple):
        return [(path, ", ".join(map(str, data)) or "–")]
    return [(path, "–" if data is None or data == {} else str(data))] if path else []

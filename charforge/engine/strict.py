"""JSON from a stranger, read strictly: what is not said exactly once, and plainly, is wrong."""

from __future__ import annotations

import json
from typing import Any

_DIGITS = 17
"""Of a whole number, at most: more are none that canonical JSON can hold, and thousands take long to read."""


def parsed(data: bytes, *, depth: int) -> Any:
    """Return the JSON that `data` holds, nested at most `depth` levels.

    Raises ValueError, in words for the user, also for a key that comes twice, a number or a text that canonical JSON cannot hold.
    """
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_int=_whole, parse_constant=_constant
        )
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno:,}, " if error.lineno > 1 else ""
        raise ValueError(f"not JSON: {error.msg} in {line}column {error.colno:,}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    if any(isinstance(each, dict | list) for each in level):
        raise ValueError("nested too deeply")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _whole(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError("a number too large for JSON")
    return int(text)


def _constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")

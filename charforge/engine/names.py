"""What may stand in a store: digests, names of files, what is said of outputs. One may come from a stranger, and say anything."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

_HEX = re.compile("[0-9a-f]{64}")
_ODD_PARTS = frozenset({"", ".", ".."})


def is_digest(value: object) -> bool:
    """Say whether a value is the text of a SHA-256."""
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


@functools.lru_cache(maxsize=4096)
def is_name(name: str) -> bool:
    """Say whether a name is a plain path, relative and inside whatever folder it is put into, on any system."""
    return name.isprintable() and "\\" not in name and not _ODD_PARTS.intersection(name.split("/"))


def parsed(text: str | bytes) -> Any:
    """Return JSON data, None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def is_outputs(data: object) -> bool:
    """Say whether parsed JSON says what a trace's outputs are: digests by name, a tree's ending in `/`."""
    return isinstance(data, dict) and all(
        is_name(name.removesuffix("/")) and is_digest(data[name]) for name in data
    )


def is_record(data: object) -> bool:
    """Say whether parsed JSON may lie beside a trace: what it says of lists of calls is digests."""
    return (
        isinstance(data, dict)
        and ("calls" not in data or is_digest(data["calls"]))
        and ("made" not in data or is_digest(data["made"]))
    )


def is_manifest(data: object) -> bool:
    """Say whether parsed JSON says of a tree what its files are: path, digest and size."""
    return isinstance(data, dict) and all(is_name(name) and _is_entry(data[name]) for name in data)


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and set(entry) == {"digest", "size"}
        and is_digest(entry["digest"])
        and type(entry["size"]) is int
    )

"""What may stand in a store as a digest or as a file's name. A store may come from a stranger, and say anything of itself."""

from __future__ import annotations

import functools
import re

_HEX = re.compile("[0-9a-f]{64}")
_ODD_PARTS = frozenset({"", ".", ".."})


def is_digest(value: object) -> bool:
    """Say whether a value is the text of a SHA-256."""
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


@functools.lru_cache(maxsize=4096)
def is_name(name: str) -> bool:
    """Say whether a name is a plain path, relative and inside whatever folder it is put into, on any system."""
    return name.isprintable() and "\\" not in name and not _ODD_PARTS.intersection(name.split("/"))


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

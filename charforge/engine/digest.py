"""Canonical bytes and digests (contract). Changing anything here changes every digest ever recorded.

An action's digest is SHA-256 over a domain tag and the RFC 8785 canonical JSON of
`{kind, version, params, inputs}`. A blob's digest is the plain SHA-256 of its bytes, so that
`sha256sum` can check a store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import rfc8785

ACTION_DOMAIN = b"charforge/action/1\n"


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 form of JSON data.

    Raises ValueError for what JSON cannot say: NaN, infinities, integers beyond 2**53, lone surrogates,
    keys that are not strings, any other type.
    """
    try:
        if _plain(value):
            with suppress(UnicodeEncodeError):  # the reference says it in its own words
                return _dump(value).encode()
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise ValueError(f"not canonical JSON: {error}") from error


_dump = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False
).encode


def _plain(value: Any) -> bool:
    """Say whether Python's own encoder, which is ten times as fast as rfc8785, gives the canonical form of a value.

    It does but for keys outside ASCII (which RFC 8785 sorts by UTF-16 units) and for numbers that ECMAScript writes in
    another way: whole floats, and those that either writes with an exponent.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return True
    if kind is dict:
        return all(type(key) is str and key.isascii() and _plain(each) for key, each in value.items())
    if kind is list or kind is tuple:
        return all(map(_plain, value))
    if kind is int:
        return bool(-(2**53) < value < 2**53)
    return bool(kind is float and 1e-4 <= abs(value) < 1e15 and not value.is_integer())


def jsonl(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Return records as canonical JSON lines, in the order given, each ended by a newline."""
    return b"".join(canonical(dict(record)) + b"\n" for record in records)


def of_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Action:
    """A repeatable step, as plain data.

    `params` is JSON data, everything besides the inputs that can change an output. `inputs` maps the name under which
    the step knows an input to the digest of its bytes.
    """

    kind: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, str]

    def body(self) -> dict[str, Any]:
        """Return the action as JSON data: exactly what is digested."""
        return {
            "kind": self.kind,
            "version": self.version,
            "params": dict(self.params),
            "inputs": dict(self.inputs),
        }

    def plain(self) -> dict[str, Any]:
        """Return the action as its canonical form reads: there 1.0 is 1, and a tuple a list."""
        data: dict[str, Any] = json.loads(self.canonical)
        return data

    @cached_property
    def canonical(self) -> bytes:
        """The canonical JSON of `body()`."""
        return canonical(self.body())

    @cached_property
    def digest(self) -> str:
        """The action's name: 64 hex digits."""
        return of_bytes(ACTION_DOMAIN + self.canonical)

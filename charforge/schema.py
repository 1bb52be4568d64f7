"""Says in our own words what a JSON Schema finds wrong with a plain value.

jsonschema finds the faults; this module words them: one fault a value, with what was expected, what is there and what
to do about it. `x-expected` in a schema is our wording of what is expected (every `anyOf` needs one), `x-example` shows a
missing key's form, `x-url` is the hint for someone who wrote a URL, `x-hints` has hints for other texts by a pattern of
theirs. Knows nothing of files and lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charforge.errors import MAX_PROBLEMS
from charforge.safe_yaml import shown

if TYPE_CHECKING:
    from charforge.safe_yaml import KeyPath

_MATCHED = 64  # characters
_MATCHED_TEXT = 400
SECRETS = "keys and endpoints come from the environment, never from a spec"
# Compared without case, '-' and '_'.
_SECRET = re.compile(
    r"api.*|.*(apikey|apibase|token|secret|password|credentials?)|key|baseurl|url|endpoint|host|port|proxy|headers?"
    r"|organization|command|cmd|shell|script|code|exec|hooks?|env|environment|trustremotecode"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong. `at_key`: the key itself is wrong; `secret`: its value must not be shown."""

    path: KeyPath
    message: str
    hint: str | None = None
    at_key: bool = False
    secret: bool = False


def faults(value: Any, schema: dict[str, Any], *, partial: bool = False) -> list[Fault]:
    """Return everything that is wrong with `value`, at most one fault a path. `partial`: missing keys are no fault."""
    found: dict[KeyPath, Fault] = {}
    unknown = 0
    for error in _leaves(_validator()(schema).iter_errors(value)):
        path = tuple(error.absolute_path)
        match error.validator:
            case "additionalProperties":
                known = list(error.schema["properties"])
                for key in [key for key in error.instance if key not in known]:
                    unknown += 1
                    # Nobody reads the hint of the 51st, and to search for near words takes its time.
                    hint = _unknown_hint(key, known, schema) if unknown <= MAX_PROBLEMS else None
                    inner = (*path, key)
                    found[inner] = Fault(inner, "unknown key", hint, at_key=True, secret=is_secret(key))
            case "required":
                missing = [key for key in error.validator_value if key not in error.instance]
                for key in [] if partial else missing:
                    example = error.schema["properties"][key].get("x-example")
                    hint = f"add it, for example: {example}" if example else None
                    found[*path, key] = Fault((*path, key), "this key is missing", hint)
            case "uniqueItems":
                message = f"{shown(error.instance)} is there twice"
                found.setdefault(path, Fault(path, message, "keep one of them"))
            case _:
                message = f"expected {expected(error.schema)}, got {_got(error.instance, error.schema)}"
                found[path] = Fault(path, message, _hint(error.instance, error.schema))
    return list(found.values())


@cache
def schema_file(name: str) -> dict[str, Any]:
    """Return the JSON Schema `charforge/<name>.schema.json`. Shared: not to be changed."""
    data: dict[str, Any] = json.loads(Path(__file__).with_name(f"{name}.schema.json").read_bytes())
    return data


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value may be a key, an endpoint or a command."""
    return _SECRET.fullmatch(key.lower().replace("-", "").replace("_", "")) is not None


def nearest(word: str, known: list[str]) -> str | None:
    """Return the one of `known` that `word` most likely means. Long words are cut: matching is quadratic."""
    near = get_close_matches(word[:_MATCHED], known, n=1)
    return near[0] if near else None


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator, ValidationError  # 90 ms
    from jsonschema.validators import extend

    def unique(_validator: Any, _unique: bool, items: Any, _schema: Any) -> Iterator[Any]:
        # The library's own does not say which item it is, and is quadratic where the items are of several types.
        seen = set()
        for index, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, str):  # in a list of ours everything else is a fault already
                if item in seen:
                    yield ValidationError("", path=[index], instance=item)
                seen.add(item)

    return extend(Draft202012Validator, {"uniqueItems": unique})  # type: ignore[no-untyped-call]


def _leaves(errors: Iterable[Any]) -> Iterator[Any]:
    """Yield what is wrong inside the branch of a union that was meant, or the union itself where that is unclear."""
    for error in errors:
        branches: dict[Any, list[Any]] = {}
        for inner in error.context:
            branches.setdefault(inner.relative_schema_path[0], []).append(inner)
        # A branch for another type was not meant; of the rest, the one with the fewest faults was.
        other_type = [
            b for b in branches if any(e.validator == "type" and not e.relative_path for e in branches[b])
        ]
        meant = sorted((branches[b] for b in branches if b not in other_type), key=len)
        if not meant or (len(meant) > 1 and len(meant[0]) == len(meant[1])):
            yield error
            continue
        for inner in meant[0]:
            if not inner.relative_path:  # the other branches would have been right too
                inner.schema = {**inner.schema, "x-expected": expected(error.schema)}
        yield from _leaves(meant[0])


def _unknown_hint(key: str, known: list[str], root: dict[str, Any]) -> str:
    if is_secret(key):
        return SECRETS
    near = nearest(key, known)
    if near:
        return f"did you mean '{near}'?"
    for section in _sections(root):
        if key in section[1]:
            return f"did you mean '{section[0]}{key}'?"
    return "expected one of " + ", ".join(known)


def _sections(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path of each section below a schema, with its dot, and the section's keys."""
    for name, child in schema["properties"].items():
        if "properties" in child:
            yield f"{path}{name}.", child["properties"]
            yield from _sections(child, f"{path}{name}.")


def expected(schema: dict[str, Any]) -> str:
    """Return what a value must be, in words that fit after 'expected'."""
    if "x-expected" in schema:
        return str(schema["x-expected"])
    if "enum" in schema:
        return "one of " + ", ".join(shown(item).strip("'") for item in schema["enum"])
    words = {
        "object": "keys and values",
        "boolean": "true or false",
        "null": "null",
        "array": "a list" + _range(schema, "minItems", "maxItems", "of", "items"),
        "string": "text" + _range(schema, "minLength", "maxLength", "of", "characters"),
        "integer": "a whole number" + _range(schema, "minimum", "maximum", "", ""),
        "number": "a number" + _range(schema, "minimum", "maximum", "", ""),
    }
    return " or ".join(words[name] for name in _types(schema))


def _range(schema: dict[str, Any], low: str, high: str, of: str, unit: str) -> str:
    least, most, above = schema.get(low), schema.get(high), schema.get("exclusiveMinimum")
    tail = f" {unit}" if unit else ""
    if unit and least is None and most is not None:
        least = 0
    if above is not None and not unit:
        return f" above {above}" + (f", at most {most}" if most is not None else "")
    if least is not None and most is not None:
        return f" {of} {least} to {most}{tail}" if of else f" between {least} and {most}"
    if least is not None:
        return f" of at least {least}{tail}"
    return ""


def _got(value: Any, schema: dict[str, Any]) -> str:
    if isinstance(value, str) and "string" in _types(schema) and "enum" not in schema:
        if len(value) > schema.get("maxLength", len(value)):
            return f"{len(value):,} characters"
    elif isinstance(value, list) and "array" in _types(schema):
        return f"a list of {len(value):,}" if "x-expected" in schema else f"{len(value):,}"
    return shown(value)


def _hint(value: Any, schema: dict[str, Any]) -> str | None:
    types = _types(schema)
    if isinstance(value, str):
        if "://" in value and "x-url" in schema:
            return str(schema["x-url"])
        for pattern, hint in schema.get("x-hints", {}).items():
            if re.search(pattern, value[:_MATCHED_TEXT]):
                return str(hint)
        if "enum" in schema:
            near = nearest(value, [item for item in schema["enum"] if isinstance(item, str)])
            if near:
                return f"did you mean '{near}'?"
        if types == ["boolean"] or any(item is True for item in schema.get("enum", ())):
            means = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
            return f"write {means[value.lower()]}" if value.lower() in means else None
        if "number" in types or "integer" in types:
            return "write the number without quotes" if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", value) else None
        if "array" in types:
            return "a list is written [one, two], or one '- item' on each line"
    elif types == ["string"] and isinstance(value, int | float):
        return "put it in quotes" if re.search(schema.get("pattern", ""), str(value)) else None
    elif value is None and "object" in types:
        return "give it a value or delete the line"
    return None


def _types(schema: dict[str, Any]) -> list[str]:
    found = schema.get("type", [])
    return [found] if isinstance(found, str) else found

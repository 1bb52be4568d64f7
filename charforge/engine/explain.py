"""Why something is stale: the difference between two actions, as data, down to the field.

Whoever finds a stage stale records these reasons; printing them is all that is left to do later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Reason = dict[str, Any]
"""`{"kind": "never"}`, `{"kind": "gone"}` (of a lock: there is no such stage now), `{"kind": "lost"}`, `{"kind": "version", "was", "now"}`, `{"kind": "input", "label", "change"}` or
`{"kind": "field", "field", "was", "now"}` (a side that does not exist is left out)."""

_SHOWN = 60


def reasons(was: Mapping[str, Any] | None, now: Mapping[str, Any], labels: Mapping[str, str]) -> list[Reason]:
    """Return why action body `now` is not `was`. `labels` gives input names their human form.

    Equal bodies mean that the trace or its blobs are gone.
    """
    if was is None:
        return [{"kind": "never"}]
    found: list[Reason] = []
    if was["kind"] != now["kind"]:
        found.append({"kind": "field", "field": "kind", "was": was["kind"], "now": now["kind"]})
    if was["version"] != now["version"]:
        found.append({"kind": "version", "was": was["version"], "now": now["version"]})
    for name in sorted({*was["inputs"], *now["inputs"]}):
        before, after = was["inputs"].get(name), now["inputs"].get(name)
        if before != after:
            change = "added" if before is None else "removed" if after is None else "changed"
            found.append({"kind": "input", "label": labels.get(name, name), "change": change})
    found.extend(_fields("", was["params"], now["params"]))
    return found or [{"kind": "lost"}]


def _fields(path: str, was: Any, now: Any) -> Iterator[Reason]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted({*was, *now}):
            inner = f"{path}.{key}" if path else key
            if key not in was:
                yield {"kind": "field", "field": inner, "now": now[key]}
            elif key not in now:
                yield {"kind": "field", "field": inner, "was": was[key]}
            else:
                yield from _fields(inner, was[key], now[key])
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, (before, after) in enumerate(zip(was, now, strict=True)):
            yield from _fields(f"{path}[{index}]", before, after)
    elif was != now or type(was) is not type(now):
        yield {"kind": "field", "field": path, "was": was, "now": now}


def sentence(reason: Reason) -> str:
    """Return a reason as a short phrase: `train.epochs 3 → 5`, `prompts/scene.j2 changed`, `never built`."""
    match reason["kind"]:
        case "never":
            return "never built"
        case "gone":
            return "there is no such stage now"
        case "lost":
            return "its recorded outputs are gone from the store, or damaged"
        case "version":
            return f"its code changed (version {reason['was']} → {reason['now']})"
        case "input":
            return f"{reason['label']} {reason['change']}"
        case _:
            if "was" not in reason:
                return f"{reason['field']} is new: {_short(reason['now'])}"
            if "now" not in reason:
                return f"{reason['field']} is gone (was {_short(reason['was'])})"
            return f"{reason['field']} {_pair(reason['was'], reason['now'])}"


def readable(text: str) -> list[Reason]:
    """Return reasons from their recorded JSON; none where it, or one of them, does not read as that any more."""
    try:
        found = json.loads(text)
        for reason in found:
            sentence(reason)
    except (ValueError, TypeError, LookupError):
        return []
    return found if isinstance(found, list) else []


def sentences(found: Iterable[Reason], *, limit: int = 4) -> str:
    """Return reasons as one line; beyond `limit` they are counted."""
    phrases = [sentence(reason) for reason in found]
    more = len(phrases) - limit
    return ", ".join(phrases[:limit]) + (f" and {more} more" if more > 0 else "")


def _pair(was: Any, now: Any) -> str:
    if isinstance(was, str) and isinstance(now, str) and max(len(was), len(now)) > _SHOWN:
        start = max(0, _shared(was, now) - 15)
        return f"from …{_short(was[start : start + 40])} to …{_short(now[start : start + 40])}"
    before, after = _short(was), _short(now)
    if before == after:  # a change of type, or of white space
        before, after = _clip(json.dumps(was, ensure_ascii=False)), _clip(json.dumps(now, ensure_ascii=False))
    return f"{before} → {after}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value) if isinstance(value, float) else str(value)
    return _clip(" ".join(text.split()))


def _clip(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def nearest_call(now: Mapping[str, Any], candidates: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return, among earlier calls' bodies, the one that `now` most likely replaces: fewest differing fields.

    A call has no name that outlives its content, so this is a search; it runs when somebody asks, never in a build.
    """
    return nearest_calls([now], candidates)[0]


def nearest_calls(
    wanted: Sequence[Mapping[str, Any]], candidates: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any] | None]:
    """Do `nearest_call` for several bodies at once; of equally near candidates the first is taken."""
    best: list[Mapping[str, Any] | None] = [None] * len(wanted)
    least = [float("inf")] * len(wanted)
    for body in candidates:
        for place, now in enumerate(wanted):
            distance = 0
            for reason in _fields("", body["params"], now["params"]):
                distance += _weight(reason)
                if distance >= least[place]:
                    break
            else:
                best[place], least[place] = body, distance
    return best


def _weight(reason: Reason) -> int:
    was, now = reason.get("was"), reason.get("now")
    if isinstance(was, str) and isinstance(now, str):
        start = _shared(was, now)
        end = _shared(was[start:][::-1], now[start:][::-1])
        return 10 + max(len(was), len(now)) - start - end
    return 10


def _shared(a: str, b: str) -> int:
    """Return how many characters two texts begin with in common. Found by halving: comparing a slice costs next to nothing."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

"""The lock (contract): what a finished build stood on, committed beside the spec, one line a stage so that diffs stay small.

A line holds a stage's whole action, so the lock can be held against itself and, without any store, against what spec,
prompts and code derive; and the digests and facts of what was made, which a store or a replay can confirm. It comes
from a stranger's pull request as often as not: it is read within limits, and everything in it is a claim.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from charforge.engine import strict
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.explain import Reason, reasons
from charforge.engine.graph import Graph
from charforge.engine.names import is_digest
from charforge.engine.stale import action_of
from charforge.engine.store import Store, Trace

VERSION = 2
"""1 held an action's digest only, and no action. It is still read for what it names; a build writes it anew."""

MAX_BYTES = 2 << 20
"""Beethoven's has 23 kB."""
MAX_DEPTH = 32

_OBSERVATIONS = b"charforge/observations/1\n"
_REBUILD = "charforge lock {} writes it anew from the store"


@dataclass(frozen=True, slots=True)
class Line:
    """What a lock says of one stage.

    `version`, `params` and `inputs` are its action's. `counts` are the records of each JSON Lines output, `models` the models
    asked with the digest of their weights (None: served elsewhere), `observations` the number and root digest of
    its calls' replies (empty: it makes none), `usage` tokens and cost by model, `environment` a key of the lock's environments.
    """

    action: str
    version: int
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    counts: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, str | None] = field(default_factory=dict)
    observations: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    environment: str = ""

    def body(self, kind: str) -> Action:
        """Return the action that the line describes; its digest should be `action`."""
        return Action(kind, self.version, self.params, self.inputs)

    def facts(self) -> dict[str, Any]:
        """Return what the line says was made, and of what: all that a second run can confirm."""
        return {name: _plain(getattr(self, name)) for name in _FACTS}


_FACTS = ("outputs", "counts", "models", "observations", "usage")


@dataclass(frozen=True, slots=True)
class Lock:
    """A character's lock. `stages` maps a stage's kind (`scenes`) to its line."""

    character: str
    stages: Mapping[str, Line]
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# -- what it says ----------------------------------------------------------------------------------------------------


def line(store: Store, trace: Trace) -> tuple[Line, Mapping[str, Any]]:
    """Return what a lock says of a stage's trace, all of it read from the store, and the environment it ran in. Raises Damaged."""
    body = store.action_body(trace.action)
    if body is None:
        raise Damaged(trace.action, "is an action whose description is missing")
    counts = {
        name: store.read(digest).count(b"\n")
        for name, digest in trace.outputs.items()
        if name.endswith(".jsonl")
    }
    models: dict[str, str | None] = {}
    pairs = []
    for call in store.calls_in(trace):
        reply, asked = store.find(call), store.action_body(call)
        if reply is None or asked is None:
            # Else no lock could ever be written: the next build runs the stage again, and asks for what is lost.
            store.unlist(trace)
            raise Damaged(call, "is a call whose reply is missing")
        pairs.append((call, reply.outputs["reply"]))
        # What every call says of whom it asks; None where the weights are not ours to know.
        models[str(asked["params"].get("model"))] = asked["params"].get("weights")
    environment: Mapping[str, Any] = trace.record.get("environment") or {}
    return Line(
        action=trace.action,
        version=body["version"],
        params=body["params"],
        inputs=body["inputs"],
        outputs=dict(trace.outputs),
        counts=counts,
        models=models,
        observations={"count": len(pairs), "root": observations_root(pairs)} if pairs else {},
        usage=_usage(trace.record.get("usage") or {}),
        environment=environment_key(environment),
    ), environment


def _usage(recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    # Not `lost`, what failed attempts may have cost: it is of one build, and no other could confirm it. Costs are sums of
    # floats in the order that the replies came.
    return {
        model: {key: round(value, 6) for key, value in used.items() if key != "lost"}
        for model, used in recorded.items()
    }


def observations_root(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the digest that names a stage's replies. `pairs` are (call's digest, reply's digest), in any order."""
    lines = sorted(f"{call} {reply}\n" for call, reply in pairs)
    return hashlib.sha256(_OBSERVATIONS + "".join(lines).encode()).hexdigest()


def environment_key(environment: Mapping[str, Any]) -> str:
    """Return the name under which a lock keeps an environment."""
    return of_bytes(canonical(dict(environment)))[:12]


def collect(store: Store, character: str, traces: Mapping[str, Trace]) -> Lock:
    """Return the lock of these traces, by stage; 30,000 calls take two seconds. Raises Damaged."""
    lines = {kind: line(store, trace) for kind, trace in traces.items()}
    environments = {each.environment: environment for each, environment in lines.values()}
    return Lock(character, {kind: each for kind, (each, _) in lines.items()}, environments)


# -- its text --------------------------------------------------------------------------------------------------------


def text(lock: Lock) -> str:
    """Return the lock as it is committed: keys sorted, one line a stage."""

    def lines(rows: Mapping[str, Any]) -> str:
        inner = ",\n".join(f"    {json.dumps(key)}: {_dump(rows[key])}" for key in sorted(rows))
        return f"{{\n{inner}\n  }}" if rows else "{}"

    stages = {kind: _entry(each) for kind, each in lock.stages.items()}
    return (
        f'{{\n  "character": {_dump(lock.character)},\n  "charforge_lock": {VERSION},\n'
        f'  "environments": {lines(lock.environments)},\n  "stages": {lines(stages)}\n}}\n'
    )


def _entry(each: Line) -> dict[str, Any]:
    data = {one.name: _plain(getattr(each, one.name)) for one in fields(each)}
    # Absent where there is nothing to say: a stage without calls has no models.
    return {
        key: value for key, value in data.items() if value != {} or key in {"inputs", "outputs", "params"}
    }


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    # As the canonical form reads: there 1.0 is 1 and a tuple a list.
    return json.loads(canonical(dict(value))) if isinstance(value, Mapping) else value


def write(path: Path, lock: Lock) -> bool:
    """Write a lock atomically, unless the file says the same already; return whether it was written. Raises EngineError."""
    data = text(lock).encode()
    try:
        if path.exists() and path.read_bytes() == data:
            return False
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error.strerror}", "make it writable and rerun") from error
    return True


def read(path: Path) -> Lock:
    """Return a lock from its file. Raises EngineError where it cannot be read or is no lock of this version."""
    return parse(_read(path), str(path))


def actions(path: Path) -> list[str]:
    """Return the action digests that a lock of any version names. Raises EngineError."""
    data = _data(_read(path), str(path))
    stages = data["stages"]
    found = [entry.get("action") for entry in stages.values() if isinstance(entry, dict)]
    if len(found) != len(stages) or not all(map(is_digest, found)):
        raise _no_lock(str(path), "a stage names no action")
    return [str(digest) for digest in found]


def parse(data: bytes, label: str) -> Lock:
    """Return a lock from its bytes. `label` is what errors call it. Raises EngineError."""
    raw = _data(data, label)
    if raw["charforge_lock"] < VERSION:
        raise EngineError(
            f"{label}: a lock of version {raw['charforge_lock']}, which does not say what its stages stood on",
            _REBUILD.format(_id(label)),
        )
    if set(raw) != {"character", "charforge_lock", "environments", "stages"}:
        raise _no_lock(label, "it has other keys than character, charforge_lock, environments and stages")
    environments = raw["environments"]
    if not (isinstance(environments, dict) and all(isinstance(each, dict) for each in environments.values())):
        raise _no_lock(label, "environments are no objects")
    stages = {}
    for kind, entry in raw["stages"].items():
        problem = _entry_problem(entry, environments)
        if problem is not None:
            raise _no_lock(label, f"stage {kind[:40]!r}: {problem}")
        stages[kind] = Line(**entry)
    return Lock(raw["character"], stages, environments)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise EngineError(f"{path}: no such file", "a finished build writes it") from None
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise _no_lock(str(path), f"more than {MAX_BYTES:,} bytes")
    return data


def _data(data: bytes, label: str) -> dict[str, Any]:
    if b"\n<<<<<<< " in data or data.startswith(b"<<<<<<< "):
        raise EngineError(f"{label}: holds the marks of a merge conflict", _REBUILD.format(_id(label)))
    try:
        raw = strict.parsed(data, depth=MAX_DEPTH)
        canonical(raw)  # numbers and texts that no digest could hold
    except ValueError as error:
        raise _no_lock(label, str(error)[:120]) from None
    if not isinstance(raw, dict) or type(raw.get("charforge_lock")) is not int:
        raise _no_lock(label, "it names no version")
    if raw["charforge_lock"] > VERSION:
        raise EngineError(f"{label}: written by a newer CharForge", "upgrade CharForge")
    if not isinstance(raw.get("character"), str) or not isinstance(raw.get("stages"), dict):
        raise _no_lock(label, "it names no character or no stages")
    return raw


def _entry_problem(entry: Any, environments: Mapping[str, Any]) -> str | None:
    if not isinstance(entry, dict):
        return "no object"
    known = {one.name for one in fields(Line)}
    needed = {"action", "environment", "inputs", "outputs", "params", "version"}
    if not needed <= set(entry) <= known:
        return f"its keys are not those of a line: {', '.join(sorted(needed - set(entry) or set(entry) - known))[:80]}"
    for name in ("inputs", "outputs"):
        if not isinstance(entry[name], dict) or not all(map(is_digest, entry[name].values())):
            return f"{name} name no digests"
    right = (
        is_digest(entry["action"])
        and _is_count(entry["version"])
        and isinstance(entry["params"], dict)
        and _counts(entry.get("counts", {}))
        and _models(entry.get("models", {}))
        and _observations(entry.get("observations", {}))
        and _used(entry.get("usage", {}))
    )
    if not right:
        return "a value is not what a line has there"
    named = isinstance(entry["environment"], str) and entry["environment"] in environments
    return None if named else "its environment is not among the environments"


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _models(value: Any) -> bool:
    return isinstance(value, dict) and all(each is None or is_digest(each) for each in value.values())


def _observations(value: Any) -> bool:
    if value == {}:
        return True
    return (
        isinstance(value, dict)
        and set(value) == {"count", "root"}
        and _is_count(value["count"])
        and is_digest(value["root"])
    )


def _used(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(used, dict)
        and all(isinstance(each, int | float) and not isinstance(each, bool) for each in used.values())
        for used in value.values()
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _no_lock(label: str, why: str) -> EngineError:
    return EngineError(
        f"{label}: not a lock file ({why})", f"restore it from git, or {_REBUILD.format(_id(label))}"
    )


def _id(label: str) -> str:
    return label.rpartition("/")[2].rpartition(":")[2].removesuffix(".lock")


# -- holding it against something ------------------------------------------------------------------------------------


def self_check(lock: Lock) -> dict[str, list[str]]:
    """Return, by stage, what a lock says that cannot be so whatever it was built from. Empty: it agrees with itself."""
    found: dict[str, list[str]] = {}
    for kind, each in lock.stages.items():
        problems = []
        if each.body(kind).digest != each.action:
            problems.append(
                f"the action's digest is not that of its version, params and inputs, which is {each.body(kind).digest[:12]}…"
            )
        if environment_key(lock.environments[each.environment]) != each.environment:
            problems.append(f"the environment {each.environment} is not what its name says")
        problems += [
            f"counts has {name}, which is no output" for name in each.counts if name not in each.outputs
        ]
        problems += [
            f"usage has {model}, which is none of the models asked"
            for model in each.usage
            if model not in each.models
        ]
        calls = sum(int(used.get("calls", 0)) for used in each.usage.values())
        if bool(each.observations) != bool(each.models):
            problems.append("models were asked without observations, or the other way round")
        elif each.usage and calls < each.observations.get("count", 0):
            problems.append(f"usage tells of {calls} calls, observations of {each.observations['count']}")
        if problems:
            found[kind] = problems
    return found


def underived(lock: Lock, graph: Graph, targets: Iterable[str]) -> dict[str, list[Reason]]:
    """Return, by stage, why the graph does not derive what the lock says; needs no store. Empty: it derives all of it.

    The graph's stages are named `<character>/<kind>`. What a stage reads from another is taken from the lock's own
    line, so a difference shows where it is and not in all that stands on it.
    """
    found: dict[str, list[Reason]] = {}
    needed = graph.needed(targets)
    made = {f"{lock.character}/{kind}": each.outputs for kind, each in lock.stages.items()}
    kinds = set()
    for stage in needed:
        kind = stage.name.rpartition("/")[2]
        kinds.add(kind)
        each = lock.stages.get(kind)
        if each is None:
            found[kind] = [{"kind": "never"}]
            continue
        try:
            action = action_of(stage, made)
        except EngineError:
            missing = [
                ref.label
                for ref in _outputs(stage.inputs.values())
                if ref.name not in made.get(ref.stage, {})
            ]
            found[kind] = [{"kind": "input", "label": label, "change": "removed"} for label in missing]
            continue
        if action.digest != each.body(kind).digest:
            labels = {name: ref.label for name, ref in stage.inputs.items()}
            found[kind] = reasons(each.body(kind).plain(), action.plain(), labels)
        elif action.digest != each.action:
            found[kind] = [{"kind": "field", "field": "action", "was": each.action, "now": action.digest}]
    for kind in lock.stages:
        if kind not in kinds:
            found[kind] = [{"kind": "gone"}]
    return found


def _outputs(refs: Iterable[Any]) -> Iterator[Any]:
    return (ref for ref in refs if hasattr(ref, "stage"))


def facts_changed(was: Line, now: Line) -> dict[str, tuple[Any, Any]]:
    """Return, as `{"outputs.scenes.jsonl": (was, now)}`, where two lines say something else was made. None: not there."""
    before, after = (dict(_flat(each)) for each in (was, now))
    return {
        name: (before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name) or (name in before) != (name in after)
    }


def _flat(each: Line) -> Iterator[tuple[str, Any]]:
    for fact, values in each.facts().items():
        for key, value in values.items():
            if isinstance(value, Mapping):  # what a model was used for
                yield from ((f"{fact}.{key}.{inner}", value[inner]) for inner in value)
            else:
                yield f"{fact}.{key}", value

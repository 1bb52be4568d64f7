"""What a recording's lines hold: an observation each, as Python knows it and as its line does, and what it may be.

Knows calls, stages' actions and the store; nothing of files. What is read here comes from a stranger.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charforge.engine import strict
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.files import visible
from charforge.llm.request import FINISH_REASONS
from charforge.safe_json import MAX_INNER, crowded

if TYPE_CHECKING:
    from charforge.engine.store import Store, Trace

MIB = 1 << 20
MAX_LINE = 32 * MIB
MAX_DEPTH = 64
FACTS = ("completion_tokens", "cost", "prompt_tokens", "stage")
"""What a recording says of a call besides the reply; no time, so that two exports are the same bytes."""

STAGE_FACTS = ("device", "dtype", "peak_memory_bytes", "processes", "seconds", "threads")
"""What a recording says of a stage besides its outputs: what an auditor needs who wants to do it again."""
MAX_TEXT = 8 * MIB
"""Of an output of a stage that is kept as it is; of a larger one the digest is."""
_MAX_INTEGER = 2**53 - 1  # the largest that canonical JSON (RFC 8785) carries exactly


@dataclass(frozen=True, slots=True)
class Observation:
    """A recorded reply: the call, the reply's canonical bytes, and what is known besides (some of FACTS)."""

    action: Action
    reply: bytes
    facts: Mapping[str, Any]

    def line(self) -> bytes:
        """Return its line. Raises ValueError with what is wrong, for what no recording may hold."""
        problem = _action_problem(self.action.body()) or _reply_problem(parsed(self.reply))
        if problem is None and canonical(parsed(self.reply)) != self.reply:
            problem = "the reply is not in canonical form"
        problem = problem or _facts_problem(dict(self.facts))
        line = b'{"action":%b,"digest":"%b","record":%b,"reply":%b}\n' % (
            self.action.canonical,
            self.action.digest.encode(),
            canonical(dict(self.facts)),
            self.reply,
        )
        if problem is None and len(line) > MAX_LINE:
            problem = f"{len(line):,} bytes, the limit is {MAX_LINE:,}"
        if problem is not None:
            raise ValueError(problem)
        return line


@dataclass(frozen=True, slots=True)
class Kept:
    """An output of an observed stage: its digest, and its bytes where they are kept (of a folder: its manifest)."""

    digest: str
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Observed:
    """A stage whose outputs are observed and not computed, such as a training. `facts` are some of STAGE_FACTS."""

    action: Action
    outputs: Mapping[str, Kept]
    facts: Mapping[str, Any]

    def line(self) -> bytes:
        """Return its line. Raises ValueError with what is wrong, for what no recording may hold."""
        outputs = {name: _kept_entry(name, kept) for name, kept in self.outputs.items()}
        data = {
            "action": self.action.plain(),
            "digest": self.action.digest,
            "outputs": outputs,
            "record": dict(self.facts),
        }
        problem = observed_problem(data)
        line = canonical(data) + b"\n"
        if problem is None and len(line) > MAX_LINE:
            problem = f"{len(line):,} bytes, the limit is {MAX_LINE:,}"
        if problem is not None:
            raise ValueError(problem)
        return line


def _kept_entry(name: str, kept: Kept) -> dict[str, Any]:
    if kept.data is None:
        return {"digest": kept.digest}
    if name.endswith("/"):
        return {"digest": kept.digest, "tree": json.loads(kept.data)}
    return {"digest": kept.digest, "text": kept.data.decode()}


def kept_of(name: str, entry: Mapping[str, Any]) -> Kept:
    if name.endswith("/"):
        return Kept(entry["digest"], canonical(entry["tree"]) if "tree" in entry else None)
    return Kept(entry["digest"], str(entry["text"]).encode() if "text" in entry else None)


# --- Out of a store ----------------------------------------------------------------------------------------------


def observe(store: Store, call: str) -> Observation | None:
    """Return the reply that the store gives to a call, None where it has none (or no more)."""
    trace, body = store.find(call), store.action_body(call)
    if trace is None or body is None or body["kind"] != "call":
        return None
    facts = {key: trace.record[key] for key in FACTS if trace.record.get(key) is not None}
    return Observation(Action(**body), store.read(trace.outputs["reply"]), facts)


def observe_stage(store: Store, trace: Trace) -> Observed | None:
    """Return what a recording keeps of a stage's trace, None where its action is no longer known or damaged. Raises Damaged."""
    body = store.action_body(trace.action)
    if body is None:
        return None
    outputs = {}
    for name, digest in trace.outputs.items():
        # Released data, whose outputs have no such names, belong to others: their digest will do.
        data = store.read(digest) if name.endswith(("/", ".json", ".jsonl")) else None
        outputs[name] = Kept(digest, data if data is not None and len(data) <= MAX_TEXT else None)
    facts = {key: trace.record[key] for key in STAGE_FACTS if trace.record.get(key) is not None}
    return Observed(Action(**body), outputs, facts)


def parsed(line: bytes) -> Any:
    """Return a line's JSON. Raises ValueError, with what is wrong, also for a key that comes twice and for deep nesting."""
    # Counted before any value is made: a line of brackets would take a gigabyte.
    if crowded(line.decode("utf-8", "replace")):
        raise ValueError(f"more than {MAX_INNER:,} values")
    return strict.parsed(line, depth=MAX_DEPTH)


# --- What a call, a reply and its facts may be -----------------------------------------------------------------------


def _action_problem(body: Any) -> str | None:
    if not isinstance(body, dict) or set(body) != {"kind", "version", "params", "inputs"}:
        return "the action is no object with kind, version, params and inputs"
    if body["kind"] != "call" or body["inputs"] != {}:
        return "the action is no model call"
    if not is_whole(body["version"]) or body["version"] < 1:
        return "the action's version is no whole number"
    params = body["params"]
    if not isinstance(params, dict) or set(params) != set(_FIELDS):
        wanted = set(params) ^ set(_FIELDS) if isinstance(params, dict) else set(_FIELDS)
        return f"the call's parameters are not those of a request: {visible(', '.join(sorted(wanted)))[:100]}"
    for name, fits in _FIELDS.items():
        if not fits(params[name]):
            return f"the call's {name} is not what a request has there"
    return (
        "the call has not exactly one of messages and prompt"
        if ((params["messages"] is None) == (params["prompt"] is None))
        else None
    )


def observation_problem(data: Mapping[str, Any]) -> str | None:
    return _action_problem(data["action"]) or _reply_problem(data["reply"]) or _facts_problem(data["record"])


_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}/?")


def observed_problem(data: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a stage's line but for its digest: its action, what it keeps, and that this hashes to its name."""
    body, outputs, facts = data["action"], data["outputs"], data["record"]
    if not isinstance(body, dict) or set(body) != {"kind", "version", "params", "inputs"}:
        return "the action is no object with kind, version, params and inputs"
    inputs = body["inputs"]
    right = (
        _text(body["kind"])
        and _NAME.fullmatch(body["kind"]) is not None
        and body["kind"] != "call"
        and is_whole(body["version"])
        and isinstance(body["params"], dict)
        and isinstance(inputs, dict)
        and all(map(is_hex, inputs.values()))
    )
    if not right:
        return "the action is no stage's"
    if not isinstance(outputs, dict) or not all(_NAME.fullmatch(name) for name in outputs):
        return "the outputs are not named as outputs are"
    for name, entry in outputs.items():
        problem = _kept_problem(name, entry)
        if problem is not None:
            return f"{name}: {problem}"
    if not isinstance(facts, dict) or set(facts) - set(STAGE_FACTS):
        return f"the record is no object with some of {', '.join(STAGE_FACTS)}"
    if not all(
        _number(each) or (_text(each) and len(each) <= 100 and each.isprintable()) for each in facts.values()
    ):
        return "the record holds something else than figures and names"
    return None


def _kept_problem(name: str, entry: Any) -> str | None:
    whole = "tree" if name.endswith("/") else "text"
    if (
        not isinstance(entry, dict)
        or not {"digest"} <= set(entry) <= {"digest", whole}
        or not is_hex(entry["digest"])
    ):
        return f"expected a digest, with {whole} or without"
    if whole not in entry:
        return None
    value = entry[whole]
    if whole == "text":
        if not _text(value):
            return "the text is no text"
        data = value.encode("utf-8", "surrogatepass")
    else:
        if not isinstance(value, dict) or not all(_is_file(path, file) for path, file in value.items()):
            return "the tree does not say path, digest and size of its files"
        data = canonical(value)
    return None if of_bytes(data) == entry["digest"] else f"the {whole} does not hash to its digest"


def _is_file(path: str, file: Any) -> bool:
    return (
        path.isprintable()
        and "\\" not in path
        and all(part not in {"", ".", ".."} for part in path.split("/"))
        and isinstance(file, dict)
        and set(file) == {"digest", "size"}
        and is_hex(file["digest"])
        and is_whole(file["size"])
    )


def _reply_problem(reply: Any) -> str | None:
    if not isinstance(reply, dict) or set(reply) != {"text", "finish_reason"}:
        return "the reply is no object with text and finish_reason"
    if not isinstance(reply["text"], str):
        return "the reply's text is no text"
    if reply["finish_reason"] not in FINISH_REASONS:
        return f"the reply's finish_reason is none of {', '.join(FINISH_REASONS)}"
    return None


def _facts_problem(facts: Any) -> str | None:
    if not isinstance(facts, dict) or set(facts) - set(FACTS):
        return f"the record is no object with some of {', '.join(FACTS)}"
    right = (
        all(is_whole(facts.get(key, 0)) for key in ("prompt_tokens", "completion_tokens"))
        and _number(facts.get("cost", 0))
        and facts.get("cost", 0) >= 0
        and _text(facts.get("stage", ""))
        and len(facts.get("stage", "")) <= 200
        and facts.get("stage", "").isprintable()
    )
    return None if right else "the record holds something else than tokens, cost and stage"


def _text(value: Any) -> bool:
    return isinstance(value, str)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INTEGER


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_INTEGER


def is_hex(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(message, list) and len(message) == 2 and all(map(_text, message)) for message in value
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: _text(value) and value != "",
    "weights": _or_none(is_hex),
    "messages": _or_none(_messages),
    "prompt": _or_none(_text),
    "schema": _or_none(lambda value: isinstance(value, dict)),
    "max_tokens": lambda value: is_whole(value) and value >= 1,
    "temperature": _number,
    "top_p": _or_none(_number),
    "repetition_penalty": _or_none(_number),
    "stop": lambda value: isinstance(value, list) and all(map(_text, value)),
    "seed": _or_none(lambda value: _number(value) and isinstance(value, int)),
    "draw": is_whole,
}
"""What each field of a request may be, as JSON. A test holds this to `Request`."""

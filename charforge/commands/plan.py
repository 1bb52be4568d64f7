"""`charforge plan`: what a build would do and cost, before anything is spent. Uses no network and writes nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from charforge.commands.loading import Loaded, NothingNew, known_stage, load_for
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.graph import Graph
from charforge.engine.reader import look
from charforge.engine.rehearse import Rehearsed, rehearse
from charforge.engine.stale import UNKNOWN
from charforge.engine.store import Store
from charforge.errors import CharForgeError
from charforge.forecast import GENERATING, NOT_KNOWN, Line, Part, Past, Pricing, Range, forecast, total
from charforge.llm import endpoints
from charforge.llm.money import Price, price_of
from charforge.progress import clean
from charforge.workspace import targets

_COMPARED = 20_000
"""Recorded calls that a forecast of tokens looks at, the latest."""
_HEAD = 29
_ROW = f"{{:{_HEAD}}}{{:>9}}{{:>9}}{{:>17}}  {{}}"


_JUDGED = ("metrics", "scores", "report")


def from_nothing(loaded: Sequence[Loaded], graph: Graph) -> dict[str, list[Line]]:
    """Return what building characters would take if nothing were recorded here. Reads no store.

    What comes after the interviews is not rehearsed: of transcripts, metrics and report would be made in full, which takes as
    long as somebody's files are large. How much is judged follows from the questions alone.
    """

    def work(store: Store) -> dict[str, list[Line]]:
        goals = [
            each.character.stage(name)
            for each in loaded
            for name in each.character.names
            if name not in _JUDGED
        ]
        found = asyncio.run(rehearse(store, graph, goals, label=lambda params: str(params["model"])))
        for each in loaded:
            for name in set(_JUDGED) & set(each.character.names):
                stage = each.character.stage(name)
                found[stage] = Rehearsed(stage, UNKNOWN, waits_for=(each.character.stage("interviews"),))
        return {each.target.id: _forecast(store, each, found, _prices()) for each in loaded}

    with tempfile.TemporaryDirectory() as empty:
        return look(Path(empty), work)


def said_cost(lines: Mapping[str, list[Line]]) -> str:
    """Return calls, tokens and cost of a forecast in a line, such as `local, ~652 calls, ~143k tokens in, ~11.6k out`."""
    parts = [part for several in lines.values() for line in several for part in line.parts if part.calls.high]
    if not parts:
        return "nothing to make"
    cost, unknown = total(parts)
    calls, prompt, reply = Range(0, 0, 0), Range(0, 0, 0), Range(0, 0, 0)
    for part in parts:
        calls += part.calls
        prompt += part.prompt_tokens
        reply += part.completion_tokens
    priced = f"{_cost(cost)} (low / expected / high)"
    if all(part.local for part in parts):
        priced = "local"
    elif unknown:
        priced = f"{f'{priced} and ' if cost.high else ''}unknown for {', '.join(unknown)}"
    about = "" if calls.exact else "~"
    return (
        f"{priced}, {about}{calls.expected:,.0f} calls, "
        f"{_tokens(prompt.expected)} tokens in, {_tokens(reply.expected)} out"
    )


def run_plan(args: argparse.Namespace) -> int:
    """Print the plan. Returns 1 where a stage is sure to fail."""
    wanted = targets(args.specs)
    last = "report" if args.to is None else known_stage(args.to, "--to")
    loaded, graph = load_for(args, wanted, NothingNew())
    lines = _lines(loaded, graph, last, wanted[0].workspace / ".charforge")
    if args.json:
        print(json.dumps(_data(lines), indent=2, ensure_ascii=False))
    else:
        for text in _text(lines, [each.target.id for each in loaded]):
            print(clean(text))
    failing = [(name, line) for name, several in lines.items() for line in several if line.error is not None]
    for name, line in failing:
        _say(name, line)
    return 1 if failing else 0


def _lines(loaded: Sequence[Loaded], graph: Graph, last: str, store: Path) -> dict[str, list[Line]]:
    price = _prices()

    def work(store: Store) -> dict[str, list[Line]]:
        goals = [each.character.stage(last) for each in loaded]
        found = asyncio.run(rehearse(store, graph, goals, label=lambda params: str(params["model"])))
        return {each.target.id: _forecast(store, each, found, price) for each in loaded}

    return look(store, work)


def _prices() -> Pricing:
    """Return what says a model's price, None where it is not known. Raises FileProblems where the user's own file is wrong."""
    served = endpoints.load()

    def price(model: str) -> Price | None:
        try:
            return price_of(model, served.of(model))
        except CharForgeError:  # nothing says where it is served
            return None

    return price


def _forecast(store: Store, each: Loaded, found: Mapping[str, Rehearsed], price: Any) -> list[Line]:
    return forecast(each.character, found, past_of(store, each.target.id), price)


def past_of(store: Store, character: str) -> Past:
    """Return what earlier builds tell; of two yields of a stage the character's own counts."""
    past = Past()
    for model, record in islice(store.call_records("model"), _COMPARED):
        stage = str(record.get("stage", "")).rsplit("/", 1)[-1]
        past.add_call(stage, str(model), record.get("prompt_tokens"), record.get("completion_tokens"))
    built = store.stages()
    for name in sorted(built, key=lambda name: name.startswith(f"{character}/")):
        stage = name.rsplit("/", 1)[-1]
        trace = store.find(built[name]) if stage in GENERATING else None
        body = store.action_body(built[name])
        if trace is not None and body is not None:
            with suppress(Damaged, KeyError):
                per_call = body["params"][stage].get("per_call", 1)
                past.add_yield(stage, json.loads(store.read(trace.outputs["yield.json"])), per_call)
    return past


def _say(character: str, line: Line) -> None:
    """Print the error that a stage is sure to fail with, as the build would."""
    error = line.error
    if isinstance(error, CharForgeError) and not hasattr(error, "problems"):
        error = CharForgeError(
            f"{character}: {line.stage}: {error.message.removeprefix(f'{line.stage}: ')}", error.hint
        )
    if isinstance(error, EngineError):
        error = CharForgeError(f"{character}: {line.stage}: {error.message}", error.hint)
    if not isinstance(error, CharForgeError):
        assert error is not None
        raise error
    print(error.render(), file=sys.stderr)


# --- For people --------------------------------------------------------------------------------------------------------


def _text(lines: Mapping[str, list[Line]], names: list[str]) -> Iterator[str]:
    for name, several in lines.items():
        yield _ROW.format(name, "recorded", "to make", "tokens in / out", "cost low / expected / high")
        for line in several:
            yield from _rows(line)
    parts = [part for several in lines.values() for line in several for part in line.parts]
    cost, unknown = total(parts)
    said = _cost(cost) + (" and what is unknown" if unknown else "")
    if all(part.local for part in parts if part.calls.high):
        said = "local" if any(part.calls.high for part in parts) else "nothing to make"
    elif unknown and not cost.high:
        said = "unknown"
    yield _row("total", parts, said)
    yield from _notes(lines, unknown)
    if cost.high and not unknown:
        limit = math.ceil(cost.high)
        command = f"charforge build {' '.join(names)} --max-cost {limit}"
        yield f"{command} stops before it costs more than ${limit}"


def _rows(line: Line) -> Iterator[str]:
    head = f"  {line.stage:12}{line.state}"
    if not line.parts:
        yield head
        return
    yield _row(head, line.parts)
    if len(line.parts) > 1:
        for part in line.parts:
            yield _row(f"    {part.model}", [part])


def _row(head: str, parts: list[Part], cost: str | None = None) -> str:
    calls, prompt, reply = Range(0, 0, 0), Range(0, 0, 0), Range(0, 0, 0)
    for part in parts:
        calls += part.calls
        prompt += part.prompt_tokens
        reply += part.completion_tokens
    made = "" if not calls.high else ("" if calls.exact else "~") + f"{calls.expected:,.0f}"
    tokens = f"{_tokens(prompt.expected)} / {_tokens(reply.expected)}" if calls.high else ""
    recorded = sum(part.recorded for part in parts)
    if cost is None and calls.high:
        known, unknown = total(parts)
        free = all(part.local for part in parts if part.calls.high)
        cost = "local" if free else "unknown" if unknown and not known.high else _cost(known)
        if unknown and known.high:
            cost += " and unknown"
    if len(head) > _HEAD:
        head = head[: _HEAD - 1] + "…"
    return _ROW.format(head, f"{recorded:,}" if recorded else "", made, tokens, cost or "").rstrip()


def _notes(lines: Mapping[str, list[Line]], unknown: list[str]) -> Iterator[str]:
    for name, several in lines.items():
        for line in several:
            calls = [f"calls: {line.basis}"] if line.basis else []
            tokens = {
                f"tokens: {part.prompt_basis}"
                if part.prompt_basis == part.reply_basis
                else f"prompts: {part.prompt_basis}; replies: {part.reply_basis}"
                for part in line.parts
                if part.calls.high and not part.local
            }
            if any(part.calls.high and not part.local for part in line.parts):
                who = line.stage if len(lines) == 1 else f"{name}: {line.stage}"
                text = f"{who}: {'; '.join([*calls, *sorted(tokens)])}"
                yield from textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="    ")
    for model in unknown:
        yield f'  price unknown: {model}; endpoints.toml may say ["{model}"] price = {{input = …, output = …}}'


def _tokens(count: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 100 * size else f"{count / size:,.0f}{unit}"
    return f"{count:.0f}"


def _cost(cost: Range) -> str:
    return " / ".join(_dollars(value) for value in (cost.low, cost.expected, cost.high))


def _dollars(value: float) -> str:
    if 0 < value < 0.01:
        return "<$0.01"
    return f"${value:,.2f}"


# --- For scripts -------------------------------------------------------------------------------------------------------


def _data(lines: Mapping[str, list[Line]]) -> dict[str, Any]:
    parts = [part for several in lines.values() for line in several for part in line.parts]
    cost, unknown = total(parts)
    return {
        "stages": [
            {
                "stage": f"{name}/{line.stage}",
                "state": line.state,
                "waits_for": [f"{name}/{other}" for other in line.waits_for]
                if line.state == NOT_KNOWN
                else [],
                "reasons": list(line.reasons),
                "basis": line.basis,
                "models": [_part_data(part) for part in line.parts],
            }
            for name, several in lines.items()
            for line in several
        ],
        "total": {
            "recorded": sum(part.recorded for part in parts),
            "calls": _range_data(sum((part.calls for part in parts), Range(0, 0, 0)), whole=True),
            "cost": _range_data(cost),
            "unknown_prices": unknown,
        },
    }


def _part_data(part: Part) -> dict[str, Any]:
    return {
        "model": part.model,
        "local": part.local,
        "recorded": part.recorded,
        "calls": _range_data(part.calls, whole=True),
        "prompt_tokens": _range_data(part.prompt_tokens, whole=True),
        "completion_tokens": _range_data(part.completion_tokens, whole=True),
        "cost": None if part.cost is None else _range_data(part.cost),
        "prompt_basis": part.prompt_basis,
        "reply_basis": part.reply_basis,
    }


def _range_data(value: Range, *, whole: bool = False) -> dict[str, float]:
    figures = {"low": value.low, "expected": value.expected, "high": value.high}
    return {key: round(figure) if whole else round(figure, 6) for key, figure in figures.items()}

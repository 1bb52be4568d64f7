"""`charforge export`: what was built, as a folder that leaves the workspace. The store is read and never written."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from charforge import __version__, exports
from charforge.commands.loading import NothingNew, last_made, load_for
from charforge.engine.graph import Graph, Output
from charforge.engine.reader import look
from charforge.engine.stale import Planned, plan
from charforge.engine.store import Store, Trace
from charforge.errors import CharForgeError, UsageError
from charforge.models.embedded import EMBEDDED
from charforge.models.process import run_job
from charforge.pipeline import Character
from charforge.progress import clean
from charforge.workspace import Target, target

FACTS = "charforge.json"
"""In every export; by it a folder is known to be one, which --force may replace."""

TYPES = ("f16", "q8_0", "q4_1", "q4_0")
_DEFAULT_TYPE = "q8_0"
_ADAPTER = "adapter_config.json"


def run_export(args: argparse.Namespace) -> int:
    """Write one export and say where it is."""
    kind = _kind(args)
    found = target(args.spec)
    out = Path(args.out) if args.out else found.workspace / "export" / f"{found.id}-{kind}"
    _check_place(out, found, force=args.force)
    loaded, graph = load_for(args, [found], NothingNew())
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the export, on its disk: a rename makes it whole, and an export cut short leaves nothing under its name.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".part") as scratch:
        work = Path(scratch)

        def fetch(store: Store) -> dict[str, Any]:
            for left in work.iterdir():  # by an attempt during which somebody wrote the store
                shutil.rmtree(left)
            return _fetch(store, kind, found, loaded[0].character, graph, work, args)

        facts = look(found.workspace / ".charforge", fetch)
        made = asyncio.run(_make(facts, work, args))
        for name, text in exports.texts(made, sorted(made["files"])).items():
            (work / "out" / name).write_text(text, encoding="utf-8")
        _open_to_readers(work / "out")
        if out.is_dir():
            out.rename(work / "old")
        (work / "out").rename(out)
    near = os.path.relpath(out)
    print(f"{out if near.startswith('..') else near}: {_told(made, out)}")
    return 0


def _open_to_readers(folder: Path) -> None:
    """Give weights, which their writer makes its user's alone, the mode that any new file here has."""
    mode = (folder / FACTS).stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)


def _kind(args: argparse.Namespace) -> str:
    kind = str(args.kind)
    if kind not in exports.KINDS:
        near = get_close_matches(kind, exports.KINDS, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"kinds are {', '.join(exports.KINDS)}"
        raise UsageError(f"export: no kind is called {kind!r}", hint)
    for option, given in (("--type", args.type), ("--measure", args.measure)):
        if given and kind != "gguf":
            raise UsageError(f"export: {option} is for gguf, not for {kind}")
    return kind


def _types(base: Mapping[str, Any], args: argparse.Namespace) -> list[str]:
    if args.type == "all":
        return [kind for kind in TYPES if kind != base["quantisation"]]
    return [args.type or _DEFAULT_TYPE]


def _check_types(base: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Refuse the type that the base model was dequantised from.

    Its weights lie on that type's steps, and training moves them by less than a step: rounding again puts 95% of the change back.
    """
    if args.type is not None and args.type == base["quantisation"]:
        raise CharForgeError(
            f"{args.type} would undo the training: {base['name']} was dequantised from {args.type}, and rounds back to it",
            "choose q8_0, or q4_0 for 4 bits",
        )


def _check_place(out: Path, found: Target, *, force: bool) -> None:
    """Raise CharForgeError where the export may not be written."""
    where = out.resolve()
    if where.is_relative_to((found.workspace / ".charforge").resolve()):
        raise CharForgeError(f"{out} lies in the store", "export to a folder outside .charforge/")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise CharForgeError(f"{out} is there already, and is no folder", "name another with --out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise CharForgeError(
            f"{out} is there already, and not empty", "--force replaces it, --out names another"
        )
    if not (out / FACTS).is_file():
        raise CharForgeError(
            f"{out} is not replaced: it is no export, for it has no {FACTS}", "name another folder with --out"
        )


# -- what was built --------------------------------------------------------------------------------------------------


def _fetch(
    store: Store,
    kind: str,
    found: Target,
    character: Character,
    graph: Graph,
    work: Path,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Copy what the export is made of from the store into `work`; return the facts for its card."""
    last = "dataset" if kind == "dataset" else "model"
    planned = plan(store, graph, [character.stage(last)])
    trace = last_made(store, planned[character.stage(last)], found, last)
    traces = _lineage(store, graph, planned, character, {last: trace})
    spec = character.spec
    dataset, profile = traces.get("dataset"), traces.get("profile")
    data = _json(store, dataset, "stats.json")
    read = _json(store, profile, "profile.json")
    samples: list[Any] = []
    sft = trace.outputs["sft.jsonl"] if kind == "dataset" else _body(store, trace)["inputs"]["sft"]
    if store.has(sft):
        samples = [json.loads(line) for line in store.read(sft).splitlines()]
    scenes = traces.get("scenes")
    params = _body(store, scenes)["params"] if scenes else {}
    facts: dict[str, Any] = {
        "charforge": __version__,
        "kind": kind,
        "id": found.id,
        "preset": args.preset,
        "overrides": list(args.overrides),
        "character": {
            "name": spec.name,
            "short_name": spec.short_name,
            "portrays": spec.portrays,
            "notice": spec.notice,
            "knows_until": spec.knows.until,
            "never": list(spec.knows.never),
        },
        "profile": {
            "licence": read.get("licence", "unknown"),
            "source": read.get("source", "unknown"),
            "paragraphs": len(read.get("paragraphs", ())),
        },
        "generator": params.get("generator", {}).get("model", spec.generator.model),
        "judge": spec.judge.model,
        "data": {key: data[key] for key in ("all", "by_kind") if key in data},
        "stages": {
            name: None if made is None else {"action": made.action, "outputs": dict(made.outputs)}
            for name, made in traces.items()
        },
        "sampling": {
            "temperature": spec.interview.temperature,
            "top_p": spec.interview.top_p,
            "repetition_penalty": spec.interview.repetition_penalty,
            "max_tokens": spec.interview.max_tokens,
        },
        "meta": exports.meta_prompt(samples) or f"You are {spec.name}.",
        "files": {},
    }
    if kind == "dataset":
        (work / "out").mkdir()
        for name in ("sft.jsonl", "stats.json"):
            store.copy(trace.outputs[name], work / "out" / name)
        return facts
    body = _body(store, trace)
    weights = trace.outputs["weights/"]
    adapter = _ADAPTER in store.manifest(weights)
    train = body["params"]["train"]
    method = train.get("method", "full")
    _check_applies(kind, method, found, adapter=adapter)
    facts |= {
        "method": method,
        "adapter": adapter,
        "train": train,
        "summary": json.loads(store.read(trace.outputs["train_summary.json"])),
        "base": _base(store, traces.get("base"), body["params"].get("base_name"), spec.train.base_model),
    }
    if kind == "gguf":
        _check_types(facts["base"], args)
    copied = kind == "lora" or (kind in {"hf", "merged"} and not adapter)
    _copy_tree(store, weights, work / ("out" if copied else "model"))
    if not copied and (adapter or kind == "delta"):
        _copy_tree(store, body["inputs"]["base"], work / "base")
    if args.measure:
        store.copy(sft, work / "sft.jsonl")
    return facts


def _lineage(
    store: Store,
    graph: Graph,
    planned: Mapping[str, Planned],
    character: Character,
    known: dict[str, Trace | None],
) -> dict[str, Trace | None]:
    """Return the traces that one trace came from, by stage in the order of the pipeline; None where one is gone.

    Followed by digests: what a stage made in the meantime, for another spec, is no part of it.
    """
    waiting = list(known)
    while waiting:
        name = waiting.pop(0)
        trace = known[name]
        stage = character.stage(name)
        inputs = _body(store, trace)["inputs"] if trace is not None else {}
        for key, ref in graph[stage].inputs.items():
            if not isinstance(ref, Output):
                continue
            upstream = ref.stage.split("/", 1)[1]
            if known.get(upstream) is not None:
                continue
            last = store.last(ref.stage)
            actions = [planned[ref.stage].action, last[0] if last else None]
            made = (store.find(action) for action in actions if action is not None)
            match = next((t for t in made if t and t.outputs.get(ref.name) == inputs.get(key)), None)
            if upstream not in known or match is not None:
                known[upstream] = match
                waiting.append(upstream)
    return {name: known[name] for name in character.names if name in known}


def _body(store: Store, trace: Trace) -> dict[str, Any]:
    return store.action_body(trace.action) or {"params": {}, "inputs": {}}


def _json(store: Store, trace: Trace | None, name: str) -> dict[str, Any]:
    return {} if trace is None else dict(json.loads(store.read(trace.outputs[name])))


def _check_applies(kind: str, method: str, found: Target, *, adapter: bool) -> None:
    if kind == "lora" and not adapter:
        raise CharForgeError(
            f"{found.id}: there is no adapter to export: it was trained "
            + ("in full" if method == "full" else "with lora.merge, and merged"),
            "train with method: lora and lora.merge: false, or export hf",
        )
    if kind == "merged" and method == "full":
        raise CharForgeError(
            f"{found.id}: there is nothing to merge: it was trained in full",
            f"charforge export hf {found.id} writes its weights",
        )


def _base(store: Store, trace: Trace | None, name: str | None, spelled: Any) -> dict[str, Any]:
    """Return what is known of the base model: how a person calls it, its name on the hub, its licence, how to get it."""
    params = {} if trace is None else _body(store, trace)["params"].get("base", {})
    facts: dict[str, Any] = {"hub": None, "revision": None, "licence": None, "note": None, "job": None}
    facts["quantisation"] = None
    facts |= {
        "exact": False,
        "name": name or (spelled if isinstance(spelled, str) else "a weight difference"),
    }
    match params:
        case {"kind": "embedded", "name": embedded} if embedded in EMBEDDED:
            known = EMBEDDED[embedded]
            facts |= {"name": f"embedded/{embedded}", "hub": known.hub, "licence": known.licence}
            facts["note"] = f"{known.hub} as dequantised from {known.quantisation}, SHA-256 {known.sha256}"
            facts["job"] = {"kind": "embedded", "name": embedded}
            facts["quantisation"] = known.quantisation.lower()
        case {"kind": "hub", "repo": repo, "revision": revision}:
            commit = (trace.record if trace else {}).get("commit") or revision
            facts |= {"name": repo, "hub": repo, "revision": commit, "exact": True}
            facts["note"] = f"revision {commit}" if commit else None
        case {"kind": "folder", "digest": digest}:
            facts["note"] = f"a local folder, SHA-256 of its files {digest}"
    return facts


def _copy_tree(store: Store, digest: str, folder: Path) -> None:
    for name, entry in store.manifest(digest).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        store.copy(entry["digest"], path)


# -- what is made of it ----------------------------------------------------------------------------------------------


async def _make(facts: dict[str, Any], work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Do the heavy part, where there is one, into `work/out`; return the facts with what it found."""
    if (work / "out").is_dir():
        return facts
    job: dict[str, Any] = {
        "kind": "merged" if facts["kind"] == "hf" else facts["kind"],
        "model": str(work / "model"),
        "base": str(work / "base"),
        "out": str(work / "out"),
        "name": facts["character"]["name"],
    }
    if facts["kind"] == "gguf":
        job |= {
            "id": facts["id"],
            "types": _types(facts["base"], args),
            "chat_template": exports.chat_template(facts),
            "measure": _measure(facts, work) if args.measure else None,
        }

    def heard(message: dict[str, Any]) -> None:
        print(clean(f"{facts['id']}: {message['phase']}"), file=sys.stderr)

    result = await run_job("charforge.models.exporting", job, heard)
    return {**facts, "files": result["files"], "perplexity": result.get("perplexity")}


def _measure(facts: Mapping[str, Any], work: Path) -> dict[str, Any]:
    sources = list(facts["summary"].get("held_out", ()))
    if not sources:
        raise CharForgeError(
            f"{facts['id']}: no dialogues were held out to measure on", "set train.held_out, and build again"
        )
    return {
        "sft": str(work / "sft.jsonl"),
        "sources": sources,
        "character": facts["character"]["short_name"],
        "loss": facts["train"]["loss"],
        "context": facts["train"]["context_length"],
    }


def _told(facts: Mapping[str, Any], out: Path) -> str:
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    words = [f"{len(list(out.iterdir()))} files, {_size(size)}"]
    if facts["kind"] == "hf" and facts["adapter"]:
        words.append("the adapter merged into its base model")
    words += list(_perplexities(facts))
    return ", ".join(words)


def _perplexities(facts: Mapping[str, Any]) -> Iterable[str]:
    before = facts.get("perplexity")
    for file in facts["files"].values():
        if before is not None and file.get("perplexity") is not None:
            change = file["perplexity"] / before - 1
            yield f"{file['type']} perplexity {file['perplexity']:.3f} ({change:+.2%})"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

"""Code is an input too: each stage's VERSION, held to a digest of the source that the stage is made of.

`versions.json` records, for every stage, its version and the digest of its *source closure*: its module, everything of
this package that the module imports, and its adapter in pipeline.py or evaluation.py, all without comments, docstrings, layout and
positions. A test compares. Where the source changed, either the stage's outputs may change, and its VERSION goes up, or
they do not, and somebody writes down why:

    python -m charforge.versions                         # what differs
    python -m charforge.versions --accept "renamed …"    # record the current source, with the reason

Development only: no build runs this.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
RECORD = Path(__file__).with_name("versions.json")

# What no output can depend on: the engine moves bytes, the rest is how errors and files reach a person.
_OUTSIDE = ("charforge.engine", "charforge.errors", "charforge.files", "charforge.models.process")

# Where the adapters are, and the helpers that they share.
_ADAPTERS = ("charforge.assembly", "charforge.pipeline", "charforge.evaluation")
_HELPERS = ("read_json", "read_jsonl", "by_id", "usage_of")

# What is read beside the source by the code of a package, and shapes its bytes.
_BESIDE = (".j2", ".css")

# Stage → (where its VERSION stands, the modules its source begins at, the function that puts it together).
_GENERATING = "generating"
STAGES: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "profile": ("charforge.stages.profile:VERSION", ("charforge.stages.profile",), "run_profile"),
    "written": ("charforge.stages.written:VERSION", ("charforge.stages.written",), "run_written"),
    "scenes": ("charforge.stages.scenes:VERSION", ("charforge.stages.scenes",), _GENERATING),
    "dialogues": ("charforge.stages.dialogues:VERSION", ("charforge.stages.dialogues",), _GENERATING),
    "protective": ("charforge.stages.protective:VERSION", ("charforge.stages.protective",), _GENERATING),
    "released": (
        "charforge.pipeline:RELEASED_VERSION",
        ("charforge.models.hub_file",),
        "run_released",
    ),
    "dataset": ("charforge.stages.dataset:VERSION", ("charforge.stages.dataset",), "run_dataset"),
    "base": ("charforge.pipeline:BASE_VERSION", ("charforge.models.base",), "run_base"),
    "model": (
        "charforge.pipeline:MODEL_VERSION",
        ("charforge.models.train", "charforge.models.probes", "charforge.probes"),
        "run_model",
    ),
    "questions": ("charforge.stages.questions:VERSION", ("charforge.stages.questions",), "add_questions"),
    "interviews": (
        "charforge.stages.interviews:VERSION",
        ("charforge.stages.interviews", "charforge.transcripts"),
        "add_interviews",
    ),
    "metrics": ("charforge.metrics:VERSION", ("charforge.metrics",), "add_metrics"),
    "scores": (
        "charforge.stages.scores:VERSION",
        ("charforge.stages.scores", "charforge.intervals"),
        "add_scores",
    ),
    "report": ("charforge.stages.report:VERSION", ("charforge.stages.report",), "add_report"),
    "call": ("charforge.asking:CALL_VERSION", ("charforge.models.generate",), None),
}


def current() -> dict[str, dict[str, Any]]:
    """Return `{stage: {version, source}}` of the code as it is."""
    return {stage: {"version": version_of(stage), "source": source_digest(stage)} for stage in STAGES}


def recorded() -> dict[str, dict[str, Any]]:
    """Return what `versions.json` says: the same, with a `note` where a change was accepted."""
    data: dict[str, dict[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return data


def complaints() -> list[str]:
    """Return a sentence for every stage whose source and version do not fit the record."""
    found = []
    was, now = recorded(), current()
    for stage in sorted({*was, *now}):
        before, after = was.get(stage), now.get(stage)
        if before is None or after is None:
            found.append(f"{stage}: {'not recorded' if before is None else 'no longer there'}; run --accept")
        elif before["source"] != after["source"] and before["version"] == after["version"]:
            found.append(
                f"{stage}: its source changed, its version ({after['version']}) did not. If its outputs may change, raise "
                f"{STAGES[stage][0]}. Then: python -m charforge.versions --accept 'why'"
            )
        elif before["version"] != after["version"]:
            found.append(
                f"{stage}: version {before['version']} → {after['version']} is not recorded; run --accept"
            )
    return found


def version_of(stage: str) -> int:
    """Return a stage's VERSION without importing its module: models' need torch."""
    module, name = STAGES[stage][0].split(":")
    for node in ast.parse(_path(module).read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == name
        ):
            return int(ast.literal_eval(node.value))
    raise LookupError(f"{module} has no {name}")


def source_digest(stage: str) -> str:
    """Return the digest of a stage's source closure."""
    _, begin, adapter = STAGES[stage]
    hasher = hashlib.sha256()
    for module in sorted(_closure(begin)):
        tree = _without_docstrings(ast.parse(_path(module).read_text(encoding="utf-8")))
        hasher.update(f"{module}\n{_dump(_without_version(tree))}\n".encode())
        hasher.update(_beside(module))
    if adapter is not None:
        wanted = {adapter, *_HELPERS}
        for module in _ADAPTERS:
            tree = _without_docstrings(ast.parse(_path(module).read_text(encoding="utf-8")))
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in wanted:
                    hasher.update(f"{node.name}\n{_dump(node)}\n".encode())
    return hasher.hexdigest()


def _beside(module: str) -> bytes:
    folder = _path(module).parent
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if file.suffix in _BESIDE)


def _closure(begin: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = list(begin)
    while waiting:
        module = waiting.pop()
        if module in found or module == "charforge" or module.startswith(_OUTSIDE):
            continue
        found.add(module)
        waiting.extend(_imports(module))
    return found


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(_path(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("charforge."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "charforge":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _is_module(inner) else node.module


def _is_module(module: str) -> bool:
    path = PACKAGE.parent / Path(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _path(module: str) -> Path:
    path = PACKAGE.parent / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                child
                for child in body
                if not (
                    isinstance(child, ast.Expr)
                    and isinstance(child.value, ast.Constant)
                    and isinstance(child.value.value, str)
                )
            ]
    return tree


def _without_version(tree: ast.AST) -> ast.AST:
    body = getattr(tree, "body", [])
    kept = [n for n in body if not (isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "VERSION")]
    tree.body = kept  # type: ignore[attr-defined]
    return tree


def _dump(node: Any) -> str:
    """Return a syntax tree as text that is the same under every Python: empty fields and positions left out."""
    if isinstance(node, ast.AST):
        parts = [f"{name}={_dump(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({', '.join(parts)})"
    if isinstance(node, list):
        return f"[{', '.join(_dump(child) for child in node)}]"
    return repr(node)


def main() -> int:
    """Say what differs, or accept it."""
    options = argparse.ArgumentParser(
        prog="python -m charforge.versions", description=(__doc__ or "").split("\n")[0]
    )
    options.add_argument(
        "--accept", metavar="WHY", help="record the current source of every stage, with this reason"
    )
    args = options.parse_args()
    if args.accept is None:
        found = complaints()
        sys.stdout.write("\n".join(found) + "\n" if found else "every stage is as recorded\n")
        return 1 if found else 0
    was = recorded() if RECORD.exists() else {}
    data = {}
    for stage, entry in current().items():
        before = was.get(stage)
        if before is not None and (before["version"], before["source"]) == (
            entry["version"],
            entry["source"],
        ):
            data[stage] = before
        else:
            data[stage] = {**entry, "note": args.accept}
    RECORD.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

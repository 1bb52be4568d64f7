"""`python -m charforge.models.exporting`: trained weights → what other programs take. Reads folders, writes one.

The job: `{"kind": "merged" | "delta" | "gguf", "model": folder, "base": folder, "out": folder, "name": str}`. `model` is what training
left: a whole model or an adapter of `base`, which is merged first. For gguf also `{"id", "types", "chat_template", "measure"}`: one file
`<id>-<type>.gguf` a type; `measure` is null or `{"sft", "sources", "character", "loss", "context"}`, and then each file's perplexity is
in the result. The result: `{"merged": bool, "files": {name: {"type", "bytes", "rounded", "first_space", "perplexity"?}}, "perplexity": of the folder}`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from charforge.models.process import available_cpus, serve_job

Progress = Callable[[dict[str, Any]], None]


def export(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Do the job of the module's docstring. CharForgeError where the weights do not allow it."""
    torch.set_num_threads(available_cpus())
    model, base, out = Path(job["model"]), Path(job["base"]), Path(job["out"])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".merged-") as scratch:
        merged = (model / "adapter_config.json").is_file()
        if merged:
            progress({"phase": "merging the adapter"})
            target = out if job["kind"] == "merged" else Path(scratch)
            write_merged(base, model, target)
            model = target
        match job["kind"]:
            case "merged":
                return {"merged": merged, "files": {}}
            case "delta":
                from charforge.models import delta

                progress({"phase": "taking the base model away"})
                delta.make(model, base, out, progress)
                return {"merged": merged, "files": {}}
            case "gguf":
                return {"merged": merged, **_write_gguf(job, model, out, progress)}
        raise ValueError(f"unknown kind {job['kind']!r}")


def write_merged(base: Path, adapter: Path, out: Path) -> None:
    """Write an adapter merged into its base model as a plain model folder."""
    from charforge.models.adapter import load_adapter, merge
    from charforge.models.export import save_folder

    wrapped, tokenizer = load_adapter(base, adapter, torch.bfloat16)
    save_folder(merge(wrapped), tokenizer, out)


def _write_gguf(job: dict[str, Any], model: Path, out: Path, progress: Progress) -> dict[str, Any]:
    from charforge.models import gguf_file

    files: dict[str, dict[str, Any]] = {}
    for kind in job["types"]:
        name = f"{job['id']}-{kind}.gguf"
        progress({"phase": f"writing {name}"})
        written = gguf_file.write(
            model, out / name, kind, name=job["name"], chat_template=job["chat_template"]
        )
        files[name] = {
            "type": kind,
            "bytes": written.bytes,
            "rounded": written.rounded,
            "first_space": written.first_space,
        }
    if job["measure"] is None:
        return {"files": files}
    from charforge.models.perplexity import perplexities

    progress({"phase": "measuring on the held-out dialogues"})
    lines = Path(job["measure"]["sft"]).read_text(encoding="utf-8").splitlines()
    wanted = set(job["measure"]["sources"])
    records = [record for line in lines if line and (record := json.loads(line))["source"]["id"] in wanted]
    found = perplexities(model, [out / name for name in files], records, job["measure"])
    for name, value in zip(files, found[1:], strict=True):
        files[name]["perplexity"] = value
    return {"files": files, "perplexity": found[0]}


if __name__ == "__main__":
    serve_job(export)

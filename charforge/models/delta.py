"""Weight differences as FastChat makes them: what a trained model adds to its base, for bases that may not be handed on.

`make` and `apply` run fschat's own `make_delta` and `apply_delta` (fschat 0.2.36), which add and subtract tensor by tensor in float16, so a
difference of either side is the other's. What they cannot do is prepared around them, and written into the folder as `MARK`:

- A trained model has one token more than its base. The base is first grown as training grew it (`add_end_of_turn`).
- Where the output matrix is the embedding, theirs goes over that one matrix twice: its `make_delta` leaves target - 2 base, which
  its own `apply_delta` does not undo. Ours are made with the two parted and a difference of zero for the output matrix, so adding twice
  is adding once. A difference of theirs between two such models is read as what it is.
- Base weights are bfloat16 in a build, so a difference made here is added to the base rounded to bfloat16.

A base in a folder of its own is therefore all that theirs needs to read ours; where the model has a new token, that is what
`prepare` writes. Precision: float16 has 11 bits, so a recovered weight is off by at most 2**-11 of the sum of itself and the
difference (and 2**-24, float16's smallest step): after rounding to bfloat16 all but some 0.2% of weights are the target's.

Released differences are often pickles. These alone are read too, by torch's unpickler that makes tensors and nothing else
(`weights_only`), and rewritten as safetensors before anything loads them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from charforge.dialogue import EOT
from charforge.errors import CharForgeError
from charforge.models.export import save_folder, save_tokenizer
from charforge.models.load import load_folder, load_tokenizer
from charforge.models.vocabulary import add_end_of_turn

Progress = Callable[[dict[str, Any]], None]

MARK = "charforge_delta.json"
"""Beside the weights: how the base was prepared. `{"version", "end_of_turn": null | {"token", "rows"}, "base_dtype"}`."""
_VERSION = 1
_SHARD = 4 << 30
_INDEX = "model.safetensors.index.json"


def make(target: Path, base: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Write target - base into `out` as FastChat's `make_delta` does, and return what `MARK` says.

    `target` is a trained model's folder, `base` the folder it was trained from. Raises CharForgeError where they are not of one shape.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".delta-", dir=out.parent) as temporary:
        scratch = Path(temporary)
        rows, base_rows = _rows(target), _rows(base)
        tokenizer = load_tokenizer(target)
        token = EOT in tokenizer.get_vocab() and rows != base_rows
        tied = _config(target).tie_word_embeddings
        minuend, subtrahend = target, base
        if token or tied:
            progress({"phase": "preparing the base"})
            subtrahend = scratch / "base"
            _write_base(base, tokenizer, subtrahend, token=token, part=tied)
        if tied:
            minuend = scratch / "target"
            model, _ = load_folder(target, torch.bfloat16)
            _part(model)
            save_folder(model, tokenizer, minuend)
            del model
        _check_shapes(minuend, subtrahend, f"{target} was not trained from {base}")
        progress({"phase": "subtracting"})
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and stdout may be a protocol
            from fastchat.model import make_delta as theirs

            theirs.args = SimpleNamespace(hub_repo_id=None)  # it reads its command line, which is not there
            theirs.make_delta(str(subtrahend), str(minuend), str(out))
    save_tokenizer(tokenizer, out)
    _without_versions(out)
    mark = {
        "version": _VERSION,
        "base_dtype": "bfloat16",
        "end_of_turn": {"token": EOT, "rows": [base_rows, rows]} if token else None,
    }
    _write_json(out / MARK, mark)
    return mark


def apply(
    delta: Path, base: Path, out: Path, progress: Progress, *, little_memory: bool | None = None
) -> None:
    """Write base + delta into `out`, a folder in Hugging Face's layout (float16), as FastChat's `apply_delta` does.

    The difference may be ours or theirs, its weights and the base's safetensors or pickled tensors. Both models are held in memory
    in float16; where they would not fit, or with `little_memory`, theirs for little memory goes file by file: the same numbers.
    Raises CharForgeError where one of the folders is no model, or they do not belong together.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".delta-", dir=out.parent) as temporary:
        scratch = Path(temporary)
        delta = _as_safetensors(delta, scratch / "delta")
        base = _as_safetensors(base, scratch / "base")
        load_tokenizer(delta)  # theirs would say less
        tied = False
        if (delta / MARK).is_file():
            progress({"phase": "preparing the base"})
            prepare(delta, base, scratch / "prepared")
            base = scratch / "prepared"
        elif tied := _config(delta).tie_word_embeddings and _config(base).tie_word_embeddings:
            _write_doubled(base, scratch / "prepared")
            base = scratch / "prepared"
        _check_shapes(base, delta, f"the weight difference {delta} is not one to {base}")
        progress({"phase": "adding the weight difference"})
        if little_memory is None:
            little_memory = 2 * (_bytes(base) + _bytes(delta)) > _available_memory()
        added = out if not tied else scratch / "added"
        with contextlib.redirect_stdout(sys.stderr):
            from fastchat.model import apply_delta as theirs

            if little_memory:
                pickled = scratch / "pickled"
                for name, folder in [("base", base), ("delta", delta)]:
                    _as_pickles(folder, pickled / name)
                theirs.apply_delta_low_cpu_mem(
                    str(pickled / "base"), str(pickled / "added"), str(pickled / "delta")
                )
                for name in ("config.json", "generation_config.json"):
                    if (base / name).is_file():
                        shutil.copy(base / name, pickled / "added" / name)
                _as_safetensors(pickled / "added", added)
            else:
                theirs.apply_delta(str(base), str(added), str(delta))
        if tied:
            _tie_again(added, out)


def prepare(delta: Path, base: Path, out: Path) -> None:
    """Write the base as a difference of ours wants it into `out`: there FastChat's own `apply_delta` can add the difference."""
    mark = json.loads((delta / MARK).read_text(encoding="utf-8"))
    if mark.get("version") != _VERSION:
        raise CharForgeError(
            f"{delta / MARK} is of version {mark.get('version')}, and {_VERSION} is read here",
            "update charforge",
        )
    tokenizer = load_tokenizer(delta)
    _write_base(base, tokenizer, out, token=mark["end_of_turn"] is not None, part=False)


# -- the base made ready


def _write_base(base: Path, tokenizer: Any, out: Path, *, token: bool, part: bool) -> None:
    model, _ = load_folder(base, torch.bfloat16)
    if token:
        add_end_of_turn(model, tokenizer)
    if part:
        _part(model)
    save_folder(model, tokenizer, out)


def _part(model: Any) -> None:
    """Give the model an output matrix of its own, all zeros."""
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(torch.zeros_like(head.weight))
    model.config.tie_word_embeddings = False


def _write_doubled(base: Path, out: Path) -> None:
    """Write the base with twice its embedding, to which target - 2 base is added; doubling a float16 is exact."""
    model, _ = load_folder(base, torch.float16)
    _part(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(2)
    model.save_pretrained(str(out))


def _tie_again(added: Path, out: Path) -> None:
    model, _ = load_folder(added, torch.float16)
    model.get_output_embeddings().weight = model.get_input_embeddings().weight
    model.config.tie_word_embeddings = True
    model.save_pretrained(str(out))
    load_tokenizer(added).save_pretrained(str(out))


# -- what is in a folder


def _config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CharForgeError(f"{folder} is no model that can be read: its config.json is not") from error


def _rows(folder: Path) -> int:
    rows: int = _config(folder).get_text_config().vocab_size
    return rows


def _shapes(folder: Path) -> dict[str, list[int]]:
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 -- it is no dict
                shapes[name] = list(file.get_slice(name).get_shape())
    return shapes


def _check_shapes(base: Path, other: Path, complaint: str) -> None:
    """Raise CharForgeError where a tensor of the base is not in the other, or not of the same shape."""
    ours, its = _shapes(base), _shapes(other)
    for name, shape in ours.items():
        # Old checkpoints keep the rotary frequencies, which are computed; a tied output matrix may be there or not.
        if name.endswith("rotary_emb.inv_freq") or (name == "lm_head.weight" and name not in its):
            continue
        if its.get(name) != shape:
            raise CharForgeError(
                f"{complaint}: {name} is {shape} in one and {its.get(name, 'missing')} in the other",
                "name the very model that the difference was made to",
            )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _available_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 1 << 62  # not known: the quick way


# -- formats


def _as_safetensors(folder: Path, out: Path) -> Path:
    """Return the folder, or where its weights are pickled tensors, a copy in `out` with safetensors."""
    if not (folder / "config.json").is_file():
        raise CharForgeError(f"{folder} is not a model folder: it has no config.json")
    if any(folder.glob("*.safetensors")):
        return folder
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if not pickled:
        raise CharForgeError(f"{folder} has no weights: neither *.safetensors nor pytorch_model*.bin")
    out.mkdir(parents=True)
    for path in folder.iterdir():
        if (
            path.is_file()
            and path.suffix in {".json", ".model", ".txt", ".jinja"}
            and ".bin." not in path.name
        ):
            shutil.copy(path, out / path.name)
    where: dict[str, str] = {}
    for i, path in enumerate(pickled, 1):
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except Exception as error:
            raise CharForgeError(
                f"{path} could not be read as tensors and nothing else: {str(error).splitlines()[0]}",
                "only plain tensors are taken from pickled weights, since a pickle can run code",
            ) from error
        name = f"model-{i:05d}-of-{len(pickled):05d}.safetensors"
        # A copy each: what was one storage in a pickle would be refused.
        save_file(
            {key: tensor.clone().contiguous() for key, tensor in tensors.items()},
            out / name,
            {"format": "pt"},
        )
        where |= dict.fromkeys(tensors, name)
    _write_json(out / _INDEX, {"metadata": {}, "weight_map": where})
    return out


def _as_pickles(folder: Path, out: Path) -> None:
    """Write the folder's weights as theirs for little memory wants them: float16, in pytorch_model-*.bin."""
    out.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file() and path.suffix in {".json", ".model", ".txt", ".jinja"} and path.name != _INDEX:
            shutil.copy(path, out / path.name)
    for i, path in enumerate(sorted(folder.glob("*.safetensors"))):
        tensors = {
            key: tensor.to(torch.float16)
            for key, tensor in load_file(path).items()
            if not key.endswith("rotary_emb.inv_freq")
        }
        torch.save(tensors, out / f"pytorch_model-{i:05d}.bin")


def _without_versions(folder: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if path.is_file():
            data = json.loads(path.read_text(encoding="utf-8"))
            for key in ("transformers_version", "_name_or_path", "_from_model_config"):
                data.pop(key, None)
            _write_json(path, data)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")

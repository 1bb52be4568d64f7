"""Weights in a folder of the user's: which of its files count, and their digest. Knows nothing of models; imports no torch."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from charforge.engine.digest import canonical, of_bytes
from charforge.errors import CharForgeError
from charforge.safe_yaml import shown

WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "merges.txt",
    "vocab.txt",
)
"""What is read of a model, here and on the hub: no other format of weights, and no code."""
PICKLED = ("pytorch_model*.bin",)
"""Released weight differences, and the models they were made to, are often in this format: see `charforge.models.delta`."""

MAX_INDEX = 64 << 20
"""Bytes. The index of a model of 400 billion parameters has 200 kB."""


def files(folder: Path, *, pickled: bool = False) -> list[Path]:
    """Return the files of a model folder that count, sorted; pickled tensors do where `pickled` and there are no safetensors.

    Raises CharForgeError where it is no model folder.
    """
    if not folder.is_dir():
        raise CharForgeError(f"{folder}: no such folder", "train.base_model names a model's folder by ./path")
    found = sorted({path for pattern in WANTED for path in folder.glob(pattern) if path.is_file()})
    if pickled and not any(path.suffix == ".safetensors" for path in found):
        found = sorted([*found, *(path for pattern in PICKLED for path in folder.glob(pattern))])
    if (
        not any(path.suffix in {".safetensors", ".bin"} for path in found)
        or not (folder / "config.json").is_file()
    ):
        raise CharForgeError(
            f"{folder} is no model folder: it has no config.json, or no safetensors weights",
            "other weight formats can run code when loaded and are not read",
        )
    check_names(folder)
    return found


def check_names(folder: Path) -> None:
    """Raise CharForgeError where files of a model folder name weights that are not in it: no digest would cover them."""
    if (folder / "adapter_config.json").exists() and (folder / "config.json").exists():
        # transformers would read the model that this file names, and not the one here.
        raise CharForgeError(
            f"{folder} holds an adapter beside a model: adapter_config.json names another model to begin with",
            "delete adapter_config.json, or merge the adapter",
        )
    for path in sorted(folder.glob("*.index.json")):
        try:
            with path.open("rb") as file:  # one that is longer is cut, and no JSON
                named = json.loads(file.read(MAX_INDEX))["weight_map"].values()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CharForgeError(
                f"{path} does not say which file holds which weights", "fetch it again"
            ) from error
        for name in named:
            if not isinstance(name, str) or "/" in name or "\\" in name or not (folder / name).is_file():
                raise CharForgeError(
                    f"{path} names {shown(name)}, which is no file of its folder", "fetch the model again"
                )


def digest(folder: Path, *, pickled: bool = False) -> str:
    """Return a digest of the names and bytes of the files that count. Raises CharForgeError as `files` does."""
    found = files(folder, pickled=pickled)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        sums = list(pool.map(sha256, found))
    return of_bytes(canonical({path.name: sum_ for path, sum_ in zip(found, sums, strict=True)}))


def sha256(path: Path) -> str:
    """Return the digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

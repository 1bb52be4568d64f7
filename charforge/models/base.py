"""`python -m charforge.models.base`: write base weights as bfloat16 safetensors with tokenizer and chat template to a folder.

The job: `{"base": {"kind": "embedded", "name"} | {"kind": "folder", "path"} | {"kind": "hub", "repo", "revision"}, "out": folder}`.
The same weights give the same bytes. The result: `{"parameters", "vocabulary", "context", "model_type"}`. The one module that may
fetch a model; it takes safetensors only and never runs code that comes with weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from charforge.errors import CharForgeError
from charforge.models import embedded
from charforge.models.export import save_folder
from charforge.models.load import load
from charforge.models.process import serve_job

_WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "merges.txt",
    "vocab.txt",
)


def write_base(job: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Do the job of the module's docstring; CharForgeError where the weights cannot be had or are not as pinned."""
    base = dict(job["base"])
    if base["kind"] == "hub":
        progress({"phase": f"downloading {base['repo']}"})
        base = {"kind": "folder", "path": str(_download(base["repo"], base["revision"]))}
    elif base["kind"] == "embedded":
        embedded.verify(base["name"])
    progress({"phase": "converting"})
    model, tokenizer = load(base, dtype=torch.bfloat16)
    save_folder(model, tokenizer, Path(job["out"]))
    text = model.config.get_text_config()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": model.get_output_embeddings().weight.shape[0],
        "context": text.max_position_embeddings,
        "model_type": text.model_type,
    }


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{repo}@{revision}" if revision else repo
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(_WANTED)))
    except GatedRepoError as error:
        raise CharForgeError(f"{name} is gated", "accept its licence on its page and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise CharForgeError(f"{repo} has no revision {revision!r} on the Hugging Face hub") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        known = ", ".join(f"embedded/{known}" for known in sorted(embedded.EMBEDDED))
        raise CharForgeError(
            f"there is no model {name} on the Hugging Face hub", f"without a network there is {known}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CharForgeError(
            f"{name} could not be downloaded from the Hugging Face hub and is not in its local cache",
            "check the network, or train on embedded/smollm2-135m-instruct",
        ) from error


if __name__ == "__main__":
    serve_job(write_base)

"""`python -m charforge.models.base`: write base weights as bfloat16 safetensors with tokenizer and chat template to a folder.

The job is `{"base": BASE, "out": folder}`, where BASE is `{"kind": "embedded", "name"}`, `{"kind": "folder", "path"}`,
`{"kind": "hub", "repo", "revision"}` or `{"kind": "delta", "delta": BASE, "onto": BASE}`, a weight difference on what it was made to.
The same weights give the same bytes. The result: `{"parameters", "vocabulary", "context", "model_type"}`, and `"commit"` for what came from
the hub: its revision as a commit hash, for a weight difference `{"delta": …, "onto": …}`.

The one module that may fetch a model; it takes safetensors only (a weight difference also pickled tensors, see `delta`) and never
runs code that comes with weights. Without a network the hub's cache on this disk serves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from charforge import weights
from charforge.errors import CharForgeError
from charforge.models import embedded
from charforge.models.export import save_folder
from charforge.models.load import check_folder, load
from charforge.models.process import serve_job

Progress = Callable[[dict[str, Any]], None]


def write_base(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Do the job of the module's docstring; CharForgeError where the weights cannot be had or are not as pinned."""
    out = Path(job["out"])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".base-", dir=out.parent) as temporary:
        scratch = Path(temporary)
        source, commit = _fetch(dict(job["base"]), scratch, progress)
        progress({"phase": "converting"})
        model, tokenizer = load(source, dtype=torch.bfloat16)
        if tokenizer.eos_token_id is None:
            raise CharForgeError(
                f"the tokenizer of {_name(job['base'])} has no end token",
                "the end of a turn begins as a copy of it: choose a base model that has one",
            )
        if not tokenizer.is_fast:
            raise CharForgeError(
                f"the tokenizer of {_name(job['base'])} does not tell where its tokens stand in the text",
                "the loss mask needs that: choose a base model with a tokenizer.json",
            )
        save_folder(model, tokenizer, out)
    text = model.config.get_text_config()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": model.get_output_embeddings().weight.shape[0],
        "context": text.max_position_embeddings,
        "model_type": text.model_type,
    } | ({"commit": commit} if commit else {})


def _fetch(base: dict[str, Any], scratch: Path, progress: Progress) -> tuple[dict[str, Any], Any]:
    """Return where the weights lie on this disk, as `load` takes it, and what they came from on the hub."""
    if base["kind"] == "embedded":
        embedded.verify(base["name"])
        return base, None
    if base["kind"] != "delta":
        folder, commit = _folder(base, scratch, progress, pickled=False)
        check_folder(folder, _name(base))
        return {"kind": "folder", "path": str(folder)}, commit
    from charforge.models import delta  # fschat takes seconds to import

    # The difference first: where it cannot be had, the larger one need not be fetched.
    commits = {}
    folders = {}
    for part in ("delta", "onto"):
        folders[part], commits[part] = _folder(base[part], scratch / part, progress, pickled=True)
        check_folder(folders[part], _name(base[part]), pickled=True)
    delta.apply(folders["delta"], folders["onto"], scratch / "recovered", progress)
    commits = {part: commit for part, commit in commits.items() if commit}
    return {"kind": "folder", "path": str(scratch / "recovered")}, commits


def _folder(
    base: dict[str, Any], scratch: Path, progress: Progress, *, pickled: bool
) -> tuple[Path, str | None]:
    match base:
        case {"kind": "folder", "path": path}:
            return Path(path), None
        case {"kind": "hub", "repo": repo, "revision": revision}:
            progress({"phase": f"downloading {repo}"})
            return _download(repo, revision, pickled=pickled)
        case {"kind": "embedded", "name": name}:
            embedded.verify(name)
            model, tokenizer = load(base, dtype=torch.bfloat16)
            save_folder(model, tokenizer, scratch)
            return scratch, None
    raise ValueError(f"unknown weights {base!r}")


def _name(base: dict[str, Any]) -> str:
    match base:
        case {"kind": "folder", "path": path}:
            return str(path)
        case {"kind": "hub", "repo": repo, "revision": revision}:
            return f"{repo}@{revision}" if revision else str(repo)
        case {"kind": "embedded", "name": name}:
            return f"embedded/{name}"
    return f"{_name(base['delta'])} on {_name(base['onto'])}"


def _download(repo: str, revision: str | None, *, pickled: bool) -> tuple[Path, str]:
    """Return the snapshot of a repository and its commit. Pickled tensors only where `pickled`, and there are no safetensors.

    A revision that is a commit hash is used as it is; any other is asked for each time, and answered by the cache without a network.
    """
    import httpx
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name = f"{repo}@{revision}" if revision else repo
    try:
        folder = _snapshot(repo, revision, weights.WANTED)
        if pickled and not any(folder.glob("*.safetensors")):
            # By the commit just seen: the two downloads are of one state of the repository.
            folder = _snapshot(repo, folder.name, (*weights.WANTED, *weights.PICKLED))
    except GatedRepoError as error:
        raise CharForgeError(f"{name} is gated", "accept its licence on its page and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise CharForgeError(f"{repo} has no revision {revision!r} on the Hugging Face hub") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        known = ", ".join(f"embedded/{known}" for known in sorted(embedded.EMBEDDED))
        raise CharForgeError(
            f"there is no model {name} on the Hugging Face hub", f"without a network there is {known}"
        ) from error
    except (httpx.HTTPError, OSError) as error:
        raise CharForgeError(
            f"{name} could not be downloaded from the Hugging Face hub and is not in its local cache",
            "check the network, or train on embedded/smollm2-135m-instruct",
        ) from error
    return folder, folder.name


def _snapshot(repo: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Return the folder of the files at a revision; its name is the commit hash."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # Files in folders are other formats of the same weights; consolidated ones are Mistral's own, the same once more.
    options: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": list(patterns),
        "ignore_patterns": ["*/*", "consolidated*.safetensors"],
    }
    try:
        return Path(snapshot_download(repo, **options))
    except HfHubHTTPError:
        raise
    except (httpx.HTTPError, OSError) as error:
        # For a commit hash the hub is asked for its files even where they all lie here.
        try:
            return Path(snapshot_download(repo, **options, local_files_only=True))
        except OSError:
            raise error from None


if __name__ == "__main__":
    serve_job(write_base)

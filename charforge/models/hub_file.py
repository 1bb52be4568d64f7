"""`python -m charforge.models.hub_file`: bring one file of a data set on the Hugging Face hub here.

The job: `{"file": "org/dataset:path" | "org/dataset@revision:path", "out": where to write it, "limit": bytes}`. The result:
`{"repo", "revision": the commit, "path", "bytes", "sha256"}`. A revision that is no commit is looked up each time; without a
network what the local cache knows of it is taken. Nothing of the file is run or unpacked. Imports no torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path
from typing import Any

from charforge.errors import CharForgeError
from charforge.models.process import serve_job


def bring(job: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Do the job of the module's docstring; CharForgeError where the file cannot be had or is larger than the limit."""
    from huggingface_hub import hf_hub_download

    name = job["file"]
    dataset, _, path = name.partition(":")
    repo, _, revision = dataset.partition("@")
    progress({"phase": f"looking up {name}"})
    found = _or_say_why(
        name,
        lambda: hf_hub_download(repo, path, repo_type="dataset", revision=revision or None, dry_run=True),
    )
    if (found.file_size or 0) > job["limit"]:
        raise CharForgeError(
            f"{name} is too large: {found.file_size:,} bytes, the limit is {job['limit']:,}",
            "make a file of the part that is wanted, and name that",
        )
    if found.will_download:
        progress({"phase": f"downloading {name}"})
    # By its commit: the revision may have moved on since.
    here = Path(
        _or_say_why(
            name, lambda: hf_hub_download(repo, path, repo_type="dataset", revision=found.commit_hash)
        )
    )
    out = Path(job["out"])
    shutil.copyfile(here, out)
    size = out.stat().st_size
    if size > job["limit"]:  # the hub had not said how large it is
        raise CharForgeError(f"{name} is too large: {size:,} bytes, the limit is {job['limit']:,}")
    with out.open("rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
    return {"repo": repo, "revision": found.commit_hash, "path": path, "bytes": size, "sha256": digest}


def _or_say_why(name: str, call: Callable[[], Any]) -> Any:
    import httpx
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    dataset, _, path = name.partition(":")
    repo, _, revision = dataset.partition("@")
    try:
        return call()
    except GatedRepoError as error:
        raise CharForgeError(
            f"the data set {repo} is gated", "accept its terms on its page and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise CharForgeError(
            f"the data set {repo} has no revision {revision!r} on the Hugging Face hub"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise CharForgeError(
            f"the data set {dataset} has no file {path!r} on the Hugging Face hub"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CharForgeError(
            f"there is no data set {repo} on the Hugging Face hub",
            "a private one needs HF_TOKEN; a file of the workspace begins with ./",
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise CharForgeError(
            f"{name} could not be downloaded from the Hugging Face hub and is not in its local cache",
            "check the network, or save the file in the workspace and name it as ./file.jsonl",
        ) from error


if __name__ == "__main__":
    serve_job(bring)

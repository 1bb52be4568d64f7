"""Which git commit files are, where they are one's exactly. Reads; runs git alone, told to run nothing that a repository names.

A commit that is merely checked out says nothing of files that were edited since, so the files' own bytes are held against it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_SECONDS = 20
"""After which git is given up: a repository may be anything."""


def commit_of(folder: Path, files: Mapping[str, bytes]) -> str | None:
    """Return the commit checked out in the repository of `folder` where it holds these files, by path below it, as they are.

    None: there is no git, no repository and no commit, or a file is not the commit's.
    """
    if not files:
        return None
    head = _git(folder, "rev-parse", "--verify", "--end-of-options", "HEAD")
    commit = (head or b"").decode("ascii", "replace").strip()
    if len(commit) not in {40, 64} or not set(commit) <= set("0123456789abcdef"):
        return None
    # Of the paths below the folder, relative to it; all of them, for a path of ours could be a pattern to git.
    listed = _git(folder, "ls-tree", "-r", "-z", commit)
    if listed is None:
        return None
    known: dict[bytes, bytes] = {}
    for entry in listed.split(b"\0"):
        about, _, path = entry.partition(b"\t")
        known[path] = about.rpartition(b" ")[2]
    algorithm = "sha1" if len(commit) == 40 else "sha256"
    same = all(known.get(os.fsencode(path)) == _blob(data, algorithm) for path, data in files.items())
    return commit if same else None


def _blob(data: bytes, algorithm: str) -> bytes:
    hasher = hashlib.new(algorithm, b"blob %d\0" % len(data), usedforsecurity=False)
    hasher.update(data)
    return hasher.hexdigest().encode()


def _git(folder: Path, *words: str) -> bytes | None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1"}
    try:
        done = subprocess.run(
            ["git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None

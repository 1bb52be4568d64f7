"""Files as a git revision has them. Reads, and runs git alone: nothing that a repository's configuration or attributes name is run.

Only commands that read objects are used (rev-parse, merge-base, ls-tree, cat-file, diff-tree): they run no filter, no hook, no
textconv and no pager. What could still make git start another program is switched off below. A revision is never an option.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from charforge.errors import CharForgeError
from charforge.files import visible

_SECONDS = 60
_SWITCHED_OFF = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.sshCommand=false",
    "protocol.allow=never",  # a partial clone would fetch what it lacks, by any helper that its remote names
    "submodule.recurse=false",
)


class Repository:
    """The repository that a folder lies in. Paths are relative to that folder, with slashes."""

    def __init__(self, folder: Path) -> None:
        """Raise CharForgeError where git is missing, or the folder is in no repository."""
        self._folder = folder
        self._prefix = os.fsdecode(self._run("rev-parse", "--show-prefix").rstrip(b"\n"))

    def commit(self, revision: str) -> str:
        """Return the commit that a revision names, by its digest. Raises CharForgeError."""
        if not revision or revision.startswith("-") or not revision.isprintable():
            raise CharForgeError(f"{visible(revision)[:80]!r} is no git revision", "such as main or HEAD~1")
        # For git, quietly: what it says of a name that it does not know is for people who know git.
        found = self._try(
            "rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}"
        ).strip()
        if len(found) not in {40, 64} or not set(found) <= set(b"0123456789abcdef"):
            raise CharForgeError(f"no git revision is called {visible(revision)[:80]!r} here", self._hint())
        return found.decode()

    def base(self, one: str, other: str) -> str:
        """Return the commit at which two others parted. Both are digests. Raises CharForgeError."""
        found = self._try("merge-base", one, other).split()
        if not found:
            raise CharForgeError(
                f"{one[:12]} and {other[:12]} have no commit in common here",
                self._hint("compare them directly: A B"),
            )
        return found[0].decode()

    def names(self, commit: str, folder: str, *, deep: bool = False) -> list[str]:
        """Return the paths of the regular files in a folder, and in those below it if `deep`. Empty where there is none."""
        words = ["ls-tree", "-z", *(["-r"] if deep else []), commit, f"./{folder}/"]
        rows = (row.partition(b"\t") for row in self._run(*words).split(b"\0"))
        return [os.fsdecode(path) for about, _, path in rows if about.startswith(b"100")]

    def read(self, commit: str, path: str, limit: int) -> bytes | None:
        """Return a file's bytes, None where there is none. Raises CharForgeError where it is no file or too large."""
        for row in self._run("ls-tree", "-z", "-l", commit, f"./{path}").split(b"\0"):
            about, _, name = row.partition(b"\t")
            if os.fsdecode(name) != path:
                continue
            mode, _, blob, size = about.split()
            if not mode.startswith(b"100"):
                raise CharForgeError(f"{visible(path)} is no regular file in {commit[:12]}")
            if int(size) > limit:
                raise CharForgeError(
                    f"{visible(path)} in {commit[:12]} is too large: {int(size):,} bytes, the limit is {limit:,}"
                )
            return self._run("cat-file", "blob", blob.decode())
        return None

    def blobs(self, commit: str) -> dict[str, str]:
        """Return git's own digest of every file below the folder, by path."""
        rows = (row.partition(b"\t") for row in self._run("ls-tree", "-r", "-z", commit).split(b"\0"))
        return {os.fsdecode(path): about.rpartition(b" ")[2].decode() for about, _, path in rows if path}

    def changed(self, one: str, other: str) -> list[str]:
        """Return the paths that differ between two commits; those outside the folder begin with `../`."""
        words = ("-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-relative")
        found = self._run("diff-tree", *words, "--ignore-submodules=all", one, other)
        paths = [os.fsdecode(path) for path in found.split(b"\0") if path]
        return [os.path.relpath(path, self._prefix or ".") for path in paths]

    def _hint(self, otherwise: str = "git log --oneline names the commits; git fetch brings others") -> str:
        if self._try("rev-parse", "--is-shallow-repository").strip() == b"true":
            return "this clone is shallow: git fetch --unshallow brings the commits it lacks"
        return otherwise

    def _try(self, *words: str) -> bytes:
        done = self._git(*words)
        return done.stdout if done.returncode == 0 else b""

    def _run(self, *words: str) -> bytes:
        done = self._git(*words)
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
            if "not a git repository" in said:
                raise CharForgeError(
                    f"{self._folder} is in no git repository", "compare two lock files: A.lock B.lock"
                )
            raise CharForgeError(f"git {words[0]} failed: {visible(said)[:200]}")
        return done.stdout

    def _git(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        # GIT_DIR and the like would lead elsewhere, GIT_CONFIG_… and GIT_EXTERNAL_DIFF name commands.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        environment |= {
            "LC_ALL": "C",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",  # else a commit could be another than its digest says
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
        }
        settings = [word for setting in _SWITCHED_OFF for word in ("-c", setting)]
        try:
            return subprocess.run(
                ["git", "--no-pager", "--literal-pathspecs", *settings, *words],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise CharForgeError(
                "git is not installed, and revisions are read by it",
                "install it, or compare two lock files: A.lock B.lock",
            ) from None
        except subprocess.TimeoutExpired:
            raise CharForgeError(f"git {words[0]} did not end within {_SECONDS} s") from None
        except (OSError, ValueError) as error:
            raise CharForgeError(f"git cannot be run: {error}") from None


def commit_of(folder: Path, files: Mapping[str, bytes]) -> str | None:
    """Return the commit checked out in the repository of `folder` where it holds these files, by path below it, as they are.

    A commit that is merely checked out says nothing of files that were edited since, so the files' own bytes are held against
    it. None: there is no git, no repository and no commit, or a file is not the commit's.
    """
    if not files:
        return None
    try:
        repository = Repository(folder)
        commit = repository.commit("HEAD")
        known = repository.blobs(commit)
    except CharForgeError:
        return None
    algorithm = "sha1" if len(commit) == 40 else "sha256"
    same = all(known.get(path) == _blob(data, algorithm) for path, data in files.items())
    return commit if same else None


def _blob(data: bytes, algorithm: str) -> str:
    hasher = hashlib.new(algorithm, b"blob %d\0" % len(data), usedforsecurity=False)
    hasher.update(data)
    return hasher.hexdigest()

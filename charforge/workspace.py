"""Where things lie: the workspace of a spec, its store, its view, its receipts. Reads no spec and imports nothing heavy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from charforge import __version__
from charforge.errors import CharForgeError

PACKAGE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Target:
    """A spec that a command was given, and the workspace it belongs to."""

    spec: Path
    workspace: Path

    @property
    def id(self) -> str:
        """The character's id: the file's stem."""
        return self.spec.stem

    @property
    def label(self) -> str:
        """The spec's path as problems name it."""
        return self.spec.relative_to(self.workspace).as_posix()

    @property
    def view(self) -> Path:
        """Where its artifacts are shown."""
        return self.workspace / "build" / self.id

    @property
    def lock(self) -> Path:
        """Where its lock lies: beside the spec."""
        return self.spec.with_suffix(".lock")

    @property
    def recording(self) -> Path:
        """Where a recording of it lies that is committed with it."""
        return self.spec.parent / "recordings" / f"{self.id}.jsonl.zst"

    def receipt(self, key: str) -> Path:
        """Return where the receipt for this build lies. `key` says which build of the character it is."""
        digest = hashlib.sha256(key.encode()).hexdigest()[:12]
        return self.workspace / ".charforge" / "receipts" / f"{self.id}-{digest}.json"


def target(text: str) -> Target:
    """Return what the user means by a path or a name. The file need not exist; whoever reads it says so.

    `characters/x.yaml` belongs to the folder above `characters/`, whatever the current folder is; any other spec to
    the folder it lies in. Raises CharForgeError.
    """
    path = Path(text)
    if path.suffix not in {".yaml", ".yml"} and not path.is_file():
        if os.sep in text or path.suffix:
            raise CharForgeError(f"{text}: a spec is a .yaml file", "such as characters/beethoven.yaml")
        path = Path("characters") / f"{text}.yaml"
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay: the spec's own folder is what counts
    folder = path.parent
    return Target(path, folder.parent if folder.name == "characters" else folder)


def targets(texts: Sequence[str]) -> list[Target]:
    """Return the specs named, each once; without names, every spec in `characters/` here.

    Raises CharForgeError where they belong to different workspaces: a build has one store.
    """
    if texts:
        found = list(dict.fromkeys(target(text) for text in texts))
    else:
        found = [target(str(path)) for path in sorted(Path("characters").glob("*.yaml"))]
        if not found:
            raise CharForgeError("no specs here: characters/*.yaml", "charforge new <id> writes one")
    if len({each.workspace for each in found}) > 1:
        raise CharForgeError("these specs belong to different workspaces", "build them one after the other")
    return found


def build_key(*, to: str | None, preset: str | None, overrides: Sequence[str]) -> str:
    """Return what, besides files, decides what a build does."""
    return "\n".join([__version__, code_stamp(), f"to={to}", f"preset={preset}", *overrides])


def code_stamp() -> str:
    """Return a digest of the status of every file of this program: editing one is reason for a full look."""
    hasher = hashlib.sha256()
    for folder in (PACKAGE, packaged_prompts()):
        for path, size, mtime_ns in sorted(_files(str(folder))):
            hasher.update(f"{path}\0{size}\0{mtime_ns}\n".encode())
    return hasher.hexdigest()


def packaged_prompts() -> Path:
    """Return the folder of the templates CharForge brings: inside the wheel, or beside the package in a checkout."""
    inside = PACKAGE / "prompts"
    return inside if inside.is_dir() else PACKAGE.parent / "prompts"


def _files(folder: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _files(entry.path)
            elif not entry.name.startswith("."):
                status = entry.stat()
                yield entry.path, status.st_size, status.st_mtime_ns

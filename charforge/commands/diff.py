"""`charforge diff`: what a change does to characters, in words. Everything compared may be a stranger's; nothing of it is run."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from charforge import recording, review, review_words
from charforge.engine import lock as locks
from charforge.engine.digest import of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.reader import Reader, look
from charforge.errors import CharForgeError, UsageError
from charforge.files import MIB, read_bytes, visible
from charforge.review import Version
from charforge.revisions import Repository
from charforge.spec import valid_id
from charforge.workspace import packaged_prompts, target

_FORM = "charforge diff [SPEC] A [B], each side a git revision or a lock file"
_MAX_RECORDING = 256 * MIB
_MAX_PROMPTS = 1000
_MAX_STAGES = 100
"""Of a lock. No character has twenty, and each takes time."""
_SHOWN = 10


class Side(Protocol):
    """Where a version's files are."""

    label: str
    root: Path

    def names(self) -> list[str]:
        """Return the paths of the files right in `characters/`."""

    def read(self, path: str, limit: int) -> bytes | None:
        """Return a file's bytes, None where there is none. `sha256:…` names a prompt by its digest. Raises CharForgeError."""


def run(args: argparse.Namespace) -> int:
    """Say what is different. Reads files, git's objects and the store; asks nobody, writes nothing."""
    spec, sides = _arguments(args.sides)
    characters = [spec] if spec else _characters(sides)
    elsewhere: list[str] = []

    def reviews(blob: review.Blob) -> list[dict[str, Any]]:
        found = []
        elsewhere[:] = _elsewhere(sides)
        for character in characters:
            was, now = (_version(side, character, newer=side is sides[1]) for side in sides)
            if spec and not any(each.lock or each.spec_bytes or each.problem for each in (was, now)):
                raise CharForgeError(
                    f"neither {was.label} nor {now.label} has characters/{character}.lock or .yaml",
                    "charforge new writes a spec, a finished build its lock",
                )
            elsewhere[:] = [path for path in elsewhere if path not in _own(character, was, now)]
            if review.differs(was, now):
                each = review.compare(was, now, blob, records=args.records)
                each["cost"]["recorded"] = _recorded(sides[1], now)
                found.append(each)
        return found

    found = _with_blobs(list(dict.fromkeys(side.root / ".charforge" for side in sides)), reviews)
    _print(args, sides, found, elsewhere)
    return 0


def _print(
    args: argparse.Namespace, sides: Sequence[Side], found: Sequence[Mapping[str, Any]], elsewhere: list[str]
) -> None:
    if args.json:
        print(review_words.as_json(found, elsewhere))
        return
    words = review_words.markdown if args.markdown else review_words.text
    for number, each in enumerate(found):
        print(*([""] if number else []), *words(each), sep="\n")
    if not found:
        print(f"No character differs between {visible(sides[0].label)} and {visible(sides[1].label)}.")
    if elsewhere:
        lines = [visible(path) for path in elsewhere[:_SHOWN]]
        more = [f"… and {len(elsewhere) - _SHOWN:,} more"] if len(elsewhere) > _SHOWN else []
        head = "Files that belong to no character changed too, of which this says nothing:"
        shown = review_words.fenced(lines + more) if args.markdown else (f"  {line}" for line in lines + more)
        print("", head, *([""] if args.markdown else []), *shown, sep="\n")


# -- what is compared ------------------------------------------------------------------------------------------------


def _arguments(words: Sequence[str]) -> tuple[str | None, tuple[Side, Side]]:
    """Return the character asked for, if one is, and both sides. Raises CharForgeError, UsageError."""
    first = words[0]
    named = first.endswith((".yaml", ".yml")) or (
        not first.endswith(".lock")
        and os.sep not in first
        and any((Path("characters") / f"{first}{ending}").is_file() for ending in (".yaml", ".lock"))
    )
    spec, rest, root = None, list(words), Path.cwd()
    if named or len(words) == 3:
        found = target(first)
        spec, rest, root = found.id, rest[1:], found.workspace
        if not valid_id(spec):
            raise UsageError(f"{visible(spec)[:80]!r} is no character's id", _FORM)
    if len(rest) > 2:
        raise UsageError("more than two sides", _FORM)
    rest = rest or ["HEAD"]
    if len(rest) == 1 and ".." in rest[0] and not rest[0].endswith(".lock"):
        rest = _range(rest[0], root)
    sides = [_side(word, root) for word in rest]
    files = [side for side in sides if isinstance(side, LockFile)]
    if files:
        ids = {side.path.stem for side in files} | ({spec} if spec else set())
        if spec is None:
            spec = files[-1].path.stem
        elif len(ids) > 1:
            raise UsageError(f"the lock files are those of {', '.join(sorted(ids))}", _FORM)
    if len(sides) == 1:
        sides.append(Files(files[0].root if files else root))
    return spec, (sides[0], sides[1])


def _range(word: str, root: Path) -> list[str]:
    """Return both ends of git's `A..B`, or, of `A...B`, where B parted from A, and B."""
    one, _, other = word.partition("...") if "..." in word else word.partition("..")
    one, other = one or "HEAD", other or "HEAD"
    if "..." not in word:
        return [one, other]
    repository = Repository(root)
    return [repository.base(repository.commit(one), repository.commit(other)), other]


def _side(word: str, root: Path) -> Side:
    if word.endswith(".lock"):
        return LockFile(Path(word))
    repository = Repository(root)
    return Revision(word, root, repository, repository.commit(word))


def _characters(sides: Sequence[Side]) -> list[str]:
    names = {name.rpartition("/")[2] for side in sides for name in side.names()}
    ids = {
        name.removesuffix(ending) for name in names for ending in (".lock", ".yaml") if name.endswith(ending)
    }
    found = sorted(filter(valid_id, ids))
    if not found:
        raise CharForgeError(
            f"neither {sides[0].label} nor {sides[1].label} has characters/*.yaml or characters/*.lock",
            "charforge new writes a spec, a finished build its lock",
        )
    return found


def _elsewhere(sides: Sequence[Side]) -> list[str]:
    one, other = sides
    if isinstance(one, Revision) and isinstance(other, Revision):
        return one.repository.changed(one.commit, other.commit)
    return []


def _own(character: str, *versions: Version) -> set[str]:
    """Return the files that belong to a character on either side."""
    own = {f"characters/{character}{ending}" for ending in (".yaml", ".lock")}
    named = (version.file(*keys) for version in versions for _, keys in review.NAMED)
    return own | {_recording(character)} | {found[0] for found in named if found is not None}


def _version(side: Side, character: str, *, newer: bool) -> Version:
    """Return a character as one side has it. Raises CharForgeError where the newer side's lock cannot be read."""
    label = str(side.path) if isinstance(side, LockFile) else f"{side.label}:characters/{character}.lock"
    lock, problem = None, None
    try:
        lock = _lock(side, character, label)
    except EngineError as error:
        # What a change brings has to be readable. What was there before may be of an older version, or broken.
        if newer or isinstance(side, LockFile):
            raise CharForgeError(visible(error.message), error.hint) from error
        problem = f"{visible(error.message)}; what it said is left out"
    return Version(side.label, character, lock, side.read, problem)


def _lock(side: Side, character: str, label: str) -> locks.Lock | None:
    if isinstance(side, LockFile):
        data: bytes | None = side.lock()
    else:
        data = side.read(f"characters/{character}.lock", locks.MAX_BYTES)
    found = None if data is None else locks.parse(data, label)
    if found is not None and len(found.stages) > _MAX_STAGES:
        raise EngineError(f"{label}: not a lock file (more than {_MAX_STAGES} stages)")
    return found


# -- where files are -------------------------------------------------------------------------------------------------


@dataclass
class Files:
    """The workspace as it lies on the disk."""

    root: Path
    label: str = "the files here"

    def names(self) -> list[str]:
        """Return the paths of the files right in `characters/`."""
        folder = self.root / "characters"
        return [f"characters/{path.name}" for path in folder.iterdir()] if folder.is_dir() else []

    def read(self, path: str, limit: int) -> bytes | None:
        """Return a file's bytes, None where there is none. Raises CharForgeError, where it leads out too."""
        if path.startswith("sha256:"):
            return self._prompts.get(path.removeprefix("sha256:"))
        return _inside(self.root, path, limit)

    @cached_property
    def _prompts(self) -> dict[str, bytes]:
        return _packaged() | {
            of_bytes(data): data
            for path in sorted((self.root / "prompts").glob("**/*.j2"))[:_MAX_PROMPTS]
            if (data := _inside(self.root, str(path.relative_to(self.root)), MIB)) is not None
        }


@dataclass
class Revision:
    """The workspace as a commit has it. `root` is the workspace on the disk, whose store may have the bytes."""

    label: str
    root: Path
    repository: Repository
    commit: str
    _known: dict[tuple[str, int], bytes | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.label != self.commit:
            self.label = f"{self.label} ({self.commit[:10]})"
        else:
            self.label = self.commit[:10]

    def names(self) -> list[str]:
        """Return the paths of the files right in `characters/`."""
        return self.repository.names(self.commit, "characters")

    def read(self, path: str, limit: int) -> bytes | None:
        """Return a file's bytes, None where there is none. Raises CharForgeError."""
        if path.startswith("sha256:"):
            return self._prompts.get(path.removeprefix("sha256:"))
        if (path, limit) not in self._known:
            self._known[path, limit] = self.repository.read(self.commit, path, limit)
        return self._known[path, limit]

    @cached_property
    def _prompts(self) -> dict[str, bytes]:
        found = _packaged()
        names = [
            name for name in self.repository.names(self.commit, "prompts", deep=True) if name.endswith(".j2")
        ]
        for name in names[:_MAX_PROMPTS]:
            try:
                data = self.repository.read(self.commit, name, MIB)
            except CharForgeError:
                continue
            if data is not None:
                found[of_bytes(data)] = data
        return found


class LockFile:
    """A lock file by itself; where it lies in a `characters/` folder with its spec, the files beside it too."""

    def __init__(self, path: Path) -> None:
        if not valid_id(path.stem):
            raise UsageError(
                f"{visible(str(path))}: a lock file is called as its character, such as beethoven.lock"
            )
        self.path = path
        self.label = visible(str(path))
        whole = Path(os.path.abspath(path))  # noqa: PTH100 - links stay, as for specs
        beside = whole.parent.name == "characters" and whole.with_suffix(".yaml").is_file()
        self.root = whole.parent.parent if beside else Path.cwd()
        self._files = Files(self.root) if beside else None

    def lock(self) -> bytes:
        """Return the lock's bytes. Raises CharForgeError."""
        return read_bytes(self.path, self.label, locks.MAX_BYTES)

    def names(self) -> list[str]:
        """Return the paths of the files right in `characters/`: of the one lock."""
        return [f"characters/{self.path.name}"]

    def read(self, path: str, limit: int) -> bytes | None:
        """Return a file beside it, None where there is none. Raises CharForgeError."""
        return None if self._files is None else self._files.read(path, limit)


def _inside(root: Path, path: str, limit: int) -> bytes | None:
    """Return a workspace file's bytes, None where there is none. Raises CharForgeError where a link leads out."""
    whole = Path(os.path.realpath(root / path))
    if not whole.is_relative_to(os.path.realpath(root)):
        raise CharForgeError(f"{visible(path)} leads out of the workspace, and was not read")
    return read_bytes(whole, visible(path), limit) if whole.exists() else None


def _packaged() -> dict[str, bytes]:
    """Return the prompts that this CharForge brings, by digest."""
    return {
        of_bytes(data): data for data in (path.read_bytes() for path in packaged_prompts().glob("**/*.j2"))
    }


# -- what is recorded ------------------------------------------------------------------------------------------------


def _with_blobs(
    roots: Sequence[Path],
    work: Callable[[review.Blob], list[dict[str, Any]]],
    readers: tuple[Reader, ...] = (),
) -> list[dict[str, Any]]:
    """Return what `work` makes of the bytes that these stores have."""
    if roots:
        first, *others = roots
        if not first.is_dir():
            return _with_blobs(others, work, readers)
        try:
            return look(first, lambda reader: _with_blobs(others, work, (*readers, reader)))
        except EngineError as error:
            # A review does not need it, and it may have come with what is reviewed.
            print(f"note: {visible(error.message)}; nothing of it is shown", file=sys.stderr)
            return _with_blobs(others, work, readers)

    def blob(digest: str) -> bytes | None:
        for reader in readers:
            try:
                if reader.has(digest):
                    return reader.read(digest)
            except Damaged:
                continue  # an audit tells of it
        return None

    return work(blob)


def _recording(character: str) -> str:
    return f"characters/recordings/{character}.jsonl.zst"


def _recorded(side: Side, now: Version) -> str | None:
    """Say how many replies lie beside a lock, so that building it asks nobody."""
    if now.lock is None:
        return None
    needed = sum(line.observations.get("count", 0) for line in now.lock.stages.values())
    path = _recording(now.character)
    try:
        data = side.read(path, _MAX_RECORDING)
        if data is None:
            return (
                f"no recording beside it ({path}): whoever lacks the store asks {needed:,} calls again"
                if needed
                else None
            )
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{now.character}.jsonl.zst"
            file.write_bytes(data)
            with recording.verified(file, max_mib=_MAX_RECORDING // MIB * 4) as found:
                count = found.count
    except CharForgeError as error:
        now.note(path, error)
        return None
    return (
        f"{path} holds {count:,} replies; the stages stand on {needed:,}, shared ones counted more than once"
    )

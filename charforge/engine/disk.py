"""What file systems do, refuse and run out of: told in words, and worked around where another way leads there too.

Not every file system has hard links, renames over an existing file, modes, or folders that can be synchronised; the store asks
for each and does without. Locks are the exception: without them two builds could not be kept apart.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from charforge.engine.errors import EngineError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_WRITE = frozenset({errno.EPERM, errno.EACCES, errno.EROFS})
_UNKNOWN = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
# A further name for a file: refused by the file system, by a limit, or for lying on another disk.
_NO_LINK = _UNKNOWN | {errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV}
NO_LOCK = _UNKNOWN | {errno.ENOLCK}
_NO_RENAME = frozenset({errno.EEXIST, errno.EPERM, errno.EACCES})
FAILING = frozenset({errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO})

_CHUNK = 1 << 20
_FICLONE = 0x40049409
"""Linux: let a file share another's blocks until one of them is written to."""


def copy_hashed(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file and return (SHA-256, size) of the bytes that were copied."""
    hasher = hashlib.sha256()
    size = 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            hasher.update(chunk)
            writer.write(chunk)
            size += len(chunk)
    return hasher.hexdigest(), size


def hashed(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_bytes(path: Path, other: Path | bytes) -> bool:
    """Say whether a file holds just the bytes of another, or these. A file that cannot be read does not."""
    try:
        size = len(other) if isinstance(other, bytes) else other.stat().st_size
        if path.stat().st_size != size:
            return False
        if isinstance(other, bytes):
            return path.read_bytes() == other
        with path.open("rb") as one, other.open("rb") as two:
            while chunk := one.read(_CHUNK):
                if chunk != two.read(_CHUNK):
                    return False
    except OSError:
        return False
    return True


def own_folders(root: Path, names: Iterable[str], later: Iterable[str]) -> None:
    """Make a folder and some in it, where they are not there. Raises EngineError for a file or a link in the place of one.

    Those of `later` are not made yet. The outer one may be a link: where that leads is its owner's choice.
    """
    _make(root, parents=True)
    for name in (*names, *later):
        _refuse_link(root / name)
    for name in names:
        _make(root / name, parents=False)


def own_folder(folder: Path) -> None:
    """Make an inner folder, if it is not there. Raises EngineError for a file or a link in its place."""
    _refuse_link(folder)
    _make(folder, parents=False)


def _refuse_link(folder: Path) -> None:
    """Raise EngineError where a folder of the store is a link: it may come with a stranger's files, and lead anywhere."""
    if folder.is_symlink():
        raise EngineError(f"{folder} is a link, and the store works through none", "remove it and rerun")


def _make(folder: Path, *, parents: bool) -> None:
    try:
        folder.mkdir(parents=parents, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise EngineError(
            f"cannot make the folder {folder}: a file is in the way", "move it away and rerun"
        ) from error


def fsync(path: Path) -> None:
    """Have a file or folder written to the disk. A file system that cannot do so for folders does without."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNKNOWN or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def read_only(path: Path) -> None:
    """Take away the right to write, as a courtesy: some file systems know no modes."""
    with contextlib.suppress(PermissionError):
        path.chmod(0o444)


def install(temporary: Path, target: Path) -> None:
    """Put a finished file in its place, durably; what is there gives way."""
    fsync(temporary)
    try:
        over(temporary, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The folder is a link to another disk, perhaps: no rename leads there, but one inside it does.
        beside = target.with_name(f"{target.name}.part-{os.getpid()}")
        try:
            shutil.copyfile(temporary, beside)
            shutil.copymode(temporary, beside)
            fsync(beside)
            over(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    fsync(target.parent)


def over(source: Path, target: Path) -> None:
    """Rename a file; what is there gives way, at once where the file system can do that."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in _NO_RENAME or not target.exists():
            raise
        target.unlink()
        source.rename(target)


def move(source: Path, target: Path) -> None:
    """Move a file or folder to where nothing is, to another disk if need be (and then not at once)."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.move(source, target)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a further name where the file system can, else a copy, which shares its blocks where that can be."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:
            shutil.copyfileobj(reader, writer, _CHUNK)
    read_only(target)


def lock(file: IO[bytes], how: int, root: Path) -> None:
    """Take or change a lock on a file. Raises BlockingIOError where it was not to wait, and EngineError without locks."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in NO_LOCK:
            raise
        raise no_locks(root, error) from error


def no_locks(root: Path, error: OSError) -> EngineError:
    """Return the error for a file system without locks."""
    return EngineError(
        f"the file system of {root} has no file locks ({error.strerror})",
        "keep the workspace on a disk of this machine, or mount the file system with locks",
    )


@contextlib.contextmanager
def explained(root: Path, doubt: Callable[[], None] | None = None) -> Iterator[None]:
    """Turn what the operating system and SQLite say into one clear error.

    `doubt` is called where SQLite met what it would not have written.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "disk is full" in text:
            raise no_room(root) from error
        if "disk I/O" in text:
            raise (failing(root, text) if _has_room(root) else no_room(root)) from error
        if "readonly" in text or "unable to open" in text:
            if not _has_room(root):
                raise no_room(root) from error
            files = [root, *(each for each in (root / "store.db", root / "store.db-wal") if each.exists())]
            may = all(os.access(each, os.W_OK) for each in files)
            raise (failing(root, text) if may else no_write(root)) from error
        if "locking protocol" in text:
            raise EngineError(
                f"the file system of {root} has no locks that SQLite can use",
                "keep the workspace on a disk of this machine",
            ) from error
        if "locked" in text:
            raise EngineError(
                f"{root / 'store.db'} is held by another process for over a minute", "try again"
            ) from error
        if text.startswith(("no such ", "near ")):  # our mistake: the schema was looked at when it was opened
            raise
        if doubt is not None:
            doubt()
        raise damaged(root, text.partition(" with text ")[0]) from error
    except UnicodeDecodeError as error:  # in a message of SQLite's that quotes what it met
        if doubt is not None:
            doubt()
        raise damaged(root, "a text in it is none") from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room(root) from error
        if error.errno in _NO_WRITE:
            raise no_write(root) from error
        if error.errno in FAILING:
            raise failing(root, error.strerror or str(error)) from error
        raise


def _has_room(root: Path) -> bool:
    """Say whether a write, and a new file, should have found room. A quota does not show here."""
    try:
        disk = os.statvfs(root)
    except OSError:
        return True
    # A file system that does not count its files says that it has none.
    return disk.f_bavail * disk.f_frsize > _CHUNK and (disk.f_files == 0 or disk.f_favail > 0)


def no_room(root: Path) -> EngineError:
    """Return the error for a full disk."""
    return EngineError(
        f"no room left on the disk of {root}", "free some space and rerun; finished work is kept"
    )


def no_write(root: Path) -> EngineError:
    """Return the error for a store that may not be written to."""
    return EngineError(f"cannot write to the store {root}", "make it writable, or build in another workspace")


def failing(root: Path, text: str) -> EngineError:
    """Return the error for a disk that does not do what it is told."""
    return EngineError(
        f"the disk of {root} does not work as it should ({text})",
        "see that it is well and has room, then rerun; finished work is kept",
    )


def damaged(root: Path, text: str) -> EngineError:
    """Return the error for a database that is not as SQLite left it."""
    return EngineError(
        f"{root / 'store.db'} is damaged ({text})",
        "build again: what is sound in it is saved into a new one, and the damaged one is kept aside",
    )

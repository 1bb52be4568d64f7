"""The view: current artifacts copied under human names. Deleting it loses nothing, editing it changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from charforge.engine import disk
from charforge.engine.errors import EngineError
from charforge.engine.names import is_name
from charforge.engine.store import Store


def sync(store: Store, folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Make `folder` show `files` (`{name: digest}`, trees end in `/`) and return the paths it shows.

    Files that are as an earlier build left them are not touched; files it wrote that are no longer wanted
    are removed; files that somebody else put there stay. Always copies, never links: a store must not be
    writable through its view. Raises Damaged and EngineError.
    """
    wanted: dict[str, str] = {}
    for name, digest in files.items():
        if name.endswith("/"):
            wanted |= {name + inner: entry["digest"] for inner, entry in store.manifest(digest).items()}
        else:
            wanted[name] = digest
    for name in wanted:
        if not is_name(name):
            raise EngineError(
                f"{name[:80]!r} is no name for a file of the view", "an output has another name"
            )
    try:
        # Two builds of one character end at the same moment: the second waited for the first.
        with store.alone("view"):
            _write(store, folder, wanted)
    except OSError as error:
        raise EngineError(
            f"cannot write {error.filename or folder}: {error.strerror}", "mend that and rerun"
        ) from error
    return [folder / name for name in wanted]


def _write(store: Store, folder: Path, wanted: Mapping[str, str]) -> None:
    prefix = f"{folder.parent.name}/{folder.name}"
    known = store.view_entries(prefix)
    added: dict[str, tuple[str, int, int, int]] = {}
    for name, digest in wanted.items():
        path = folder / name
        if (current := _stamp(path)) is not None and known.get(f"{prefix}/{name}") == (digest, *current):
            continue
        _own_folder(folder, path.parent)
        temporary = path.with_name(path.name + ".part")
        temporary.unlink(missing_ok=True)
        store.copy(digest, temporary)
        disk.over(temporary, path)
        added[f"{prefix}/{name}"] = (digest, *_must_stamp(path))
    gone = [key for key in known if key.removeprefix(prefix + "/") not in wanted]
    for key in gone:
        _remove(folder, key.removeprefix(prefix + "/"))
    store.set_view_entries(added, gone)


def _own_folder(view: Path, folder: Path) -> None:
    """Make a folder of the view. A link in its place would take what is written elsewhere: it may come with a pull request."""
    inside = [
        view.parent,
        view,
        *(view / part for part in reversed(folder.relative_to(view).parents) if part.name),
    ]
    for each in dict.fromkeys([*inside, folder]):
        if each.is_symlink():
            raise EngineError(f"{each} is a link, and the view writes through none", "remove it and rerun")
    folder.mkdir(parents=True, exist_ok=True)


def _remove(folder: Path, name: str) -> None:
    path = folder / name
    for parent in path.parents:
        if parent.is_symlink():
            return  # somebody else's, and it leads elsewhere
        if parent == folder.parent:
            break
    if path.is_dir() and not path.is_symlink():
        return
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == folder or not parent.is_dir() or any(parent.iterdir()):
            return
        parent.rmdir()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        return _must_stamp(path)
    except FileNotFoundError:
        return None


def _must_stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino

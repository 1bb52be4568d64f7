"""What is sound in a damaged SQLite file, saved into a new one.

Nothing of the file's structure is believed: whatever reads as a row, wherever it lies, is held against what it says of itself. A blob and an action hash to their names, a trace has its seal; so rows of any page, of the
journal, even of pages long given up, can be taken, and none can be wrong. What cannot prove itself (which action a stage last
came from) is taken where it names an action that was saved; the view's bookkeeping is not, so the view is written anew.

https://www.sqlite.org/fileformat.html, sections 1.6 (b-tree pages), 2.1 (records) and 4.1 (the journal).
"""

from __future__ import annotations

import json
import mmap
import re
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from charforge.engine import database
from charforge.engine.digest import ACTION_DOMAIN, of_bytes
from charforge.engine.disk import fsync, move

Value = int | float | bytes | None
_PAGE = 4096
"""SQLite's page size since 2016, for a file whose header does not say."""
_TEXT64 = 2 * 64 + 13
_DIGEST = re.compile(b"\x81\x0d")
"""How a row's header says that a column is a text of 64 bytes. Every row that is saved has a digest first or second."""
_FLIPPED = 2
"""A name may differ from the right one in this many letters, and is then taken for it."""


def save(path: Path, aside: Path) -> int:
    """Put a new file in the place of the damaged `path`, and that one and its journal into the folder `aside`.

    Nobody else may have it open. Returns how many traces were saved. Killed at any moment, it may be called again. Raises
    OSError and sqlite3.Error for the new file.
    """
    saved, building = path.with_name(path.name + ".saved"), path.with_name(path.name + ".saving")
    journal = path.with_name(path.name + "-wal")
    building.unlink(missing_ok=True)
    # The first: what an earlier attempt had saved, should it have been killed after it had begun to move things.
    sources = [each for each in (saved, path) if each.exists()]
    # Without a journal: killed in here, it is begun anew.
    with closing(sqlite3.connect(building, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")
        database.create(db)
        db.execute("BEGIN IMMEDIATE")
        for source in sources:
            with closing(_Pages(source)) as pages:
                _take(pages, db)
        count: int = db.execute("SELECT count(*) FROM traces").fetchone()[0]
        db.execute("COMMIT")
    fsync(building)
    building.replace(saved)
    fsync(path.parent)
    aside.mkdir(exist_ok=True)
    number = len(list(aside.glob("store.db-*")))
    # The journal goes before the file it belongs to is replaced: SQLite would play it into the new one.
    for each, name in ((journal, f"store.db-{number}-wal"), (path, f"store.db-{number}")):
        if each.exists():
            move(each, aside / name)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    saved.replace(path)
    fsync(path.parent)
    return count


def _take(pages: _Pages, db: sqlite3.Connection) -> None:
    stages: list[tuple[str, str, str, float]] = []
    for rowid, row in pages.rows():
        match row:
            case (bytes(name), bytes(data)) if len(name) == 64:
                digest = of_bytes(data)
                if of_bytes(ACTION_DOMAIN + data).encode() == name:
                    _keep_action(db, rowid, name.decode(), data)
                elif sum(one != other for one, other in zip(name, digest.encode(), strict=False)) <= _FLIPPED:
                    # Under the name it has by right: that may be what was flipped.
                    db.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (digest, data))
            case (bytes(), int(number), bytes(), bytes(), bytes()):
                texts = [each for each in row if isinstance(each, bytes)]
                with suppress(UnicodeDecodeError):
                    action, outputs, record, seal = (text.decode() for text in texts)
                    if database.seal(action, number, outputs, record) == seal:
                        values = (action, number, outputs, record, seal)
                        db.execute("INSERT OR IGNORE INTO traces VALUES (?, ?, ?, ?, ?)", values)
            case (bytes(name), bytes(digest), bytes(reasons), float(at)):
                with suppress(ValueError):
                    if isinstance(json.loads(reasons), list):
                        stages.append((name.decode(), digest.decode(), reasons.decode(), at))
    for stage in sorted(stages, key=lambda row: row[3]):
        if db.execute("SELECT 1 FROM actions WHERE digest = ?", (stage[1],)).fetchone():
            db.execute("INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?)", stage)


def _keep_action(db: sqlite3.Connection, rowid: int, name: str, body: bytes) -> None:
    # With its number, by which those recorded last are found first.
    sql = "INSERT OR IGNORE INTO actions (rowid, digest, body) VALUES (?, ?, ?)"
    if rowid <= 0 or not db.execute(sql, (rowid, name, body)).rowcount:
        db.execute("INSERT OR IGNORE INTO actions (digest, body) VALUES (?, ?)", (name, body))


class _Pages:
    """The pages of a file and of the journal beside it, by number; a page may have several versions."""

    def __init__(self, path: Path) -> None:
        self._undo = ExitStack()
        self._base = self._map(path)
        journal = self._map(path.with_name(path.name + "-wal"))
        size = int.from_bytes(self._base[16:18], "big") or int.from_bytes(journal[8:12], "big")
        size = 65536 if size == 1 else size
        self._size = size if 512 <= size <= 65536 and size & (size - 1) == 0 else _PAGE
        self._frames: list[tuple[int, bytes]] = []
        for at in range(32, len(journal) - 24 - self._size + 1, 24 + self._size):
            number = int.from_bytes(journal[at : at + 4], "big")
            self._frames.append((number, journal[at + 24 : at + 24 + self._size]))
        self._latest = dict(self._frames)

    def close(self) -> None:
        """Let go of the file."""
        with suppress(BufferError):  # it failed in the midst of a search, which lets go later
            self._undo.close()

    def _map(self, path: Path) -> bytes | mmap.mmap:
        if not path.exists() or not path.stat().st_size:
            return b""
        file = self._undo.enter_context(path.open("rb"))
        return self._undo.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def _page(self, number: int, *, old: bool) -> bytes:
        if not old and number in self._latest:
            return self._latest[number]
        return self._base[(number - 1) * self._size : number * self._size] if number > 0 else b""

    def rows(self) -> Iterator[tuple[int, tuple[Value, ...]]]:
        """Yield (row number or 0, values) of what reads as a row, texts as bytes. Some come twice, some are none."""
        for found in _DIGEST.finditer(self._base):
            number, at = divmod(found.start(), self._size)
            yield from self._rows_at(self._page(number + 1, old=True), at)
        for _, page in self._frames:
            for found in _DIGEST.finditer(page):
                yield from self._rows_at(page, found.start())

    def _rows_at(self, page: bytes, at: int) -> Iterator[tuple[int, tuple[Value, ...]]]:
        """Yield the rows whose first or second column is the text of 64 bytes that is announced at a place."""
        for start in (at - 1, at - 2, at - 3):
            types = _types(page, start) if start > 0 else None
            if types is None or _TEXT64 not in types[:2] or (len(types) == 2 and types[1] < 12):
                continue
            end = start + page[start]
            length = page[start] + sum(map(_width, types))
            # What a page holds of a row; the rest is in a chain of further pages.
            limit = self._size - 35 if len(types) == 2 else (self._size - 12) * 64 // 255 - 23
            local = length
            if length > limit:
                least = (self._size - 12) * 32 // 255 - 23
                local = least + (length - least) % (self._size - 4)
                local = local if local <= limit else least
            payload = page[start : start + local]
            if local < length <= len(self._base) + len(self._frames) * self._size:
                chains = {
                    self._chained(page[start + local : start + local + 4], length - local, old=old)
                    for old in (True, False)
                }
            else:
                chains = {b""}
            for chained in chains:
                if chained is not None and len(payload) + len(chained) == length:
                    values = _values(payload + chained, end - start, types)
                    yield _row_number(page, start, length), values

    def _chained(self, first: bytes, length: int, *, old: bool) -> bytes | None:
        parts: list[bytes] = []
        number = int.from_bytes(first, "big")
        while length > 0:
            page = self._page(number, old=old)
            if len(page) < self._size:
                return None
            parts.append(page[4 : 4 + min(length, self._size - 4)])
            length -= self._size - 4
            number = int.from_bytes(page[:4], "big")
        return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return (value, where it ends); beyond the data there are zeros."""
    value = 0
    for step in range(8):
        byte = data[at + step] if at + step < len(data) else 0
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + step + 1
    return value, at + 9


def _row_number(page: bytes, start: int, length: int) -> int:
    """Return the number of the row that begins at `start`: between its length and it, if there is one."""
    for width in range(1, 10):
        number, end = _varint(page, start - width)
        for before in range(width + 1, width + 10):
            if end == start and start >= before and _varint(page, start - before) == (length, start - width):
                return number
    return 0


def _types(page: bytes, start: int) -> list[int] | None:
    """Return the types of the values of a row whose header begins at a place, if it has two, four or five."""
    end, at = start + page[start], start + 1
    if not 3 <= page[start] < 46 or end > len(page):
        return None
    types: list[int] = []
    while at < end:
        each, at = _varint(page, at)
        types.append(each)
    return types if at == end and len(types) in {2, 4, 5} and not {10, 11} & set(types) else None


def _width(kind: int) -> int:
    return (kind - 12) // 2 if kind >= 12 else (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)[kind]


def _values(payload: bytes, at: int, types: list[int]) -> tuple[Value, ...]:
    values: list[Value] = []
    for kind in types:
        part = payload[at : at + _width(kind)]
        at += len(part)
        if kind >= 12:
            values.append(part)
        elif kind == 0:
            values.append(None)
        elif kind == 7:
            values.append(struct.unpack(">d", part)[0])
        elif kind in {8, 9}:
            values.append(kind - 8)
        else:
            values.append(int.from_bytes(part, "big", signed=True))
    return tuple(values)

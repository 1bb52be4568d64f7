"""Reading a stranger's text file: size first, then bytes, then text that a person could have typed.

Every failure is a `FileProblems` that names the file and, where there is one, the line. This module knows
nothing of what the text means and never decides which files may be read (spec.py does).
"""

from __future__ import annotations

import os
import re
import stat
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn

from charforge.errors import FileProblems, Problem

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
MAX_EXCERPT = 120
MAX_LINES = 10_000
"""Of a profile, or of what is written for a character. A book of 400 pages has 14,000 printed ones, in 2,000 paragraphs."""
MAX_TOLD = 200
"""Problems of one file after which reading ends: it is another thing, and looking for near words takes its time."""

# What YAML 1.2 (section 5.1) calls non-printable, without surrogates, which UTF-8 cannot carry. The control
# characters among them would reach terminals, prompts and reports.
_UNTYPABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")


def visible(text: str) -> str:
    """Return `text` with every character that does not print (control codes, tabs, bidi marks) as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def excerpt(line: str) -> str:
    """Return one source line as problems show it: indentation kept, escapes visible, at most 120 characters."""
    line = line[: MAX_EXCERPT + 1].rstrip()  # cut first: a line may be a megabyte, and asked for often
    clipped = line if len(line) <= MAX_EXCERPT else line[: MAX_EXCERPT - 1] + "…"
    return visible(clipped)


def read_bytes(path: Path, file: str, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes, which is checked before anything is read.

    `file` is the name that problems use. Raises FileProblems where the file is missing, no regular file, too
    large, empty or unreadable.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # before opening: a pipe would block
            _fail(file, "not a regular file")
        if found.st_size > limit:
            _fail(file, f"too large: {found.st_size:,} bytes, the limit is {limit:,}")
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except FileNotFoundError:
        _fail(file, "no such file", near_file(path, file))
    except OSError as error:
        _fail(file, f"cannot be read: {error.strerror or error}")
    if len(data) > limit:  # it grew since
        _fail(file, f"too large: the limit is {limit:,} bytes")
    if not data.strip():
        _fail(file, "the file is empty")
    return data


def decode(data: bytes, file: str) -> str:
    r"""Return UTF-8 bytes as text with `\n` line ends and no byte order mark.

    Raises FileProblems, with the line, where the bytes are not UTF-8 or hold control characters.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _fail_encoding(data, file, error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0))
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    bad = _UNTYPABLE.search(text)
    if bad:
        lines = text[: bad.start()].split("\n")
        line = text.split("\n")[len(lines) - 1]
        message = f"control character U+{ord(bad.group()):04X} in column {len(lines[-1]) + 1}"
        raise FileProblems([Problem(file, len(lines), None, message, excerpt(line), "delete it")])
    return text


def read_text(path: Path, file: str, limit: int) -> str:
    """Return the text of a file: `read_bytes`, then `decode`, with the errors of both."""
    return decode(read_bytes(path, file, limit), file)


def lines_of(text: str, file: str) -> list[str]:
    """Return the lines of a text that a person wrote. Raises FileProblems where there are more than MAX_LINES."""
    count = text.count("\n") + 1
    if count > MAX_LINES:
        _fail(file, f"too long: {count:,} lines, the limit is {MAX_LINES:,}")
    return text.split("\n")


def near_file(path: Path, file: str) -> str | None:
    """Return a hint that names a file beside the missing `path` which may be meant; None where there is none."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for _, entry in zip(range(1000), entries, strict=False)]
    except OSError:
        return None
    names = sorted(name for name in names if name.endswith(path.suffix) and not name.startswith("."))
    # Compared without the suffix, which is the same everywhere and would make all names look alike.
    stems = {name.removesuffix(path.suffix): name for name in names}
    near = get_close_matches(path.stem[:100], stems, n=1)
    if near:
        folder = file[: len(file) - len(path.name)] if file.endswith(path.name) else ""
        return f"did you mean '{visible(folder + stems[near[0]])}'?"
    if path.suffix and names:
        return "files there: " + ", ".join(visible(name) for name in names[:5]) + (", …" if names[5:] else "")
    return None


def _fail(file: str, message: str, hint: str | None = None) -> NoReturn:
    raise FileProblems([Problem(file, None, None, message, None, hint)]) from None


def _fail_encoding(data: bytes, file: str, start: int) -> NoReturn:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        _fail(file, "not UTF-8 but UTF-16", "save it as UTF-8")
    before = data[:start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    begin = max(data.rfind(b"\n", 0, start), data.rfind(b"\r", 0, start)) + 1
    end = min((i for i in (data.find(b"\n", start), data.find(b"\r", start)) if i >= 0), default=len(data))
    line = before.count(b"\n") + 1
    message = f"not UTF-8: byte 0x{data[start]:02x} in column {start - begin + 1}"
    hint = "save it as UTF-8, for example: iconv -f LATIN1 -t UTF-8"
    # Latin-1 gives every byte a character, so the reader can find the place.
    text = data[begin:end].decode("latin-1")
    raise FileProblems([Problem(file, line, None, message, excerpt(text), hint)]) from None

"""`charforge check` on hostile and huge files of a stranger: `python bench/hostile.py [--repeat 3] [--json] [CASE…]`.

Each case is a workspace of its own, made here, that is given to the command line as a process of its own. Measured are its
seconds (the least of `--repeat` runs), its CPU seconds, its peak memory as the kernel counts it (wait4), its exit status and
how many messages it printed. The figure: at most 1 s and 200 MB, exit 1, and a message that is clear: one where one thing is
wrong, at most 50 of a file where there are more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MIB = 1 << 20
MOST_SECONDS, MOST_MB, MOST_MESSAGES = 1.0, 200, 52

SPEC = """\
charforge: 1
name: Eliza Field
short_name: Eliza
preset: smoke
portrays: fictional
profile: {file: profiles/eliza.md}
knows: {until: 1840-12-31, never: [telephones, aeroplanes]}
written: written/eliza.md
interview: {questions: questions/eliza.yaml}
"""
PROFILE = "---\nname: Eliza Field\nsource: invented\nlicence: CC0-1.0\n---\n\n" + "\n\n".join(
    f"Eliza was born in the village of {name}, where her father kept the mill and her mother taught children to read."
    for name in ("Ware", "Hale", "Ebury", "Stoke", "Marsh", "Ford")
)
WRITTEN = """\
# Scenes

## The mill {#mill}

Paragraphs: p1
Type: quarrel
Location: The mill in Ware
Status: The wheel stands still.

Tom (speaking): Good day to you, Eliza. Is your father at home this morning?

Eliza (speaking): He is at the market, and will not be back before the evening.
"""
QUESTIONS = "single:\n" + "".join(
    f"  - id: {topic}-{n}\n    topic: {topic}\n    question: What do you say of {topic}, for the {word} time?\n"
    for topic in ("past", "relations", "values", "traps")
    for n, word in enumerate(("first", "second", "third", "fourth"))
) + "multi:\n  - id: mill\n    topic: past\n    subject: The mill.\n"  # fmt: skip

TALK = WRITTEN.partition("Tom (")[0]

Case = Callable[[Path], None]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Put a case on the list. It is given the `characters` folder of a sound character, and spoils it."""

    def keep(made: Case) -> Case:
        CASES[name] = made
        return made

    return keep


def text(name: str, file: str, pieces: Callable[[], Iterator[str] | str]) -> None:
    """Put a case on the list whose file is another text. In pieces, so that this process stays small."""

    def made(characters: Path) -> None:
        with (characters / file).open("w", encoding="utf-8", newline="\n") as out:
            found = pieces()
            for piece in [found] if isinstance(found, str) else found:
                out.write(piece)

    CASES[name] = made


def spec(name: str, pieces: Callable[[], Iterator[str] | str]) -> None:
    """Put a case on the list of which the spec is other."""
    text(name, "eliza.yaml", pieces)


def repeated(piece: str, size: int = MIB - 4096, before: str = "", after: str = "") -> Iterator[str]:
    """Yield a text of about `size` bytes."""
    yield before
    block = piece * max(1, 65_536 // len(piece.encode()))
    for _ in range(max(1, size // len(block.encode()))):
        yield block
    yield after


def numbered(line: str, count: int, before: str = "", after: str = "") -> Iterator[str]:
    """Yield `count` lines, each with its number where `#` stands."""
    yield before
    for number in range(count):
        yield line.replace("#", str(number))
    yield after


# --- The spec itself -------------------------------------------------------------------------------------------------

spec("billion laughs", lambda: SPEC + "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)))  # fmt: skip
spec("an alias of itself", lambda: SPEC + "a: &a [*a, *a]\n")
spec(
    "aliases of a long text",
    lambda: numbered("  - *t\n", 9_000, SPEC + "t: &t " + "x" * 100_000 + "\nmany:\n"),
)
spec(
    "merge keys of merge keys",
    lambda: numbered("a#: &a# {<<: *a0, x#: 1}\n", 3_000, SPEC + "a0: &a0 {x: 1}\n"),
)
spec("100,000 anchors", lambda: numbered("- &a# x\n", 80_000))
spec("lists in lists", lambda: repeated("["))
spec("keys in keys", lambda: repeated("{a: "))
spec("dashes in dashes", lambda: repeated("- "))
spec("question marks", lambda: repeated("? "))
spec("closing brackets only", lambda: repeated("]"))
spec("tags", lambda: numbered('k#: !!python/object/apply:os.system ["id"]\n', 6_000, SPEC))
spec("a key 19,000 times", lambda: repeated("name: Eve\n", 190_000, SPEC))
spec("19,000 unknown keys", lambda: numbered("trian-#: 1\n", 19_000, SPEC))
spec("keys that look like secrets", lambda: numbered("api_key_#: sk-#\n", 9_000, SPEC))
spec("a key of a megabyte", lambda: repeated("k", MIB - 8192, SPEC, ": 1\n"))
spec("a value of a megabyte", lambda: repeated("v", MIB - 8192, SPEC + "notice: ", "\n"))
spec(
    "a name of a megabyte",
    lambda: repeated("N", MIB - 8192, SPEC.replace("name: Eliza Field\n", "") + "name: ", "\n"),
)
spec("a model's name of a megabyte", lambda: repeated("a/", MIB - 8192, SPEC + "generator: {model: ", "}\n"))
spec(
    "a path of a megabyte", lambda: repeated("../", MIB - 8192, SPEC.replace("profiles/eliza.md", "x"), "\n")
)
spec("a path of half a megabyte upwards", lambda: repeated("a/../", MIB // 2, SPEC.replace(
    "written: written/eliza.md\n", "") + "written: ", "x\n"))  # fmt: skip
spec("19,000 things never heard of", lambda: numbered(", thing #", 19_000, SPEC.replace("aeroplanes]}", "aeroplanes")[:-1]
     .partition("written:")[0].rstrip(), "]}\nwritten: written/eliza.md\n"))  # fmt: skip
spec(
    "9,000 contestants",
    lambda: numbered(
        "  - openai/m#\n", 9_000, SPEC.partition("interview:")[0] + "interview:\n  baselines:\n"
    ),
)
spec("6,000 transcripts", lambda: numbered("  - {name: a#, files: [../../x#]}\n", 6_000,
     SPEC.partition("interview:")[0] + "interview:\n  transcripts:\n"))  # fmt: skip
spec("a number of a million digits", lambda: repeated("9", MIB - 8192, SPEC + "seed: ", "\n"))
spec("a million line ends", lambda: repeated("\n", MIB - 8192, "", "x: ["))
spec("comments only", lambda: repeated("# x\n"))
spec("colons", lambda: repeated(": "))
spec("quotes that never end", lambda: repeated("'x", MIB - 8192, "name: '"))
spec("escapes", lambda: repeated("\\x41", MIB - 8192, SPEC + 'notice: "', '"\n'))
spec("20,000 documents", lambda: repeated("---\na: 1\n"))
spec("spaces", lambda: repeated(" ", MIB - 8192, "a:", "b"))
spec("tabs", lambda: repeated("\t", MIB - 8192, SPEC + "train:\n", "a: 1\n"))
spec("directives", lambda: repeated("%TAG ! tag:x,2000:\n"))
spec("block scalars", lambda: numbered("k#: |\n  x\n", 15_000, SPEC))
spec("characters that turn text around", lambda: SPEC.replace("Eliza Field", '"Eliza \\u202e Field"'))
spec("100 MB", lambda: repeated("# comment\n", 100 * MIB, SPEC))


@case("8 GB")
def _sparse(characters: Path) -> None:
    with (characters / "eliza.yaml").open("r+b") as file:
        file.truncate(8 << 30)


def raw(name: str, data: bytes, file: str = "eliza.yaml") -> None:
    CASES[name] = lambda characters: (characters / file).write_bytes(data) and None


raw("no text", bytes(range(256)) * 4000)
raw("UTF-16", SPEC.encode("utf-16"))
raw("terminal codes", SPEC.replace("Field", "\x1b[2J").encode())
raw("a NUL byte", SPEC.replace("Field", "\0").encode())


def link(name: str, target: str, file: str = "eliza.yaml") -> None:
    def made(characters: Path) -> None:
        (characters / file).unlink()
        (characters / file).symlink_to(target)

    CASES[name] = made


link("a link to endless zeros", "/dev/zero")
link("a link to the environment", "/proc/self/environ")
link("a link to itself", "eliza.yaml")


@case("a pipe")
def _pipe(characters: Path) -> None:
    (characters / "eliza.yaml").unlink()
    os.mkfifo(characters / "eliza.yaml")


# --- The files it names ----------------------------------------------------------------------------------------------

MOST = MIB - 65_536
HEAD = PROFILE.partition("\n\n")[0] + "\n\n"
profile = "profiles/eliza.md"
text("profile: 2 MB", profile, lambda: repeated("word ", 2 * MIB, HEAD))
text(
    "profile: one paragraph of 1 MB",
    profile,
    lambda: repeated("Eliza went to the mill and saw her father there. ", MOST, HEAD),
)
text("profile: one word of 1 MB", profile, lambda: repeated("x", MOST, HEAD))
text("profile: one line of dots", profile, lambda: repeated(". ", MOST, HEAD))
text(
    "profile: 14,000 paragraphs alike",
    profile,
    lambda: repeated("Eliza went to the mill and saw her father there, who was glad of it.\n\n", MOST, HEAD),
)
text(
    "profile: 17,000 paragraphs",
    profile,
    lambda: numbered("Eliza saw # things at the mill. {#a#}\n\n", 17_000, HEAD),
)
text("profile: 330,000 paragraphs", profile, lambda: repeated("x\n\n", MOST, HEAD))
text("profile: spaces", profile, lambda: repeated(" ", MOST, HEAD, "x"))
text("profile: braces", profile, lambda: repeated("{#", MOST, HEAD))
text("profile: headings", profile, lambda: repeated("#", MOST, HEAD, " x"))
text("profile: years", profile, lambda: repeated("In 1999 she flew by aeroplane. ", MOST, HEAD))
text("profile: capitals", profile, lambda: repeated("Anna Berta Carla Dora ", MOST, HEAD))
text("profile: Cyrillic", profile, lambda: repeated("Он родился в деревне и жил там долго. ", MOST, HEAD))
text("profile: joined marks", profile, lambda: repeated("a\u0301\u0301\u0301\u0301 ", MOST, HEAD))
text(
    "profile: front matter that laughs",
    profile,
    lambda: "---\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\nlicence: x\n---\n\nText.\n",
)
text("profile: front matter that never ends", profile, lambda: repeated("a: b\n", MOST, "---\n"))
text(
    "profile: a licence of 1 MB",
    profile,
    lambda: repeated("MIT AND ", MOST, "---\nname: x\nsource: x\nlicence: ", "MIT\n---\n\nText.\n"),
)
written = "written/eliza.md"
text("written: 1 MB of headings", written, lambda: numbered("## A {#a#}\n\n", 60_000))
text(
    "written: one dialogue of 1 MB",
    written,
    lambda: repeated("Tom (speaking): Good day.\n\nEliza (speaking): Good day to you.\n\n", MOST, TALK),
)
text("written: one turn of 1 MB", written, lambda: repeated("(", MOST, TALK + "Tom (speaking): "))
text("written: asterisks", written, lambda: repeated("*", MOST, TALK + "Tom (speaking): "))
text(
    "written: 4,500 dialogues",
    written,
    lambda: numbered(
        TALK.partition("\n\n")[2].replace("#mill", "#a-#")
        + "Tom (speaking): Good day.\n\nEliza (speaking): No.\n\n",
        4_500,
        "# Scenes\n\n",
    ),
)
text(
    "written: paragraphs never heard of",
    written,
    lambda: [WRITTEN.replace("p1", ", ".join(f"p{number}x" for number in range(100_000)))],
)
questions = "questions/eliza.yaml"
text("questions: billion laughs", questions, lambda: "a0: &a0 [x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)))  # fmt: skip
text(
    "questions: 4,900 of one topic",
    questions,
    lambda: numbered(
        "  - {id: q#, topic: past, question: What did you do on day # of that year?}\n",
        4_900,
        "single:\n",
        "multi: []\n",
    ),
)
text(
    "questions: 4,900 alike",
    questions,
    lambda: numbered("  - {id: q#, topic: past, question: Why?}\n", 4_900, "single:\n", "multi: []\n"),
)
text("questions: 11,000 with one id", questions, lambda: repeated("  - {id: q}\n", 130_000, "single:\n"))
text(
    "questions: one of a megabyte",
    questions,
    lambda: repeated(
        "why ", MIB - 8192, "single:\n  - id: a\n    topic: past\n    question: ", "\nmulti: []\n"
    ),
)


def transcript(name: str, pieces: Callable[[], Iterator[str]]) -> None:
    def made(characters: Path) -> None:
        (characters / "eliza.yaml").write_text(
            SPEC.partition("interview:")[0]
            + "interview:\n  questions: questions/eliza.yaml\n  transcripts: [{name: other, files: [t.json]}]\n",
            encoding="utf-8",
        )
        with (characters / "t.json").open("w", encoding="utf-8") as file:
            for piece in pieces():
                file.write(piece)

    CASES[f"transcript: {name}"] = made


transcript("more than 16 MB", lambda: repeated('{"a": 1}\n', 17 * MIB))
transcript("lists in lists", lambda: repeated("[", 4 * MIB))
transcript("15 MB of empty lists", lambda: repeated("[],", 15 * MIB, "[", "[]]"))
transcript("15 MB of empty lists in one", lambda: repeated("[],", 15 * MIB, '{"a":[', "[]]}"))
transcript("15 MB of broken lines", lambda: repeated("{\n", 15 * MIB))
transcript("15 MB of one text", lambda: repeated("x", 15 * MIB, '{"question": "', '"}'))
transcript("15 MB of numbers", lambda: repeated("9", 15 * MIB, '{"question": ', "}"))
transcript("15 MB of escapes", lambda: repeated("\\u0041", 15 * MIB, '{"question": "', '"}'))
transcript("100,000 records of another kind", lambda: repeated('{"role": "x", "content": "y"}\n', 3 * MIB))


def data(name: str, pieces: Callable[[], Iterator[str]]) -> None:
    def made(characters: Path) -> None:
        train = "train:\n  data: {prompted: ./d.jsonl}\n"
        (characters / "eliza.yaml").write_text(SPEC + train, encoding="utf-8")
        with (characters / "d.jsonl").open("w", encoding="utf-8") as file:
            for piece in pieces():
                file.write(piece)

    CASES[f"data: {name}"] = made


data("8 MB of broken lines", lambda: repeated("{\n", 8 * MIB - 65_536))
data("8 MB of one line", lambda: repeated("x", 8 * MIB - 65_536, '{"prompt": "'))
data("8 MB of empty lists", lambda: repeated("[],", 8 * MIB - 65_536, '{"a":[', "[]]}"))

data("8 MB of empty objects", lambda: repeated("{}\n", 8 * MIB - 65_536))


@case("data: 3 GB")
def _large_data(characters: Path) -> None:
    (characters / "eliza.yaml").write_text(SPEC + "train:\n  data: {prompted: ./d.jsonl}\n", encoding="utf-8")
    with (characters / "d.jsonl").open("wb") as file:
        file.truncate(3 << 30)


# --- Measuring -------------------------------------------------------------------------------------------------------


def sound(folder: Path) -> Path:
    """Write a sound character and return its `characters` folder."""
    characters = folder / "characters"
    for name, content in (
        ("eliza.yaml", SPEC),
        (profile, PROFILE),
        (written, WRITTEN),
        (questions, QUESTIONS),
    ):
        (characters / name).parent.mkdir(parents=True, exist_ok=True)
        (characters / name).write_text(content, encoding="utf-8")
    return characters


def measured(folder: Path, seconds: float = 60) -> dict[str, Any]:
    """Run `charforge check` in a workspace. `megabytes` is the process's largest resident set, as the kernel counts it."""
    with (folder / "out").open("w+b") as out:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "charforge", "check", "characters/eliza.yaml"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "COLUMNS": "120"},
        )
        deadline = begun + seconds
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() > deadline:
                process.kill()
                _, status, usage = os.wait4(process.pid, 0)
                break
            time.sleep(0.002)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read().decode("utf-8", "replace")
    messages = re.findall(r"(?m)^(?:error: .*|… and .* more in .*)$", said)
    return {
        "seconds": round(wall, 3),
        "cpu": round(usage.ru_utime + usage.ru_stime, 3),
        "megabytes": round(usage.ru_maxrss / 1024),
        "exit": process.returncode,
        "messages": len(messages),
        "longest": max((len(line) for line in said.splitlines()), default=0),
        "first": messages[0] if messages else said[:200],
    }


def main() -> int:
    """Measure, print a table, and exit 1 where a figure is missed."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("cases", nargs="*", metavar="CASE", help="names, or parts of them (default: all)")
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--json", action="store_true")
    options.add_argument("--messages", action="store_true", help="show each case's first message")
    args = options.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    for name, make in CASES.items():
        if args.cases and not any(part in name for part in args.cases):
            continue
        with tempfile.TemporaryDirectory() as folder:
            make(sound(Path(folder)))
            runs = [measured(Path(folder)) for _ in range(args.repeat)]
        row = rows[name] = min(runs, key=lambda run: run["seconds"])
        row["megabytes"] = max(run["megabytes"] for run in runs)
        row["missed"] = missed(row)
        if not args.json:
            mark = "  missed: " + ", ".join(row["missed"]) if row["missed"] else ""
            print(
                f"{name:45} {row['seconds']:6.2f} s {row['cpu']:6.2f} s CPU {row['megabytes']:5} MB"
                f"  exit {row['exit']}  {row['messages']:2} messages{mark}",
                flush=True,
            )
            if args.messages or row["missed"]:
                print(f"    {str(row['first'])[:200]}", flush=True)
    if args.json:
        print(json.dumps(rows, indent=1))
    elif rows:
        print(
            f"{len(rows)} cases: at most {max(r['seconds'] for r in rows.values()):.2f} s ({max(r['cpu'] for r in rows.values()):.2f} s of CPU), "
            f"{max(r['megabytes'] for r in rows.values())} MB; {sum(bool(r['missed']) for r in rows.values())} missed"
        )
    return int(any(row["missed"] for row in rows.values()))


def missed(row: dict[str, Any]) -> list[str]:
    """Return which figures a row misses."""
    return [
        what
        for what, wrong in (
            ("time", row["seconds"] > MOST_SECONDS),
            ("memory", row["megabytes"] > MOST_MB),
            ("exit", row["exit"] != 1),
            ("messages", not 1 <= row["messages"] <= MOST_MESSAGES),
            ("length", row["longest"] > 1000),
        )
        if wrong
    ]


if __name__ == "__main__":
    sys.exit(main())

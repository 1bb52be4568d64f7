"""The command line: parse, call one function, print what went wrong, exit.

Exit status: 0 done, 1 yours to fix, 2 usage, 3 our bug, 130 interrupted. Nothing heavy is imported here: a build with
nothing to do has to be over before torch would have been found.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from charforge import __version__

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What a disk refuses, wherever that happens, is the user's to fix."""

Command = Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the command line as every other error is said."""

    commands: Mapping[str, argparse.ArgumentParser]
    """By name, such as `record export`. Of the whole command line's parser only."""

    def error(self, message: str) -> NoReturn:
        raise _usage(message, f"{self.prog} --help")


def parser() -> _Parser:
    """Return the parser of the whole command line."""
    main = _Parser(
        prog="charforge",
        description="Compile characters, each one YAML file, into language models that are these persons.",
        epilog="start with: charforge new ada-lovelace, then charforge build ada-lovelace",
    )
    main.add_argument("--version", action="version", version=f"charforge {__version__}")
    commands = main.add_subparsers(title="commands", metavar="COMMAND", required=True)
    named: dict[str, argparse.ArgumentParser] = {}
    main.commands = named

    groups: dict[str, Any] = {}

    def group(name: str, about: str) -> None:
        sub = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        groups[name] = sub.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Command, about: str, *, specs: str | int | None = None
    ) -> argparse.ArgumentParser:
        # Without abbreviations: one that works today would become another option's tomorrow.
        above, _, last = name.rpartition(" ")
        sub = (groups[above] if above else commands).add_parser(
            last, help=about, description=about[0].upper() + about[1:] + ".", allow_abbrev=False
        )
        named[name] = sub
        sub.set_defaults(run=run)
        if specs is not None:
            sub.add_argument(
                "specs",
                nargs=specs,
                metavar="SPEC",
                help="a spec's path, or a character's name"
                + (" (default: all in characters/)" if specs == "*" else ""),
            )
        return sub

    def sizing(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--preset",
            metavar="NAME",
            help="defaults to start from, in place of the spec's own: laptop, smoke or paper",
        )
        sub.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="set a value of the spec, such as train.epochs=5 (may be given several times)",
        )

    def machines(sub: argparse.ArgumentParser, nodes: int) -> None:
        sub.add_argument(
            "--processes",
            metavar="N",
            type=_positive,
            help="processes of this machine that train (default: one for each GPU, at least one)",
        )
        sub.add_argument(
            "--nodes",
            metavar="N",
            type=_positive,
            default=nodes,
            help=f"machines that train together (default: {nodes})",
        )

    new = command("new", _new, "write a commented spec to start from")
    new.add_argument("id", metavar="ID", nargs="?", help="the file's name, such as ada-lovelace")
    new.add_argument("--name", help="the person's full name (default: made from the id)")
    new.add_argument(
        "--short-name",
        metavar="NAME",
        help="the speaker's name in dialogues (default: the last word of the name)",
    )
    new.add_argument(
        "--portrays", metavar="WHOM", help="historical, living or fictional (default: historical)"
    )
    new.add_argument("--notice", metavar="TEXT", help="what readers have to be told about a real person")
    new.add_argument("--until", metavar="DATE", help="the last day that the person can know of")
    new.add_argument("--licence", help="the profile's licence (default: CC0-1.0)")
    new.add_argument("--source", metavar="TEXT", help="where the profile's facts are from")

    check = command("check", _check, "verify a character's files, without running anything", specs="+")
    check.add_argument(
        "--strict",
        action="store_true",
        help="refuse what is unfinished, too: the skeleton's own text, an unknown licence",
    )
    sizing(check)

    build = command("build", _build, "bring characters up to date", specs="+")
    build.add_argument("--to", metavar="STAGE", help="stop after this stage")
    build.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=_positive,
        default=64,
        help="calls in flight at once to one endpoint (default: 64)",
    )
    build.add_argument(
        "-k", "--keep-going", action="store_true", help="go on with what does not depend on a failure"
    )
    build.add_argument(
        "-n", "--dry-run", action="store_true", help="say what would run, and why; run nothing"
    )
    build.add_argument(
        "--offline", action="store_true", help="answer from recorded replies and local models only"
    )
    build.add_argument(
        "--max-cost",
        metavar="USD",
        type=_dollars,
        help="stop before the call that could make this build cost more than this",
    )
    machines(build, nodes=1)
    build.add_argument(
        "--rendezvous",
        metavar="HOST:PORT",
        help="this machine, as the others reach it: they run charforge join HOST:PORT",
    )
    sizing(build)

    join = command("join", _join, "train together with a build on another machine")
    join.add_argument("rendezvous", metavar="HOST:PORT", help="what that build was given as --rendezvous")
    machines(join, nodes=2)
    join.add_argument(
        "--node-rank",
        metavar="N",
        type=_positive,
        default=1,
        help="this machine's number, from 1 (the build's own is 0; default: 1)",
    )

    plan = command("plan", _plan, "say what a build would do and cost; run nothing", specs="*")
    plan.add_argument("--to", metavar="STAGE", help="of a build that stops after this stage")
    plan.add_argument("--json", action="store_true", help="as JSON")
    sizing(plan)

    status = command("status", _status, "say which stages are up to date", specs="*")
    status.add_argument("--json", action="store_true", help="as JSON")
    sizing(status)

    explain = command("explain", _explain, "say why stages are stale, or why they last ran", specs=1)
    explain.add_argument("stage", nargs="?", metavar="STAGE", help="this stage only")
    explain.add_argument(
        "--calls", action="store_true", help="also the calls that the last run made, and why"
    )
    sizing(explain)

    show = command("show", _show, "print a stage's records, readable", specs=1)
    show.add_argument("stage", metavar="STAGE", help="the stage whose records to show")
    show.add_argument("record", nargs="?", metavar="ID", help="one record, by its id or the start of it")
    show.add_argument(
        "-l", "--limit", metavar="N", type=_positive, default=10, help="how many records (default: 10)"
    )
    show.add_argument("--json", action="store_true", help="as JSON lines")
    show.add_argument("--rejected", action="store_true", help="what the stage rejected, and why")
    show.add_argument(
        "--mask", action="store_true", help="of dataset: a sample with the tokens marked that loss falls on"
    )
    show.add_argument("--yaml", action="store_true", help="of questions: as a file that a spec can name")
    sizing(show)

    stats = command("stats", _stats, "count scenes, words and turns, as the paper's table does", specs="*")
    stats.add_argument("--json", action="store_true", help="as JSON")
    sizing(stats)

    compare = command("compare", _compare, "print evaluations side by side, with intervals")
    compare.add_argument(
        "evaluations",
        nargs="+",
        metavar="BUILD",
        help="a character's name, a spec's path, or a folder that a build wrote, such as build/beethoven",
    )
    compare.add_argument("--html", metavar="FILE", help="write a page in place of printing")
    compare.add_argument("--json", action="store_true", help="as JSON")

    export = command("export", _export, "write what was built as a folder for other programs")
    export.add_argument("kind", metavar="KIND", help="hf, lora, merged, gguf, delta or dataset")
    export.add_argument("spec", metavar="SPEC", help="a spec's path, or a character's name")
    export.add_argument("--out", metavar="DIR", help="where to (default: export/ID-KIND in the workspace)")
    export.add_argument(
        "--type",
        metavar="TYPE",
        choices=("f16", "q8_0", "q4_1", "q4_0", "all"),
        help="of gguf: f16, q8_0, q4_1, q4_0 or all (default: q8_0)",
    )
    export.add_argument(
        "--measure", action="store_true", help="of gguf: also the perplexity on the held-out dialogues"
    )
    export.add_argument("--force", action="store_true", help="replace an export that is there already")
    sizing(export)

    group("record", "take recorded replies elsewhere, and bring them in")
    replies = command("record export", _record_export, "write a character's recorded replies to a file")
    replies.add_argument("spec", metavar="SPEC", help="a spec's path, or a character's name")
    replies.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="where to: its name ends in .jsonl.zst or .jsonl (default: characters/recordings/ID.jsonl.zst)",
    )
    sizing(replies)

    import_ = command("record import", _record_import, "verify a file of replies and add them to the store")
    import_.add_argument("file", metavar="FILE", help="what record export wrote")
    import_.add_argument(
        "--max-size",
        metavar="MIB",
        type=_positive,
        default=4096,
        help="the most that it may hold, decompressed, in MiB (default: 4096)",
    )

    group("import", "bring in what others made")
    others = command(
        "import transcripts", _import_transcripts, "measure interviews that others released, like any other"
    )
    others.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a folder as Character-LLM's authors released it, or files of answers",
    )
    others.add_argument("--id", metavar="ID", help="the character's id (default: such as released-beethoven)")
    others.add_argument(
        "--profile", metavar="FILE", help="what is known of the person (default: the one in the folder)"
    )
    others.add_argument(
        "--knows-until",
        metavar="DATE",
        help="the last day that the character can know of (default: the day of death, where the profile says it)",
    )
    others.add_argument(
        "--never",
        action="append",
        default=[],
        metavar="THING",
        help="what came later, such as cinema (may be given several times)",
    )
    others.add_argument("--licence", metavar="TEXT", help="the profile's licence")
    others.add_argument("--no-build", action="store_true", help="write the files only; measure nothing")
    others.add_argument("--force", action="store_true", help="replace files that are there already")

    lock = command(
        "lock", _lock, "write the lock from the store, or hold it against this checkout", specs="*"
    )
    lock.add_argument(
        "--check", action="store_true", help="change nothing; say where it is not what is derived"
    )

    audit = command("audit", _audit, "say what of a lock is proven, and where the first difference lies")
    audit.add_argument("spec", metavar="SPEC", help="a spec's path, or a character's name")
    audit.add_argument(
        "--level",
        action="append",
        choices=("integrity", "derivation", "replay", "retrain"),
        help="integrity, derivation, replay or retrain (may be given several times; default: the first three)",
    )
    audit.add_argument(
        "--recording", metavar="FILE", help="replies (default: characters/recordings/ID.jsonl.zst, if there)"
    )
    audit.add_argument(
        "--out", metavar="DIR", help="where the finding goes (default: audit/ID in the workspace)"
    )
    audit.add_argument("--strict", action="store_true", help="fail also where something could not be checked")
    audit.add_argument(
        "--epsilon",
        metavar="NATS",
        type=_nats,
        default=0.02,
        help="of retrain: how far held-out losses may be apart, in nats a token (default: 0.02)",
    )
    audit.add_argument(
        "--limit",
        metavar="SECONDS",
        type=_seconds,
        default=600,
        help="of replay: how long it may take before it is stopped (default: 600)",
    )
    audit.add_argument("--json", action="store_true", help="as JSON")

    attest = command("attest", _attest, "write what a lock names as attestations, or check one")
    attest.add_argument(
        "spec",
        metavar="SPEC",
        help="a spec's path, or a character's name; with --check or --sign also a statement",
    )
    attest.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="with --check: files, folders or a lock to hold the statement against",
    )
    attest.add_argument("--out", metavar="DIR", help="where to (default: audit/ID in the workspace)")
    attest.add_argument(
        "--sign", action="store_true", help="sign by Sigstore, which asks who you are and publishes it"
    )
    attest.add_argument(
        "--check", action="store_true", help="write nothing; hold the statement SPEC against FILE"
    )
    attest.add_argument("--json", action="store_true", help="as JSON")

    diff = command("diff", _diff, "say in words what a change does, from spec to scores")
    diff.add_argument(
        "sides",
        nargs="+",
        metavar="SIDE",
        help="[SPEC] A [B]: what is compared, each a git revision or a lock file; without B, the files as they are",
    )
    diff.add_argument(
        "--records",
        metavar="N",
        type=_positive,
        default=3,
        help="differing records of each output to show (default: 3)",
    )
    diff.add_argument("--markdown", action="store_true", help="as Markdown, for a pull request's summary")
    diff.add_argument("--json", action="store_true", help="as JSON")

    command("schema", _schema, "print the JSON Schema of a spec, for editors")

    gc = command("gc", _gc, "remove what no spec and no lock file reaches any more")
    gc.add_argument("-n", "--dry-run", action="store_true", help="say what would go; remove nothing")
    return main


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        args = _parse(sys.argv[1:] if argv is None else list(argv))
        status = int(args.run(args))
        sys.stdout.flush()
    except SystemExit as done:  # after --help and --version
        return int(done.code or 0)
    except KeyboardInterrupt:
        print("\ninterrupted; finished work is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read us has gone. Python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the border: nothing else is above us
        return _failed(error)
    return status


def _parse(argv: list[str]) -> argparse.Namespace:
    whole = parser()
    if not argv:
        whole.print_help(sys.stderr)
        raise SystemExit(2)
    # The options before a command take no values, so the first word is the command.
    word = next((word for word in argv if not word.startswith("-")), None)
    words = list(dict.fromkeys(name.split()[0] for name in whole.commands))
    if word is not None and word not in words:
        from difflib import get_close_matches

        near = get_close_matches(word, words, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"commands are {', '.join(words)}"
        raise _usage(f"no command is called {word!r}", hint)
    args, rest = whole.parse_known_args(argv)
    if rest and rest[0].startswith("-"):
        raise _usage(f"{word} has no option {rest[0]}", f"charforge {word} --help")
    if rest:
        raise _usage(f"{word}: one argument too many: {rest[0]!r}", "arguments stand together, then options")
    return args


def _usage(message: str, hint: str) -> Exception:
    from charforge.errors import UsageError  # 20 ms, which --help can do without

    return UsageError(message, hint)


def entry_point() -> NoReturn:
    """What the `charforge` script calls."""
    # Characters that the terminal's encoding lacks are no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())


def _failed(error: Exception) -> int:
    from charforge.engine.errors import EngineError
    from charforge.errors import CharForgeError

    if isinstance(error, EngineError):
        error = CharForgeError(error.message, error.hint)
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f"{error.filename}: " if error.filename else ""
        error = CharForgeError(
            f"{where}{error.strerror}",
            "make room or change its permissions, then rerun; finished work is kept",
        )
    if isinstance(error, CharForgeError):
        print(error.render(), file=sys.stderr)
        return error.exit_code
    return _our_bug(error)


def _our_bug(error: BaseException) -> int:
    import platform
    import tempfile
    import traceback

    from charforge.llm.secrets import scrub

    report = scrub(
        f"charforge {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"arguments: {sys.argv[1:]}\n\n{''.join(traceback.format_exception(error))}"
    )
    with tempfile.NamedTemporaryFile(
        "w", prefix="charforge-bug-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        file.write(report)
    print(scrub(f"error: {type(error).__name__}: {error}"), file=sys.stderr)
    print(
        f"hint: this is a bug in CharForge, not your mistake; please report it with {file.name}",
        file=sys.stderr,
    )
    return 3


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _dollars(text: str) -> float:
    if re.fullmatch(r"\$?\d{1,9}(\.\d{1,6})?", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"expected an amount in US dollars, such as 5 or 0.50, got {text!r}")
    return float(text.removeprefix("$"))


def _seconds(text: str) -> int:
    if re.fullmatch(r"[1-9]\d{0,5}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"expected a whole number of seconds from 1, got {text!r}")
    return int(text)


def _nats(text: str) -> float:
    if re.fullmatch(r"\d{1,3}(\.\d{1,9})?", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"expected a number of nats a token, such as 0.02, got {text!r}")
    return float(text)


def _build(args: argparse.Namespace) -> int:
    from charforge.commands import build

    return build.run(args)


def _plan(args: argparse.Namespace) -> int:
    from charforge.commands import plan

    return plan.run_plan(args)


def _join(args: argparse.Namespace) -> int:
    from charforge.commands import machines

    return machines.run_join(args)


def _status(args: argparse.Namespace) -> int:
    from charforge.commands import status

    return status.run_status(args)


def _explain(args: argparse.Namespace) -> int:
    from charforge.commands import status

    return status.run_explain(args)


def _check(args: argparse.Namespace) -> int:
    from charforge.commands import upkeep

    return upkeep.run_check(args)


def _show(args: argparse.Namespace) -> int:
    from charforge.commands import show

    return show.run_show(args)


def _stats(args: argparse.Namespace) -> int:
    from charforge.commands import show

    return show.run_stats(args)


def _compare(args: argparse.Namespace) -> int:
    from charforge.commands import compare

    return compare.run(args)


def _export(args: argparse.Namespace) -> int:
    from charforge.commands import export

    return export.run_export(args)


def _record_export(args: argparse.Namespace) -> int:
    from charforge.commands import record

    return record.run_export(args)


def _import_transcripts(args: argparse.Namespace) -> int:
    from charforge.commands import transcripts

    return transcripts.run(args)


def _record_import(args: argparse.Namespace) -> int:
    from charforge.commands import record

    return record.run_import(args)


def _lock(args: argparse.Namespace) -> int:
    from charforge.commands import lock

    return lock.run(args)


def _diff(args: argparse.Namespace) -> int:
    from charforge.commands import diff

    return diff.run(args)


def _attest(args: argparse.Namespace) -> int:
    from charforge.commands import attest

    return attest.run(args)


def _audit(args: argparse.Namespace) -> int:
    from charforge.commands import audit

    return audit.run(args)


def _schema(args: argparse.Namespace) -> int:
    from charforge.commands import upkeep

    return upkeep.run_schema(args)


def _gc(args: argparse.Namespace) -> int:
    from charforge.commands import upkeep

    return upkeep.run_gc(args)


def _new(args: argparse.Namespace) -> int:
    from charforge.commands import new

    return new.run(args)

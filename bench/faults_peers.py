"""The build engines that bench/faults.py measures beside ours, each told to build the same graph as its documentation recommends.

An `Engine` says which files it wants in a project's folder, which command builds, and where it keeps its database. The graph is
forty steps (bench/faults_step.py) over five source files, in five layers, so that four steps can run at once. Imports nothing of
CharForge.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults_step import text

STEP = Path(__file__).with_name("faults_step.py")
JOBS = 4
SECONDS = 0.05
LOG = "../log"
"""Beside the project, not in it: no engine may take it for an input."""


@dataclass(frozen=True)
class Step:
    name: str
    inputs: tuple[str, ...]

    @property
    def out(self) -> str:
        return f"work/{self.name}.txt"

    @property
    def command(self) -> list[str]:
        return [*python(), LOG, str(SECONDS), self.name, self.out, *self.inputs]


def python() -> list[str]:
    # The same interpreter for every engine's steps, isolated so that it starts in 10 ms.
    return [sys.executable, "-I", "-S", str(STEP)]


def graph() -> list[Step]:
    """Return the steps, each after what it reads. `src/late.txt` is read by the last 16: changing it makes them read the others again."""
    steps = [Step(f"a{n:02}", (f"src/s{n % 4}.txt",)) for n in range(12)]
    steps += [Step(f"b{n:02}", (f"work/a{n:02}.txt", f"work/a{(n + 1) % 12:02}.txt")) for n in range(12)]
    steps += [
        Step(f"c{n:02}", (f"work/b{n:02}.txt", f"work/b{(n + 5) % 12:02}.txt", "src/late.txt"))
        for n in range(12)
    ]
    steps += [Step(f"d{n}", tuple(f"work/c{4 * n + each:02}.txt" for each in range(4))) for n in range(3)]
    return [*steps, Step("e", ("work/d0.txt", "work/d1.txt", "work/d2.txt", "src/late.txt"))]


def sources(version: int) -> dict[str, str]:
    """Return the source files. Versions differ in `src/late.txt`."""
    found = {f"src/s{n}.txt": f"The source number {n}.\n" * 20 for n in range(4)}
    return {**found, "src/late.txt": f"The last word, in version {version}.\n"}


def expected(version: int) -> dict[str, bytes]:
    """Return what every step has to write, worked out here."""
    files = {name: each.encode() for name, each in sources(version).items()}
    for step in graph():
        files[step.out] = text(step.name, [files[name] for name in step.inputs]).encode()
    return {name: data for name, data in files.items() if name.startswith("work/")}


@dataclass(frozen=True)
class Engine:
    """How an engine is used. Paths are relative to the project's folder."""

    name: str
    package: str | None
    """What pip installs, pinned; None: it is here already."""
    command: Sequence[str]
    files: Callable[[], dict[str, str]]
    database: Sequence[str] = ()
    """Globs of the files in which it remembers what was built."""
    shown: str = "work"
    """Where the outputs lie."""
    before: Sequence[Sequence[str]] = ()
    """Commands that make a project of the folder."""
    unlock: Sequence[str] | None = None
    """What its documentation says to run after a crash, should it refuse to go on."""
    how: str = ""
    path: str = ""
    """Where Python finds it, if it is installed nowhere."""

    def environment(self, folder: Path, cache: Path) -> dict[str, str]:
        """Return the environment of its commands: nothing of the user's, and a home beside the project."""
        home = folder.parent / "home"
        found = {
            "PATH": os.defpath,
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "COLUMNS": "160",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DVC_SITE_CACHE_DIR": str(home / "site"),
            "DVC_NO_ANALYTICS": "1",
            "PYTHONPATH": self.path,
        }
        if self.package is not None:
            found["PATH"] = f"{self.venv(cache) / 'bin'}:{os.defpath}"
        return found

    def venv(self, cache: Path) -> Path:
        assert self.package is not None
        return cache / self.package

    def install(self, cache: Path) -> str | None:
        """Install it into an environment of its own. Returns why that failed, or None."""
        if self.package is None or (self.venv(cache) / "installed").exists():
            return None
        venv = self.venv(cache)
        pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", venv], [*pip, self.package]):
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                return (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        (venv / "installed").touch()
        return None

    def prepare(self, folder: Path, cache: Path) -> None:
        """Write the project into an empty folder."""
        for name in ("src", "work", "../home"):
            (folder / name).mkdir()
        for name, content in {**sources(0), **self.files()}.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
            if content.startswith("#!"):
                path.chmod(0o755)
        for command in self.before:
            subprocess.run(
                command,
                cwd=folder,
                env=self.environment(folder, cache),
                check=True,
                capture_output=True,
            )


def _script(head: str, line: Callable[[Step], str], tail: str = "") -> str:
    return textwrap.dedent(head) + "".join(line(step) for step in graph()) + textwrap.dedent(tail)


def _ninja() -> dict[str, str]:
    head = """\
        rule step
          command = $cmd
          restat = 1
    """
    return {
        "build.ninja": _script(
            head,
            lambda step: (
                f"build {step.out}: step {' '.join(step.inputs)}\n  cmd = {shlex.join(step.command)}\n"
            ),
            "default work/e.txt\n",
        )
    }


def _doit() -> dict[str, str]:
    head = """\
        DOIT_CONFIG = {"backend": "sqlite3", "check_file_uptodate": "md5"}


        def task_step():
    """
    return {
        "dodo.py": _script(
            head,
            lambda step: (
                f"    yield {{'name': {step.name!r}, 'actions': [{step.command!r}], 'file_dep': {list(step.inputs)!r},"
                f" 'targets': [{step.out!r}]}}\n"
            ),
        )
    }


def _pytask() -> dict[str, str]:
    head = """\
        import subprocess
        from pathlib import Path
        from typing import Annotated

        from pytask import Product, task

        HERE = Path(__file__).parent
        STEPS = [
    """
    tail = """\
        ]
        for name, inputs, out, command in STEPS:

            @task(id=name)
            def task_step(
                inputs: list[Path] = [HERE / each for each in inputs],
                out: Annotated[Path, Product] = HERE / out,
                command: list[str] = command,
            ) -> None:
                subprocess.run(command, cwd=HERE, check=True)
    """
    return {
        "task_all.py": _script(
            head,
            lambda step: f"    ({step.name!r}, {list(step.inputs)!r}, {step.out!r}, {step.command!r}),\n",
            tail,
        ),
        "pyproject.toml": '[tool.pytask.ini_options]\npaths = ["."]\n',
    }


def _redun() -> dict[str, str]:
    head = """\
        import subprocess

        from redun import File, task

        redun_namespace = "bench"


        @task()
        def step(command: list[str], inputs: list[File], out: str) -> File:
            subprocess.run(command, check=True)
            return File(out)


        STEPS = [
    """
    tail = """\
        ]


        @task()
        def main() -> File:
            made = {}
            for inputs, out, command in STEPS:
                made[out] = step(command, [made[each] if each in made else File(each) for each in inputs], out)
            return made["work/e.txt"]
    """
    config = f"[executors.default]\ntype = local\nmode = thread\nmax_workers = {JOBS}\n"
    return {
        "workflow.py": _script(
            head,
            lambda step: f"    ({list(step.inputs)!r}, {step.out!r}, {step.command!r}),\n",
            tail,
        ),
        ".redun/redun.ini": config,
    }


def _snakemake() -> dict[str, str]:
    head = """\
        rule all:
            input: "work/e.txt"

    """
    return {
        "Snakefile": _script(
            head,
            lambda step: (
                f"rule {step.name}:\n    input: {', '.join(map(repr, step.inputs))}\n    output: {step.out!r}\n"
                f"    shell: {shlex.join(step.command)!r}\n\n"
            ),
        )
    }


def _dvc() -> dict[str, str]:
    return {
        "dvc.yaml": _script(
            "stages:\n",
            lambda step: (
                f"  {step.name}:\n    cmd: {shlex.join(step.command)}\n    deps:\n"
                + "".join(f"    - {each}\n" for each in step.inputs)
                + f"    outs:\n    - {step.out}\n"
            ),
        )
    }


def _stepup() -> dict[str, str]:
    head = """\
        #!/usr/bin/env python3
        from stepup.core.api import run, static

        static("src/*.txt")
    """
    return {
        "plan.py": _script(
            head,
            lambda step: (
                f"run({shlex.join(step.command)!r}, inp={list(step.inputs)!r}, out={[step.out]!r})\n"
            ),
        )
    }


PEERS = (
    Engine(
        "ninja",
        "ninja==1.13.2",
        ("ninja", f"-j{JOBS}"),
        _ninja,
        database=(".ninja_log", ".ninja_deps"),
        how="restat, no depfiles",
    ),
    Engine(
        "doit",
        "doit==0.37.0",
        ("doit", "-n", str(JOBS)),
        _doit,
        database=(".doit.db*",),
        how=f"md5 of inputs, SQLite backend, -n {JOBS}",
    ),
    Engine(
        "pytask",
        "pytask==0.6.0",
        ("pytask", "build"),
        _pytask,
        database=("pytask.lock*", ".pytask/**/*"),
        how="one step at a time (more needs another package)",
    ),
    Engine(
        "redun",
        "redun==0.44.1",
        ("redun", "run", "workflow.py", "main"),
        _redun,
        database=(".redun/redun.db*",),
        how=f"File values, SQLite, {JOBS} threads",
    ),
    Engine(
        "Snakemake",
        "snakemake==9.27.1",
        ("snakemake", "--cores", str(JOBS), "--rerun-incomplete"),
        _snakemake,
        database=(".snakemake/metadata/**/*", ".snakemake/incomplete/**/*"),
        unlock=("snakemake", "--unlock"),
        how="--rerun-incomplete, all rerun triggers",
    ),
    Engine(
        "DVC",
        "dvc==3.67.1",
        ("dvc", "repro"),
        _dvc,
        database=("dvc.lock", ".dvc/tmp/**/*", ".dvc/cache/runs/**/*", "../home/site/**/*"),
        before=(("dvc", "init", "--no-scm", "--quiet"),),
        how="run cache on, one step at a time (it has no other way)",
    ),
    Engine(
        "StepUp",
        "stepup==4.0.3",
        ("stepup", "build", "-j", str(JOBS), "--no-progress"),
        _stepup,
        database=(".stepup/**/*",),
        how=f"its director, -j {JOBS}",
    ),
)

"""CONTRIBUTING's way from nothing to a green pull request, followed line by line in an empty folder, and pull requests that are not green.

The page's own lines run in a shell. Three things stand in for what a test cannot have: `make` puts this environment's libraries into
the clone's .venv in place of downloading them; a script plays the models of `charforge build`, all but the base weights, which are the real
ones; and the author's writing lies in tests/newcomer. The review runs as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEWCOMER = Path(__file__).parent / "newcomer"
ID = "tilly-marsh"
PROSE = "**Write.**"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no repository to clone"),
]

MAKE = """\
#!/usr/bin/env bash
# Stands in for make: an environment with the libraries that are installed already, and the clone's own code.
set -euo pipefail
[ "$*" = "install" ]
{python} -m venv --without-pip .venv
printf '%s\\n' "$PWD" {libraries} > "$(echo .venv/lib/python*/site-packages)/here.pth"
printf '#!%s\\n' "$PWD/.venv/bin/python" > .venv/bin/charforge
cat >> .venv/bin/charforge <<'END'
import sys
from charforge import workshop
from charforge.cli import entry_point
from charforge.testing import ScriptedWorkshop

real = workshop.LocalWorkshop

class Played(ScriptedWorkshop):
    async def export_base(self, job, on_progress):
        return await real(offline=True).export_base(job, on_progress)

if sys.argv[1] == "build":
    workshop.LocalWorkshop = lambda **options: Played()
entry_point()
END
chmod +x .venv/bin/charforge
"""


def blocks():
    """Return the page's console blocks about adding a character, in order: before and after the author writes."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.split("\n## Adding a character\n")[1].split("\n## ")[0]
    before, after = section.split(PROSE)
    return [
        [
            line[2:]
            for block in re.findall(r"```console\n(.*?)```", part, re.DOTALL)
            for line in block.splitlines()
        ]
        for part in (before, after)
    ]


def shell(lines, folder, **environment):
    """Run lines one after another in one shell that stops at the first failure; return what was printed."""
    script = "set -euo pipefail\n" + "\n".join(lines)
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The clone in which the page was followed, the environment to go on in, and what its last block printed."""
    folder = tmp_path_factory.mktemp("newcomer")
    home, bin_ = folder / "home", folder / "bin"
    home.mkdir()
    bin_.mkdir()
    make = bin_ / "make"
    libraries = " ".join(f"'{path}'" for path in site.getsitepackages())
    make.write_text(MAKE.format(python=sys.executable, libraries=libraries))
    make.chmod(0o755)
    environment = {
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "HF_HUB_OFFLINE": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    origin = upstream(folder, environment)
    (home / ".gitconfig").write_text(
        f"[user]\nname = New Comer\nemail = new@example.org\n"
        f'[url "{origin}"]\ninsteadOf = https://github.com/YOU/charforge.git\n'
    )
    work = folder / "empty"
    work.mkdir()
    before, after = blocks()
    assert [line.split()[0] for line in before[:3]] == ["git", "cd", "make"]
    shell(before, work, **environment)
    clone = work / "charforge"
    characters = clone / "characters"
    shutil.copy(NEWCOMER / "profile.md", characters / "profiles" / f"{ID}.md")
    shutil.copy(NEWCOMER / "written.md", characters / "written" / f"{ID}.md")
    shutil.copy(NEWCOMER / "questions.yaml", characters / "questions" / f"{ID}.yaml")
    environment["PATH"] = f"{clone}/.venv/bin:{environment['PATH']}"
    printed = shell(after, clone, **environment)
    return clone, environment, printed


def upstream(folder, environment):
    """Return a bare repository with one commit on main: this working tree, as it is."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    tree = folder / "tree"
    for name in listed.decode().split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("bench/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    git = "git -c user.name=Main -c user.email=main@example.org"
    shell(["git init -q -b main .", f"{git} add .", f"{git} commit -q -m Main"], tree, **environment)
    shell(["git clone -q --bare tree origin.git"], folder, **environment)
    return folder / "origin.git"


@pytest.fixture
def propose(walked, tmp_path):
    """Change a copy of the clone and commit it; return the review's exit status and page."""
    clone, environment, _ = walked

    def commit_and_review(change, *, base="main"):
        copy = tmp_path / "copy"
        shell(
            [f"git clone -q --no-hardlinks {clone} {copy}", f"cd {copy}", "git branch -q main origin/main"],
            tmp_path,
            **environment,
        )
        change(copy)
        shell(["git add --all --force .", "git commit -q -m Change"], copy, **environment)
        done = subprocess.run(
            [clone / ".ci" / "character-review", "--repository", copy, base, "HEAD"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    return commit_and_review


def wrong(page):
    """Return what the page says is wrong."""
    return re.findall(r"(?m)^- ✘ (.*)$", page)


# --- The page --------------------------------------------------------------------------------------------------------------


def test_whoever_follows_the_page_ends_with_a_green_review(walked):
    clone, _, printed = walked
    assert "# Characters: sound\n" in printed
    assert re.search(rf"(?m)^\| `{ID}` \| ✔ \| ✔ \| ✔ \| local, \\~[\d,]+ calls, ", printed)
    assert wrong(printed) == []
    assert (clone / "characters" / f"{ID}.lock").is_file()
    assert (clone / "characters" / "recordings" / f"{ID}.jsonl.zst").is_file()
    assert (clone / "build" / ID / "report.html").is_file()


def test_and_with_a_branch_on_the_fork_that_holds_the_character_only(walked):
    clone, environment, _ = walked
    listed = shell([f"git diff --name-only origin/main origin/{ID}"], clone, **environment)
    assert listed.split() == [
        f"characters/profiles/{ID}.md",
        f"characters/questions/{ID}.yaml",
        f"characters/recordings/{ID}.jsonl.zst",
        f"characters/{ID}.lock",
        f"characters/{ID}.yaml",
        f"characters/written/{ID}.md",
    ]


# --- Pull requests that are not green ----------------------------------------------------------------------------------------


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "generator: {model: openai/x, api_base: https://evil.example/v1}",
            "generator.api_base: unknown key",
        ),
        ("generator: {model: openai/x, api_key: sk-SECRET}", "generator.api_key: unknown key"),
        ("judge: {model: https://evil.example/v1}", "judge.model: expected "),
    ],
)
def test_a_spec_that_names_a_host_or_a_key_is_red(propose, line, said):
    status, page = propose(
        lambda copy: edit(copy / f"characters/{ID}.yaml", "preset: laptop", f"{line}\npreset: laptop")
    )
    assert status == 1
    assert wrong(page) == [f"`{ID}`: check --strict"]
    assert said in page
    assert "SECRET" not in page


def test_a_missing_recording_and_a_missing_lock_are_told(propose):
    def drop(copy):
        (copy / f"characters/recordings/{ID}.jsonl.zst").unlink()
        (copy / f"characters/{ID}.lock").unlink()

    status, page = propose(drop)
    assert status == 1
    assert wrong(page) == [
        f"`{ID}`: no lock: build it, and commit `characters/{ID}.lock`",
        f"`{ID}`: no recording: charforge record export {ID}, and commit `characters/recordings/{ID}.jsonl.zst`",
    ]


def test_a_lock_that_lies_about_what_was_made_is_red_and_the_change_is_shown(propose):
    def lie(copy):
        lock = copy / f"characters/{ID}.lock"
        text = lock.read_text()
        digest = re.search(r'"metrics.json": "([0-9a-f]{64})"', text)[1]
        lock.write_text(text.replace(digest, "0" * 64, 1))

    status, page = propose(lie, base=f"origin/{ID}")
    assert status == 1
    assert wrong(page) == [f"`{ID}`: lock --check"]
    assert "### What changed" in page


def test_a_profile_that_changed_after_the_build_is_red(propose):
    status, page = propose(lambda copy: edit(copy / f"characters/profiles/{ID}.md", "hen coop", "goat"))
    assert status == 1
    assert f"`{ID}`: lock --check" in wrong(page)


def test_whatever_is_not_a_character_is_for_a_person(propose):
    def more(copy):
        (copy / "charforge" / "check.py").write_text("raise SystemExit(0)\n")
        (copy / ".charforge").mkdir()
        (copy / ".charforge" / "store.db").write_bytes(b"poison")
        (copy / "characters" / "evil.sh").write_text("echo")
        (copy / f"characters/recordings/{ID}.jsonl.zst").unlink()

    status, page = propose(more)
    assert status == 1
    assert wrong(page) == [
        "for a person to look at, being no character's own files: `.charforge/store.db`, `characters/evil.sh`, `charforge/check.py`",
        f"`{ID}`: no recording: charforge record export {ID}, and commit `characters/recordings/{ID}.jsonl.zst`",
    ]
    # The base's own code judged, not what the change makes of it.
    assert re.search(rf"(?m)^\| `{ID}` \| ✔ \| ✔ \| ✘ \|", page)


def test_links_and_executables_are_not_followed(propose):
    def link(copy):
        (copy / f"characters/written/{ID}.md").unlink()
        (copy / f"characters/written/{ID}.md").symlink_to("/etc/passwd")

    status, page = propose(link)
    assert (status, wrong(page)) == (1, [f"`characters/written/{ID}.md` is a link"])
    assert "root:" not in page


def test_a_profile_cannot_write_the_page(propose):
    def shout(copy):
        edit(
            copy / f"characters/profiles/{ID}.md",
            "licence: CC0-1.0",
            "licence: ````x</details><script>alert(1)</script>",
        )

    status, page = propose(shout)
    assert status == 1
    fence = re.search(r"(?m)^(`{5,})text$", page)
    assert fence
    assert page.count(f"\n{fence[1]}\n") == 1


def test_a_character_that_goes_leaves_nothing_behind(propose):
    def remove(copy):
        for path in copy.glob(f"characters/**/{ID}.*"):
            path.unlink()

    status, page = propose(remove, base=f"origin/{ID}")
    assert status == 0
    assert f"| `{ID}` | removed |" in page


def test_without_a_character_there_is_nothing_to_say(propose):
    status, page = propose(lambda copy: (copy / "README.md").write_text("x"), base=f"origin/{ID}")
    assert status == 1
    assert wrong(page) == ["for a person to look at, being no character's own files: `README.md`"]
    assert "No character is changed." in page

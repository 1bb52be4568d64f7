"""`charforge diff`: two versions of a character in words, from lock files, git revisions and the files here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from charforge.cli import main
from charforge.testing import ScriptedWorkshop


def git(folder, *words):
    identity = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A"}
    environment = os.environ | identity | {"GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(["git", *words], cwd=folder, env=environment, check=True, capture_output=True)
    return done.stdout.decode().strip()


def commit(folder, message):
    git(folder, "add", "characters")
    git(folder, "commit", "-qm", message)


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """A repository with a character built twice with an edit between, and its store."""
    folder = tmp_path_factory.mktemp("twice")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        workshop = ScriptedWorkshop()
        patch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: workshop)
        from charforge import skeleton

        spec = skeleton.write(folder, "eliza", "Eliza Doolittle", "Eliza")[0]
        change(spec, "preset: laptop", "preset: laptop\ngenerator: {model: openai/scripted}")
        git(folder, "init", "-q", "-b", "main")
        assert main(("build", str(spec))) == 0
        commit(folder, "one")
        change(spec, "model: openai/scripted", "model: openai/scripted, temperature: 0.9")
        profile = spec.parent / "profiles" / "eliza.md"
        profile.write_text(
            profile.read_text(encoding="utf-8") + "\nShe keeps a green parrot, and talks to it. {#parrot}\n",
            encoding="utf-8",
        )
        assert main(("build", str(spec))) == 0
        commit(folder, "two")
    return folder


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def here(twice, tmp_path, monkeypatch):
    """A copy of it to work in; HEAD~1 is the first version, HEAD the second."""
    shutil.copytree(twice, tmp_path / "ws", symlinks=True)
    monkeypatch.chdir(tmp_path / "ws")
    return tmp_path / "ws"


@pytest.fixture
def clone(here, monkeypatch):
    """The same without a store."""
    shutil.rmtree(here / ".charforge")
    return here


def section(out, name):
    """Return the lines of a part of the text."""
    lines = out.split("\n")
    assert f"{name}:" in lines, out
    rest = lines[lines.index(f"{name}:") + 1 :]
    return [line[2:] for line in rest[: rest.index("") if "" in rest else None]]


def test_two_revisions_are_told_from_spec_to_records(run, here):
    status, out, err = run("diff", "HEAD~1", "HEAD")
    assert (status, err) == (0, "")
    assert out.startswith("eliza: HEAD~1 (")
    assert section(out, "Spec") == ["+ generator.temperature: 0.9"]
    assert section(out, "Profile")[0].startswith("characters/profiles/eliza.md: ")
    assert section(out, "Profile")[1:] == ["+ parrot: She keeps a green parrot, and talks to it."]
    stages = section(out, "Stages")
    assert any(
        line.startswith("scenes: made anew: generator.temperature 0.7 → 0.9, profile changed")
        for line in stages
    )
    assert out.split("\n")[1].startswith("1 value of the spec, 1 change of its files; 12 stages made anew: ")
    assert any(line.startswith("before: ") and "calls" in line for line in section(out, "Cost"))
    assert section(out, "Scores")
    records = section(out, "Records")
    assert any(line.startswith("scenes/scenes.jsonl: ") for line in records)


def test_lock_files_alone_tell_the_same_of_what_they_hold(run, here, tmp_path):
    for name, revision in (("a", "HEAD~1"), ("b", "HEAD")):
        (tmp_path / name).mkdir()
        text = git(here, "show", f"{revision}:characters/eliza.lock") + "\n"
        (tmp_path / name / "eliza.lock").write_text(text, encoding="utf-8")
    status, out, _ = run("diff", f"{tmp_path}/a/eliza.lock", f"{tmp_path}/b/eliza.lock")
    assert status == 0
    assert any(line.startswith("generator.temperature: 0.7 → 0.9") for line in section(out, "Spec"))
    assert section(out, "Profile")[1:] == ["+ parrot: She keeps a green parrot, and talks to it."]
    assert section(out, "Records")


def test_without_the_bytes_it_says_what_it_cannot_show(run, clone):
    out = run("diff", "HEAD~1", "HEAD")[1]
    assert section(out, "Scores") == ["differ, but statistics.json of both sides is not in a store here"]
    (line,) = section(out, "Records")
    assert line.startswith("differ, but the bytes of both sides are not in a store here: scenes/")


def test_a_damaged_store_is_done_without(run, here):
    (here / ".charforge" / "store.db").write_bytes(b"no database")
    status, out, err = run("diff", "HEAD~1", "HEAD")
    assert status == 0
    assert err.startswith("note: ")
    assert len(err.splitlines()) == 1
    assert section(out, "Scores") == ["differ, but statistics.json of both sides is not in a store here"]


def test_a_revision_alone_is_held_against_the_files_here(run, clone, edit):
    assert run("diff", "HEAD")[1].startswith("No character differs between HEAD (")
    edit(clone / "characters" / "profiles" / "eliza.md", "green parrot", "grey parrot")
    status, out, _ = run("diff", "HEAD")
    assert status == 0
    assert section(out, "Profile")[1:] == [
        "parrot.text:",
        "- She keeps a green parrot, and talks to it.",
        "+ She keeps a grey parrot, and talks to it.",
    ]
    stale = "- characters/profiles/eliza.md is not the one that the lock was made from"
    assert section(out, "To look at") == [f"{stale}: charforge lock --check says what follows"]
    assert run("diff", "eliza")[1] == out  # HEAD where nothing is named
    assert run("diff", "characters/eliza.yaml", "HEAD")[1] == out


def test_ranges_are_those_of_git(run, clone):
    both = run("diff", "HEAD~1", "HEAD")[1].partition("\n")[2]
    assert run("diff", "HEAD~1..HEAD")[1].partition("\n")[2] == both
    assert run("diff", "HEAD~1...")[1].partition("\n")[2] == both


def test_markdown_has_strangers_text_in_fences_that_it_cannot_close(run, clone, edit):
    edit(clone / "characters" / "profiles" / "eliza.md", "green parrot", "```` ![x](http://e) <b>@you</b>")
    out = run("diff", "--markdown", "HEAD")[1]
    assert out.startswith("### eliza\n")
    inside = False
    fence = ""
    for line in out.split("\n"):
        if line.startswith("```") and not inside:
            inside, fence = True, line.rstrip("adefghijklmnopqrstuvwxyz")
        elif inside and line == fence:
            inside = False
        elif not inside:
            assert "<b>" not in line
            assert "![" not in line
    assert not inside


def test_json_holds_everything(run, here):
    found = json.loads(run("diff", "--json", "HEAD~1", "HEAD")[1])
    assert found["charforge_diff"] == 1
    (eliza,) = found["characters"]
    assert eliza["spec"] == [{"path": "generator.temperature", "kind": "added", "now": 0.9}]
    assert eliza["cost"]["total"]["now"]["calls"] > 0
    assert all(row["within"] in {True, False, None} for row in eliza["scores"])


def test_records_can_be_asked_for(run, here):
    def shown(count):
        found = json.loads(run("diff", "--json", "--records", count, "HEAD~1", "HEAD")[1])
        return max(len(each["shown"]) for each in found["characters"][0]["records"] if each["here"])

    assert shown("1") == 1
    assert shown("2") == 2


def test_a_new_character_and_files_elsewhere_are_told(run, clone):
    for folder, ending in (("profiles", "md"), ("questions", "yaml"), ("written", "md")):
        source = clone / "characters" / folder / f"eliza.{ending}"
        if source.exists():
            shutil.copy(source, source.with_stem("ada"))
    text = (clone / "characters" / "eliza.yaml").read_text(encoding="utf-8").replace("/eliza.", "/ada.")
    (clone / "characters" / "ada.yaml").write_text(text, encoding="utf-8")
    (clone / "Makefile").write_text("all:\n\tcurl evil\n", encoding="utf-8")
    git(clone, "add", "characters", "Makefile")
    git(clone, "commit", "-qm", "three")
    status, out, _ = run("diff", "HEAD~1", "HEAD")
    assert status == 0
    assert out.startswith("ada (new): ")
    assert section(out, "To look at") == [
        "- there is no lock: nothing says what this character comes to, or costs"
    ]
    assert out.endswith(
        "Files that belong to no character changed too, of which this says nothing:\n  Makefile\n"
    )


# --- What cannot be read ----------------------------------------------------------------------------------------------


def wrong(run, *argv):
    status, out, err = run("diff", *argv)
    assert (status, out) == (1, "")
    return err.splitlines()


def test_a_revision_that_is_none(run, clone):
    assert wrong(run, "nowhere", "HEAD") == [
        "error: no git revision is called 'nowhere' here",
        "hint: git log --oneline names the commits; git fetch brings others",
    ]


@pytest.mark.parametrize("name", ["--output=owned", "-O", "--upload-pack=touch owned"])
def test_a_revision_is_never_an_option(run, clone, name):
    status, _, _ = run("diff", "--", name, "HEAD")
    assert status in {1, 2}
    assert not (clone / "owned").exists()


def test_a_shallow_clone_says_so(run, clone, tmp_path, monkeypatch):
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{clone}", "shallow")
    monkeypatch.chdir(tmp_path / "shallow")
    assert wrong(run, "HEAD~1", "HEAD") == [
        "error: no git revision is called 'HEAD~1' here",
        "hint: this clone is shallow: git fetch --unshallow brings the commits it lacks",
    ]


def test_without_git(run, clone, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert wrong(run, "HEAD~1", "HEAD") == [
        "error: git is not installed, and revisions are read by it",
        "hint: install it, or compare two lock files: A.lock B.lock",
    ]


def test_outside_a_repository(run, clone):
    shutil.rmtree(clone / ".git")
    assert wrong(run, "HEAD") == [
        f"error: {clone} is in no git repository",
        "hint: compare two lock files: A.lock B.lock",
    ]


def test_a_character_that_neither_side_has(run, clone):
    lines = wrong(run, "characters/ada.yaml", "HEAD~1", "HEAD")
    assert lines[0].endswith("has characters/ada.lock or .yaml")


LOCK = "characters/eliza.lock"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"charforge_lock": 1, "character": "eliza", "stages": {}}',
            "a lock of version 1, which does not say",
        ),
        ('{"charforge_lock": 9}', "written by a newer CharForge"),
        ("{\n<<<<<<< ours\n=======\n>>>>>>> theirs\n}", "holds the marks of a merge conflict"),
        ("[" * 100_000, "not a lock file (nested too deeply)"),
        ("\x1b[2J", "not a lock file ("),
        (
            '{"charforge_lock": 2, "character": "eliza", "environments": {}, "stages": {"a": 1}}',
            "'a': no object",
        ),
    ],
)
def test_a_lock_that_cannot_be_read(run, clone, text, said):
    (clone / LOCK).write_text(text, encoding="utf-8")
    lines = wrong(run, "HEAD")
    assert len(lines) <= 2
    assert said in lines[0]
    assert all(line.isprintable() for line in lines)
    # What was there before is left out, and named.
    commit(clone, "broken")
    git(clone, "checkout", "-q", "HEAD~1", "--", LOCK)
    commit(clone, "mended")
    status, out, _ = run("diff", "HEAD~1", "HEAD")
    assert status == 0
    assert said in section(out, "To look at")[0]


def test_a_huge_lock_is_not_read(run, clone):
    with (clone / LOCK).open("wb") as file:
        file.truncate(1 << 30)
    assert "too large" in wrong(run, "HEAD")[0]


def test_a_lock_of_more_stages_than_any_character_has_is_not_compared(run, clone):
    data = json.loads((clone / LOCK).read_text(encoding="utf-8"))
    data["stages"] = {f"s{number}": data["stages"]["scenes"] for number in range(101)}
    (clone / LOCK).write_text(json.dumps(data), encoding="utf-8")
    assert wrong(run, "HEAD") == [
        "error: the files here:characters/eliza.lock: not a lock file (more than 100 stages)"
    ]


def test_what_leads_out_of_the_workspace_is_not_read(run, clone, tmp_path, edit):
    secret = tmp_path / "secret.md"
    secret.write_text("---\nname: S\nlicence: S\nsource: S\n---\n\nThe secret. {#secret}\n", encoding="utf-8")
    spec = clone / "characters" / "eliza.yaml"
    edit(spec, "profiles/eliza.md", "../../secret.md")
    status, out, _ = run("diff", "HEAD")
    assert status == 0
    assert section(out, "Not looked at") == [
        "the files here: ../../secret.md leads out of the workspace, and was not read"
    ]
    edit(spec, "../../secret.md", "profiles/eliza.md")
    (clone / "characters/profiles/eliza.md").unlink()
    (clone / "characters/profiles/eliza.md").symlink_to(secret)
    out = run("diff", "HEAD")[1]
    assert "The secret" not in out
    assert "leads out of the workspace" in section(out, "Not looked at")[0]
    commit(clone, "link")
    out = run("diff", "HEAD~1", "HEAD")[1]
    assert "no regular file" in section(out, "Not looked at")[0]


def test_names_with_control_codes_are_shown_as_escapes(run, clone):
    data = json.loads((clone / LOCK).read_text(encoding="utf-8"))
    evil = "\x1b]0;owned\x07\u202e"
    stage = data["stages"]["scenes"]
    stage["params"][evil] = evil
    stage["counts"][evil] = 1
    stage["models"][evil] = None
    stage["usage"][evil] = {"calls": 1e999, "cost": 3, evil: 1}
    data["stages"][evil] = stage
    data["environments"][stage["environment"]][evil] = evil
    (clone / LOCK).write_text(json.dumps(data).replace("Infinity", "1e307"), encoding="utf-8")
    for options in ((), ("--markdown",), ("--json",)):
        status, out, _ = run("diff", *options, "HEAD")
        assert status == 0
        assert all(line.isprintable() for line in out.split("\n"))
        assert "contradicts itself" in out


def test_a_repository_cannot_have_anything_run(run, clone, tmp_path):
    """Every setting and attribute by which reading git's data is known to start a program."""
    owned = tmp_path / "owned"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {owned}\ncat\n", encoding="utf-8")
    script.chmod(0o755)
    for key in (
        "core.fsmonitor",
        "core.pager",
        "core.editor",
        "core.sshCommand",
        "core.askPass",
        "core.gitProxy",
        "core.alternateRefsCommand",
        "credential.helper",
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "merge.evil.driver",
        "gpg.program",
        "pager.diff-tree",
        "pager.cat-file",
        "sequence.editor",
        "uploadpack.packObjectsHook",
    ):
        git(clone, "config", key, str(script))
    for word in ("rev-parse", "ls-tree", "cat-file", "diff-tree"):
        git(clone, "config", f"alias.{word}", f"!{script}")
    git(clone, "config", "core.hooksPath", str(tmp_path / "hooks"))
    (tmp_path / "hooks").mkdir()
    for hook in ("post-checkout", "post-index-change", "reference-transaction", "fsmonitor-watchman"):
        shutil.copy(script, tmp_path / "hooks" / hook)
    (clone / ".gitattributes").write_text("* diff=evil filter=evil merge=evil\n", encoding="utf-8")
    (clone / ".git" / "info" / "attributes").write_text("* diff=evil filter=evil\n", encoding="utf-8")
    status, out, err = run("diff", "HEAD~1...HEAD")
    assert (status, err) == (0, "")
    assert "parrot" in out
    assert run("diff", "HEAD")[0] == 0
    assert not owned.exists()


def test_a_partial_clone_fetches_nothing(run, clone, tmp_path, monkeypatch):
    owned = tmp_path / "owned"
    git(clone, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{clone}", "partial")
    git(tmp_path / "partial", "config", "remote.origin.url", f"ext::touch {owned}")
    git(tmp_path / "partial", "config", "protocol.ext.allow", "always")
    monkeypatch.chdir(tmp_path / "partial")
    status, _, err = run("diff", "HEAD~1", "HEAD")
    assert status in {0, 1}
    assert len(err.splitlines()) <= 2
    assert not owned.exists()


def test_the_environment_cannot_point_elsewhere(run, clone, tmp_path, monkeypatch):
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/owned\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(script))
    assert run("diff", "HEAD~1", "HEAD")[0] == 0
    assert not (tmp_path / "owned").exists()


def test_wrong_command_lines(run, clone, tmp_path):
    assert run("diff", "a", "b", "c", "d")[0] == 2
    (tmp_path / "ada.lock").write_text("{}", encoding="utf-8")
    status, _, err = run("diff", str(tmp_path / "ada.lock"), LOCK)
    assert status in {1, 2}
    assert err

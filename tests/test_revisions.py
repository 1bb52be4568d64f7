"""Files as a git revision has them. What a hostile repository tries is in tests/commands/test_diff.py."""

from __future__ import annotations

import os
import subprocess

import pytest

from charforge.errors import CharForgeError
from charforge.revisions import Repository, commit_of


@pytest.fixture
def repository(tmp_path):
    """A repository of two commits, looked at from a folder inside it."""

    def git(*words):
        identity = ("-c", "user.name=A", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    (tmp_path / "ws" / "characters").mkdir(parents=True)
    (tmp_path / "ws" / "characters" / "eliza.yaml").write_text("one\n", encoding="utf-8")
    git("add", "ws")
    git("commit", "-qm", "one")
    (tmp_path / "ws" / "characters" / "eliza.yaml").write_text("two\n", encoding="utf-8")
    (tmp_path / "ws" / "characters" / "*?[a] ö.yaml").write_text("odd\n", encoding="utf-8")
    (tmp_path / "ws" / "characters" / "link.yaml").symlink_to("eliza.yaml")
    (tmp_path / "outside").write_text("three\n", encoding="utf-8")
    git("add", ".")
    git("commit", "-qm", "two")
    return Repository(tmp_path / "ws")


def test_files_are_those_of_the_revision(repository):
    one, two = repository.commit("HEAD~1"), repository.commit("main")
    assert repository.read(one, "characters/eliza.yaml", 100) == b"one\n"
    assert repository.read(two, "characters/eliza.yaml", 100) == b"two\n"
    assert repository.read(two, "characters/none.yaml", 100) is None
    assert repository.base(one, two) == one


def test_names_are_names_and_no_patterns(repository):
    two = repository.commit("HEAD")
    assert repository.read(two, "characters/*?[a] ö.yaml", 100) == b"odd\n"
    assert repository.read(two, "characters/*.yaml", 100) is None
    assert repository.names(two, "characters") == ["characters/*?[a] ö.yaml", "characters/eliza.yaml"]
    assert repository.names(two, "nowhere") == []


def test_changed_paths_are_relative_to_the_folder(repository):
    one, two = repository.commit("HEAD~1"), repository.commit("HEAD")
    assert set(repository.changed(one, two)) == {
        "../outside",
        "characters/*?[a] ö.yaml",
        "characters/eliza.yaml",
        "characters/link.yaml",
    }


def test_links_and_large_files_are_refused(repository):
    two = repository.commit("HEAD")
    with pytest.raises(CharForgeError, match="is no regular file"):
        repository.read(two, "characters/link.yaml", 100)
    with pytest.raises(CharForgeError, match="is too large: 4 bytes, the limit is 3"):
        repository.read(two, "characters/eliza.yaml", 3)


@pytest.mark.parametrize(
    "revision", ["", "--all", "-h", "HEAD\n", "\x1b[2J", "HEAD:ws", "nowhere", "HEAD^{tree}"]
)
def test_what_is_no_commit_is_an_error_of_one_line(repository, revision):
    with pytest.raises(CharForgeError) as error:
        repository.commit(revision)
    assert error.value.message.isprintable()


# -- which commit files are ------------------------------------------------------------------------------------------


@pytest.fixture
def committed(tmp_path):
    def git(*words):
        env = {
            **os.environ,
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b.c",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b.c",
        }
        done = subprocess.run(
            ["git", *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "fïle").write_bytes(b"one\r\n")
    git("add", ".")
    git("-c", "commit.gpgsign=false", "commit", "-qm", "first")
    return tmp_path, git


def test_files_that_are_the_commits_have_it(committed):
    folder, git = committed
    head = git("rev-parse", "HEAD")
    assert commit_of(folder, {"below/fïle": b"one\r\n"}) == head
    assert commit_of(folder / "below", {"fïle": b"one\r\n"}) == head


@pytest.mark.parametrize(
    "files", [{"below/fïle": b"two"}, {"below/new": b""}, {"below/*": b"one\r\n"}, {"../x": b""}, {}]
)
def test_edited_and_unknown_files_have_none(committed, files):
    assert commit_of(committed[0], files) is None


def test_outside_a_repository_there_is_none(tmp_path):
    assert commit_of(tmp_path, {"a": b""}) is None
    assert commit_of(tmp_path / "nowhere", {"a": b""}) is None


def test_before_the_first_commit_and_in_a_broken_repository_there_is_none(committed):
    folder, _git = committed
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/none\n")
    assert commit_of(folder, {"below/fïle": b"one\r\n"}) is None
    (folder / ".git" / "HEAD").write_bytes(b"\x00\xff")
    assert commit_of(folder, {"below/fïle": b"one\r\n"}) is None


def test_a_repository_that_names_commands_runs_none(committed):
    folder, git = committed
    mark = folder / "ran"
    for key in (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "diff.external",
        "alias.rev-parse",
        "alias.ls-tree",
    ):
        git("config", key, f"!touch '{mark}'" if key.startswith("alias") else f"touch '{mark}'")
    assert commit_of(folder, {"below/fïle": b"one\r\n"}) is not None
    assert not mark.exists()


def test_another_repository_named_by_the_environment_is_not_asked(committed, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("GIT_DIR", str(committed[0] / ".git"))
    assert commit_of(elsewhere, {"below/fïle": b"one\r\n"}) is None

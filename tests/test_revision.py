"""A commit is named only where the files are exactly its own, and asking git runs nothing that a repository names."""

from __future__ import annotations

import os
import subprocess

import pytest

from charforge.revision import commit_of


@pytest.fixture
def repository(tmp_path):
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


def test_files_that_are_the_commits_have_it(repository):
    folder, git = repository
    head = git("rev-parse", "HEAD")
    assert commit_of(folder, {"below/fïle": b"one\r\n"}) == head
    assert commit_of(folder / "below", {"fïle": b"one\r\n"}) == head


@pytest.mark.parametrize(
    "files", [{"below/fïle": b"two"}, {"below/new": b""}, {"below/*": b"one\r\n"}, {"../x": b""}, {}]
)
def test_edited_and_unknown_files_have_none(repository, files):
    assert commit_of(repository[0], files) is None


def test_outside_a_repository_there_is_none(tmp_path):
    assert commit_of(tmp_path, {"a": b""}) is None
    assert commit_of(tmp_path / "nowhere", {"a": b""}) is None


def test_before_the_first_commit_and_in_a_broken_repository_there_is_none(repository):
    folder, _git = repository
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/none\n")
    assert commit_of(folder, {"below/fïle": b"one\r\n"}) is None
    (folder / ".git" / "HEAD").write_bytes(b"\x00\xff")
    assert commit_of(folder, {"below/fïle": b"one\r\n"}) is None


def test_a_repository_that_names_commands_runs_none(repository):
    folder, git = repository
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


def test_another_repository_named_by_the_environment_is_not_asked(repository, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("GIT_DIR", str(repository[0] / ".git"))
    assert commit_of(elsewhere, {"below/fïle": b"one\r\n"}) is None

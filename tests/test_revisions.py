"""Files as a git revision has them. What a hostile repository tries is in tests/commands/test_diff.py."""

from __future__ import annotations

import subprocess

import pytest

from charforge.errors import CharForgeError
from charforge.revisions import Repository


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

"""Ways out of the workspace: through a spec's paths, through prompts, through a store that came with a pull request."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from charforge import skeleton, spec
from charforge.cli import main
from charforge.engine import lock
from charforge.engine.database import seal
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.engine.errors import Damaged, EngineError
from charforge.engine.store import Store
from charforge.engine.view import sync
from charforge.errors import FileProblems
from charforge.testing import ScriptedWorkshop


@pytest.fixture
def workspace(tmp_path):
    """A workspace with one sound character, beside a file that is nobody's business."""
    folder = tmp_path / "ws"
    folder.mkdir()
    (tmp_path / "secret.md").write_text("---\nname: S\nlicence: CC0-1.0\nsource: s\n---\n\nThe secret.\n")
    skeleton.write(folder, "eliza", "Eliza Doolittle", "Eliza")
    return folder


def says(workspace, path, key="profile: {file: %s}\n"):
    """Return what is wrong with a spec that names this path."""
    file = workspace / "characters" / "eliza.yaml"
    lines = file.read_text().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if line.startswith("profile:"))
    end = next(n for n, line in enumerate(lines) if n > at and line[:1].strip())
    file.write_text("".join([*lines[:at], key % json.dumps(path, ensure_ascii=False), *lines[end:]]))
    found = spec.examine(file, workspace)
    assert found.spec is None
    return [problem.message for problem in found.problems]


WINDOWS = ["C:\\secret.md", "C:/secret.md", "\\\\host\\share\\x.md", "//host/share/x.md", "..\\..\\secret.md",
           "profiles\\..\\..\\..\\secret.md", "NUL", "CON", "profiles/eliza.md::$DATA", "\\\\?\\C:\\x", "file:///etc/passwd"]  # fmt: skip
ALIKE = ["\uff0e\uff0e/\uff0e\uff0e/secret.md", "..\uff0f..\uff0fsecret.md", "..\u2215..\u2215secret.md", "\u2024\u2024/\u2024\u2024/secret.md",
         "..\u2044secret.md", "\u2025/\u2025/secret.md", "..%2f..%2fsecret.md", "..%c0%af..%c0%afsecret.md", "....//....//secret.md"]  # fmt: skip
ODD = ["~/.ssh/id_rsa", "$HOME/secret.md", "${HOME}/secret.md", "`id`", "profiles/eliza.md\n../../secret.md", "profiles/" + "x" * 300 + ".md",
       "x/" * 5000 + "x", "PROFILES/ELIZA.MD", "profiles/eliza.md/../../../secret.md", ".", "", " ", "-", "--help",
       "/proc/self/environ", "/dev/stdin", "/dev/fd/0", "../../../../../../../../../proc/self/environ", "../../secret.md",
       "profiles/../../../secret.md", "/./../secret.md"]  # fmt: skip


@pytest.mark.parametrize("path", [*WINDOWS, *ALIKE, *ODD], ids=ascii)
def test_no_spelling_of_a_path_leads_out(workspace, watched, path):
    """It is refused, or it is the name of a file that is not there: nothing outside is opened in any case."""
    with watched() as events:
        assert says(workspace, path)
        main(["check", str(workspace / "characters" / "eliza.yaml")])
    opened = [event for event in events if event.startswith("open ")]
    assert not [
        event
        for event in opened
        if "secret" in event or "/proc/" in event or "/dev/" in event or ".ssh" in event
    ]


@pytest.mark.parametrize("character", ["\0", "\x1b", "\u202e", "\ud800"])
def test_a_character_that_no_path_has_is_told(workspace, character):
    text = f'"profiles/eliza.md\\u{ord(character):04x}"'
    file = workspace / "characters" / "eliza.yaml"
    for line in file.read_text().splitlines():
        if "profiles/eliza.md" in line:
            file.write_text(file.read_text().replace("profiles/eliza.md", text))
            break
    with pytest.raises(FileProblems) as raised:
        spec.load(file, workspace)
    assert raised.value.render().isprintable() or all(
        row.isprintable() for row in raised.value.render().splitlines()
    )


@pytest.mark.parametrize("target", ["../secret.md", "/proc/self/environ", "/etc/passwd", ".env"])
@pytest.mark.parametrize("whole", [False, True], ids=["a file", "the folder"])
def test_a_prompt_of_the_workspace_that_is_a_link_out_is_not_sent_to_a_model(
    workspace, monkeypatch, capsys, target, whole
):
    """A pull request may bring `prompts/scene.j2` as a link to a key: a build would send it to whoever makes the scenes."""
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: ScriptedWorkshop())
    (workspace / ".env").write_text("KEY=1")
    relative = next(
        iter(sorted(path.name for path in (Path(spec.__file__).parents[1] / "prompts").glob("*.j2")))
    )
    assert relative
    if whole:
        outside = workspace.parent / "prompts"
        outside.mkdir()
        for path in (Path(spec.__file__).parents[1] / "prompts").rglob("*.j2"):
            copy = outside / path.relative_to(Path(spec.__file__).parents[1] / "prompts")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text("the secret")
        (workspace / "prompts").symlink_to(outside)
    else:
        for path in (Path(spec.__file__).parents[1] / "prompts").rglob("*.j2"):
            link = workspace / "prompts" / path.relative_to(Path(spec.__file__).parents[1] / "prompts")
            link.parent.mkdir(parents=True, exist_ok=True)
            where = target if target.startswith("/") else os.path.relpath(workspace / target, link.parent)
            link.symlink_to(where)
    assert main(["build", str(workspace / "characters" / "eliza.yaml")]) == 1
    said = capsys.readouterr().err
    assert "is a link that leads out of the workspace" in said or "is hidden: a spec cannot name .env" in said
    assert "secret" not in said.replace("secret.md", "")


# --- A store that came with a pull request ---------------------------------------------------------------------------


@pytest.fixture
def store(workspace):
    with Store(workspace / ".charforge") as opened:
        yield opened


def put(store, data):
    """Put a blob into the store's database, as who poisons it would."""
    with sqlite3.connect(store.root / "store.db") as db:
        db.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (of_bytes(data), data))
    return of_bytes(data)


NAMES = [
    "../../../../escaped",
    "/tmp/charforge-escaped",
    "a/../../../../../escaped",
    "a\\..\\b",
    "",
    ".",
    "a//b",
    "a/\x1b[2J",
    "a\0b",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_trees_names_do_not_lead_out(workspace, store, name):
    blob = store.pack({"x": b"x" * 100_000}).outputs["x"]
    tree = put(store, canonical({name: {"digest": blob, "size": 100_000}}))
    before = sorted(path for path in workspace.parent.rglob("*") if ".charforge" not in path.parts)
    for reach in (
        lambda: store.checkout(tree),
        lambda: sync(store, workspace / "build" / "eliza", {"model/": tree}),
    ):
        with pytest.raises((Damaged, EngineError)):
            reach()
    after = sorted(path for path in workspace.parent.rglob("*") if ".charforge" not in path.parts)
    assert [path for path in after if path not in before and "build" not in path.parts] == []
    assert not Path("/tmp/charforge-escaped").exists()


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_an_output_with_a_name_that_leads_out_is_none(store, name):
    put(store, b"poison")
    with sqlite3.connect(store.root / "store.db") as db:
        outputs = json.dumps({name: of_bytes(b"poison")})
        action = Action("x", 2, {}, {}).digest
        db.execute(
            "INSERT INTO traces VALUES (?, 0, ?, '{}', ?)", (action, outputs, seal(action, 0, outputs, "{}"))
        )
    assert store.find(action) is None
    assert store.observations(action) == []


@pytest.mark.parametrize("prefix", ["..//", "../../../", ""])
def test_a_digest_that_is_a_path_reaches_nothing(workspace, store, watched, prefix):
    """It was read, found not to hash to its name, and taken out of its place."""
    secret = workspace.parent / "secret.md"
    digest = f"{prefix}{secret}"
    with watched() as events:
        for reach in (
            lambda: store.read(digest),
            lambda: store.copy(digest, workspace / "copy"),
            lambda: store.manifest(digest),
            lambda: store.checkout(digest),
        ):
            with pytest.raises(Damaged):
                reach()
    assert secret.exists()
    assert not [event for event in events if "secret.md" in event]


def test_a_view_that_a_store_tells_of_is_not_cleared_outside(workspace, store):
    secret = workspace.parent / "secret.md"
    with sqlite3.connect(store.root / "store.db") as db:
        for path in (
            "build/eliza/../../../secret.md",
            f"build/eliza/{secret}",
            "build/eliza//../../../secret.md",
        ):
            db.execute("INSERT INTO views VALUES (?, 'x', 1, 1, 1)", (path,))
    sync(store, workspace / "build" / "eliza", {})
    assert secret.exists()


@pytest.mark.parametrize("name", ["tmp", "objects", "trees", "damaged", "kept", "receipts"])
def test_no_folder_of_a_store_is_a_link(workspace, name, monkeypatch):
    """Opening a store empties its `tmp`, and gc removes what nobody wants of the others."""
    outside = workspace.parent / "photos"
    (outside / "ab" / "1234-x").mkdir(parents=True)
    (outside / "ab" / "1234-x" / "first").write_text("smile")
    (outside / "1234-x").mkdir()
    (outside / "1234-x" / "first").write_text("smile")
    (workspace / ".charforge").mkdir()
    (workspace / ".charforge" / name).symlink_to(outside)
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: ScriptedWorkshop())
    monkeypatch.chdir(workspace)
    for command in (["build", "eliza"], ["gc", "eliza"], ["status", "eliza"]):
        main(command)
    assert sorted(path.relative_to(outside).as_posix() for path in outside.rglob("*")) == [
        "1234-x", "1234-x/first", "ab", "ab/1234-x", "ab/1234-x/first",
    ]  # fmt: skip


def test_a_view_is_written_through_no_link(workspace, store):
    outside = workspace.parent / "outside"
    outside.mkdir()
    (workspace / "build").symlink_to(outside)
    with pytest.raises(EngineError, match="is a link"):
        sync(store, workspace / "build" / "eliza", {"x.json": put(store, b"{}")})
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "what", ["characters/eliza.lock", "characters/recordings/eliza.jsonl.zst", "build/eliza/report.html"]
)
def test_what_a_build_writes_replaces_a_link_and_does_not_follow_it(workspace, monkeypatch, what):
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: ScriptedWorkshop())
    monkeypatch.chdir(workspace)
    secret = workspace.parent / "secret.md"
    before = secret.read_bytes()
    path = workspace / what
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(secret)
    main(["build", "eliza"])
    main(["record", "export", "eliza"])
    assert secret.read_bytes() == before


def test_an_export_stays_in_its_folder(workspace, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("charforge.workshop.LocalWorkshop", lambda **_options: ScriptedWorkshop())
    monkeypatch.chdir(workspace)
    assert main(["build", "eliza"]) == 0
    with sqlite3.connect(workspace / ".charforge" / "store.db") as db:
        rows = db.execute("SELECT digest, data FROM blobs").fetchall()
        trees = [
            (digest, json.loads(data))
            for digest, data in rows
            if data.startswith(b'{"') and b'"size":' in data
        ]
        poisoned = 0
        for digest, tree in trees:
            if not all(
                isinstance(entry, dict) and {"digest", "size"} == set(entry) for entry in tree.values()
            ):
                continue
            name = next(iter(tree))
            data = canonical({**tree, "../../../escaped": tree[name]})
            db.execute("UPDATE traces SET outputs = replace(outputs, ?, ?)", (digest, of_bytes(data)))
            db.execute("INSERT INTO blobs VALUES (?, ?)", (of_bytes(data), data))
            poisoned += 1
        assert poisoned
        for row in db.execute("SELECT action, observation, outputs, record FROM traces").fetchall():
            db.execute(
                "UPDATE traces SET seal = ? WHERE action = ? AND observation = ?",
                (seal(*row), row[0], row[1]),
            )
    shutil.rmtree(workspace / ".charforge" / "receipts")
    capsys.readouterr()
    main(["export", "model", "eliza", "--out", str(tmp_path / "out" / "a" / "b")])
    main(["export", "eliza", "model", str(tmp_path / "out" / "a" / "b")])
    main(["build", "eliza"])
    assert not list(tmp_path.rglob("escaped"))


def test_a_lock_that_is_a_link_is_not_quoted(workspace, capsys, monkeypatch):
    """What lies behind it is no lock, and what it is, is not said."""
    monkeypatch.chdir(workspace)
    (workspace / "characters" / "eliza.lock").symlink_to(workspace.parent / "secret.md")
    main(["lock", "--check", "eliza"])
    assert "The secret" not in "".join(capsys.readouterr())
    with pytest.raises(EngineError):
        lock.read(workspace / "characters" / "eliza.lock")

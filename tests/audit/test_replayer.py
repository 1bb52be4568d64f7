"""The replay's child: what it is shut off from, and what variations do to it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import charforge
from charforge.audit import variations
from charforge.audit.scratch import environment


def child(code, folder, variation):
    """Run code in a process as children are started; return the JSON it prints."""
    for name in ("home", "tmp", "here"):
        (folder / name).mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        env=environment(folder, variation),
        cwd=folder / "here",
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


REACHING = """
    import asyncio, json, os, socket, subprocess, urllib.request
    from charforge.audit import replayer
    replayer.shut_off()
    said = {}
    def reach(name, work):
        try:
            work()
        except BaseException as error:
            said[name] = type(error).__name__
    reach("connect", lambda: socket.socket().connect(("127.0.0.1", 9)))
    reach("name", lambda: socket.getaddrinfo("example.invalid", 80))
    reach("host", lambda: socket.gethostbyname("example.invalid"))
    reach("send", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)))
    reach("url", lambda: urllib.request.urlopen("http://127.0.0.1:9"))
    reach("program", lambda: subprocess.run(["true"]))
    reach("shell", lambda: os.system("true"))
    reach("fork", os.fork)
    asyncio.run(asyncio.sleep(0))
    print(json.dumps([said, len(replayer.refused)]))
"""


def test_a_child_has_no_network_no_names_and_no_other_programs(tmp_path):
    said, noted = child(REACHING, tmp_path, ())
    assert said == {
        **dict.fromkeys(("connect", "name", "host", "send", "url"), "Refused"),
        **dict.fromkeys(("program", "shell", "fork"), "PermissionError"),
    }
    assert noted == 5


def test_a_child_has_no_keys_and_an_empty_home(tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "CHARFORGE_KEYS", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "secret")
    found = environment(tmp_path, variations.ALL)
    assert "secret" not in found.values()
    assert {found[name] for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")} == {str(tmp_path / "home")}


VARIED = """
    import asyncio, codecs, datetime, glob, json, os, pathlib, time
    from charforge.audit import variations
    names = json.loads({names!r})
    variations.enter(names)
    for name in "bca":
        pathlib.Path(name).touch()
    here = pathlib.Path()
    began, monotonic = time.time(), time.monotonic()
    asyncio.run(asyncio.sleep(0.05))
    with os.scandir() as entries:
        scanned = [entry.name for entry in entries]
    print(json.dumps({{
        "folders": [os.listdir(), scanned, [path.name for path in here.iterdir()], glob.glob("*"), [path.name for path in here.glob("*")],
                    [path.name for path in here.rglob("*")], next(os.walk("."))[2]],
        "year": [datetime.datetime.now(datetime.UTC).year >= 2037, time.gmtime().tm_year >= 2037, time.strftime("%Y") >= "2037"],
        "ticks": 0.05 <= time.time() - began < 60 and 0.05 <= time.monotonic() - monotonic < 60,
        "zone": time.strftime("%z"),
        "encoding": codecs.lookup(open("a").encoding).name,
        "mode": oct(os.stat("a").st_mode & 0o777),
        "hash": hash("charforge"),
    }}))
"""


def test_every_variation_takes_hold(tmp_path):
    names = json.dumps(variations.ALL)
    found = child(VARIED.format(names=names), tmp_path, variations.ALL)
    assert found.pop("folders") == [["c", "b", "a"]] * 7
    assert found.pop("year") == [True] * 3
    plain = child(VARIED.format(names="[]"), tmp_path, ())
    assert plain.pop("hash") != found.pop("hash")
    assert not any(plain.pop("year"))
    assert found == {"ticks": True, "zone": "+1345", "encoding": "ascii", "mode": "0o600"}
    assert {key: plain[key] for key in ("ticks", "encoding")} == {"ticks": True, "encoding": "utf-8"}


def test_replies_come_in_another_order_and_one_at_a_time():
    calls = [f"{number:02x}" for number in range(20)]
    assert {variations.turns((), call) for call in calls} == {0}
    assert len({variations.turns(variations.ALL, call) for call in calls}) > 3
    assert variations.jobs(variations.ALL) == 1 < variations.jobs(())


def test_the_path_has_a_space_and_a_letter_that_is_not_ascii():
    name = variations.folder(variations.ALL)
    assert " " in name
    assert not name.isascii()
    assert variations.folder(()).isascii()


@pytest.mark.parametrize("name", variations.ALL)
def test_each_variation_changes_something_alone(name):
    plain = (variations.settings(()), variations.folder(()), variations.jobs(()))
    alone = (variations.settings((name,)), variations.folder((name,)), variations.jobs((name,)))
    entered = {variations.FOLDER_ORDER, variations.UMASK, variations.CLOCK}
    assert (alone != plain) == (name not in entered)


def test_the_child_runs_the_code_that_its_parent_runs(tmp_path):
    found = environment(tmp_path, ())["PYTHONPATH"].split(":")[0]
    assert Path(charforge.__file__).is_relative_to(found)

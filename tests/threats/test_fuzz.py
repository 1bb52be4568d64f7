"""Whatever a spec or a recording holds, it is read or refused: no crash, no end that never comes, nothing opened elsewhere.

CHARFORGE_FUZZ says how many inputs each of the two readers gets; the default takes a few seconds. Each input that fails is kept by
hypothesis and tried first the next time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charforge import recorded, recording, skeleton, spec
from charforge.engine.digest import Action, canonical, of_bytes
from charforge.errors import CharForgeError, FileProblems
from charforge.llm.request import Request

INPUTS = int(os.environ.get("CHARFORGE_FUZZ", "1000"))
EACH = 20
"""Inputs that one example of hypothesis makes: it draws their seed, which is ten times as fast as to draw them."""
SECONDS = 20  # for one input, of which the slowest seen took 0.3
fuzzed = settings(
    max_examples=max(1, INPUTS // EACH),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


_seeds = st.integers(0, 2**64 - 1)


def _character(rng):
    """Return a character, of any kind alike."""
    return chr(
        rng.choice(
            (
                rng.randrange(32),
                rng.randrange(127),
                rng.randrange(0x300),
                rng.randrange(0x2FFF),
                rng.randrange(0x110000),
            )
        )
    )


def _value(rng, depth=0):
    """Return an odd value, as JSON has them and a little more."""
    kind = rng.randrange(10 if depth < 3 else 8)
    if kind < 4:
        return rng.choice((*_PIECES, *_NAMES, "a" * 64, "A" * 64, "", "x" * 300))
    if kind < 6:
        return rng.choice(
            (
                None,
                True,
                False,
                0,
                -1,
                1,
                2**53,
                2**53 + 1,
                10**30,
                -(10**400),
                0.5,
                1e308,
                float("inf"),
                float("nan"),
                -0.0,
            )
        )
    if kind < 8:
        return "".join(_character(rng) for _ in range(rng.randrange(8)))
    if kind == 8:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice((*_NAMES, _character(rng))): _value(rng, depth + 1) for _ in range(rng.randrange(4))}


@contextmanager
def within(seconds):
    def late(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def elsewhere(events, *folders):
    """Return what was opened or listed outside of these folders and of what is installed; and everything else that was done."""
    installed = (
        sys.prefix,
        sys.base_prefix,
        os.path.realpath(sys.prefix),
        str(Path(spec.__file__).parents[1]),
    )
    allowed = (*map(str, folders), *installed)
    return [
        event
        for event in events
        if not (
            event.split(" ")[0] in {"open", "os.listdir", "os.scandir"}
            and event.partition(" ")[2].startswith(allowed)
        )
    ]


# --- Specs -----------------------------------------------------------------------------------------------------------

_PIECES = (
    "&a ", "*a", "!!python/object/apply:os.system ['id']", "!x ", "<<: ", "{", "}", "[", "]", ": ", "- ", "? ", "|\n", ">-\n", "---\n",
    "...\n", "%YAML 1.1\n", "'", '"', "\\", "#", "\t", "\n", "\r", "\x85", "\u2028", "\ufeff", "\x00", "\x1b[2J", "\u202e", "null", "~", "yes",
    "1e999", ".nan", "-.inf", "0x" + "f" * 40, "9" * 400, "1827-03-26", "-0000-00-00", "../", "/etc/passwd", "\uff0e\uff0e\uff0f", "C:\\x",
    "http://evil.example/", "api_key: x\n", "base_url: http://x\n", "command: id\n", "env: {A: B}\n", "trust_remote_code: true\n",
    "name: ", "id: ", "charforge: ", "profile: ", "{file: ", "knows: ", "until: ", "never: ", "train: ", "base_model: ", "data: ", "mix: ",
    "interview: ", "transcripts: ", "files: ", "baselines: ", "questions: ", "judge: ", "panel: ", "checks: ", "preset: paper\n", "  ", "    ",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    file = skeleton.write(folder, "eliza", "Eliza Doolittle", "Eliza")[0]
    (folder / "characters" / "folder").mkdir()
    (folder / "link.md").symlink_to("/etc/passwd")
    return folder, file, file.read_text(encoding="utf-8")


_paths = sorted(
    {"name", "notice", "portrays", "seed", "generator.model", "generator.temperature", "profile.file", "written", "knows.until", "knows.never",
     "train.base_model", "train.data", "train.mix", "train.learning_rate", "train.lora", "train.epochs", "checks", "checks.length", "scenes.count",
     "interview.questions", "interview.transcripts", "interview.baselines", "interview.generate", "judge.model", "judge.panel", "judge.limit",
     "protective.count", "dialogues.min_turns", "preset", "charforge", "short_name", "x"}
)  # fmt: skip


def _spec(rng, sound):
    """Return bytes, or the sound spec with pieces put in, cut out and told twice; and `--set` options."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200)), []
    text = sound
    for _ in range(rng.randrange(5)):
        at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        if rng.random() < 0.5:  # where a line begins, or a value
            at = max(text.rfind("\n", 0, at), text.rfind(": ", 0, at) + 1) + 1
        match rng.randrange(4):
            case 0:
                text = text[:at] + rng.choice(_PIECES) + text[at:]
            case 1:
                text = text[:at] + text[min(end, at + rng.randrange(40)) :]
            case 2:
                text = text[:end] + text[at:end] + text[end:]
            case _:
                text = text[:at] + _character(rng) + text[at:]
    options = [(rng.choice(_paths), _value(rng)) for _ in range(rng.choice((0, 0, 1, 3)))]
    overrides = [f"{path}={json.dumps(value, ensure_ascii=rng.random() < 0.5)}" for path, value in options]
    return text.encode("utf-8", "surrogatepass"), overrides


def test_no_spec_breaks_the_loader(place, watched):
    folder, file, sound = place
    spec.load(file, folder)  # what is read once in a process is not looked at

    @fuzzed
    @given(_seeds)
    def tries(seed):
        rng = random.Random(seed)
        for _ in range(EACH):
            one(*_spec(rng, sound))

    def one(data, overrides):
        file.write_bytes(data)
        with watched() as events, within(SECONDS):
            try:
                spec.load(file, folder, overrides=overrides)
            except FileProblems as error:
                lines = error.render().split("\n")
                assert all(line.isprintable() for line in lines), lines
                assert max(map(len, lines)) < 2_000
        assert elsewhere(events, folder) == []

    tries()


# --- Recordings ------------------------------------------------------------------------------------------------------


def _sound():
    """Return the lines of a sound recording, as data: three replies and a training."""
    found = []
    for draw in range(3):
        request = (
            Request.from_params(_request(draw))
            if hasattr(Request, "from_params")
            else Request(**_request(draw))
        )
        action = Action("call", 1, request.params(), {})
        text = canonical({"text": f"I am Ada, time {draw}: é", "finish_reason": "stop"})
        found.append(
            json.loads(recorded.Observation(action, text, {"prompt_tokens": draw, "cost": 0.5}).line())
        )
    manifest = canonical({"a/model.safetensors": {"digest": "a" * 64, "size": 5}})
    outputs = {
        "weights/": recorded.Kept(of_bytes(manifest), manifest),
        "summary.json": recorded.Kept(of_bytes(b"{}"), b"{}"),
        "data": recorded.Kept("b" * 64, None),
    }
    model = Action("model", 2, {"train": {"epochs": 3}}, {"sft": "c" * 64})
    found.append(json.loads(recorded.Observed(model, outputs, {"seconds": 1.5, "dtype": "bfloat16"}).line()))
    return found


def _request(draw):
    return {
        "model": "openai/m",
        "weights": None,
        "messages": (("user", "Who are you?"),),
        "max_tokens": 60,
        "temperature": 0.7,
        "draw": draw,
    }


_NAMES = (
"../x", "/etc/passwd", "a/../b/", "C:\\x/", "weights/", "x.json", "\x00", "NUL", "text", "tree", "digest", "size", "reply", "action",
     "outputs", "record", "kind", "version", "params", "inputs", "messages", "call", "model",
)  # fmt: skip


def _spots(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _spots(value[key], (*path, key))
    elif isinstance(value, list):
        for at in range(len(value)):
            yield from _spots(value[at], (*path, at))


def _put(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _put(copy[path[0]], path[1:], new)
    return copy


def _lenient(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def _recording(rng, sound):
    """Return lines with values put in, sealed as if they were right, as they are or packed, and perhaps changed after that."""
    lines = list(sound)
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        spot = rng.choice(list(_spots(lines[at])))
        new = _value(rng)
        if isinstance(lines[at], dict) and spot and rng.random() < 0.25:  # another key
            inner = lines[at]
            for step in spot[:-1]:
                inner = inner[step]
            if isinstance(inner, dict):
                new, spot = {**inner, rng.choice(_NAMES): new}, spot[:-1]
        lines[at] = _put(lines[at], spot, new)
    if rng.random() < 0.7:
        for at, line in enumerate(lines):
            try:
                lines[at] = {**line, "digest": Action(**line["action"]).digest}
            except (TypeError, ValueError, KeyError, AttributeError):
                continue
    if rng.random() < 0.8:
        lines.sort(key=lambda line: str(line.get("digest")) if isinstance(line, dict) else "")
    body = b"".join(_lenient(line) + b"\n" for line in lines)
    stages = sum(isinstance(line, dict) and "outputs" in line for line in lines)
    header = {
        "character": "ada",
        "charforge_recording": rng.choice((2, 2, 2, 1)),
        "count": len(lines) - stages,
    }
    header |= {"stages": stages} if header["charforge_recording"] == 2 else {}
    header["root"] = recording._root(header, of_bytes(body))
    if rng.random() < 0.1:
        header[rng.choice((*_NAMES, "count", "root", "stages"))] = _value(rng)
    data = _lenient(header) + b"\n" + body
    if rng.random() < 0.3:
        data = recording.zstd.compress(data)
    if rng.random() < 0.2:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randrange(6)) + data[at + rng.randrange(6) :]
    return data


def test_no_recording_breaks_its_reader(tmp_path, watched):
    path = tmp_path / "ada.jsonl"
    sound = _sound()
    read = {"sound": 0}

    @fuzzed
    @given(_seeds)
    def tries(seed):
        rng = random.Random(seed)
        for _ in range(EACH):
            one(_recording(rng, sound))

    def one(data):
        path.write_bytes(data)
        with watched() as events, within(SECONDS):
            try:
                with recording.verified(path) as found:
                    # What is believed can be said again, word for word.
                    lines = sorted([*found, *found.observed()], key=lambda one: one.action.digest)
                    assert len(lines) == found.count + found.stages
                    assert [one.line() for one in lines]
                    assert all(
                        recorded._NAME.fullmatch(name) for one in found.observed() for name in one.outputs
                    )
                    read["sound"] += 1
            except FileProblems as error:
                rows = error.render().split("\n")
                assert all(row.isprintable() for row in rows), rows
            except CharForgeError as error:
                raise AssertionError(error.render()) from error
        assert elsewhere(events, tmp_path, tempfile.gettempdir()) == []

    tries()
    assert read["sound"] > INPUTS // 100  # else nothing but the first check was tried

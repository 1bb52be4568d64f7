from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from charforge.llm.request import Reply, Request
from charforge.models import load, worker
from charforge.models.adapter import save_adapter, wrap
from charforge.models.generate import Generator
from charforge.models.vocabulary import add_end_of_turn
from charforge.models.worker import Worker, request_of


def line(key: int, folder: Path | str, prompt: str = "Beethoven (", **changes) -> str:
    given = {"model": "m", "prompt": prompt, "max_tokens": 6, "temperature": 0.0}
    weights = {"kind": "folder", "path": str(folder)}
    return json.dumps({"id": key, "weights": weights, "request": Request(**given | changes).params()}) + "\n"


@pytest.fixture(autouse=True)
def _float32(monkeypatch):
    monkeypatch.setattr(load, "compute_dtype", lambda: torch.float32)


def serve(*lines: str) -> dict[int, dict]:
    sink = io.StringIO()
    Worker(io.StringIO("".join(lines)), sink).run()
    answers = [json.loads(answer) for answer in sink.getvalue().splitlines()]
    assert len({answer["id"] for answer in answers}) == len(answers)
    return {answer["id"]: answer for answer in answers}


def test_each_request_gets_its_reply(tiny):
    answers = serve(line(1, tiny), line(2, tiny, "Man ("), line(3, tiny, max_tokens=2))
    assert sorted(answers) == [1, 2, 3]
    assert answers[3]["reply"].keys() == {field.name for field in fields(Reply)}
    assert answers[3]["reply"]["completion_tokens"] == 2
    assert answers[1]["reply"]["text"].startswith(answers[3]["reply"]["text"])


def test_an_adapter_answers_beside_its_base(tiny, tmp_path):
    model, tokenizer = load.load_folder(tiny)
    add_end_of_turn(model, tokenizer)
    model = wrap(model, tokenizer, {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"})
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    save_adapter(model, tokenizer, tmp_path / "a", "tiny")
    weights = {"kind": "adapter", "path": str(tmp_path / "a"), "base": str(tiny)}
    mine = json.dumps(json.loads(line(2, tiny)) | {"weights": weights}) + "\n"
    answers = serve(line(1, tiny), mine, line(3, tiny))
    assert answers[1]["reply"] == answers[3]["reply"]
    assert answers[2]["reply"]["text"] != answers[1]["reply"]["text"]
    merged = Generator(*load.load(weights)).generate([request_of(json.loads(mine)["request"])])
    assert merged[0].text == answers[2]["reply"]["text"]


def test_short_replies_do_not_wait_for_long_ones(tiny):
    sink = io.StringIO()
    Worker(io.StringIO(line(1, tiny, max_tokens=40) + line(2, tiny, max_tokens=2)), sink).run()
    assert [json.loads(answer)["id"] for answer in sink.getvalue().splitlines()] == [2, 1]


def test_a_bad_request_fails_alone(tiny):
    answers = serve(line(1, tiny, max_tokens=1000), line(2, tiny), line(3, tiny, ""))
    count = answers[2]["reply"]["prompt_tokens"]
    assert answers[1] == {
        "id": 1,
        "error": f"a prompt of {count} tokens and a reply of 1000 exceed the model's context of 512",
        "hint": "shorten the prompt or lower max_tokens",
    }
    assert answers[3] == {"id": 3, "error": "the prompt is empty", "hint": None}


def test_a_template_that_raises_fails_its_request_alone(tiny, monkeypatch):
    real = load.load_folder

    def with_a_strict_template(*args):
        model, tokenizer = real(*args)
        tokenizer.chat_template = "{{ raise_exception('no system role') }}"
        return model, tokenizer

    monkeypatch.setattr(load, "load_folder", with_a_strict_template)
    answers = serve(line(1, tiny, prompt=None, messages=(("system", "x"),)), line(2, tiny))
    assert answers[1] == {"id": 1, "error": "TemplateError: no system role", "hint": None}
    assert "reply" in answers[2]


def test_weights_that_are_not_there_fail_their_requests_only(tiny):
    answers = serve(line(1, "/nowhere"), line(2, tiny), line(3, "/nowhere"))
    failure = "there is no folder /nowhere"
    assert [answers[key].get("error") for key in (1, 2, 3)] == [failure, None, failure]


def test_requests_of_several_weights_are_all_answered(tiny, tiny_again):
    answers = serve(*(line(n, (tiny, tiny_again)[n % 2], max_tokens=3 + n) for n in range(12)))
    assert sorted(answers) == list(range(12))
    assert answers[11]["reply"]["text"].startswith(answers[0]["reply"]["text"])


def test_many_short_replies_of_one_model_do_not_wait_for_a_long_one_of_another(tiny, tiny_again):
    sink = io.StringIO()
    several = "".join(line(n, tiny_again, f"Man {n}", max_tokens=3) for n in range(2, 8))
    Worker(io.StringIO(line(1, tiny, max_tokens=100) + several), sink).run()
    order = [json.loads(answer)["id"] for answer in sink.getvalue().splitlines()]
    assert sorted(order[:6]) == [2, 3, 4, 5, 6, 7]
    assert order[6] == 1


class Stand:
    """Stands for a generator of so many rows."""

    def __init__(self, size):
        self.size, self.busy = size, size > 0


def turns(sizes, steps):
    """Return whose turn it is in each of so many steps, while everybody's rows stay as many."""
    served = Worker(io.StringIO(), io.StringIO())
    served.loaded.update({name: Stand(size) for name, size in sizes.items()})
    found = ""
    for _ in range(steps):
        chosen = served._choose()
        if chosen != served.current:
            served.current, served.turn_began = chosen, served.steps
        served.steps += 1
        served.last_ran[chosen] = served.steps
        found += chosen
    return found


def test_the_model_with_most_rows_has_its_turn():
    assert turns({"a": 3, "b": 9}, 5) == "bbbbb"


def test_no_model_starves():
    assert turns({"a": 3, "b": 9}, 180) == "b" * 64 + "a" * 16 + "b" * 64 + "a" * 16 + "b" * 20


def test_a_model_that_has_begun_goes_on_until_another_has_twice_its_rows():
    served = Worker(io.StringIO(), io.StringIO())
    served.loaded.update({"a": Stand(5), "b": Stand(10)})
    served.current, served.steps, served.last_ran = "a", 30, {"a": 30, "b": 30}
    assert served._choose() == "a"
    served.loaded["b"] = Stand(11)
    assert served._choose() == "b"


def test_a_model_without_rows_has_no_turn():
    assert turns({"a": 0, "b": 1}, 70) == "b" * 70
    assert Worker(io.StringIO(), io.StringIO())._choose() is None


def test_only_so_many_models_are_kept(tiny, tiny_again, monkeypatch):
    monkeypatch.setattr(worker, "LOADED", 1)
    served = Worker(io.StringIO(line(1, tiny) + line(2, tiny_again)), io.StringIO())
    served.run()
    assert [json.loads(weights)["path"] for weights in served.loaded] == [str(tiny_again)]


def test_a_cancelled_request_gets_no_reply(tiny):
    assert sorted(serve(line(1, tiny), line(2, tiny), '{"cancel": 1}\n', '{"cancel": 99}\n')) == [2]


def test_a_request_survives_the_pipe():
    request = Request(
        model="m",
        messages=(("user", "ä\n"),),
        schema={"a": [1]},
        stop=("x",),
        max_tokens=1,
        temperature=0.5,
        seed=3,
    )
    assert request_of(json.loads(json.dumps(request.params()))) == request


def test_the_process_speaks_protocol_only_and_ends_with_its_input(tiny):
    env = {key: value for key, value in os.environ.items() if not key.startswith("CHARFORGE_")}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "charforge.models.worker"],
        input=line(1, tiny) + line(2, tiny, "Man ("),
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    assert sorted(json.loads(answer)["id"] for answer in done.stdout.splitlines()) == [1, 2]

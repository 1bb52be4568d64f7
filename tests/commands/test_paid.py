"""Builds against an endpoint that costs money: the mock endpoint, over real sockets and the whole way of the product."""

from __future__ import annotations

import json
import re

import pytest

from charforge.testing.endpoint import Endpoint, Settings

OPTIONS = (
    "--preset=paper",
    "--set=generator.model=openai/gpt-4o-mini",
    "--set=scenes.count=12",
    "--set=scenes.per_call=1",
    "--set=written=written/eliza.md",
)


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    with Endpoint(Settings(mode="scripted", key="planted")) as server:
        (tmp_path / "endpoints.toml").write_text(
            f'[openai]\napi_base = "{server.url}"\nkey = "PAID_KEY"\nprice = {{input = 1.0, output = 2.0}}\n'
        )
        monkeypatch.setenv("CHARFORGE_ENDPOINTS", str(tmp_path / "endpoints.toml"))
        monkeypatch.setenv("PAID_KEY", "planted")
        yield server


def cost(out: str) -> float:
    return float(re.findall(r"\$([0-9.]+)", out.splitlines()[-1])[-1])


def calls(out: str) -> int:
    return int(re.findall(r" (\d+) calls? ", out.splitlines()[-1])[-1])


def test_a_build_stops_at_its_limit_and_the_next_goes_on_and_pays_for_nothing_twice(run, eliza, endpoint):
    assert eliza.is_file()
    status, out, err = run("build", "eliza", *OPTIONS, "--to=dataset", "--max-cost=0.03")
    assert status == 1
    assert "the limit of $0.03 is reached" in err
    assert "rerun with a higher --max-cost; it goes on from here" in err
    stopped, first = out, cost(out)
    assert 0 < first <= 0.03

    status, out, _ = run("build", "eliza", *OPTIONS, "--to=dataset")
    assert status == 0
    rest = cost(out)
    stats = endpoint.stats()
    assert calls(stopped) + calls(out) == stats["good"]
    assert first + rest == pytest.approx(
        stats["tokens"]["prompt"] * 1e-6 + stats["tokens"]["completion"] * 2e-6, abs=2e-4
    )

    asked = endpoint.stats()["requests"]
    assert run("build", "eliza", *OPTIONS, "--to=dataset")[1] == "eliza: up to date, 6 stages\n"
    assert endpoint.stats()["requests"] == asked


def test_a_wrong_key_ends_the_build_and_is_not_shown(run, eliza, endpoint, monkeypatch):
    assert eliza.is_file()
    monkeypatch.setenv("PAID_KEY", "no-such-key-4711")
    status, out, err = run("build", "eliza", *OPTIONS, "--to=scenes")
    assert (status, out) == (1, "")
    assert "PAID_KEY" in err
    assert "4711" not in err
    assert endpoint.stats()["requests"] <= 64


def test_faults_are_waited_out_and_every_call_is_accounted_for(run, eliza, endpoint, tmp_path):
    assert eliza.is_file()
    endpoint.change(faults={"429": 10, "500": 5, "disconnect": 5, "cut-off": 5})
    status, _, err = run("build", "eliza", *OPTIONS, "--to=dataset")
    assert status == 0, err
    kept = json.loads((tmp_path / "build/eliza/yield/dialogues.json").read_bytes())
    assert kept["accepted"] == kept["wanted"] == 12
    assert kept["asked"] == kept["accepted"] + sum(kept["rejected"].values())

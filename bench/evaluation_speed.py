"""How fast are interviews with a local model? `python bench/evaluation_speed.py single|side-by-side [--weights DIR] [--rounds 3]`

`single`: the interviews stage puts 64 questions of one character to the 135M model, 64 new tokens each, sampled as the laptop
preset says (temperature 0.2, top_p 0.95, repetition penalty 1.15), in both styles. Peers get the same prompts and the same
sampling: transformers in a batch of 64 and one by one, FastChat's generation loop, llama.cpp with 8 slots. Real tokens only: a
reply's tokens to and with its first end, no padding.

`side-by-side`: 20 interviews of five turns, an embedded interviewer and a model in the raw text format, all at once as the
stage runs them, against one after the other (`--alone` of them, for they take long).

Our side is what a build runs: the stage, the lane and the worker process, which has loaded the weights before the clock starts.
All rounds of one run are interleaved and the best of each counts, since other work on the machine only ever makes one slower.
Ratios mean something, absolute numbers only with the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parents[1]
NAME = "smollm2-135m-instruct"
WHO = {"name": "Ludwig van Beethoven", "short_name": "Beethoven"}
SAMPLING = {"temperature": 0.2, "top_p": 0.95, "repetition_penalty": 1.15}
TOKENS = 64
QUESTIONS = 64
ROWS = 64
INTERVIEWS = 20
TURNS = 5

Measured = tuple[int, float]
"""Tokens written, seconds."""


def material() -> dict[str, Any]:
    """Return the shipped Beethoven's questions, subjects, profile and rendered prompts."""
    from charforge import templates
    from charforge.questions import read as read_questions
    from charforge.stages import profile

    file = ROOT / "characters/questions/beethoven.yaml"
    found = read_questions(file.read_text(), file=file.name)
    text = (ROOT / "characters/profiles/beethoven.md").read_text()
    return {
        "single": found.single_records(),
        "multi": found.multi_records(),
        "profile": profile.read(text, file="beethoven.md"),
        "meta": templates.render((ROOT / "prompts/meta.j2").read_text(), "meta.j2", **WHO),
        "prompts": {
            "interview_chat": (ROOT / "prompts/interview_chat.j2").read_text(),
            "interviewer": (ROOT / "prompts/embedded/interviewer.j2").read_text(),
        },
    }


class Build:
    """What a build runs, without its store: the lane to local models, counting the tokens that come back."""

    def __init__(self, contestant: Path | None) -> None:
        from charforge.llm.local import LocalLane, WeightsRef

        self.lane = LocalLane()
        self.embedded = WeightsRef("embedded", NAME)
        self.contestant = self.embedded if contestant is None else WeightsRef("folder", str(contestant))
        self.tokens = self.calls = 0

    async def ask(self, request: Any) -> Any:
        from charforge.llm.request import Answered

        mine = request.model.startswith("local/")
        reply = await self.lane.complete(request, self.contestant if mine else self.embedded)
        self.tokens += reply.completion_tokens or 0
        self.calls += 1
        return Answered(reply=reply, call=str(self.calls))

    async def interview(
        self,
        style: str,
        given: dict[str, Any],
        single: Sequence[Any] = (),
        multi: Sequence[Any] = (),
        seed: int = 0,
    ) -> Measured:
        """Return what one run of the stage wrote, and how long it took."""
        from charforge.stages import interviews

        before, began = self.tokens, time.perf_counter()
        await interviews.interview(
            contestants=[
                {
                    "name": "it",
                    "kind": "trained",
                    "model": f"local/{NAME}",
                    "weights": "known",
                    "style": style,
                }
            ],
            single=single,
            multi=multi,
            turns=TURNS,
            history=8,
            thoughts=False,
            **SAMPLING,
            max_tokens=TOKENS,
            seed=seed,
            interviewer={
                "model": f"embedded/{NAME}",
                "weights": "known",
                "temperature": 0.5,
                "max_tokens": 48,
            },
            meta=given["meta"],
            prompts=given["prompts"],
            profile=given["profile"],
            ask=self.ask,
            on_progress=lambda _done, _total: None,
            **WHO,
        )
        return self.tokens - before, time.perf_counter() - began


def questions(given: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return `count` different single questions: the character's own, then the same about a year."""
    own = given["single"]
    return [
        {**own[n % len(own)], "id": f"q{n}"}
        | (
            {}
            if n < len(own)
            else {"question": f"{own[n % len(own)]['question']} I mean the year {1770 + n // 2}."}
        )
        for n in range(count)
    ]


def subjects(given: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return `count` different subjects: the character's own, then its single questions as subjects."""
    own = [*given["multi"]]
    own += [
        {"id": q["id"], "topic": q["topic"], "subject": f"What he says when he is asked: {q['question']}"}
        for q in given["single"]
    ]
    return own[:count]


# -- single ----------------------------------------------------------------------------------------------------------


def chat_texts(given: dict[str, Any]) -> list[list[dict[str, str]]]:
    """Return the questions as the stage puts them in chat style."""
    from charforge import templates

    system = templates.render(
        given["prompts"]["interview_chat"], "interview_chat.j2", meta=given["meta"], **WHO
    )
    return [
        [{"role": "system", "content": system.strip()}, {"role": "user", "content": each["question"]}]
        for each in questions(given, QUESTIONS)
    ]


def transformers_generate(model: Any, tokenizer: Any, asked: Sequence[Any], batch: int) -> Measured:
    """Answer with transformers' own `generate`."""
    texts = [
        tokenizer.apply_chat_template(each, add_generation_prompt=True, tokenize=False) for each in asked
    ]
    tokenizer.padding_side = "left"
    ends = {tokenizer.eos_token_id, model.generation_config.eos_token_id, tokenizer.pad_token_id}
    written, began = 0, time.perf_counter()
    for start in range(0, len(texts), batch):
        inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True)
        out = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=True, top_k=0, **SAMPLING)
        for row in out[:, inputs["input_ids"].shape[1] :].tolist():
            written += next((n + 1 for n, token in enumerate(row) if token in ends), len(row))
    return written, time.perf_counter() - began


def fastchat_generate(model: Any, tokenizer: Any, asked: Sequence[Any]) -> Measured:
    """Answer with the generation loop of FastChat's model worker, which has one request at a time."""
    from fastchat.serve.inference import generate_stream

    written, began = 0, time.perf_counter()
    for each in asked:
        prompt = tokenizer.apply_chat_template(each, add_generation_prompt=True, tokenize=False)
        params = {"prompt": prompt, "max_new_tokens": TOKENS, **SAMPLING}
        *_, last = generate_stream(model, tokenizer, params, "cpu", 2048)
        written += last["usage"]["completion_tokens"]
    return written, time.perf_counter() - began


def llama_server(slots: int) -> Any:
    import xllamacpp

    from charforge.models import embedded
    from charforge.models.process import available_cpus

    params = xllamacpp.CommonParams()
    params.model.path = str(embedded.locate(NAME))
    params.n_parallel, params.n_ctx, params.n_gpu_layers = slots, slots * 1024, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = available_cpus()
    return xllamacpp.Server(params)


def llama_cpp(server: Any, asked: Sequence[Any], slots: int) -> Measured:
    def answer(messages: Any) -> int:
        reply = server.handle_chat_completions(
            {
                "messages": messages,
                "max_tokens": TOKENS,
                "temperature": SAMPLING["temperature"],
                "top_p": SAMPLING["top_p"],
                "repeat_penalty": SAMPLING["repetition_penalty"],
                "repeat_last_n": 1024,  # all of it
                "top_k": 0,
                "min_p": 0,
            }
        )
        reply = json.loads(reply) if isinstance(reply, str) else reply
        return int(reply["usage"]["completion_tokens"])

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(slots) as pool:
        written = sum(pool.map(answer, asked))
    return written, time.perf_counter() - began


def single(options: argparse.Namespace) -> None:
    import torch
    from transformers.utils import logging

    from charforge.models.load import load_embedded
    from charforge.models.process import available_cpus

    logging.disable_progress_bar()
    torch.set_num_threads(available_cpus())
    given = material()
    asked = questions(given, QUESTIONS)
    loop = asyncio.new_event_loop()
    build = Build(options.weights)
    runs: dict[str, Callable[[int], Measured]] = {}

    def stage(style: str, rows: Sequence[Any], seed: int) -> Measured:
        return loop.run_until_complete(build.interview(style, given, single=rows, seed=seed))

    began = time.perf_counter()
    stage("chat", asked[:2], 99)  # the worker starts and loads the weights
    loaded = time.perf_counter() - began
    for style in ("character", "chat"):
        runs[f"CharForge's stage, {style} style"] = lambda seed, style=style: stage(style, asked, seed)
        runs[f"CharForge's stage, {style} style, 10 questions"] = lambda seed, style=style: stage(
            style, asked[:10], seed
        )
    failed: dict[str, str] = {}
    if not options.ours:
        model, tokenizer = load_embedded(NAME)
        texts = chat_texts(given)
        runs[f"transformers, batch of {ROWS}"] = lambda _: transformers_generate(
            model, tokenizer, texts, ROWS
        )
        runs["transformers, one by one"] = lambda _: transformers_generate(model, tokenizer, texts[:6], 1)
        if importlib.util.find_spec("fastchat"):
            runs["FastChat's loop"] = lambda _: fastchat_generate(model, tokenizer, texts[:6])
        if importlib.util.find_spec("xllamacpp"):
            server = llama_server(8)
            runs["llama.cpp (xllamacpp), 8 slots"] = lambda _: llama_cpp(server, texts, 8)
    best: dict[str, Measured] = {}
    for round_ in range(options.rounds):
        for name, run in runs.items():
            if name in failed:
                continue
            try:
                with torch.inference_mode():
                    measured = run(round_)
            except Exception as error:  # a peer that does not run is a finding
                if name.startswith("CharForge"):
                    raise
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            print(f"{name}: {measured[0] / measured[1]:.0f} tokens/s", file=sys.stderr, flush=True)
            if name not in best or measured[0] / measured[1] > best[name][0] / best[name][1]:
                best[name] = measured
    loop.run_until_complete(build.lane.close())
    peer = f"transformers, batch of {ROWS}"
    head(f"{QUESTIONS} questions, {TOKENS} new tokens each; best of {options.rounds}")
    print(f"{'':48}{'tokens':>8}{'seconds':>9}{'tokens/s':>10}{'× batch':>9}")
    for name, (tokens, seconds) in best.items():
        ratio = f"{tokens / seconds / (best[peer][0] / best[peer][1]):9.2f}" if peer in best else f"{'':>9}"
        print(f"{name:48}{tokens:8}{seconds:9.1f}{tokens / seconds:10.0f}{ratio}")
    for name, why in failed.items():
        print(f"{name:48}did not run: {why}")
    print(f"\nthe worker was ready, with weights, after {loaded:.1f} s (not counted)")


def head(what: str) -> None:
    import torch

    from charforge.models.load import compute_dtype
    from charforge.models.process import available_cpus

    kind = str(compute_dtype()).removeprefix("torch.")
    print(f"{NAME}, {kind}, {available_cpus()} cores, torch {torch.__version__}\n{what}\n")


# -- side by side ----------------------------------------------------------------------------------------------------


def base_folder(into: Path) -> Path:
    """Write the embedded weights as a folder, to be the contestant's: two models then run in one worker, as in a build."""
    from charforge.models.export import save_folder
    from charforge.models.load import load_embedded

    save_folder(*load_embedded(NAME), into)
    return into


def side_by_side(options: argparse.Namespace) -> None:
    given = material()
    about = subjects(given, INTERVIEWS)
    with tempfile.TemporaryDirectory() as scratch:
        build = Build(options.weights or base_folder(Path(scratch) / "base"))
        asyncio.run(_side_by_side(options, build, given, about))


async def _side_by_side(
    options: argparse.Namespace, build: Build, given: dict[str, Any], about: Sequence[Any]
) -> None:
    style = options.style
    await build.interview(style, given, multi=about[:1], seed=99)  # loads both models
    together: Measured | None = None
    alone: dict[int, float] = {}
    written = 0
    # One after the other in pieces between the rounds of all together, so that both meet the machine's good and bad minutes.
    for round_ in range(options.rounds):
        measured = await build.interview(style, given, multi=about)
        if together is None or measured[1] < together[1]:
            together = measured
        for n in range(round_, options.alone, options.rounds):
            tokens, seconds = await build.interview(style, given, multi=[about[n]])
            alone[n] = seconds
            written += tokens
    await build.lane.close()
    assert together is not None
    each = sum(alone.values()) / len(alone)
    head(f"{INTERVIEWS} interviews of {TURNS} turns, {TOKENS} new tokens an answer, {style} style")
    tokens, seconds = together
    print(
        f"side by side, best of {options.rounds}: {seconds:.1f} s, {tokens} tokens, {tokens / seconds:.0f} tokens/s"
    )
    print(
        f"one after the other ({len(alone)} of them): {each:.1f} s each, {written / sum(alone.values()):.0f} tokens/s, "
        f"so {each * INTERVIEWS:.0f} s for {INTERVIEWS}"
    )
    print(f"side by side is {each * INTERVIEWS / seconds:.1f} times as fast")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["single", "side-by-side"])
    parser.add_argument(
        "--weights", type=Path, help="a model folder, for the contestant (default: the embedded weights)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", type=int, default=6, help="interviews held one after the other")
    parser.add_argument("--style", choices=["character", "chat"], default="character")
    parser.add_argument("--ours", action="store_true", help="no peers")
    options = parser.parse_args(argv)
    {"single": single, "side-by-side": side_by_side}[options.part](options)


if __name__ == "__main__":
    main(sys.argv[1:])

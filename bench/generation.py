"""How fast is a local model here? `python bench/generation.py [--rows 64] [--tokens 64] [--only ours,prefix]`

The same prompts, the embedded 135M model, one machine, one run: tokens written a second, and how many times that of
transformers answering one prompt at a time. `prefix` gives each row a 400-token prompt that differs in its last words only;
`prompts` gives each row 400 tokens of its own; `schema` constrains each reply to a JSON Schema, once with each of the two
maintained libraries' masks (`llguidance` is what the product uses). Ratios mean something, absolute numbers only with the machine.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from transformers.utils import logging

from charforge.llm.request import Request
from charforge.models import embedded
from charforge.models.generate import Generator
from charforge.models.load import compute_dtype, load_embedded
from charforge.models.process import available_cpus

NAME = "smollm2-135m-instruct"
FILLER = (
    "You have lived in Vienna for many years and know its streets, its theatres and its weather very well. "
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "story": {"type": "string", "minLength": 80, "maxLength": 400},
        "score": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["name", "story", "score"],
    "additionalProperties": False,
}

Measured = tuple[int, float]
"""Tokens written, seconds."""


def question(n: int) -> str:
    return (
        f"Tell me a long story about {('Ludwig', 'Karl', 'Johann', 'Franz')[n % 4]} in the year {1800 + n}."
    )


def requests(
    count: int, tokens: int, before: Callable[[int], str] = lambda _: "", **changes
) -> list[Request]:
    fields = {"model": "m", "max_tokens": tokens, "temperature": 0.8, "top_p": 0.95}
    return [
        Request(**fields | {"messages": (("user", before(n) + question(n)),), "seed": n} | changes)
        for n in range(count)
    ]


def ours(generator: Generator, asked: list[Request]) -> Measured:
    began = time.perf_counter()
    replies = generator.generate(asked)
    return sum(reply.completion_tokens for reply in replies), time.perf_counter() - began


def transformers_generate(model, tokenizer, asked: list[Request], batch: int) -> Measured:
    texts = [
        tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in request.messages],
            add_generation_prompt=True,
            tokenize=False,
        )
        for request in asked
    ]
    tokenizer.padding_side = "left"
    written, began = 0, time.perf_counter()
    for start in range(0, len(texts), batch):
        inputs = tokenizer(texts[start : start + batch], return_tensors="pt", padding=True)
        out = model.generate(
            **inputs, max_new_tokens=asked[0].max_tokens, do_sample=True, temperature=0.8, top_p=0.95, top_k=0
        )
        written += int((out[:, inputs["input_ids"].shape[1] :] != tokenizer.pad_token_id).sum())
    return written, time.perf_counter() - began


def llama_cpp(asked: list[Request], slots: int) -> Measured:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(embedded.locate(NAME))
    params.n_parallel, params.n_ctx, params.n_gpu_layers = slots, slots * 2048, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = available_cpus()
    server = xllamacpp.Server(params)

    def answer(request: Request) -> int:
        reply = server.handle_chat_completions(
            {
                "messages": [{"role": role, "content": content} for role, content in request.messages],
                "max_tokens": request.max_tokens,
                "temperature": 0.8,
                "top_p": 0.95,
                "top_k": 0,
            }
        )
        reply = json.loads(reply) if isinstance(reply, str) else reply
        return reply["usage"]["completion_tokens"]

    answer(asked[0])
    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(slots) as pool:
        written = sum(pool.map(answer, asked))
    return written, time.perf_counter() - began


def mask_seconds(generator: Generator) -> Iterator[tuple[str, float]]:
    """Yield the mean seconds each library takes for the mask of one token of one row, over one valid reply."""
    from llguidance import LLMatcher
    from llguidance.hf import from_tokenizer

    value = {
        "name": "Ludwig van Beethoven",
        "story": "He sat down at the piano and played until morning. " * 3,
        "score": 6,
    }
    ids = generator.tokenizer(json.dumps(value), add_special_tokens=False)["input_ids"]
    matcher = LLMatcher(
        from_tokenizer(generator.tokenizer, n_vocab=generator.vocabulary),
        LLMatcher.grammar_from_json_schema(json.dumps(SCHEMA)),
    )
    began = time.perf_counter()
    for token in ids:
        matcher.compute_bitmask()
        matcher.consume_token(token)
    yield "llguidance", (time.perf_counter() - began) / len(ids)
    if importlib.util.find_spec("xgrammar") is None:
        return
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(generator.tokenizer, vocab_size=generator.vocabulary)
    began = time.perf_counter()
    compiled = xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(SCHEMA))
    yield "xgrammar's compilation, once a schema", time.perf_counter() - began
    mask = xgrammar.allocate_token_bitmask(1, generator.vocabulary)
    follower = xgrammar.GrammarMatcher(compiled)
    began = time.perf_counter()
    for token in ids:
        follower.fill_next_token_bitmask(mask)
        follower.accept_token(token)
    yield "xgrammar", (time.perf_counter() - began) / len(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--only", default="ours,prefix,prompts,schema,batch,single,llamacpp")
    options = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(available_cpus())
    only = options.only.split(",")
    rows, tokens = options.rows, options.tokens
    results: dict[str, Measured] = {}
    generator = Generator(*load_embedded(NAME))
    ours(generator, requests(4, 4))  # first use of everything
    if "ours" in only:
        results[f"CharForge, {rows} rows"] = ours(generator, requests(rows, tokens))
    if "prefix" in only:
        results["CharForge, 400 tokens shared"] = ours(
            generator, requests(rows, tokens, lambda _: FILLER * 18)
        )
    if "prompts" in only:
        results["CharForge, 400 tokens each"] = ours(
            generator, requests(rows, tokens, lambda n: f"Number {n}: " + FILLER * 18)
        )
    if "schema" in only:
        results["CharForge, JSON Schema"] = ours(generator, requests(rows, 2 * tokens, schema=SCHEMA))
        masks = dict(mask_seconds(generator))
    del generator
    model, tokenizer = load_embedded(NAME)
    with torch.inference_mode():
        if "batch" in only:
            results[f"transformers, batch of {rows}"] = transformers_generate(
                model, tokenizer, requests(rows, tokens), rows
            )
        single = "transformers, one by one"
        if "single" in only:
            results[single] = transformers_generate(model, tokenizer, requests(6, tokens), 1)
    del model
    if "llamacpp" in only and importlib.util.find_spec("xllamacpp"):
        results["llama.cpp (xllamacpp), 8 slots"] = llama_cpp(requests(rows, tokens), 8)

    print(
        f"{NAME}, {str(compute_dtype()).removeprefix('torch.')}, {available_cpus()} cores, torch {torch.__version__}\n"
    )
    print(f"{'':36}{'tokens':>8}{'seconds':>9}{'tokens/s':>10}{'ratio':>8}")
    base = results[single][0] / results[single][1] if single in results else None
    for name, (written, seconds) in results.items():
        ratio = f"{written / seconds / base:8.1f}" if base else ""
        print(f"{name:36}{written:8}{seconds:9.1f}{written / seconds:10.0f}{ratio}")
    if "schema" in only:
        print("\nmask of one token of one row:")
        for name, seconds in masks.items():
            print(f"  {name}: {seconds * 1e6:.0f} µs")


if __name__ == "__main__":
    main()

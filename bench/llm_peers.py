"""One client library against an endpoint: `python bench/llm_peers.py NAME --url URL [--calls N] [--concurrency N]`.

For bench/llm.py, which runs each in a process of its own, and curator and distilabel with the interpreter of an environment of their own:
this file imports nothing of CharForge. Prints one JSON line: calls, seconds, and seconds of CPU of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

SAID = "You are asked for one scene of a composer's life, and for nothing else. " * 20
"""1.4 kB: the size of a rendered request."""

Call = Callable[[int], Awaitable[str]]


def messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{SAID}{number}"}]


async def at_once(call: Call, calls: int, concurrency: int) -> dict[str, float]:
    """Make the calls, so many at a time, after a few that do not count."""
    for number in range(-4, 0):
        assert await call(number)
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            assert await call(number)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return {"calls": calls, "wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}


async def with_aiohttp(url: str, calls: int, concurrency: int) -> dict[str, float]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(number: int) -> str:
            asked = {"model": "scripted", "messages": messages(number), "max_tokens": 256, "temperature": 0.7}
            async with session.post(f"{url}/chat/completions", json=asked) as response:
                answer = json.loads(await response.read())
            return answer["choices"][0]["message"]["content"]

        return await at_once(call, calls, concurrency)


async def with_openai(url: str, calls: int, concurrency: int, *, aiohttp: bool) -> dict[str, float]:
    import openai

    more = {"http_client": openai.DefaultAioHttpClient()} if aiohttp else {}
    async with openai.AsyncOpenAI(base_url=url, api_key="none", **more) as client:

        async def call(number: int) -> str:
            answer = await client.chat.completions.create(
                model="scripted", messages=messages(number), max_tokens=256, temperature=0.7
            )
            return answer.choices[0].message.content

        return await at_once(call, calls, concurrency)


async def with_litellm(url: str, calls: int, concurrency: int) -> dict[str, float]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    async def call(number: int) -> str:
        answer = await litellm.acompletion(
            model="openai/scripted",
            messages=messages(number),
            max_tokens=256,
            temperature=0.7,
            api_base=url,
            api_key="none",
        )
        return answer.choices[0].message.content

    return await at_once(call, calls, concurrency)


def with_curator(url: str, calls: int, concurrency: int) -> dict[str, float]:
    os.environ |= {"CURATOR_DISABLE_CACHE": "1", "CURATOR_VIEWER": "0", "TELEMETRY_ENABLED": "false"}
    os.environ |= {"CURATOR_CACHE_DIR": tempfile.mkdtemp(), "OPENAI_API_KEY": "none"}
    os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    # tiktoken would download its table of tokens; litellm, which curator needs, brings it.
    package = Path(importlib.util.find_spec("litellm").origin).parent
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(package / "litellm_core_utils" / "tokenizers"))
    from bespokelabs import curator

    class Asker(curator.LLM):
        def prompt(self, row: dict) -> str:
            return f"{SAID}{row['number']}"

        def parse(self, row: dict, response: str) -> dict:
            return {"number": row["number"], "text": response}

    asker = Asker(
        model_name="scripted",
        backend="openai",
        backend_params={
            "base_url": url,
            "api_key": "none",
            "max_requests_per_minute": 10_000_000,
            "max_tokens_per_minute": 10_000_000_000,
            "max_concurrent_requests": concurrency,
        },
    )
    rows = [{"number": number} for number in range(calls)]
    began, cpu = time.perf_counter(), time.process_time()
    answers = asker(rows)
    found = {"calls": calls, "wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    assert len(getattr(answers, "dataset", answers)) == calls
    return found


def with_distilabel(url: str, calls: int, concurrency: int) -> dict[str, float]:
    from distilabel.models import OpenAILLM

    model = OpenAILLM(model="scripted", base_url=url, api_key="none")
    model.load()
    began, cpu = time.perf_counter(), time.process_time()
    for start in range(0, calls, concurrency):  # as its steps do: a batch at a time
        inputs = [messages(number) for number in range(start, min(start + concurrency, calls))]
        for output in model.generate_outputs(inputs=inputs, max_new_tokens=256, temperature=0.7):
            assert output["generations"][0]
    return {"calls": calls, "wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "name", choices=("aiohttp", "openai", "openai-aiohttp", "litellm", "curator", "distilabel")
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    given = (options.url, options.calls, options.concurrency)
    match options.name:
        case "aiohttp":
            found = asyncio.run(with_aiohttp(*given))
        case "openai":
            found = asyncio.run(with_openai(*given, aiohttp=False))
        case "openai-aiohttp":
            found = asyncio.run(with_openai(*given, aiohttp=True))
        case "litellm":
            found = asyncio.run(with_litellm(*given))
        case "curator":
            found = with_curator(*given)
        case "distilabel":
            found = with_distilabel(*given)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

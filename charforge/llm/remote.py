"""Models served elsewhere, through litellm. The only module that imports it, and late: it takes seconds.

Keys and endpoints are litellm's own environment variables (`OPENAI_API_KEY`, `OPENAI_BASE_URL`, …): no spec can name one.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from typing import Any

from charforge.errors import CharForgeError
from charforge.llm.request import Reply, Request

_TRIES = 4
_TIMEOUT_SECONDS = 600
_SECRET = re.compile(r"(?i)\b(sk|key|bearer|token)[-_ ]?[a-z0-9*_\-]{8,}")

_litellm: Any = None


def _load() -> Any:
    global _litellm
    if _litellm is None:
        # Unset, litellm fetches a price list from the web while it is imported.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        litellm.suppress_debug_info = True
        litellm.telemetry = False
        # Nothing is dropped silently: a provider that cannot take a field says so.
        litellm.drop_params = False
        _litellm = litellm
    return _litellm


async def complete(request: Request) -> Reply:
    """Send a request to the provider its model string names, and return the reply.

    Overload and network failures are tried again, with growing jittered pauses; a wrong key or a bad
    request is not. Raises CharForgeError with what the provider said.
    """
    litellm = await asyncio.to_thread(_load)
    if request.messages is None:
        raise CharForgeError(
            f"{request.model}: a remote model takes messages, not raw text",
            "only local models can speak in the trained text format",
        )
    if request.repetition_penalty is not None:
        raise CharForgeError(f"{request.model}: remote models take no repetition penalty", "leave it unset")
    arguments: dict[str, Any] = {
        "model": request.model,
        "messages": [{"role": role, "content": content} for role, content in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "timeout": _TIMEOUT_SECONDS,
        "num_retries": 0,
    }
    if request.top_p is not None:
        arguments["top_p"] = request.top_p
    if request.stop:
        arguments["stop"] = list(request.stop)
    if request.seed is not None:
        arguments["seed"] = request.seed
    if request.schema is not None:
        arguments["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": request.schema, "strict": True},
        }
    for attempt in range(1, _TRIES + 1):
        try:
            return _reply(request, await litellm.acompletion(**arguments))
        except Exception as error:
            final = _explain(litellm, request.model, error)
            if final is not None:
                raise final from error
            if attempt == _TRIES:
                raise CharForgeError(
                    f"{request.model}: no answer after {_TRIES} tries: {_first_line(error)}",
                    "check the network and the endpoint, then rerun; finished work is kept",
                ) from error
            await _pause(2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
    raise AssertionError


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _reply(request: Request, response: Any) -> Reply:
    try:
        choice = response.choices[0]
        text = choice.message.content
        finish = choice.finish_reason
    except (AttributeError, IndexError, TypeError):
        raise CharForgeError(f"{request.model}: the reply has no message in it") from None
    usage = getattr(response, "usage", None)
    return Reply(
        text=text or "",
        finish_reason={"length": "length", "content_filter": "filtered"}.get(finish, "stop"),
        prompt_tokens=getattr(usage, "prompt_tokens", None),
        completion_tokens=getattr(usage, "completion_tokens", None),
    )


def _explain(litellm: Any, model: str, error: Exception) -> CharForgeError | None:
    """Return the error to give up with, None where trying again can help."""
    if isinstance(error, CharForgeError):
        return error
    provider = model.split("/", 1)[0]
    exceptions = litellm.exceptions
    if isinstance(error, exceptions.AuthenticationError | exceptions.PermissionDeniedError):
        return CharForgeError(
            f"{model}: the provider refused the key, or there is none: {_first_line(error)}",
            f"set {provider.upper().replace('-', '_')}_API_KEY in the environment",
        )
    if isinstance(error, exceptions.NotFoundError):
        return CharForgeError(
            f"{model}: the provider knows no such model: {_first_line(error)}", "check its name"
        )
    if isinstance(error, exceptions.ContentPolicyViolationError):
        return CharForgeError(f"{model}: refused by the provider: {_first_line(error)}")
    if isinstance(error, exceptions.BadRequestError):
        hint = None
        if "provider not provided" in str(error).lower():
            hint = "models are named provider/model, such as openai/gpt-4o-mini or embedded/smollm2-135m-instruct"
            return CharForgeError(f"{model}: no such model, and no provider in its name", hint)
        return CharForgeError(f"{model}: the provider refused the request: {_first_line(error)}")
    if isinstance(
        error,
        exceptions.RateLimitError
        | exceptions.Timeout
        | exceptions.APIConnectionError
        | exceptions.InternalServerError
        | exceptions.ServiceUnavailableError
        | exceptions.APIError,
    ):
        return None
    return CharForgeError(f"{model}: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    """Return what an exception says, on one line, with anything shaped like a key struck out."""
    text = " ".join(str(error).split())
    return _SECRET.sub("[key]", text)[:300]

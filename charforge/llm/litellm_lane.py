"""The litellm lane: one request to any provider that litellm knows. The only module that imports it, and late: it takes seconds.

The same promises as the direct lane's, at litellm's price (some 6 ms a call), but for one: how much of an answer is read
is litellm's affair. Keys and URLs are litellm's own environment variables unless `endpoints.toml` names others.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from charforge.errors import CharForgeError
from charforge.llm import secrets
from charforge.llm.endpoints import Endpoint
from charforge.llm.errors import BadRequest
from charforge.llm.flow import Answer, Failure, FailureKind, Limits
from charforge.llm.request import Request
from charforge.llm.wire import (
    BAD_KEY,
    answer_of,
    bad_request,
    filtered,
    is_busy,
    is_filter,
    is_no_credit,
    limits_of,
    malformed,
    names_schema,
    no_credit,
    retry_after,
    short,
    speaks_of_keys,
    wrong_key,
)

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
        # It logs what providers say, keys and all; what matters of that is in our errors.
        for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        _litellm = litellm
    return _litellm


class LitellmLane:
    """Sends requests through litellm to one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._schemaless: set[str] = set()

    def ready(self) -> None:
        """Whether there is a key, litellm finds out."""

    def body(self, request: Request) -> bytes:
        """Return the request's content, whose length bounds the prompt's tokens."""
        return json.dumps([request.messages, request.schema], ensure_ascii=False).encode()

    async def send(self, request: Request, body: bytes) -> Answer:
        """Send once and return the answer. Raises Failure, or the CharForgeError that ends the call."""
        del body
        litellm = _litellm or await asyncio.to_thread(_load)
        try:
            return self._answer(request, await litellm.acompletion(**self._arguments(request)))
        except (CharForgeError, Failure):
            raise
        except Exception as error:  # noqa: BLE001 - its own, its clients', and anything else: all are told apart below
            if self._adapt(litellm, request, error):
                return await self.send(request, b"")
            return self._refused(litellm, request, error)

    async def close(self) -> None:
        """End the connections that litellm keeps."""
        if _litellm is not None and hasattr(_litellm, "close_litellm_async_clients"):
            await _litellm.close_litellm_async_clients()
            # It would hand the closed ones out again.
            _litellm.in_memory_llm_clients_cache.flush_cache()

    def _arguments(self, request: Request) -> dict[str, Any]:
        endpoint = self._endpoint
        arguments: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": role, "content": content} for role, content in request.messages or ()],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "timeout": endpoint.timeout,
            "num_retries": 0,
            "max_retries": 0,
        }
        if endpoint.api_base is not None:
            arguments["api_base"] = endpoint.api_base
        if endpoint.key is not None:
            arguments["api_key"] = os.environ.get(endpoint.key, "").strip() or None
        if request.top_p is not None:
            arguments["top_p"] = request.top_p
        if request.stop:
            arguments["stop"] = list(request.stop)
        if request.seed is not None:
            arguments["seed"] = request.seed
        if request.schema is not None and self._takes_schema(request.model):
            arguments["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": request.schema, "strict": True},
            }
        return arguments

    def _takes_schema(self, model: str) -> bool:
        if self._endpoint.schema == "auto":
            return model not in self._schemaless
        return self._endpoint.schema

    def _adapt(self, litellm: Any, request: Request, error: Exception) -> bool:
        """Where a refusal names the reply's format, do without it from now on; whether it did."""
        if (
            request.schema is None
            or self._endpoint.schema != "auto"
            or request.model in self._schemaless
            or not isinstance(error, litellm.exceptions.BadRequestError)
            or not names_schema(str(error).lower())
        ):
            return False
        self._schemaless.add(request.model)
        return True

    def _answer(self, request: Request, response: Any) -> Answer:
        hidden = getattr(response, "_hidden_params", None) or {}
        limits = _limits(hidden.get("additional_headers"))
        try:
            choice = response.choices[0]
            content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
            ended = choice.finish_reason
        except (AttributeError, IndexError, TypeError):
            malformed("the answer has no message in it", limits)
        usage = getattr(response, "usage", None)
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        return answer_of(
            request,
            content=content,
            refusal=refusal,
            ended=ended,
            usage={name: getattr(usage, name, None) for name in names},
            limits=limits,
            with_schema=self._takes_schema(request.model),
            keys=secrets.striker(),
        )

    def _refused(self, litellm: Any, request: Request, error: Exception) -> Answer:
        """Return the answer that a refusal by a content filter is; raise what any other exception means."""
        exceptions, endpoint = litellm.exceptions, self._endpoint
        words = short(str(error).partition("Traceback (most recent")[0])
        said = f"{getattr(error, 'code', None)} {str(error)[:4000]}".lower()
        status = getattr(error, "status_code", None)
        if isinstance(error, exceptions.ContentPolicyViolationError):
            return filtered(words, None)
        if is_no_credit(said):
            raise no_credit(endpoint, words) from None
        if (
            isinstance(error, exceptions.AuthenticationError)
            or (isinstance(error, exceptions.PermissionDeniedError) and speaks_of_keys(said))
            or BAD_KEY.search(said)
        ):
            raise wrong_key(request.model, endpoint, words) from None
        if isinstance(error, exceptions.NotFoundError):
            raise bad_request(request, words, 404, "check the model's name") from None
        if isinstance(error, exceptions.BadRequestError | exceptions.PermissionDeniedError):
            if "provider not provided" in said:
                raise BadRequest(
                    f"{request.model}: no such model, and no provider in its name",
                    "models are named provider/model, such as openai/gpt-4o-mini or embedded/smollm2-135m-instruct",
                ) from None
            if is_filter(said):
                return filtered(words, None)
            raise bad_request(request, words, status, None) from None
        kind, billed = _kind(exceptions, error, said)
        if kind is None:
            raise CharForgeError(f"{request.model}: {type(error).__name__}: {words}") from None
        headers = _headers(error)
        limits = _limits(headers) if kind == "overload" else None
        raise Failure(kind, words, retry_after=retry_after(headers), limits=limits, billed=billed) from None


_NO_CONNECTION = {"ConnectError", "ConnectTimeout", "ClientConnectorError", "ClientConnectorDNSError"}


def _kind(exceptions: Any, error: Exception, said: str) -> tuple[FailureKind | None, bool]:
    """Return the kind of failure that an exception is, None where it is none, and whether it may have to be paid for."""
    causes = {type(each).__name__ for each in _causes(error)}
    if causes & _NO_CONNECTION:  # litellm calls it a server's error
        return "network", False
    if "ModuleNotFoundError" in causes:  # a provider whose client is no dependency of ours
        return None, False
    if isinstance(error, exceptions.Timeout):
        return "timeout", True
    if isinstance(error, exceptions.RateLimitError | exceptions.ServiceUnavailableError) or is_busy(said):
        return "overload", False
    if isinstance(error, exceptions.APIResponseValidationError):
        return "malformed", True
    if isinstance(error, exceptions.APIConnectionError) or "APIConnectionError" in causes:
        return "network", True
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and status >= 500:
        return "server", status == 504
    return None, False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, and those that led to it: litellm wraps its clients' several times over."""
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _headers(error: Exception) -> Mapping[str, str]:
    """Return the headers of the answer that an exception is about."""
    for cause in _causes(error):
        for found in (
            getattr(cause, "headers", None),
            getattr(getattr(cause, "response", None), "headers", None),
        ):
            if found:
                return {str(name).lower(): str(value) for name, value in dict(found).items()}
    return {}


def _limits(headers: Mapping[str, Any] | None) -> Limits | None:
    plain = {
        name.lower().removeprefix("llm_provider-"): str(value) for name, value in dict(headers or {}).items()
    }
    return limits_of(plain)

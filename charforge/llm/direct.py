"""The direct lane: one request to an OpenAI-compatible endpoint, over aiohttp, with nothing between.

Sends once and says what became of it: an Answer, a Failure that is worth another attempt, or the error that ends the call. What
comes back is held to sizes, encodings and shapes here, so that no answer can do harm further up. Knows nothing of budgets, of
pauses and of how often to try.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import urllib.request
import zlib
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from charforge import __version__
from charforge.errors import CharForgeError
from charforge.files import MIB
from charforge.llm import secrets
from charforge.llm.endpoints import Endpoint
from charforge.llm.errors import EndpointError, WrongKey
from charforge.llm.flow import Answer, Failure
from charforge.llm.request import Request
from charforge.llm.wire import (
    BAD_KEY,
    Said,
    answer_of,
    bad_request,
    failure_of,
    filtered,
    is_filter,
    is_no_credit,
    limits_of,
    malformed,
    names_schema,
    no_credit,
    said_in,
    short,
    speaks_of_keys,
    wrong_key,
)

_CONNECT_S = 30.0
_IDLE_S = 30.0
"""A connection that nobody used for so long is closed: servers and the boxes between forget them without a word."""

_ERROR_BYTES = 64 * 1024
_BYTES_PER_TOKEN = 64

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class DirectLane:
    """Sends requests to one endpoint. Belongs to the event loop of its first request, until it is closed."""

    def __init__(self, endpoint: Endpoint) -> None:
        assert endpoint.api_base is not None
        self._endpoint = endpoint
        self._url = URL(f"{endpoint.api_base}/chat/completions")
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._striker = secrets.Striker(())
        self._proxy: dict[str, Any] = {}
        # What models were found not to take, for as long as we run.
        self._renamed: set[str] = set()  # max_tokens; they want max_completion_tokens
        self._schemaless: set[str] = set()  # response_format

    def ready(self) -> None:
        """Raise WrongKey where there is no key to send and one is needed."""
        endpoint = self._endpoint
        if endpoint.key_needed and not os.environ.get(endpoint.key or "", "").strip():
            raise WrongKey(
                f"{endpoint.name}: no key: {endpoint.key} is not set",
                f"set {endpoint.key} in the environment; finished work is kept",
            )

    def body(self, request: Request) -> bytes:
        """Return what is sent for a request. Its length bounds the prompt's tokens: a token has at least one byte."""
        model = self._model(request.model)
        data: dict[str, Any] = {
            "model": model,
            "messages": [{"role": role, "content": content} for role, content in request.messages or ()],
            "max_completion_tokens" if model in self._renamed else "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        if request.top_p is not None:
            data["top_p"] = request.top_p
        if request.stop:
            data["stop"] = list(request.stop)
        if request.seed is not None:
            data["random_seed" if self._endpoint.provider == "mistral" else "seed"] = request.seed
        if request.schema is not None and self._takes_schema(model):
            data["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "schema": request.schema, "strict": True},
            }
        return _encode(data).encode()

    async def send(self, request: Request, body: bytes) -> Answer:
        """Send once and return the answer. Raises Failure, or the CharForgeError that ends the call.

        A request that the endpoint would take in another form is sent again in that form.
        """
        cap = MIB + _BYTES_PER_TOKEN * request.max_tokens
        for _ in range(3):
            status, headers, data = await self._post(body, cap)
            if 200 <= status < 300:
                return self._answer(request, headers, data, b'"response_format"' in body)
            said = said_in(data)
            if status not in {400, 422} or not self._adapt(request, body, said.all):
                break
            body = self.body(request)
        return self._refused(request, status, headers, said)

    async def close(self) -> None:
        """End all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # -- the wire

    def _open(self) -> aiohttp.ClientSession:
        """Read the key from the environment and open a session, once for each event loop."""
        endpoint = self._endpoint
        self._loop = asyncio.get_running_loop()
        self._headers = CIMultiDict(
            {
                "Content-Type": "application/json",
                "Accept": "application/json",
                # Answers are short; unpacking would be one more thing that can blow up.
                "Accept-Encoding": "identity",
                "User-Agent": f"charforge/{__version__}",
            }
        )
        key = os.environ.get(endpoint.key or "", "").strip()
        if key:
            if not (key.isascii() and key.isprintable()):
                raise WrongKey(
                    f"{endpoint.name}: the value of {endpoint.key} holds characters that no key has",
                    f"set {endpoint.key} again, on one line",
                )
            self._headers["Authorization"] = f"Bearer {key}"
            secrets.register(key)
        self._striker = secrets.Striker([key])
        self._proxy = _proxy(self._url, self._headers)
        self._session = aiohttp.ClientSession(
            # How many at once is the gate's affair.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=_IDLE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=endpoint.timeout, sock_connect=min(_CONNECT_S, endpoint.timeout)
            ),
            auto_decompress=False,
            trust_env=False,  # it would start a thread for each request
        )
        return self._session

    async def _post(self, body: bytes, cap: int) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and unpacked body. Raises Failure; EndpointError where no attempt can get through."""
        session = self._session
        if session is None or self._loop is not asyncio.get_running_loop():
            session = self._open()
        try:
            async with session.post(
                self._url, data=body, headers=self._headers, allow_redirects=False, **self._proxy
            ) as response:
                status, headers = response.status, response.headers
                good = 200 <= status < 300
                data = await _read(response, cap if good else _ERROR_BYTES, whole=good)
        except aiohttp.ClientConnectorCertificateError as error:  # the next attempt would meet the same one
            raise EndpointError(
                f"{self._endpoint.name}: the server's certificate is not to be trusted: {_plain(error)}",
                "check api_base and the machine's certificates (SSL_CERT_FILE names others)",
            ) from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Failure("network", f"no connection: {_plain(error)}") from None
        except TimeoutError:
            raise Failure("timeout", f"no answer within {self._endpoint.timeout:g} s", billed=True) from None
        except aiohttp.ClientResponseError as error:  # before ClientError: what came is no HTTP
            # The first line only: the next ones show pieces of what came, cut anywhere.
            said = short(error.message.strip().partition("\n")[0].rstrip(":"))
            raise Failure("malformed", f"no HTTP: {said}", billed=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Failure("network", f"the connection broke: {_plain(error)}", billed=True) from None
        return status, headers, data

    # -- what came back

    def _answer(self, request: Request, headers: Mapping[str, str], data: bytes, with_schema: bool) -> Answer:
        """Return the answer in a body of status 200. Raises Failure, also where the body is an error after all."""
        limits = limits_of(headers, self._endpoint.provider)
        try:
            answer = json.loads(data)  # bytes: UTF-8, strictly
        except UnicodeDecodeError:
            malformed("the answer is not UTF-8", limits)
        except RecursionError:
            malformed("the answer is JSON of absurd depth", limits)
        except ValueError:
            malformed(f"the answer is not JSON: {short(data[:2000].decode('utf-8', 'replace'), 80)}", limits)
        if not isinstance(answer, dict):
            malformed("the answer is not an object", limits)
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            if answer.get("error"):
                self._error_in_answer(request, headers, answer["error"])
            malformed("the answer has no choices in it", limits)
        if choice.get("error"):
            self._error_in_answer(request, headers, choice["error"])
        message = choice.get("message")
        if not isinstance(message, dict):
            malformed("the answer has no message in it", limits)
        return answer_of(
            request,
            content=message.get("content"),
            refusal=message.get("refusal"),
            ended=choice.get("finish_reason"),
            usage=answer.get("usage"),
            limits=limits,
            with_schema=with_schema,
            keys=self._striker,
        )

    def _error_in_answer(self, request: Request, headers: Mapping[str, str], error: Any) -> NoReturn:
        """Raise what an error means that came with status 200, as routers and half-done answers have it."""
        said = said_in(json.dumps({"error": error}).encode())
        status = int(said.code) if re.fullmatch(r"[45]\d\d", said.code) else 500
        if status < 500 and status not in {408, 409, 425, 429}:
            raise self._final(request, status, said)
        raise failure_of(status, said, headers, self._endpoint.provider, billed=True)

    def _refused(self, request: Request, status: int, headers: Mapping[str, str], said: Said) -> Answer:
        """Return the answer that a refusal by a content filter is; raise what any other status but 2xx means."""
        if status == 402 or (status == 429 and is_no_credit(said.all)):
            raise no_credit(self._endpoint, said.words)
        if status in {408, 409, 425, 429} or status >= 500:
            raise failure_of(status, said, headers, self._endpoint.provider, billed=status in {504, 524})
        if status in {400, 403, 422, 451} and is_filter(said.all):
            return filtered(said.words, limits_of(headers, self._endpoint.provider))
        raise self._final(request, status, said, headers.get("Location"))

    def _final(
        self, request: Request, status: int, said: Said, location: str | None = None
    ) -> CharForgeError:
        """Return the error that ends a call."""
        if status != 404 and is_no_credit(said.all):
            return no_credit(self._endpoint, said.words)
        if status == 401 or (status == 403 and speaks_of_keys(said.all)) or BAD_KEY.search(said.all):
            return wrong_key(request.model, self._endpoint, said.words)
        words, hint = said.words, None
        if status == 403:
            hint = "the key may not be allowed to use this model"
        elif status in {404, 405}:
            hint = f"check the model's name, and the endpoint's URL: {self._endpoint.api_base}"
        elif 300 <= status < 400:
            words = f"it answers {status} and points to {short(location or 'nothing', 100)}"
            hint = "api_base has to be the URL that is meant in the end: no key is sent after a redirect"
        return bad_request(request, words, status, hint)

    def _adapt(self, request: Request, body: bytes, said: str) -> bool:
        """Where a refusal names something that can be said in another way, do so from now on; whether it did."""
        model = self._model(request.model)
        if "max_completion_tokens" in said and b'"max_tokens":' in body:
            self._renamed.add(model)
            return True
        if b'"response_format":' in body and self._endpoint.schema == "auto" and names_schema(said):
            self._schemaless.add(model)
            return True
        return False

    def _takes_schema(self, model: str) -> bool:
        if self._endpoint.schema == "auto":
            return model not in self._schemaless
        return self._endpoint.schema

    def _model(self, model: str) -> str:
        """Return a model's name as the endpoint knows it."""
        provider = self._endpoint.provider
        name = model.removeprefix(f"{provider}/")
        if provider == "fireworks_ai" and not name.startswith("accounts/") and "#" not in name:
            return f"accounts/fireworks/models/{name}"
        return name


async def _read(response: aiohttp.ClientResponse, cap: int, *, whole: bool) -> bytes:
    """Return a body of at most `cap` bytes, unpacked. Of a longer one the beginning, or Failure where it is wanted `whole`."""
    packed = response.headers.get("Content-Encoding", "identity").strip().lower()
    unpack = None
    if packed in {"gzip", "x-gzip", "deflate"}:
        unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either
    elif packed not in {"identity", ""}:
        malformed(f"the answer is packed with {short(packed, 20)}, which was not asked for")
    if whole and (response.content_length or 0) > cap:
        response.close()
        malformed(f"the answer is longer than {cap:,} bytes")
    content = response.content
    parts: list[bytes] = []
    size = 0
    while chunk := await content.readany():
        if unpack is not None:
            try:
                chunk = unpack.decompress(chunk, cap + 1 - size)
            except zlib.error:
                malformed("the answer's compression is broken")
        size += len(chunk)
        if size > cap:
            response.close()  # whatever else it has to say
            if whole:
                malformed(f"the answer is longer than {cap:,} bytes")
            # The rest of a key that was cut in two would be no key that we know.
            return (b"".join(parts) + chunk)[: cap - 1024]
        parts.append(chunk)
        if unpack is not None and unpack.unconsumed_tail:
            malformed(f"the answer is longer than {cap:,} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _plain(error: Exception) -> str:
    return short(str(error) or type(error).__name__)


def _proxy(url: URL, headers: CIMultiDict[str]) -> dict[str, Any]:
    """Return aiohttp's arguments for the proxy that the environment names for a URL; none for this machine itself."""
    host = url.host or ""
    if host in {"localhost", "127.0.0.1", "::1"} or urllib.request.proxy_bypass(host):
        return {}
    named = urllib.request.getproxies().get(url.scheme)
    if not named:
        return {}
    parts = urlsplit(named if "://" in named else f"http://{named}")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CharForgeError(
            f"the proxy in {url.scheme}_proxy is none that speaks HTTP",
            'lane = "litellm" in endpoints.toml may know it',
        )
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.username is None:
        return {"proxy": URL(address)}
    user, password = unquote(parts.username), unquote(parts.password or "")
    basic = b64encode(f"{user}:{password}".encode()).decode()
    secrets.register(password, basic, parts.password or "")
    if url.scheme == "http":  # no tunnel: the proxy reads the request's own headers
        headers["Proxy-Authorization"] = f"Basic {basic}"
        return {"proxy": URL(address)}
    return {"proxy": URL(address), "proxy_headers": {"Proxy-Authorization": f"Basic {basic}"}}

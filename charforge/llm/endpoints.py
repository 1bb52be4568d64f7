"""Where models are served: what we know of providers, what the environment says, and the user's own `endpoints.toml`.

A spec names a model, and nothing else of this: an `Endpoint` is the user's affair, never part of a digest. Keys are not read
here: an endpoint knows the *name* of the variable that holds one. Knows no transport.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from charforge.errors import CharForgeError, FileProblems, Problem
from charforge.files import MIB, excerpt, read_text
from charforge.llm import secrets
from charforge.llm.money import Price
from charforge.safe_yaml import shown

FILE_VARIABLE = "CHARFORGE_ENDPOINTS"

TIMEOUT_S = 300.0
DEADLINE_S = 900.0
PATIENCE_S = 120.0


class _Provider(NamedTuple):
    """What is known of a provider that speaks OpenAI's protocol. The first variable that is set counts.

    `api_base` None: there is no default. `key_needed`: at `api_base`; a server of one's own may want none.
    """

    api_base: str | None
    keys: tuple[str, ...]
    bases: tuple[str, ...]
    key_needed: bool = True


# Names and variables are litellm's, so that what works there works here.
DIRECT: dict[str, _Provider] = {
    "openai": _Provider(
        "https://api.openai.com/v1", ("OPENAI_API_KEY",), ("OPENAI_BASE_URL", "OPENAI_API_BASE")
    ),
    "hosted_vllm": _Provider(None, ("HOSTED_VLLM_API_KEY",), ("HOSTED_VLLM_API_BASE",), key_needed=False),
    "ollama": _Provider(
        "http://localhost:11434", ("OLLAMA_API_KEY",), ("OLLAMA_API_BASE",), key_needed=False
    ),
    "ollama_chat": _Provider(
        "http://localhost:11434", ("OLLAMA_API_KEY",), ("OLLAMA_API_BASE",), key_needed=False
    ),
    "llamafile": _Provider(
        "http://127.0.0.1:8080/v1", ("LLAMAFILE_API_KEY",), ("LLAMAFILE_API_BASE",), key_needed=False
    ),
    "lm_studio": _Provider(
        "http://localhost:1234/v1", ("LM_STUDIO_API_KEY",), ("LM_STUDIO_API_BASE",), key_needed=False
    ),
    "openrouter": _Provider(
        "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY", "OR_API_KEY"), ("OPENROUTER_API_BASE",)
    ),
    "groq": _Provider("https://api.groq.com/openai/v1", ("GROQ_API_KEY",), ("GROQ_API_BASE",)),
    "mistral": _Provider("https://api.mistral.ai/v1", ("MISTRAL_API_KEY",), ("MISTRAL_API_BASE",)),
    "deepseek": _Provider("https://api.deepseek.com/v1", ("DEEPSEEK_API_KEY",), ("DEEPSEEK_API_BASE",)),
    "together_ai": _Provider(
        "https://api.together.xyz/v1",
        ("TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN"),
        ("TOGETHER_AI_API_BASE",),
    ),
    "fireworks_ai": _Provider(
        "https://api.fireworks.ai/inference/v1",
        ("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY", "FIREWORKSAI_API_KEY", "FIREWORKS_AI_TOKEN"),
        ("FIREWORKS_API_BASE",),
    ),
    "xai": _Provider("https://api.x.ai/v1", ("XAI_API_KEY",), ("XAI_API_BASE",)),
}

# Of those that litellm knows: an api_base of theirs is no OpenAI-compatible server.
_OWN_PROTOCOLS = frozenset(
    [
        "ai21",
        "anthropic",
        "anthropic_text",
        "aws_polly",
        "azure",
        "azure_ai",
        "azure_text",
        "bedrock",
        "bedrock_converse",
        "bedrock_mantle",
        "cloudflare",
        "codestral",
        "cohere",
        "cohere_chat",
        "databricks",
        "gemini",
        "gigachat",
        "huggingface",
        "maritalk",
        "nlp_cloud",
        "oci",
        "oobabooga",
        "petals",
        "predibase",
        "replicate",
        "sagemaker",
        "sagemaker_chat",
        "sap",
        "snowflake",
        "text-completion-codestral",
        "text-completion-openai",
        "triton",
        "vertex_ai",
        "vertex_ai_beta",
        "vllm",
        "watsonx",
        "watsonx_text",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where and how a model is reached.

    `name`: of the provider, or of the table that sets this endpoint apart. `api_base` None: litellm knows. `key`: the name of
    an environment variable, None for none, or where litellm knows. Times in seconds; limits None: found by trying.
    `schema`: whether requests carry their JSON Schema; "auto": until the endpoint says that it takes none.
    """

    name: str
    provider: str
    lane: Literal["direct", "litellm"]
    api_base: str | None = None
    key: str | None = None
    key_needed: bool = False
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None
    timeout: float = TIMEOUT_S
    deadline: float = DEADLINE_S
    patience: float = PATIENCE_S
    price: Price | None = None
    schema: bool | Literal["auto"] = "auto"

    @property
    def place(self) -> tuple[Any, ...]:
        """What two endpoints share if they are one: everything but name, price and schema."""
        return (
            self.lane,
            self.provider if self.api_base is None else None,
            self.api_base,
            self.key,
            self.requests_per_minute,
            self.tokens_per_minute,
            self.concurrency,
            self.timeout,
            self.deadline,
            self.patience,
        )


class Endpoints:
    """The user's tables, and what the environment and we ourselves know beside them."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._tables = dict(tables or {})
        for table in self._tables.values():
            if variable := table.get("key"):
                secrets.register(os.environ.get(variable, ""))

    def of(self, model: str) -> Endpoint:
        """Return where a remote model is served. Raises CharForgeError where that cannot be known."""
        provider = model.split("/", 1)[0] if "/" in model else ""
        name = provider or model
        given: dict[str, Any] = {}
        for prefix in _prefixes(model):
            table = self._tables.get(prefix, {})
            given |= table
            if table.keys() - {"price", "schema"}:
                name = prefix
        known = DIRECT.get(provider)
        ours = known is not None or ("api_base" in given and provider not in _OWN_PROTOCOLS)
        lane = given.pop("lane", "direct" if ours else "litellm")
        key, needed = given.pop("key", None), False
        if lane == "direct":
            given["api_base"], usual = self._api_base(model, given.get("api_base"), known)
            if key is None and known is not None:
                key = next((each for each in known.keys if os.environ.get(each)), known.keys[0])
                needed = usual and known.key_needed
            elif key:
                needed = True
        return Endpoint(name=name, provider=provider, lane=lane, key=key or None, key_needed=needed, **given)

    @staticmethod
    def _api_base(model: str, given: str | None, known: _Provider | None) -> tuple[str, bool]:
        """Return the URL of an endpoint of the direct lane, and whether it is the provider's usual one."""
        if given is not None:
            return _tidy(given, model), False
        for variable in known.bases if known else ():
            if url := os.environ.get(variable, "").strip():
                if fault := url_fault(url):
                    raise CharForgeError(f"{variable}: expected {fault}", _URL_HINT)
                return _tidy(url, model), False
        if known is not None and known.api_base is not None:
            return _tidy(known.api_base, model), True
        raise CharForgeError(
            f"{model}: nothing says where it is served",
            f"set {known.bases[0]} to the server's URL, such as http://localhost:8000/v1"
            if known
            else "give its table in endpoints.toml an api_base, such as http://localhost:8000/v1",
        )


def _prefixes(model: str) -> Iterator[str]:
    """Yield the names of the tables that speak of a model, the most general first."""
    at = model.find("/")
    while at >= 0:
        yield model[:at]
        at = model.find("/", at + 1)
    yield model


def _tidy(url: str, model: str) -> str:
    url = url.rstrip("/").removesuffix("/chat/completions")
    # Ollama's variable names the server; its OpenAI-compatible part lies below /v1.
    if model.startswith(("ollama/", "ollama_chat/")) and not url.endswith("/v1"):
        url += "/v1"
    return url


# --- endpoints.toml ----------------------------------------------------------------------------------------------------

_URL_HINT = "for example http://localhost:8000/v1; a key goes into an environment variable, never into a URL"


def url_fault(url: str) -> str | None:
    """Return what was expected of the URL of an endpoint; None where it is one."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "the URL of a server"
    if parts.scheme not in {"http", "https"} or not parts.hostname or not re.fullmatch(r"[\x21-\x7e]+", url):
        return "a URL that begins with http:// or https://"
    if parts.username is not None or parts.password is not None:
        return "a URL without a user or password in it"
    if parts.query or parts.fragment:
        return "a URL without a query"
    return None


def path() -> Path:
    """Return where the user's file is, or would be."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named)
    from platformdirs import user_config_path

    return user_config_path("charforge", appauthor=False) / "endpoints.toml"


def load() -> Endpoints:
    """Read the user's file, if there is one. Raises FileProblems with everything that is wrong in it."""
    file = path()
    if not os.environ.get(FILE_VARIABLE) and not file.exists():
        return Endpoints()
    name = str(file)
    home = str(Path.home())
    if name.startswith(home + os.sep):
        name = "~" + name.removeprefix(home)
    return Endpoints(parse(read_text(file, name, MIB), name))


def parse(text: str, file: str) -> dict[str, dict[str, Any]]:
    """Return the tables of an `endpoints.toml`, checked. Raises FileProblems. `file` is the name that problems use."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise FileProblems([_syntax(text, file, str(error))]) from None
    lines = _Lines(text, file)
    tables: dict[str, dict[str, Any]] = {}
    for name, table in document.items():
        if not isinstance(table, dict):
            lines.problem(
                (), name, "expected a table of a provider or model", f"write [{_quoted(name)}] above its keys"
            )
            continue
        tables[name] = _table(name, table, lines)
    if lines.problems:
        raise FileProblems(lines.problems)
    return tables


def _table(name: str, table: dict[str, Any], lines: _Lines) -> dict[str, Any]:
    fields = {}
    for key, value in table.items():
        check = _KEYS.get(key)
        if check is None:
            lines.problem((name,), key, "unknown key", _unknown_hint(name, key, value))
            continue
        expected, convert = check
        try:
            fields[key] = convert(value)
        except (TypeError, ValueError) as error:
            hint = str(error) or None
            if key in _NOT_SHOWN:
                lines.problem((name,), key, f"expected {expected}", hint)
            else:
                lines.problem((name,), key, f"expected {expected}, got {secrets.scrub(_shown(value))}", hint)
    return fields


def _unknown_hint(table: str, key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f'a model\'s name is quoted: ["{table}/{key}"]'
    if re.fullmatch(r"(?i)(api_?)?(key|token)s?|.*(api_?key|token|secret|password).*", key):
        return 'name the environment variable that holds it: key = "OPENAI_API_KEY"'
    near = get_close_matches(key[:64], _KEYS, 1)
    return f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(_KEYS)}"


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("write the number without quotes" if isinstance(value, str) else "")
    if not 0 < value < float("inf"):
        raise ValueError
    return float(value)


def _whole(value: Any) -> int:
    if _number(value) != int(value):
        raise ValueError
    return int(value)


def _url(value: Any) -> str:
    if not isinstance(value, str) or (fault := url_fault(value)):
        raise ValueError(_URL_HINT if not isinstance(value, str) else f"it is not {fault}; {_URL_HINT}")
    return value


def _variable(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if value and secrets.looks_like_key(value):
        raise ValueError(
            "put the key itself into the environment, and name the variable here; if that was a key, it is in a file now"
        )
    return value


def _one_of(*values: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not any(value is each or (isinstance(each, str) and value == each) for each in values):
            raise ValueError
        return value

    return convert


def _price(value: Any) -> Price:
    if not isinstance(value, dict) or value.keys() != {"input", "output"}:
        raise TypeError("for example {input = 0.15, output = 0.60}")
    prices = list(value.values())
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in prices):
        raise TypeError("write the numbers without quotes")
    if not all(0 <= each < float("inf") for each in prices):
        raise ValueError
    return Price(float(value["input"]), float(value["output"]))


_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "api_base": ("the server's URL", _url),
    "key": ("the name of an environment variable, such as OPENAI_API_KEY", _variable),
    "requests_per_minute": ("a number above 0", _number),
    "tokens_per_minute": ("a number above 0", _number),
    "concurrency": ("a whole number of at least 1", _whole),
    "timeout": ("seconds, a number above 0", _number),
    "deadline": ("seconds, a number above 0", _number),
    "patience": ("seconds, a number above 0", _number),
    "price": ("{input = …, output = …}, in USD per million tokens", _price),
    "schema": ('true, false or "auto"', _one_of(True, False, "auto")),
    "lane": ('"direct" or "litellm"', _one_of("direct", "litellm")),
}
_NOT_SHOWN = frozenset({"api_base", "key"})


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_shown(each)}" for key, each in list(value.items())[:5]) + "}"
    return shown(value)


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


class _Lines:
    """Gathers problems, and finds their lines: tomllib tells none."""

    def __init__(self, text: str, file: str) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._text = text.split("\n")
        self._at: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        for number, line in enumerate(self._text, 1):
            stripped = line.strip()
            try:
                if stripped.startswith("["):
                    table = _path(tomllib.loads(stripped))
                    self._at.setdefault(table, number)
                elif match := re.match(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""", stripped):
                    self._at.setdefault((*table, match[0].strip("\"'")), number)
            except tomllib.TOMLDecodeError:  # inside of something that goes over lines
                continue

    def problem(self, table: tuple[str, ...], key: str, message: str, hint: str | None) -> None:
        line = self._at.get((*table, key)) or self._at.get(table)
        shown = None
        if line is not None:
            # Whatever stands behind the sign may be a key.
            name, sign, _ = self._text[line - 1].partition("=")
            shown = excerpt(name.rstrip() + (" = […]" if sign else ""))
        where = ".".join(_quoted(each) for each in (*table, key))
        self.problems.append(
            Problem(self._file, line, secrets.scrub(where), message, shown and secrets.scrub(shown), hint)
        )


def _path(document: Mapping[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    while document:
        name, value = next(iter(document.items()))
        found.append(name)
        document = value if isinstance(value, dict) else {}
    return tuple(found)


def _syntax(text: str, file: str, message: str) -> Problem:
    found = re.search(r" \(at line (\d+), column (\d+)\)", message)
    line = int(found[1]) if found else None
    shown, hint = None, "the file is TOML: https://toml.io"
    if line is not None:
        name, sign, _ = text.split("\n")[line - 1].partition("=")
        shown = secrets.scrub(excerpt(name.rstrip() + (" = […]" if sign else "")))
        if re.match(r"\s*\[[^\]\"']*[/:. ]", name):
            hint = 'a name with a "/" in it is quoted: ["openai/gpt-4o-mini"]'
    what = message[: found.start()] if found else message
    return Problem(file, line, None, f"not TOML: {secrets.scrub(what)}", shown, hint)

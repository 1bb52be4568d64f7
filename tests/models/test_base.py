from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from charforge.errors import CharForgeError
from charforge.models.base import write_base


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(base: dict, out: Path) -> dict:
    return write_base({"base": base, "out": str(out)}, lambda _: None)


def test_equal_weights_give_equal_bytes(tiny, tiny_again, tmp_path):
    facts = write({"kind": "folder", "path": str(tiny)}, tmp_path / "a")
    write({"kind": "folder", "path": str(tiny_again)}, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tiny)
    assert facts == {"parameters": 31392, "vocabulary": 400, "context": 512, "model_type": "llama"}


def test_a_base_carries_weights_tokenizer_and_chat_template(tiny, tmp_path):
    write({"kind": "folder", "path": str(tiny)}, tmp_path / "a")
    assert set(files(tmp_path / "a")) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    text = b"".join(data for name, data in files(tmp_path / "a").items() if name.endswith(".json"))
    assert b"transformers_version" not in text
    assert str(tmp_path).encode() not in text
    assert json.loads(files(tmp_path / "a")["config.json"])["dtype"] == "bfloat16"


def test_a_hub_model_is_taken_at_its_revision_as_safetensors_only(tiny, tmp_path, monkeypatch):
    asked = {}

    def snapshot(repo, **options):
        asked.update(options, repo=repo)
        return str(shutil.copytree(tiny, tmp_path / "snapshot"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    write({"kind": "hub", "repo": "someone/model", "revision": "abc"}, tmp_path / "a")
    assert (asked["repo"], asked["revision"]) == ("someone/model", "abc")
    assert not [
        pattern for pattern in asked["allow_patterns"] if pattern.endswith((".bin", ".pt", ".py", "*"))
    ]
    assert files(tmp_path / "a") == files(tiny)


class Response:
    def __init__(self) -> None:
        self.headers, self.request, self.status_code = {}, None, 404


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            LocalEntryNotFoundError("offline"),
            """error: someone/model@abc could not be downloaded from the Hugging Face hub and is not in its local cache
hint: check the network, or train on embedded/smollm2-135m-instruct""",
        ),
        (
            RepositoryNotFoundError("404", response=Response()),
            """error: there is no model someone/model@abc on the Hugging Face hub
hint: without a network there is embedded/smollm2-135m-instruct""",
        ),
        (
            RevisionNotFoundError("404", response=Response()),
            "error: someone/model has no revision 'abc' on the Hugging Face hub",
        ),
    ],
)
def test_a_model_that_cannot_be_had_says_why(failure, expected, tmp_path, monkeypatch):
    def snapshot(*_args, **_options):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(CharForgeError) as caught:
        write({"kind": "hub", "repo": "someone/model", "revision": "abc"}, tmp_path / "a")
    assert caught.value.render() == expected

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from charforge.errors import CharForgeError
from charforge.models import delta
from charforge.models.base import write_base
from charforge.models.export import save_folder
from charforge.models.load import load_folder
from charforge.models.vocabulary import add_end_of_turn

COMMIT, NEWER = "a" * 40, "b" * 40


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(base: dict, out: Path) -> dict:
    return write_base({"base": base, "out": str(out)}, lambda _: None)


def hub_model(revision: str | None = None, repo: str = "someone/model") -> dict:
    return {"kind": "hub", "repo": repo, "revision": revision}


@dataclass
class Hub:
    """The part of the hub's protocol that a download speaks, on loopback: its real client talks to it."""

    repos: dict[str, dict[str, Path]] = field(default_factory=dict)
    """Repository → commit → folder."""
    refs: dict[tuple[str, str], str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    """Files whose bytes were sent."""
    down: bool = False

    def add(self, folder: Path, commit: str = COMMIT, repo: str = "someone/model", ref: str = "main") -> None:
        self.repos.setdefault(repo, {})[commit] = folder
        self.refs[repo, ref] = commit

    def answer(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.down:
            return 503, {}, b""
        parts = unquote(urlparse(path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo, what, revision, *rest = (
            ["/".join(parts[2:4]), *parts[4:]] if api else ["/".join(parts[:2]), *parts[2:]]
        )
        if repo not in self.repos:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit = self.refs.get((repo, revision), revision)
        if commit not in self.repos[repo]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        folder = self.repos[repo][commit]
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {str(path.relative_to(folder)): path for path in found}
        if what == "revision":
            siblings = [{"rfilename": name} for name in names]
            return 200, {}, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode()
        if what == "tree":
            entries = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _oid(path)}
                for name, path in names.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()
        if repo in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        name = "/".join(rest)
        if name not in names:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if method == "GET":
            self.sent.append(name)
        return 200, {"ETag": f'"{_oid(names[name])}"', "X-Repo-Commit": commit}, names[name].read_bytes()


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.command, self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_args) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    _offline(monkeypatch, yes=False)
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()
    huggingface_hub.close_session()


def _offline(monkeypatch, *, yes: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", yes)
    huggingface_hub.close_session()  # a session remembers whether it may go out


def refused(base: dict, out: Path) -> str:
    with pytest.raises(CharForgeError) as caught:
        write(base, out)
    assert not out.exists()
    return caught.value.render()


def changed(folder: Path, out: Path, change: Callable[[dict], dict], name: str = "config.json") -> Path:
    shutil.copytree(folder, out)
    (out / name).write_text(json.dumps(change(json.loads((out / name).read_text()))))
    return out


# -- what a base is


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


def test_a_folder_in_another_precision_becomes_bfloat16(tiny, tmp_path):
    model, tokenizer = load_folder(tiny, torch.float32)
    model.save_pretrained(str(tmp_path / "whole"))
    tokenizer.save_pretrained(str(tmp_path / "whole"))
    write({"kind": "folder", "path": str(tmp_path / "whole")}, tmp_path / "a")
    assert files(tmp_path / "a")["model.safetensors"] == files(tiny)["model.safetensors"]


def test_a_folder_that_is_no_model_is_named(tiny, tmp_path):
    assert refused({"kind": "folder", "path": str(tmp_path / "no")}, tmp_path / "a") == (
        f"error: there is no folder {tmp_path / 'no'}"
    )
    (tmp_path / "empty").mkdir()
    assert refused({"kind": "folder", "path": str(tmp_path / "empty")}, tmp_path / "a") == (
        f"error: {tmp_path / 'empty'} is not a model folder: it has no config.json"
    )


def test_a_tokenizer_without_an_end_is_refused(tiny, tmp_path):
    def endless(config):
        return {key: value for key, value in config.items() if key != "eos_token"}

    folder = changed(tiny, tmp_path / "endless", endless, "tokenizer_config.json")
    assert refused({"kind": "folder", "path": str(folder)}, tmp_path / "a") == (
        f"error: the tokenizer of {folder} has no end token\n"
        "hint: the end of a turn begins as a copy of it: choose a base model that has one"
    )


# -- the hub


def test_a_branch_is_resolved_to_its_commit(hub, tiny, tmp_path):
    hub.add(tiny)
    facts = write(hub_model(), tmp_path / "a")
    assert facts["commit"] == COMMIT
    assert files(tmp_path / "a") == files(tiny)
    hub.add(tiny, NEWER, ref="v2")
    assert write(hub_model("v2"), tmp_path / "b")["commit"] == NEWER


def test_a_branch_that_moved_is_seen(hub, tiny, tmp_path):
    hub.add(tiny)
    assert write(hub_model("main"), tmp_path / "a")["commit"] == COMMIT
    hub.add(tiny, NEWER)
    assert write(hub_model("main"), tmp_path / "b")["commit"] == NEWER
    assert write(hub_model(COMMIT), tmp_path / "c")["commit"] == COMMIT


def test_only_what_counts_is_downloaded(hub, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "repo")
    for name in (
        "pytorch_model.bin",
        "evil.py",
        "consolidated.safetensors",
        "onnx/model.safetensors",
        "README.md",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no")
    hub.add(folder)
    write(hub_model(), tmp_path / "a")
    assert set(hub.sent) == set(files(tiny))


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
@pytest.mark.parametrize("cause", ["offline", "down", "gone"])
def test_without_the_hub_the_cache_serves(hub, tiny, tmp_path, monkeypatch, revision, cause):
    hub.add(tiny)
    write(hub_model(), tmp_path / "a")
    shutil.rmtree(tmp_path / "cache" / "models--someone--model" / "trees", ignore_errors=True)
    if cause == "offline":
        _offline(monkeypatch, yes=True)
    elif cause == "down":
        hub.down = True
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    hub.sent.clear()
    assert write(hub_model(revision), tmp_path / "b")["commit"] == COMMIT
    assert files(tmp_path / "b") == files(tiny)
    assert hub.sent == []


UNREACHABLE = (
    "error: {name} could not be downloaded from the Hugging Face hub and is not in its local cache\n"
    "hint: check the network, or train on embedded/smollm2-135m-instruct"
)


@pytest.mark.parametrize("cause", ["offline", "down", "gone"])
@pytest.mark.parametrize("revision", [None, COMMIT])
def test_what_cannot_be_had_says_so(hub, tiny, tmp_path, monkeypatch, cause, revision):
    hub.add(tiny)
    if cause == "offline":
        _offline(monkeypatch, yes=True)
    elif cause == "down":
        hub.down = True
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    name = f"someone/model@{revision}" if revision else "someone/model"
    assert refused(hub_model(revision), tmp_path / "a") == UNREACHABLE.format(name=name)


@pytest.mark.parametrize("repo", ["someone/nothing", "no name!"])
def test_a_model_that_is_not_there_says_so(hub, tmp_path, repo):
    assert refused(hub_model(repo=repo), tmp_path / "a") == (
        f"error: there is no model {repo} on the Hugging Face hub\n"
        "hint: without a network there is embedded/smollm2-135m-instruct"
    )


def test_a_revision_that_is_not_there_says_so(hub, tiny, tmp_path):
    hub.add(tiny)
    assert refused(hub_model("v9"), tmp_path / "a") == (
        "error: someone/model has no revision 'v9' on the Hugging Face hub"
    )
    assert refused(hub_model(NEWER), tmp_path / "a") == (
        f"error: someone/model has no revision '{NEWER}' on the Hugging Face hub"
    )


def test_a_gated_model_says_what_to_do(hub, tiny, tmp_path):
    hub.add(tiny)
    hub.gated.add("someone/model")
    assert refused(hub_model(), tmp_path / "a") == (
        "error: someone/model is gated\nhint: accept its licence on its page and set HF_TOKEN"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            (
                "error: someone/model is not a causal language model but BertForMaskedLM\n"
                "hint: choose a base model that continues text, such as one of type llama or qwen2"
            ),
        ),
        (
            {"model_type": "stranger", "auto_map": {"AutoModelForCausalLM": "evil.Model"}},
            (
                "error: someone/model needs code of its own, which is not run\n"
                "hint: choose a base model of a type that transformers has, such as llama or qwen2"
            ),
        ),
    ],
)
def test_what_is_no_base_model_is_named_as_the_spec_names_it(hub, tiny, tmp_path, change, expected):
    hub.add(changed(tiny, tmp_path / "repo", lambda config: config | change))
    assert refused(hub_model(), tmp_path / "a") == expected


def test_pickled_weights_are_not_taken_from_the_hub(hub, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "repo")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.add(folder)
    assert refused(hub_model(), tmp_path / "a") == (
        "error: someone/model has no safetensors weights\n"
        "hint: other weight formats can run code when loaded and are not read"
    )
    assert "pytorch_model.bin" not in hub.sent


# -- weight differences


def learned(base: Path, folder: Path) -> Path:
    model, tokenizer = load_folder(base, torch.float32)
    add_end_of_turn(model, tokenizer)
    torch.manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    save_folder(model, tokenizer, folder)
    return folder


def test_a_weight_difference_between_repositories_is_recovered(hub, tiny, tmp_path):
    """As the paper's models were released: pickled tensors, to be added to another repository's."""
    target = learned(tiny, tmp_path / "target")
    delta.make(target, tiny, tmp_path / "delta", lambda _: None)
    weights = tmp_path / "delta" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "delta" / "pytorch_model.bin")
    weights.unlink()
    hub.add(tmp_path / "delta", COMMIT, repo="someone/beethoven-wdiff")
    hub.add(tiny, NEWER, repo="someone/base")
    facts = write(
        {
            "kind": "delta",
            "delta": hub_model(repo="someone/beethoven-wdiff"),
            "onto": hub_model(repo="someone/base"),
        },
        tmp_path / "a",
    )
    assert facts["commit"] == {"delta": COMMIT, "onto": NEWER}
    assert facts["vocabulary"] == 401
    assert set(files(tmp_path / "a")) == set(files(target))
    for name, tensor in load_file(tmp_path / "a" / "model.safetensors").items():
        assert tensor.dtype == torch.bfloat16
        assert torch.allclose(
            tensor.float(), load_file(target / "model.safetensors")[name].float(), atol=1e-3
        )


def test_a_weight_difference_in_folders_gives_equal_bytes_each_time(tiny, tmp_path):
    delta.make(learned(tiny, tmp_path / "target"), tiny, tmp_path / "delta", lambda _: None)
    base = {
        "kind": "delta",
        "delta": {"kind": "folder", "path": str(tmp_path / "delta")},
        "onto": {"kind": "folder", "path": str(tiny)},
    }
    assert "commit" not in write(base, tmp_path / "a")
    write(base, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_weight_difference_that_is_not_there_is_named(hub, tiny, tmp_path):
    base = {
        "kind": "delta",
        "delta": hub_model(repo="fnlp/nobody"),
        "onto": {"kind": "folder", "path": str(tiny)},
    }
    assert refused(base, tmp_path / "a").startswith(
        "error: there is no model fnlp/nobody on the Hugging Face hub"
    )

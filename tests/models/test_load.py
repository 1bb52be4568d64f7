from __future__ import annotations

import json
import shutil

import pytest
import torch

from charforge.errors import CharForgeError
from charforge.models import load as module
from charforge.models.load import compute_dtype, load, load_folder


def test_a_folder_loads_in_the_type_asked_for(tiny):
    model, tokenizer = load({"kind": "folder", "path": str(tiny)}, torch.float32)
    assert model.dtype == torch.float32
    assert not model.training
    assert tokenizer.chat_template


def test_the_type_is_bfloat16_only_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False
    )
    assert compute_dtype() == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert compute_dtype() == torch.bfloat16


def test_the_type_is_found_without_torch_telling(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(module, "_proc_flags", lambda: {"amx_bf16": True})
    assert compute_dtype() == torch.bfloat16


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CharForgeError) as caught:
        load_folder(tmp_path)
    assert caught.value.message == f"{tmp_path} is not a model folder: it has no config.json"


def test_weights_that_can_run_code_are_refused(tiny, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CharForgeError) as caught:
        load_folder(folder)
    assert caught.value.message == f"{folder} has no safetensors weights"
    assert caught.value.hint == "other weight formats can run code when loaded and are not read"


def test_code_that_comes_with_weights_is_never_run(tiny, tmp_path):
    folder = tmp_path / "stranger"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "stranger",
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(CharForgeError, match="could not be loaded"):
        load_folder(folder)
    assert not (tmp_path / "ran").exists()

from __future__ import annotations

import json
import shutil

import pytest
import torch

from charforge.errors import CharForgeError
from charforge.models import load as module
from charforge.models.adapter import load_adapter, save_adapter, wrap
from charforge.models.load import compute_dtype, load, load_folder
from charforge.models.vocabulary import add_end_of_turn


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


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CharForgeError) as caught:
        load_folder(tmp_path / "nowhere")
    assert caught.value.message == f"there is no folder {tmp_path / 'nowhere'}"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            "is not a causal language model but BertForMaskedLM",
        ),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
            "is not a causal language model but T5ForConditionalGeneration",
        ),
        ({"model_type": "vit", "architectures": None}, "is not a causal language model but vit"),
        ({"model_type": "strange"}, "is of type 'strange', which transformers does not know"),
    ],
)
def test_a_model_that_continues_no_text_is_refused(tiny, tmp_path, changes, complaint):
    folder = shutil.copytree(tiny, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CharForgeError) as caught:
        load_folder(folder)
    assert caught.value.message == f"{folder} {complaint}"


def test_weights_cut_off_are_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CharForgeError, match="could not be loaded: "):
        load_folder(folder)


def test_a_folder_without_a_tokenizer_is_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "dumb")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CharForgeError) as caught:
        load_folder(folder)
    assert caught.value.message.startswith(f"{folder} has no tokenizer that can be read: ")


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
    with pytest.raises(CharForgeError) as caught:
        load_folder(folder)
    assert caught.value.message == f"{folder} needs code of its own, which is not run"
    assert not (tmp_path / "ran").exists()


def adapter(base, folder) -> None:
    """Write an adapter that changes what the base model says."""
    model, tokenizer = load_folder(base, torch.float32)
    add_end_of_turn(model, tokenizer)
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": ["q_proj", "up_proj"]}
    model = wrap(model, tokenizer, lora)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    save_adapter(model, tokenizer, folder, "tiny")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25)])
def test_an_adapter_answers_merged_as_it_was_trained(tiny, tmp_path, dtype, tolerance):
    adapter(tiny, tmp_path / "a")
    kept, tokenizer = load_adapter(tiny, tmp_path / "a", dtype)
    model, its = load({"kind": "adapter", "path": str(tmp_path / "a"), "base": str(tiny)}, dtype)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not model.training
    ids = torch.tensor([tokenizer("Beethoven (speaking): Good evening.<|eot|>")["input_ids"]])
    with torch.inference_mode():
        expected, merged = kept(ids).logits.float(), model(ids).logits.float()
        base, _ = load_folder(tiny, dtype)
        assert (expected[..., :400] - base(ids[:, :-1]).logits.float()[:, :1]).abs().max() > 1
    assert (merged - expected).abs().max() < tolerance
    assert its.convert_tokens_to_ids("<|eot|>") in model.generation_config.eos_token_id

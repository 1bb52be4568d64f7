from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from charforge.dialogue import EOT
from charforge.errors import CharForgeError
from charforge.models import adapter as module
from charforge.models import passes, rows
from charforge.models.adapter import (
    CONFIG,
    WEIGHTS,
    load_adapter,
    load_in_four_bits,
    merge,
    save_adapter,
    target_modules,
    wrap,
)
from charforge.models.export import save_folder
from charforge.models.load import load_folder
from charforge.models.vocabulary import add_end_of_turn

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear", "merge": False}
LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15}
"""How far the logits of a merged model may be from the adapter's: these have a standard deviation of 1.1, and bfloat16 keeps 8 bits.
Seen: 6e-6 and 0.08."""


@pytest.fixture(scope="session")
def untied(tiny, tmp_path_factory) -> Path:
    """The tiny model with an output matrix of its own."""
    model, tokenizer = load_folder(tiny, torch.float32)
    model.config.tie_word_embeddings = False
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(0.2 * torch.randn_like(model.lm_head.weight))
    folder = tmp_path_factory.mktemp("untied")
    save_folder(model, tokenizer, folder)
    return folder


def wrapped(base: Path, dtype=torch.float32, **lora):
    model, tokenizer = load_folder(base, dtype)
    add_end_of_turn(model, tokenizer)
    torch.manual_seed(3)
    return wrap(model, tokenizer, LORA | lora), tokenizer


def trained(base: Path, dtype=torch.float32, steps: int = 3, **lora):
    """A few steps large enough that every trained tensor moves."""
    model, tokenizer = wrapped(base, dtype, **lora)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=2e-2)
    batch = ids(tokenizer)
    for _ in range(steps):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval(), tokenizer


def ids(tokenizer) -> torch.Tensor:
    text = f"Location: Vienna\n\nBeethoven (speaking): I do not play.{EOT}\nMan (speaking): Why not?{EOT}\n"
    return torch.tensor([tokenizer(text)["input_ids"]])


def logits(model, tokenizer) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids(tokenizer)).logits.float()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- what is trained


@pytest.mark.parametrize(("base", "rows"), [("tiny", 1), ("untied", 2)])
def test_only_the_matrices_and_the_row_of_the_end_of_turn_are_trained(base, rows, request):
    model, _ = wrapped(request.getfixturevalue(base))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    matrices = [name for name in names if ".lora_A." in name or ".lora_B." in name]
    others = [name for name in names if name not in matrices]
    assert len(matrices) == 2 * 2 * len(LINEAR)
    assert len(others) == rows
    assert all("trainable_tokens_delta" in name for name in others)
    assert {model.get_parameter(name).shape for name in others} == {(1, 32)}


@pytest.mark.parametrize("base", ["tiny", "untied"])
def test_training_moves_every_trained_tensor_and_nothing_else(base, request):
    before = {
        name: tensor.clone()
        for name, tensor in wrapped(request.getfixturevalue(base))[0].state_dict().items()
    }
    model, _ = trained(request.getfixturevalue(base))
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == learned | {
        name for name in moved if "lm_head" in name and "trainable_tokens_delta" in name
    }
    assert learned <= moved


def test_a_new_adapter_answers_as_its_base(tiny):
    base, tokenizer = load_folder(tiny, torch.float32)
    add_end_of_turn(base, tokenizer)
    model, _ = wrapped(tiny)
    assert torch.equal(logits(model, tokenizer), logits(base, tokenizer))


@pytest.mark.parametrize("base", ["tiny", "untied"])
def test_the_quick_row_computes_what_peft_computes(base, request):
    folder = request.getfixturevalue(base)
    model, tokenizer = trained(folder)

    def gradients():
        model.zero_grad()
        batch = ids(tokenizer)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    loss, quick = gradients()
    rows = [m for m in model.modules() if type(m) is module._QuickRow]
    assert rows
    for row in rows:
        row.__class__ = module.TrainableTokensLayer
    plain_loss, plain = gradients()
    assert torch.allclose(loss, plain_loss, rtol=1e-6)
    assert quick.keys() == plain.keys()
    for name, gradient in quick.items():
        assert torch.allclose(gradient, plain[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("base", ["tiny", "untied"])
def test_packed_rows_train_an_adapter_as_its_model_alone_would(base, request):
    """The trainer's way (packed, logits at trained places only) against transformers' own loss of each sequence."""
    model, tokenizer = trained(request.getfixturevalue(base))
    model.train()
    texts = [f"Beethoven (speaking): Good evening.{EOT}\n", f"Man (speaking): Will you play for us?{EOT}\n"]
    sequences = [tokenizer(text)["input_ids"] for text in texts]
    places, start = [], 0
    for sequence in sequences:
        places += range(start + 1, start + len(sequence))
        start += len(sequence)
    row = rows.Row(
        tuple(i for sequence in sequences for i in sequence),
        tuple(map(len, sequences)),
        tuple(places),
        (0, 1),
    )

    def gradients() -> dict[str, torch.Tensor]:
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
        assert {n for n, p in model.named_parameters() if p.grad is not None} == found.keys()
        model.zero_grad()
        return found

    model.zero_grad()
    alone = 0.0
    for sequence in sequences:
        batch = torch.tensor([sequence])
        loss = model(input_ids=batch, labels=batch).loss * (len(sequence) - 1) / len(places)
        loss.backward()
        alone += float(loss.detach())
    expected = gradients()
    passes.prepare(model)
    for recompute in (False, True):
        loss = passes.backward(model, row, len(places), recompute=recompute)
        assert float(loss) == pytest.approx(alone, rel=1e-5)
        for name, gradient in gradients().items():
            assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=1e-6), name


def test_an_adapter_is_of_the_models_type(tiny):
    model, _ = wrapped(tiny, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_equal_seeds_make_equal_adapters(tiny):
    one, two = wrapped(tiny)[0].state_dict(), wrapped(tiny)[0].state_dict()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_chosen_modules_only_are_adapted(tiny):
    model, _ = wrapped(tiny, target_modules=["v_proj", "q_proj"])
    names = {name for name, _ in model.named_parameters() if ".lora_A." in name}
    assert {name.split(".lora_A.")[0].rsplit(".", 1)[-1] for name in names} == {"q_proj", "v_proj"}


def test_target_modules_are_the_linear_layers_but_the_output_matrix(tiny):
    assert target_modules(load_folder(tiny)[0]) == LINEAR


@pytest.mark.parametrize("name", ["query", "lm_head", "proj"])
def test_an_unknown_target_module_is_named_with_those_that_exist(name, tiny):
    with pytest.raises(CharForgeError) as caught:
        wrapped(tiny, target_modules=["q_proj", name])
    assert caught.value.render() == (
        f"error: train.lora.target_modules: the base model has no linear layer {name!r}\n"
        "hint: it has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj; all-linear takes them all"
    )


def test_layers_of_gpt2_are_adapted_and_merged(tiny, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    )
    save_folder(GPT2LMHeadModel(config), load_folder(tiny)[1], tmp_path / "gpt2")
    model, tokenizer = trained(tmp_path / "gpt2", target_modules=["c_attn", "c_proj"])
    assert target_modules(load_folder(tmp_path / "gpt2")[0]) == ["c_attn", "c_fc", "c_proj"]
    save_adapter(model, tokenizer, tmp_path / "a", "gpt2")
    again, _ = load_adapter(tmp_path / "gpt2", tmp_path / "a", torch.float32)
    expected = logits(model, tokenizer)
    assert torch.equal(logits(again, tokenizer), expected)
    assert torch.allclose(logits(merge(again), tokenizer), expected, atol=1e-4)


# -- on disk


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base", ["tiny", "untied"])
def test_a_saved_adapter_is_the_trained_model_again(base, dtype, request, tmp_path):
    folder = request.getfixturevalue(base)
    model, tokenizer = trained(folder, dtype)
    save_adapter(model, tokenizer, tmp_path / "a", "./tiny")
    again, its_tokenizer = load_adapter(folder, tmp_path / "a", dtype)
    assert torch.equal(logits(again, its_tokenizer), logits(model, tokenizer))
    assert its_tokenizer.convert_tokens_to_ids(EOT) == tokenizer.convert_tokens_to_ids(EOT)
    assert its_tokenizer.convert_tokens_to_ids(EOT) in again.generation_config.eos_token_id


def test_equal_adapters_have_equal_bytes_that_name_no_path_and_no_version(tiny, tiny_again, tmp_path):
    for name, base in [("a", tiny), ("b", tiny_again)]:
        save_adapter(*trained(base), tmp_path / name, "embedded/tiny")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {
        CONFIG,
        WEIGHTS,
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    text = b"".join(data for name, data in contents(tmp_path / "a").items() if name != WEIGHTS)
    assert str(tiny).encode() not in text
    assert b"version" not in text.replace(b'"version": "1.0"', b"")
    config = json.loads(contents(tmp_path / "a")[CONFIG])
    assert config["base_model_name_or_path"] == "embedded/tiny"
    assert config["target_modules"] == LINEAR
    assert (config["r"], config["lora_alpha"]) == (4, 8)


def test_an_adapter_file_holds_the_matrices_and_the_row_only(tiny, tmp_path):
    save_adapter(*trained(tiny), tmp_path / "a", "x")
    names = load_file(tmp_path / "a" / WEIGHTS)
    assert len(names) == 2 * 2 * len(LINEAR) + 1
    assert sum(tensor.numel() for tensor in names.values()) < 20_000


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_alone_reads_an_adapter_on_a_base_grown_to_the_tokenizer(tiny, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = trained(tiny)
    save_adapter(model, tokenizer, tmp_path / "a", str(tiny))
    plain = AutoModelForCausalLM.from_pretrained(str(tiny), dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(str(tmp_path / "a"))
    plain.resize_token_embeddings(len(theirs), mean_resizing=False)
    peft = PeftModel.from_pretrained(plain, str(tmp_path / "a")).eval()
    ours = logits(model, tokenizer)[..., : len(tokenizer)]
    assert torch.allclose(logits(peft, theirs)[..., : len(tokenizer)], ours, atol=1e-5)


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_folder_that_is_no_adapter_is_refused(missing, tiny, tmp_path):
    save_adapter(*wrapped(tiny), tmp_path / "a", "x")
    (tmp_path / "a" / missing).unlink()
    with pytest.raises(CharForgeError) as caught:
        load_adapter(tiny, tmp_path / "a")
    assert caught.value.message == f"{tmp_path / 'a'} is not an adapter folder: it has no {missing}"


def test_an_adapter_on_another_base_is_refused(tiny, tmp_path):
    save_adapter(*wrapped(tiny), tmp_path / "a", "x")
    config = json.loads((tiny / "config.json").read_text()) | {"intermediate_size": 48}
    other = shutil.copytree(tiny, tmp_path / "other")
    from transformers import LlamaConfig, LlamaForCausalLM

    save_folder(LlamaForCausalLM(LlamaConfig(**config)), load_folder(tiny)[1], other)
    with pytest.raises(CharForgeError, match="does not fit its base model"):
        load_adapter(other, tmp_path / "a")


# -- merged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base", ["tiny", "untied"])
def test_a_merged_model_answers_as_its_adapter(base, dtype, request, tmp_path):
    folder = request.getfixturevalue(base)
    model, tokenizer = trained(folder, dtype)
    expected = logits(model, tokenizer)
    plain = merge(model)
    assert type(plain).__name__ == "LlamaForCausalLM"
    assert not [name for name, _ in plain.named_modules() if "lora" in name or "adapter" in name]
    assert {parameter.dtype for parameter in plain.parameters()} == {dtype}
    difference = (logits(plain, tokenizer) - expected).abs().max()
    assert difference < TOLERANCE[dtype]
    save_folder(plain, tokenizer, tmp_path / "merged")
    again, _ = load_folder(tmp_path / "merged", dtype)
    assert torch.equal(logits(again, tokenizer), logits(plain, tokenizer)) or dtype == torch.float32
    tied = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    assert tied == (base == "tiny")
    assert plain.config.tie_word_embeddings == (base == "tiny")


def test_a_merged_weight_is_rounded_once(tiny):
    model, _ = trained(tiny, torch.bfloat16)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = (layer.base_layer.weight.float() + 2.0 * (b.float() @ a.float())).to(torch.bfloat16)
    assert torch.equal(merge(model).model.layers[0].mlp.up_proj.weight, expected)


# -- four bits


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_qlora_without_a_device_says_so_and_names_lora(tiny):
    with pytest.raises(CharForgeError) as caught:
        load_in_four_bits(tiny)
    assert caught.value.render() == (
        "error: train.method: qlora keeps the base model in 4 bits on a CUDA device, and there is none here\n"
        "hint: use lora, which runs everywhere"
    )


def test_qlora_without_bitsandbytes_says_how_to_get_it(tiny, monkeypatch):
    import sys

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(CharForgeError) as caught:
        load_in_four_bits(tiny)
    assert caught.value.render() == (
        "error: train.method: qlora needs bitsandbytes, which is not installed\n"
        "hint: pip install 'charforge[qlora]', or use lora"
    )


def test_qlora_trains_saves_and_merges_into_the_whole_base(tiny, tmp_path):
    """On bitsandbytes' kernels for the processor: the same code, another device."""
    pytest.importorskip("bitsandbytes")
    model, tokenizer = module._quantised(tiny, {"": "cpu"})
    add_end_of_turn(model, tokenizer)
    model = wrap(model, tokenizer, LORA, quantised=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in parameters} == {torch.bfloat16}
    optimiser = torch.optim.AdamW(parameters, lr=2e-2)
    batch = ids(tokenizer)
    losses = []
    for _ in range(4):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match="quantised"):
        merge(model)
    save_adapter(model, tokenizer, tmp_path / "a", "x")
    whole, _ = load_adapter(tiny, tmp_path / "a", torch.float32)
    expected = logits(whole, tokenizer)
    assert torch.allclose(logits(merge(whole), tokenizer), expected, atol=1e-4)

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fastchat.model import apply_delta as their_apply
from fastchat.model import make_delta as their_make
from safetensors.torch import load_file

from charforge.dialogue import EOT
from charforge.errors import CharForgeError
from charforge.models.delta import MARK, apply, make, prepare
from charforge.models.export import save_folder
from charforge.models.load import load_folder
from charforge.models.vocabulary import add_end_of_turn

KINDS = ["tied", "untied", "tied with a new token", "untied with a new token"]


def quiet(_message) -> None:
    """Nobody watches."""


def like_llama(folder: Path) -> Path:
    """A base shaped like the first LLaMA: an output matrix of its own, a tokenizer made from SentencePiece's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False
    )
    backend.train_from_iterator(
        ["Beethoven (speaking): I do not play for officers. Location: Vienna"], trainer
    )
    vocabulary = json.loads(backend.to_str())["model"]
    tokenizer = LlamaTokenizer(
        vocab=vocabulary["vocab"],
        merges=[tuple(pair) for pair in vocabulary["merges"]],
        clean_up_tokenization_spaces=False,
    )
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    save_folder(LlamaForCausalLM(config), tokenizer, folder)
    return folder


def learned(base: Path, folder: Path, *, token: bool) -> Path:
    """Write a model that stands near its base, as training leaves it."""
    model, tokenizer = load_folder(base, torch.float32)
    if token:
        add_end_of_turn(model, tokenizer)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    save_folder(model, tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    return like_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(autouse=True)
def _no_tidying(monkeypatch):
    """Theirs for little memory looks through all objects for garbage after each tensor: 0.3 s in a test's process."""
    monkeypatch.setattr(their_apply.gc, "collect", lambda: 0)


@pytest.fixture(params=KINDS)
def pair(request, tiny, llama, tmp_path) -> tuple[Path, Path, bool]:
    """(base, target, whether the target has a token more)."""
    base = llama if request.param.startswith("untied") else tiny
    token = request.param.endswith("token")
    return base, learned(base, tmp_path / "target", token=token), token


def make_theirs(target: Path, base: Path, out: Path) -> Path:
    their_make.args = SimpleNamespace(hub_repo_id=None)
    their_make.make_delta(str(base), str(target), str(out))
    return out


def check_equal(recovered: Path, target: Path, base: Path, *, doubled: bool = False) -> None:
    """Compare weights within float16's rounding, vocabularies and ends of a turn; nearly all are equal in bfloat16.

    A difference is rounded once when it is made (twice from target - 2 base) and a sum once: u is half a step of 11 bits.
    """
    model, tokenizer = load_folder(recovered, torch.float32)
    expected, its = load_folder(target, torch.float32)
    before, _ = load_folder(base, torch.float32)
    if EOT in its.get_vocab():
        add_end_of_turn(before, its)
        assert set(model.generation_config.eos_token_id) == set(expected.generation_config.eos_token_id)
    assert model.config.tie_word_embeddings == expected.config.tie_word_embeddings
    assert tokenizer.get_vocab() == its.get_vocab()
    state, origin = model.state_dict(), before.state_dict()
    assert state.keys() == expected.state_dict().keys()
    u, smallest = 2.0**-11, 2.0**-24
    equal = total = 0
    for name, tensor in expected.state_dict().items():
        difference = (tensor - origin[name]).abs()
        bound = u * (tensor.abs() + difference) + 2 * smallest
        if doubled:
            bound += u * (tensor - 2 * origin[name]).abs()
        assert ((state[name] - tensor).abs() <= bound).all(), name
        equal += int((state[name].bfloat16() == tensor.bfloat16()).sum())
        total += tensor.numel()
    assert equal / total > (0.9 if doubled else 0.995)


# -- both ways


def test_a_difference_of_ours_recovers_the_model(pair, tmp_path):
    base, target, token = pair
    origin = base
    mark = make(target, base, tmp_path / "delta", quiet)
    assert (mark["end_of_turn"] is not None) == token
    assert json.loads((tmp_path / "delta" / MARK).read_text()) == mark
    apply(tmp_path / "delta", base, tmp_path / "back", quiet)
    check_equal(tmp_path / "back", target, origin)


def test_theirs_reads_ours(pair, tmp_path):
    base, target, token = pair
    origin = base
    make(target, base, tmp_path / "delta", quiet)
    if token:  # theirs cannot add matrices of two sizes
        with pytest.raises(RuntimeError):
            their_apply.apply_delta(str(base), str(tmp_path / "no"), str(tmp_path / "delta"))
        prepare(tmp_path / "delta", base, tmp_path / "prepared")
        base = tmp_path / "prepared"
    their_apply.apply_delta(str(base), str(tmp_path / "back"), str(tmp_path / "delta"))
    check_equal(tmp_path / "back", target, origin)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_ours_reads_theirs(kind, tiny, llama, tmp_path):
    base = {"tied": tiny, "untied": llama}[kind]
    target = learned(base, tmp_path / "target", token=False)
    make_theirs(target, base, tmp_path / "delta")
    apply(tmp_path / "delta", base, tmp_path / "back", quiet)
    # Between tied models theirs holds target - 2 base, which has fewer bits left.
    check_equal(tmp_path / "back", target, base, doubled=kind == "tied")


def test_theirs_does_not_undo_its_own_between_tied_models(tiny, tmp_path):
    """Why there is something to prepare: when this fails, fschat has been repaired."""
    target = learned(tiny, tmp_path / "target", token=False)
    make_theirs(target, tiny, tmp_path / "delta")
    their_apply.apply_delta(str(tiny), str(tmp_path / "back"), str(tmp_path / "delta"))
    back, _ = load_folder(tmp_path / "back", torch.float32)
    expected, _ = load_folder(target, torch.float32)
    assert (back.lm_head.weight - expected.lm_head.weight).abs().max() > 0.5


@pytest.mark.parametrize("token", [False, True])
def test_theirs_makes_what_ours_makes(llama, token, tmp_path):
    """Between models of one shape with two matrices, the weights of a difference are theirs to the bit."""
    target = learned(llama, tmp_path / "target", token=token)
    make(target, llama, tmp_path / "ours", quiet)
    base = llama
    if token:
        prepare(tmp_path / "ours", llama, tmp_path / "prepared")
        base = tmp_path / "prepared"
    make_theirs(target, base, tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# -- what a difference is made of


def test_equal_models_make_equal_bytes_that_name_no_path_and_no_version(tiny, tmp_path):
    target = learned(tiny, tmp_path / "target", token=True)
    for name in ("a", "b"):
        make(target, tiny, tmp_path / name, quiet)
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert a == b
    text = b"".join(data for name, data in a.items() if name.endswith("json"))
    assert str(tmp_path).encode() not in text
    assert b"transformers_version" not in text
    assert set(a) == {
        MARK,
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads(a[MARK]) == {
        "version": 1,
        "base_dtype": "bfloat16",
        "end_of_turn": {"token": "<|eot|>", "rows": [400, 401]},
    }


def test_the_original_weights_are_not_in_a_difference(tiny, tmp_path):
    make(learned(tiny, tmp_path / "target", token=True), tiny, tmp_path / "delta", quiet)
    for name, tensor in load_file(tmp_path / "delta" / "model.safetensors").items():
        assert tensor.float().abs().max() < 0.1, name


# -- released ones: pickled, in several files, with little memory


def pickled(folder: Path, out: Path, files: int = 2) -> Path:
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = list(load_file(folder / "model.safetensors").items())
    for i in range(files):
        torch.save(dict(tensors[i::files]), out / f"pytorch_model-{i + 1:05d}-of-{files:05d}.bin")
    return out


@pytest.mark.parametrize("little_memory", [False, True])
def test_pickled_tensors_in_several_files_are_read(llama, little_memory, tmp_path):
    target = learned(llama, tmp_path / "target", token=False)
    delta = pickled(make_theirs(target, llama, tmp_path / "delta"), tmp_path / "pickled")
    base = pickled(llama, tmp_path / "base", files=3)
    apply(delta, base, tmp_path / "back", quiet, little_memory=little_memory)
    check_equal(tmp_path / "back", target, llama)
    assert not list((tmp_path / "back").glob("*.bin*"))


def test_little_memory_gives_the_same_numbers(pair, tmp_path):
    base, target, _ = pair
    make(target, base, tmp_path / "delta", quiet)
    states = []
    for little in (False, True):
        out = tmp_path / f"back {little}"
        apply(tmp_path / "delta", base, out, quiet, little_memory=little)
        check_equal(out, target, base)
        model, _ = load_folder(out, torch.float32)
        states.append(model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_that_would_run_code_is_refused(llama, tmp_path):
    delta = tmp_path / "delta"
    shutil.copytree(llama, delta, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"model.norm.weight": Evil()}, delta / "pytorch_model.bin")
    with pytest.raises(CharForgeError) as caught:
        apply(delta, llama, tmp_path / "back", quiet)
    assert caught.value.message.startswith(
        f"{delta / 'pytorch_model.bin'} could not be read as tensors and nothing else: "
    )
    assert (
        caught.value.hint == "only plain tensors are taken from pickled weights, since a pickle can run code"
    )
    assert not Path("ran").exists()


def test_a_sentencepiece_tokenizer_that_cannot_be_read_says_what_it_needs(llama, tmp_path):
    """As released differences have it: tokenizer.model, and no tokenizer.json."""
    target = learned(llama, tmp_path / "target", token=False)
    delta = make_theirs(target, llama, tmp_path / "delta")
    (delta / "tokenizer.json").unlink()
    (delta / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")  # a model of one piece, cut off
    with pytest.raises(CharForgeError) as caught:
        apply(delta, llama, tmp_path / "back", quiet)
    assert caught.value.render() == (
        f"error: the tokenizer of {delta} is a SentencePiece model, which could not be read\n"
        "hint: pip install sentencepiece protobuf"
    )


def test_a_tokenizer_of_the_first_llama_is_read(llama, tmp_path):
    """LLaMA and what was released for it come with tokenizer.model alone; what is recovered needs it no more."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    target = learned(llama, tmp_path / "target", token=False)
    delta = make_theirs(target, llama, tmp_path / "delta")
    (delta / "tokenizer.json").unlink()
    words = ["Beethoven (speaking): I do not play for officers.", "Location: Vienna", "Status: a salon"] * 9
    vocabulary = load_folder(llama)[0].config.vocab_size
    with (delta / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words), model_writer=file, vocab_size=vocabulary, model_type="bpe",
            byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
    apply(delta, llama, tmp_path / "back", quiet)
    model, tokenizer = load_folder(tmp_path / "back")
    save_folder(model, tokenizer, tmp_path / "base")
    assert not (tmp_path / "base" / "tokenizer.model").exists()
    _, tokenizer = load_folder(tmp_path / "base")
    assert tokenizer.is_fast
    ids = tokenizer("Beethoven (speaking): naïve")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Beethoven (speaking): naïve"


# -- what does not belong together


def test_a_difference_to_another_base_is_refused(tiny, llama, tmp_path):
    target = learned(tiny, tmp_path / "target", token=False)
    make(target, tiny, tmp_path / "delta", quiet)
    with pytest.raises(CharForgeError) as caught:
        apply(tmp_path / "delta", llama, tmp_path / "back", quiet)
    assert caught.value.message.startswith(f"the weight difference {tmp_path / 'delta'} is not one to ")
    assert caught.value.hint == "name the very model that the difference was made to"


def test_a_model_of_another_base_makes_no_difference(tiny, llama, tmp_path):
    with pytest.raises(
        CharForgeError, match=r"was not trained from .*: .* is \[.*\] in one and .* in the other"
    ):
        make(learned(tiny, tmp_path / "target", token=False), llama, tmp_path / "delta", quiet)


def test_a_mark_of_another_version_is_refused(tiny, tmp_path):
    make(learned(tiny, tmp_path / "target", token=True), tiny, tmp_path / "delta", quiet)
    mark = tmp_path / "delta" / MARK
    mark.write_text(mark.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CharForgeError) as caught:
        apply(tmp_path / "delta", tiny, tmp_path / "back", quiet)
    assert (
        caught.value.render() == f"error: {mark} is of version 2, and 1 is read here\nhint: update charforge"
    )


def test_a_folder_without_weights_is_refused(tiny, tmp_path):
    (tmp_path / "delta").mkdir()
    with pytest.raises(CharForgeError, match=r"is not a model folder: it has no config\.json"):
        apply(tmp_path / "delta", tiny, tmp_path / "back", quiet)
    shutil.copy(tiny / "config.json", tmp_path / "delta")
    with pytest.raises(CharForgeError) as caught:
        apply(tmp_path / "delta", tiny, tmp_path / "back", quiet)
    assert (
        caught.value.message
        == f"{tmp_path / 'delta'} has no weights: neither *.safetensors nor pytorch_model*.bin"
    )

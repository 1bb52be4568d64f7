"""GGUF files, held against transformers and against llama.cpp itself.

Tolerances are in log-probability (nats). llama.cpp computes float16 weights with float16 keys and values, and rounds on its own
way through the layers; on the tiny models here that moved no log-probability by more than 0.01.
"""

from __future__ import annotations

import json
import urllib.request
from contextlib import closing

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from charforge.errors import CharForgeError
from charforge.models import gguf_file, vocabulary_gguf
from charforge.models.export import save_folder
from charforge.models.load import load_embedded, load_folder

EOT = "<|eot|>"
PROMPT = (
    "You are Beethoven.\n\nLocation: Vienna, autumn 1806\nStatus: a salon – with  guests.\n\n"
    f"Man (speaking): Will you play for us tonight, in 2026?{EOT}\nBeethoven ("
)
TEXTS = [
    PROMPT,
    "I'LL say they're here;  it's 12345 o'clock\t\r\n\n  – naïve façade 🙂 日本語 …",
    " leading and trailing ",
    f"{EOT}{EOT}\n a<|im_end|>b",
    "x",
]
WORDS = [
    "Location: Vienna, autumn 1806",
    " Status: a salon with a piano and guests",
    " Beethoven (thinking): The prince wants a clown",
    " Man (speaking): Will you play for us tonight? You are who you are by birth",
    " They're here; it's 12345 o'clock",
    "",
]


def llama3_words(digits):
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def splitting(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


SPLITS = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    ),
    "llama-bpe": lambda: splitting(llama3_words(r"\p{N}{1,3}")),
    "qwen2": lambda: splitting(llama3_words(r"\p{N}")),
}


def tokenizer_of(pre, *, bos=False):
    backend = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = SPLITS[pre]()
    backend.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    backend.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
    if bos:
        from tokenizers.processors import TemplateProcessing

        backend.post_processor = TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}


def make(folder, kind=LlamaForCausalLM, *, pre="gpt-2", bos=False, seed=0, **settings):
    """Write a small random model whose vocabulary was filled up beyond the tokenizer's; return the folder."""
    tokenizer = tokenizer_of(pre, bos=bos)
    config_of = {
        LlamaForCausalLM: LlamaConfig,
        MistralForCausalLM: MistralConfig,
        Qwen2ForCausalLM: Qwen2Config,
    }
    torch.manual_seed(seed)
    model = kind(config_of[kind](**{**SIZES, "vocab_size": len(tokenizer) + 27, **settings}))
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):  # they begin at zero, where a wrong order would not show
            torch.nn.init.normal_(parameter, std=0.3)
    save_folder(model, tokenizer, folder)
    return folder


class LlamaCpp:
    """llama.cpp serving one file on the loopback."""

    def __init__(self, path):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = 512
        params.n_parallel = 1
        params.cpuparams.n_threads = 1
        params.verbosity = -1
        params.warmup = False
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(params)
        # Ended before it has begun to wait for work, a server waits for ever.
        self.complete("x", 1)

    def _post(self, path, **body):
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text):
        return self._post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def complete(self, prompt, count, **more):
        return self._post(
            "/completion",
            prompt=prompt,
            n_predict=count,
            temperature=0,
            return_tokens=True,
            cache_prompt=False,
            **more,
        )

    def first(self, prompt, words):
        """Return the log-probabilities of the next token, by id."""
        answer = self.complete(prompt, 1, n_probs=words)
        found = {p["id"]: p["logprob"] for p in answer["completion_probabilities"][0]["top_logprobs"]}
        return np.array([found[i] for i in range(words)])

    def close(self):
        del self._server


def expected(folder, prompt, words):
    """Return the log-probabilities of the next token, by transformers in float32, over the tokenizer's own tokens."""
    model, tokenizer = load_folder(folder, torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1, :words]
    return logits.log_softmax(-1).numpy()


def words_of(folder):
    return len(vocabulary_gguf.read(folder).tokens)


ROPE3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS = {
    "tied, grouped heads": (LlamaForCausalLM, {"tie_word_embeddings": True}),
    "untied, heads of another size": (LlamaForCausalLM, {"num_key_value_heads": 4, "head_dim": 32}),
    "biases": (LlamaForCausalLM, {"attention_bias": True}),
    "another rope base": (
        LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
    ),
    "linear rope": (
        LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "Llama 3 rope": (LlamaForCausalLM, {"rope_parameters": ROPE3}),
    "Mistral": (MistralForCausalLM, {"sliding_window": None}),
    # Whatever tokenizer.json says, transformers splits for this model type as Qwen 2 does.
    "Qwen 2": (Qwen2ForCausalLM, {"pre": "qwen2"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_gives_each_token_the_probability_it_has_in_transformers(tmp_path, name):
    kind, settings = MODELS[name]
    folder = make(tmp_path / "model", kind, **settings)
    gguf_file.write(folder, tmp_path / "model.gguf", "f16", name="Tiny")
    words = words_of(folder)
    with closing(LlamaCpp(tmp_path / "model.gguf")) as llama:
        found = llama.first(PROMPT, words)
    np.testing.assert_allclose(found, expected(folder, PROMPT, words), atol=0.01)


@pytest.mark.parametrize(("kind", "tolerance"), [("q8_0", 0.15), ("q4_1", 2.0), ("q4_0", 2.0)])
def test_quantised_files_answer_nearly_so(tmp_path, kind, tolerance):
    folder = make(tmp_path / "model", tie_word_embeddings=True)
    written = gguf_file.write(folder, tmp_path / "model.gguf", kind, name="Tiny")
    assert written.bytes == (tmp_path / "model.gguf").stat().st_size
    words = words_of(folder)
    with closing(LlamaCpp(tmp_path / "model.gguf")) as llama:
        found = llama.first(PROMPT, words)
    assert np.abs(found - expected(folder, PROMPT, words)).mean() < tolerance / 2


@pytest.mark.parametrize("pre", SPLITS)
@pytest.mark.parametrize("bos", [False, True])
def test_llama_cpp_reads_text_as_the_tokenizer_does(tmp_path, pre, bos):
    folder = make(tmp_path / "model", pre=pre, bos=bos)
    vocabulary = vocabulary_gguf.read(folder)
    assert (vocabulary.pre, vocabulary.add_bos) == (pre, bos)
    gguf_file.write(folder, tmp_path / "model.gguf", "f16", name="Tiny")
    _, tokenizer = load_folder(folder, torch.float32)
    with closing(LlamaCpp(tmp_path / "model.gguf")) as llama:
        for text in TEXTS:
            assert llama.tokens(text) == tokenizer(text)["input_ids"], text


def test_generation_ends_at_the_end_of_a_turn(tmp_path):
    folder = make(tmp_path / "model")
    gguf_file.write(folder, tmp_path / "model.gguf", "f16", name="Tiny")
    eot = vocabulary_gguf.read(folder).tokens.index(EOT)
    with closing(LlamaCpp(tmp_path / "model.gguf")) as llama:
        answer = llama.complete(PROMPT, 5, logit_bias=[[eot, 1000.0]])
    assert (answer["stop_type"], answer["content"]) == ("eos", "")


def test_what_is_read_back_is_what_was_written(tmp_path, monkeypatch):
    folder = make(tmp_path / "model", pre="smollm", tie_word_embeddings=True)
    gguf_file.write(folder, tmp_path / "model.gguf", "f16", name="Tiny", chat_template="{{ messages }}")
    monkeypatch.setattr("charforge.models.embedded.locate", lambda _name: tmp_path / "model.gguf")
    back, tokenizer = load_embedded("tiny", torch.float32)
    model, original = load_folder(folder, torch.float32)
    words = len(original)
    assert back.config.vocab_size == words  # rows of no token are left out
    assert tokenizer(PROMPT)["input_ids"] == original(PROMPT)["input_ids"]
    ids = torch.tensor([original(PROMPT)["input_ids"]])
    with torch.inference_mode():
        found, wanted = back(ids).logits, model(ids).logits[..., :words]
    # The same numbers but for the smallest, which float16 rounds, and for rounding in products of another width.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    for name, weight in back.state_dict().items():
        torch.testing.assert_close(
            weight, model.state_dict()[name][: weight.shape[0]], rtol=0, atol=2.0**-24 + 1e-9
        )


def test_equal_models_give_equal_bytes(tmp_path):
    for n in (1, 2):
        make(tmp_path / f"model{n}")
        gguf_file.write(tmp_path / f"model{n}", tmp_path / f"{n}.gguf", "q4_1", name="Tiny")
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()


def test_rows_that_blocks_do_not_divide_stay_as_they_are(tmp_path):
    folder = make(tmp_path / "model", hidden_size=64, intermediate_size=80, tie_word_embeddings=True)
    written = gguf_file.write(folder, tmp_path / "model.gguf", "q4_0", name="Tiny")
    # down_proj has rows of 80; the embedding is q8_0; norms are kept.
    assert written.tensors == {"q4_0": 12, "f16": 2, "q8_0": 1, "f32": 5}
    LlamaCpp(tmp_path / "model.gguf").close()


def edit(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (
            {"architectures": ["GemmaForCausalLM"]},
            "models of type GemmaForCausalLM cannot be written as GGUF here",
            (
                "supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM; "
                "llama.cpp's own converter takes the hf export"
            ),
        ),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 64},
            "MistralForCausalLM with a sliding window cannot be written as GGUF here",
            "llama.cpp's own converter takes the hf export",
        ),
        (
            {"hidden_act": "gelu"},
            "LlamaForCausalLM with gelu in place of silu cannot be written as GGUF",
            None,
        ),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1.0}},
            "positions scaled by 'yarn' cannot be written as GGUF here",
            "supported: linear, llama3",
        ),
    ],
)
def test_what_llama_cpp_would_not_follow_is_refused(tmp_path, changes, message, hint):
    folder = make(tmp_path / "model")
    edit(folder, "config.json", **changes)
    with pytest.raises(CharForgeError) as caught:
        gguf_file.write(folder, tmp_path / "model.gguf", "f16", name="Tiny")
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_weight_beyond_float16_is_refused_as_f16_and_written_as_q8_0(tmp_path):
    folder = make(tmp_path / "model")
    model, tokenizer = load_folder(folder, torch.float32)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 70000.0
    save_folder(model, tokenizer, folder)
    with pytest.raises(CharForgeError) as caught:
        gguf_file.write(folder, tmp_path / "model.gguf", "f16", name="Tiny")
    assert caught.value.message == (
        "the weight model.layers.0.mlp.up_proj.weight exceeds what float16 can hold (65504)"
    )
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    save_folder(model, tokenizer, folder)
    with pytest.raises(CharForgeError, match="is not made of numbers"):
        gguf_file.write(folder, tmp_path / "model.gguf", "q8_0", name="Tiny")


def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused(tmp_path):
    folder = make(tmp_path / "model")
    data = json.loads((folder / "tokenizer.json").read_text())
    data["pre_tokenizer"]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(CharForgeError) as caught:
        vocabulary_gguf.read(folder)
    assert caught.value.render() == (
        "error: the tokenizer splits text in a way that llama.cpp has no name for\n"
        "hint: supported: byte-level BPE split as gpt-2, smollm, llama-bpe, qwen2 does, and the tokenizer of LLaMA 1 and 2"
    )
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CharForgeError) as caught:
        vocabulary_gguf.read(folder)
    assert caught.value.message == f"{folder} has no tokenizer.json"


# -- LLaMA 1 and 2: SentencePiece's kind ------------------------------------------------------------------------------


def sentencepiece_like(folder, *, whole_text: bool, drop=None):
    """Write a model with a tokenizer like LLaMA's. `whole_text`: the space in front is before each stretch between special tokens."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    pieces = [left + right for left, right in learned["merges"]]
    letters = sorted(set(learned["vocab"]) - set(pieces))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *pieces, *letters]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    merges = [merge for merge in merges if "".join(merge) != drop]
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    if whole_text:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>", EOT)]
    )
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": len(tokenizer) + 5}))
    save_folder(model, tokenizer, folder)
    return folder


@pytest.mark.parametrize("whole_text", [True, False])
def test_llama_cpp_reads_text_as_llamas_tokenizer_does(tmp_path, whole_text):
    folder = sentencepiece_like(tmp_path / "model", whole_text=whole_text)
    vocabulary = vocabulary_gguf.read(folder)
    assert (vocabulary.model, vocabulary.add_bos) == ("llama", True)
    written = gguf_file.write(folder, tmp_path / "model.gguf", "f16", name="Tiny")
    assert written.first_space == (not whole_text)
    _, tokenizer = load_folder(folder, torch.float32)
    with closing(LlamaCpp(tmp_path / "model.gguf")) as llama:
        for text in TEXTS:
            # A space before the first stretch of text only is what llama.cpp does not know: the prompt brings it.
            space = " " if written.first_space and not text.startswith((" ", EOT)) else ""
            assert llama.tokens(space + text) == tokenizer(text)["input_ids"], text


def test_a_chat_template_begins_with_the_space_that_llama_cpp_leaves_out(tmp_path):
    for whole_text in (True, False):
        folder = sentencepiece_like(tmp_path / f"{whole_text}", whole_text=whole_text)
        file = tmp_path / f"{whole_text}.gguf"
        gguf_file.write(folder, file, "f16", name="Tiny", chat_template="{{ messages[0]['content'] }}")
        _, tokenizer = load_folder(folder, torch.float32)
        with closing(LlamaCpp(file)) as llama:
            asked = [{"role": "user", "content": PROMPT}]
            answer = llama._post("/v1/chat/completions", messages=asked, max_tokens=1)
        assert answer["usage"]["prompt_tokens"] == len(tokenizer(PROMPT)["input_ids"])


def test_a_vocabulary_that_merges_another_way_than_by_scores_is_refused(tmp_path):
    folder = sentencepiece_like(tmp_path / "model", whole_text=True, drop="▁you")
    with pytest.raises(CharForgeError, match="the tokenizer makes '▁you' not of"):
        vocabulary_gguf.read(folder)

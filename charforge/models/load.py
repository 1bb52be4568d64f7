"""Weights on this disk → a transformers model and its tokenizer, ready to run on the processor.

Three sources: the embedded GGUF file, dequantised, a folder in Hugging Face's layout (safetensors only; code that comes
with weights is never run), and such a folder with an adapter. Knows nothing of requests, training or where a build keeps its artifacts.

The GGUF file is read with the `gguf` package itself and not through transformers' `gguf_file=`: that path wants
accelerate, took longer for the tokenizer alone (6 s) than all of this takes (5 s), leaves a quantization_config with which `save_pretrained` refuses, and gives the
tokenizer GPT-2's splitting instead of the file's own (`smollm`: each digit alone). The file is pinned by digest, so the one
architecture it has is known.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from charforge.errors import CharForgeError
from charforge.models import embedded
from charforge.weights import check_names

_GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def compute_dtype() -> torch.dtype:
    """Return bfloat16 where the processor multiplies it in hardware, else float32.

    Measured on two Zen 4 cores: the matrix products of a 135M model are 2.3 times as fast in bfloat16 as in float32, at half
    the memory. Without the instructions it is emulated, which is why there is a rule and not a constant. Weights on
    disk are bfloat16 either way.
    """
    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else _proc_flags()
    native = any(flags.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))
    return torch.bfloat16 if native else torch.float32


def _proc_flags() -> dict[str, bool]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    return dict.fromkeys(text.split(), True)


def load_embedded(name: str, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Return (model, tokenizer) of an embedded model, dequantised to `dtype` (None: `compute_dtype()`); about 5 s."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(embedded.locate(name))

    def field(key: str) -> Any:
        return reader.fields[key].contents()

    if field("general.architecture") != "llama" or field("tokenizer.ggml.pre") != "smollm":
        raise CharForgeError(f"embedded/{name} is of an architecture that is not read here")
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=field("llama.vocab_size"),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=field("llama.context_length"),
        # Stored as float32, so 1e-5 reads as 9.999999747e-06: rounded back to what was meant.
        rms_norm_eps=float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        rope_theta=field("llama.rope.freq_base"),
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
    )
    weights: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        *block, short, _ = tensor.name.split(".")
        weight = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        if short in ("attn_q", "attn_k"):
            # llama.cpp stores each head's rotary pairs interleaved; transformers wants the two halves apart.
            n = heads if short == "attn_q" else kv_heads
            weight = weight.reshape(n, -1, 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)
        prefix = f"model.layers.{block[1]}." if block else ""
        weights[f"{prefix}{_GGUF_NAMES[short]}.weight"] = weight.to(torch.bfloat16)
    model = LlamaForCausalLM.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype or compute_dtype()
    )
    model.generation_config.eos_token_id = config.eos_token_id
    return model.eval(), _gguf_tokenizer(field)


def _gguf_tokenizer(field: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    control = 3  # llama.cpp's token type for tokens that are not text
    backend.add_special_tokens(
        [
            AddedToken(word, special=True)
            for word, kind in zip(words, field("tokenizer.ggml.token_type"), strict=True)
            if kind == control
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=words[field("tokenizer.ggml.bos_token_id")],
        eos_token=words[field("tokenizer.ggml.eos_token_id")],
        unk_token=words[field("tokenizer.ggml.unknown_token_id")],
        pad_token=words[field("tokenizer.ggml.padding_token_id")],
        chat_template=field("tokenizer.chat_template"),
        model_max_length=field("llama.context_length"),
        clean_up_tokenization_spaces=False,
    )


def check_folder(path: Path, name: str | None = None, *, pickled: bool = False) -> None:
    """Raise CharForgeError, naming the model, where a folder is no causal model in safetensors that runs without code of its own.

    With `pickled`, weights may also be pickled tensors.
    """
    name = name or str(path)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing = path.is_dir()
        raise CharForgeError(
            f"{name} is not a model folder: it has no config.json"
            if missing
            else f"there is no folder {name}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CharForgeError(f"{name} is not a model folder: its config.json cannot be read") from error
    if not isinstance(config, dict):
        raise CharForgeError(f"{name} is not a model folder: its config.json is no object")
    check_names(path)
    kind, architectures = str(config.get("model_type")), config.get("architectures")
    made_for = [str(each) for each in architectures] if isinstance(architectures, list) else []
    if kind not in CONFIG_MAPPING_NAMES:
        raise CharForgeError(
            f"{name} needs code of its own, which is not run"
            if config.get("auto_map")
            else f"{name} is of type {kind!r}, which transformers does not know",
            "choose a base model of a type that transformers has, such as llama or qwen2",
        )
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (made_for and not causal & set(made_for)):
        what = ", ".join(made_for) or kind
        raise CharForgeError(
            f"{name} is not a causal language model but {what}",
            "choose a base model that continues text, such as one of type llama or qwen2",
        )
    if not any(path.glob("*.safetensors")) and not (pickled and any(path.glob("pytorch_model*.bin"))):
        raise CharForgeError(
            f"{name} has no safetensors weights",
            "other weight formats can run code when loaded and are not read",
        )


def load_tokenizer(path: Path, name: str | None = None) -> Any:
    """Return the tokenizer in a folder. Raises CharForgeError where there is none that can be read."""
    name = name or str(path)
    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # Without both packages transformers takes the file for another format, and fails in that one's reader.
        if (path / "tokenizer.model").is_file() and not (path / "tokenizer.json").is_file():
            raise CharForgeError(
                f"the tokenizer of {name} is a SentencePiece model, which could not be read",
                "pip install sentencepiece protobuf",
            ) from error
        raise CharForgeError(f"{name} has no tokenizer that can be read: {_first_line(error)}") from error


def load_folder(path: Path, dtype: torch.dtype | None = None, **options: Any) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a folder in Hugging Face's layout, in `dtype` (None: `compute_dtype()`).

    `options` go to transformers (quantisation, placement). Raises CharForgeError where the folder is no model, or its weights are not
    safetensors, or they need code of their own.
    """
    check_folder(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=dtype or compute_dtype(),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    except Exception as error:  # a config of a stranger's leads transformers into errors of every kind
        raise CharForgeError(f"{path} could not be loaded: {_first_line(error)}") from error
    return model.eval(), load_tokenizer(path)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def load(weights: dict[str, str], dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Return (model, tokenizer) for embedded weights (`{"kind": "embedded", "name"}`), a folder (`{"kind": "folder", "path"}`) or an adapter.

    An adapter (`{"kind": "adapter", "path", "base"}`) is merged into its base: a third of the matrix products less, and what
    is answered is what the merged model answers wherever it is exported to.
    """
    match weights:
        case {"kind": "embedded", "name": name}:
            return load_embedded(name, dtype)
        case {"kind": "folder", "path": path}:
            return load_folder(Path(path), dtype)
        case {"kind": "adapter", "path": path, "base": base}:
            from charforge.models.adapter import (
                load_adapter,
                merge,
            )  # peft takes a second; few models need it

            model, tokenizer = load_adapter(Path(base), Path(path), dtype)
            return merge(model).eval(), tokenizer
    raise ValueError(f"unknown weights {weights!r}")

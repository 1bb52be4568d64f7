"""A model folder → one GGUF file for llama.cpp and what stands on it (Ollama, LM Studio, …).

Written with the `gguf` package, tensor after tensor, so that memory holds one of them. The same folder gives the same bytes: no
time, path or library version is in the file. Llama, Mistral without a sliding window, and Qwen 2; every setting that llama.cpp would
not follow is an error here, not a file that answers differently.

Types: `f16` is what training made (see `Written.rounded`); in the others matrices are quantised, each block of 32 weights with
its own scale, and the embedding, whose rows are looked up and, where it is tied, scored as well, in q8_0. The
K-quants that llama.cpp's own tools write need code that the `gguf` package does not have: make them from f16 with `llama-quantize`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import (
    MODEL_ARCH,
    GGMLQuantizationType,
    GGUFReader,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    TensorNameMap,
    get_tensor_name_map,
    quants,
)
from numpy.typing import NDArray
from safetensors import safe_open

from charforge.errors import CharForgeError
from charforge.models import vocabulary_gguf

TYPES = {
    "f16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
    "q4_0": (LlamaFileType.MOSTLY_Q4_0, GGMLQuantizationType.Q4_0),
    "q4_1": (LlamaFileType.MOSTLY_Q4_1, GGMLQuantizationType.Q4_1),
}
"""The kinds of file, with llama.cpp's number for each and the type of its matrices."""

_ARCHITECTURES = {
    "LlamaForCausalLM": MODEL_ARCH.LLAMA,
    "MistralForCausalLM": MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": MODEL_ARCH.QWEN2,
}
_LARGEST_F16 = 65504.0
_FREQUENCIES = "rope_freqs.weight"

Weights = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds: its size in bytes, its tensors by type, and the largest change that rounding to float16 made.

    bfloat16 has fewer digits than float16 and a wider range, so weights from 6.1e-05 to 65504 are kept exactly; smaller ones lose digits (by
    3e-08 at most), larger ones are refused. `first_space`: a prompt has to begin with a space (the chat template does).
    """

    bytes: int
    tensors: dict[str, int]
    rounded: float
    first_space: bool


def write(folder: Path, out: Path, kind: str, *, name: str, chat_template: str | None = None) -> Written:
    """Write the model in `folder` (Hugging Face's layout, safetensors) as the GGUF file `out`, in one of TYPES.

    `name` is the model's name as programs show it; `chat_template`, in Jinja, replaces the tokenizer's own.
    Raises CharForgeError for an architecture, a setting or a tokenizer that llama.cpp does not have.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arch = _architecture(config)
    vocabulary = vocabulary_gguf.read(folder)
    file_type, matrices = TYPES[kind]
    writer = GGUFWriter(out, "llama" if arch == MODEL_ARCH.LLAMA else "qwen2")
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)
    _describe(writer, config, len(vocabulary.tokens))
    _tell_vocabulary(writer, vocabulary, chat_template)

    # Twice over the weights: what a tensor is has to be written before the bytes of any. Nothing is read the first time.
    names = get_tensor_name_map(arch, config["num_hidden_layers"])
    tensors = _Tensors(folder, config, len(vocabulary.tokens))
    planned = []
    for source, shape in tensors.shapes():
        target = _FREQUENCIES if source == _FREQUENCIES else _named(names, source)
        if source == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        planned.append((source, target, shape, _stored(source, shape, matrices)))
    counts: dict[str, int] = {}
    for _, target, shape, stored in planned:
        counts[stored.name.lower()] = counts.get(stored.name.lower(), 0) + 1
        bytes_ = quants.quant_shape_to_byte_shape(shape, stored)
        dtype = {"F32": np.float32, "F16": np.float16}.get(stored.name, np.uint8)
        # Of plain numbers the writer wants the shape in numbers, of blocks in bytes.
        told = bytes_ if dtype is np.uint8 else shape
        writer.add_tensor_info(target, told, np.dtype(dtype), math.prod(bytes_), stored)
    rounded = 0.0
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for source, _, shape, stored in planned:
            weight = tensors.read(source)
            assert weight.shape == shape
            if not np.isfinite(weight).all():
                raise CharForgeError(f"the weight {source} is not made of numbers", "train it again")
            data: NDArray[Any]
            if stored == GGMLQuantizationType.F16:
                if np.abs(weight).max() > _LARGEST_F16:
                    raise CharForgeError(
                        f"the weight {source} exceeds what float16 can hold ({_LARGEST_F16:.0f})",
                        "this model cannot be written as f16: export the merged or hf kind",
                    )
                data = weight.astype(np.float16)
                rounded = max(rounded, float(np.abs(data.astype(np.float32) - weight).max()))
            else:
                data = weight if stored == GGMLQuantizationType.F32 else quants.quantize(weight, stored)
            writer.write_tensor_data(np.ascontiguousarray(data))
    finally:
        writer.close()
    return Written(out.stat().st_size, counts, rounded, vocabulary.first_space)


def read(path: Path, folder: Path) -> Iterator[tuple[str, Weights]]:
    """Yield (name, weight) of what `write` made of `folder`: dequantised, under the folder's names, in its order of rows."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = get_tensor_name_map(_architecture(config), config["num_hidden_layers"])
    found = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    tensors = _Tensors(folder, config, len(vocabulary_gguf.read(folder).tokens))
    for source, shape in tensors.shapes():
        if source == _FREQUENCIES or (tensor := found.get(_named(names, source))) is None:
            continue
        weight = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        yield source, tensors.turned(source, weight, back=True)


def _architecture(config: dict[str, Any]) -> MODEL_ARCH:
    found = (config.get("architectures") or [config.get("model_type")])[0]
    if found not in _ARCHITECTURES:
        raise CharForgeError(
            f"models of type {found} cannot be written as GGUF here",
            f"supported: {', '.join(_ARCHITECTURES)}; llama.cpp's own converter takes the hf export",
        )
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        raise CharForgeError(
            f"{found} with a sliding window cannot be written as GGUF here",
            "llama.cpp's own converter takes the hf export",
        )
    if config.get("hidden_act", "silu") != "silu":
        raise CharForgeError(
            f"{found} with {config['hidden_act']} in place of silu cannot be written as GGUF"
        )
    return _ARCHITECTURES[found]


def _describe(writer: GGUFWriter, config: dict[str, Any], words: int) -> None:
    heads, size = config["num_attention_heads"], _head_size(config)
    writer.add_vocab_size(words)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(size)
    rope = _rope(config)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Return how positions turn, as transformers 5 writes it or as transformers 4 did."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in {"default", "linear", "llama3"}:
        raise CharForgeError(
            f"positions scaled by {kind!r} cannot be written as GGUF here", "supported: linear, llama3"
        )
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    return {**rope, "rope_type": kind, "rope_theta": theta}


def _slowed(rope: dict[str, Any], size: int) -> Weights:
    """Return by how much Llama 3.1 slows each frequency: 1 for the short waves, `factor` for the long, a ramp between."""
    frequency = float(rope["rope_theta"]) ** -(np.arange(0, size, 2, dtype=np.float64) / size)
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    ramp = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1 / ((1 - ramp) / rope["factor"] + ramp), dtype=np.float32)


def _tell_vocabulary(
    writer: GGUFWriter, vocabulary: vocabulary_gguf.Vocabulary, chat_template: str | None
) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    tell = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "eot": writer.add_eot_token_id,
        "unknown": writer.add_unk_token_id,
        "padding": writer.add_pad_token_id,
    }
    for role, token in vocabulary.special.items():
        tell[role](token)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_space_prefix(vocabulary.add_space_prefix)
    if template := chat_template or vocabulary.chat_template:
        writer.add_chat_template((" " if vocabulary.first_space else "") + template)


def _named(names: TensorNameMap, source: str) -> str:
    target: str | None = names.get_name(source, try_suffixes=(".weight", ".bias"))
    if target is None:
        raise CharForgeError(f"the weight {source} has no place in a GGUF file of this architecture")
    return target


def _stored(source: str, shape: tuple[int, ...], matrices: GGMLQuantizationType) -> GGMLQuantizationType:
    """Return the type that a tensor is written in: norms and biases always as they are."""
    if len(shape) < 2:
        return GGMLQuantizationType.F32
    if matrices == GGMLQuantizationType.F16 or shape[-1] % 32:  # a block of 32 weights may not cross rows
        return GGMLQuantizationType.F16
    if source in {"model.embed_tokens.weight", "lm_head.weight"}:
        return GGMLQuantizationType.Q8_0
    return matrices


class _Tensors:
    """The folder's weights by name, as llama.cpp wants them: rotary pairs side by side, no row without a token."""

    def __init__(self, folder: Path, config: dict[str, Any], words: int) -> None:
        self._words = words
        self._size = _head_size(config)
        self._turned = ("q_proj", "k_proj") if config["model_type"] in {"llama", "mistral"} else ()
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file: Any = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)
        if not self._files:
            raise CharForgeError(f"{folder} has no safetensors weights")
        rope = _rope(config)
        self._factors = _slowed(rope, self._size) if rope["rope_type"] == "llama3" else None

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield each tensor's name and shape as `read` will return it, in one fixed order."""
        if self._factors is not None:
            yield _FREQUENCIES, self._factors.shape
        for name in sorted(self._files):
            if name.endswith("rotary_emb.inv_freq"):  # old folders carry what follows from the configuration
                continue
            shape = tuple(self._files[name].get_slice(name).get_shape())
            if name in _BY_TOKEN:
                if shape[0] < self._words:
                    raise CharForgeError(
                        f"the tokenizer has {self._words} tokens, {name} rows for {shape[0]} only"
                    )
                shape = (self._words, *shape[1:])
            yield name, shape

    def read(self, name: str) -> Weights:
        """Return a tensor."""
        if name == _FREQUENCIES:
            assert self._factors is not None
            return self._factors
        weight: Weights = self._files[name].get_tensor(name).float().numpy()
        if name in _BY_TOKEN:
            # The vocabulary was filled up to a round number. Those rows are of no token, and must never be sampled.
            weight = weight[: self._words]
        return self.turned(name, weight)

    def turned(self, name: str, weight: Weights, *, back: bool = False) -> Weights:
        """Return a weight with the rotary pairs of each head side by side, as llama.cpp turns them; `back`: two halves apart."""
        if name.split(".")[-2] not in self._turned:
            return weight
        pairs = (self._size // 2, 2) if back else (2, self._size // 2)
        return weight.reshape(-1, *pairs, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


_BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")

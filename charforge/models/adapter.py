"""LoRA adapters: a few small matrices beside frozen weights, and the one new token `<|eot|>` (peft does the work).

`wrap` → train → `save_adapter`; `load_adapter` gives the trained model back exactly, `merge` a plain model. What is trained: two
matrices a target module (Hu et al. 2021, arXiv 2106.09685) and the row of `<|eot|>` in the embedding, and in the output
matrix where that is not the same one: two equal output rows would share the probability, and no turn could end surely.
Everything else is frozen. Knows nothing of samples, steps or where a build keeps its artifacts.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- everybody's name for it
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from charforge.dialogue import EOT
from charforge.errors import CharForgeError
from charforge.models.export import save_tokenizer
from charforge.models.load import load_folder, load_tokenizer
from charforge.models.vocabulary import add_end_of_turn

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def wrap(model: Any, tokenizer: Any, lora: dict[str, Any], *, quantised: bool = False) -> Any:
    """Return the model with adapters in its layers, in place: only they and the row of `<|eot|>` require gradients.

    `lora` is the spec's: rank, alpha, dropout, target_modules. The model has `<|eot|>` already (`add_end_of_turn`). New matrices have
    the model's type, so that float32 masters serve them like all weights, and are drawn on the CPU from torch's global seed: equal
    seeds give equal adapters whatever the device. Raises CharForgeError for a target module that the model does not have.
    """
    token = tokenizer.convert_tokens_to_ids(EOT)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=_targets(model, lora["target_modules"]),
        # Named even where they are one matrix: peft notices that by the model's configuration.
        trainable_token_indices={name: [token] for name in _row_modules(model)},
        bias="none",
        # GPT-2's layers keep their weights the other way round.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    dtype = model.get_input_embeddings().weight.dtype
    with _peft_quietly():
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    if quantised:
        # peft copies a layer's type where that is a number with a point; four bits are none.
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    _replace_rows_quickly(wrapped)
    return wrapped


def target_modules(model: Any) -> list[str]:
    """Return the names a target module can have: the last parts of the paths of all linear layers but the output matrix."""
    return sorted({path.rsplit(".", 1)[-1] for path in _linear(model)})


def save_adapter(
    model: Any, tokenizer: Any, out: Path, base_name: str, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write `adapter_config.json`, `adapter_model.safetensors` and the tokenizer into `out` (made if missing).

    The bytes depend on the adapter and `base_name` (the base model as the spec names it) only. `state` is the whole model's state
    dict where its parameters are spread over processes. peft reads the folder onto the base model resized to the tokenizer.
    """
    out.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict() | {
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "revision": None,
    }
    config = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.items()
        # A library's version would make an equal adapter another artifact.
        if key != "peft_version"
    }
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (out / CONFIG).write_text(text + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, out)


def load_adapter(base: Path, adapter: Path, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Return (model, tokenizer): the adapter on the model in folder `base`, in `dtype` (None: `compute_dtype()`), not merged.

    The base grows exactly as it did before training. Raises CharForgeError where the folder is no adapter or fits another base.
    """
    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            raise CharForgeError(f"{adapter} is not an adapter folder: it has no {name}")
    model, tokenizer = load_folder(base, dtype)
    if (adapter / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(adapter)
    add_end_of_turn(model, tokenizer)
    try:
        with _peft_quietly():
            wrapped = PeftModel.from_pretrained(
                model, str(adapter), autocast_adapter_dtype=False, local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CharForgeError(f"the adapter {adapter} does not fit its base model {base}: {first}") from error
    _replace_rows_quickly(wrapped)
    return wrapped.eval(), tokenizer


def merge(model: Any) -> Any:
    """Return the plain causal model with the adapter added into its weights, in the model's type; `model` is used up.

    Each layer is added up in float32 and rounded once. A base in four bits has lost what it was rounded to: merge into the base in
    its folder instead (`load_adapter`, then this).
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LoraLayer):
                weight = module.get_base_layer().weight
                if not weight.is_floating_point():
                    raise ValueError("an adapter is not merged into quantised weights")
                dtype = weight.dtype
                module.float()
                module.merge()
                module.to(dtype)
            elif isinstance(module, BaseTunerLayer):
                module.merge()
    plain = model.unload()
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    return plain


def load_in_four_bits(base: Path) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a folder for qlora: linear layers in NF4 on the current CUDA device, the rest in bfloat16.

    Quantised twice, as in QLoRA (Dettmers et al. 2023, arXiv 2305.14314). peft's preparation would make embeddings, norms and the output
    matrix float32, twice the memory of the largest matrices, and attention would follow them; here they stay as they are and
    everything is frozen. Raises CharForgeError without a CUDA device or without bitsandbytes.
    """
    if not torch.cuda.is_available():
        raise CharForgeError(
            "train.method: qlora keeps the base model in 4 bits on a CUDA device, and there is none here",
            "use lora, which runs everywhere",
        )
    try:
        importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise CharForgeError(
            "train.method: qlora needs bitsandbytes, which is not installed",
            "pip install 'charforge[qlora]', or use lora",
        ) from error
    return _quantised(base, {"": torch.cuda.current_device()})


def _quantised(base: Path, device_map: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model, tokenizer = load_folder(base, torch.bfloat16, quantization_config=four_bits, device_map=device_map)
    return model.requires_grad_(False), tokenizer


@contextmanager
def _peft_quietly() -> Iterator[None]:
    """Hush peft 0.21, which asks transformers by a name that transformers 5 calls deprecated: no user can help it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


# -- which modules


def _linear(model: Any) -> list[str]:
    head = model.get_output_embeddings()
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]


def _targets(model: Any, wanted: str | list[str]) -> list[str]:
    """Return the target modules by name, sorted: "all-linear" spelled out, so that an adapter says what it has."""
    known = target_modules(model)
    if wanted == "all-linear":
        return known
    paths = _linear(model)
    unknown = [
        name
        for name in ([wanted] if isinstance(wanted, str) else wanted)
        if not any(path == name or path.endswith(f".{name}") for path in paths)
    ]
    if unknown:
        raise CharForgeError(
            f"train.lora.target_modules: the base model has no linear layer {', '.join(map(repr, unknown))}",
            f"it has {', '.join(known)}; all-linear takes them all",
        )
    return sorted([wanted] if isinstance(wanted, str) else set(wanted))


def _row_modules(model: Any) -> list[str]:
    """Return the names of the modules that have a row for each token: the embedding, and an output matrix of its own."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embedding.weight
    modules = [embedding] if tied else [embedding, head]
    return [
        next(name for name, found in model.named_modules() if found is module).rsplit(".", 1)[-1]
        for module in modules
    ]


# -- the trained row


class _QuickRow(TrainableTokensLayer):  # type: ignore[misc]
    """peft's layer, but a call touches the trained rows only.

    peft's copies the whole matrix at each call, and its backward makes the gradient of the whole matrix, another matrix product as
    large as the forward one, to keep a single row of it.
    """

    def forward_adapters(
        self, x: torch.Tensor, active_adapters: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        base = self.base_layer
        result: torch.Tensor = base(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for name in active_adapters:
            rows = self.trainable_tokens_delta[name].to(result.dtype)
            tokens = self.token_indices[name]
            if isinstance(base, torch.nn.Embedding):
                scale = self._get_embed_scale()
                for token, row in zip(tokens, rows, strict=True):
                    here = (x == token).unsqueeze(-1)
                    result = torch.where(here, row if scale is None else row * scale.to(row.dtype), result)
            else:
                bias = None if base.bias is None else base.bias[tokens]
                places = torch.tensor(tokens, device=result.device)
                result = result.index_copy(-1, places, F.linear(x, rows, bias))
        return result


def _replace_rows_quickly(wrapped: Any) -> None:
    for module in wrapped.modules():
        # The wrappers hold peft's layer itself, so its class is changed and not the object.
        if type(module) is TrainableTokensLayer:
            module.__class__ = _QuickRow

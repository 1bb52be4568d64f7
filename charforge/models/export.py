"""A model and its tokenizer → a folder in Hugging Face's layout, with bytes that depend on the model only.

Weights are bfloat16 safetensors. The library's version number, which transformers writes into each configuration, is taken
out: else an upgrade of transformers would make an equal model another artifact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

_SAVED_BY = ("transformers_version",)


def save_folder(model: Any, tokenizer: Any, out: Path) -> None:
    """Write weights, configuration, generation configuration, tokenizer and chat template into `out` (made if missing)."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        # Conversion parted what was one tensor; safetensors would write it twice.
        head = model.get_output_embeddings()
        shared = next(name for name, module in model.named_modules() if module is head) + ".weight"
        state.pop(shared, None)
    model.save_pretrained(str(out), state_dict=state, safe_serialization=True)
    _rewrite(out / "config.json", drop=(*_SAVED_BY, "_name_or_path"), add=_for_older_readers(model.config))
    # With _from_model_config a reader may set the generation configuration aside, and with it the end of turn.
    _rewrite(out / "generation_config.json", drop=(*_SAVED_BY, "_from_model_config"))
    save_tokenizer(tokenizer, out)


def save_tokenizer(tokenizer: Any, out: Path) -> None:
    """Write the tokenizer and its chat template into `out`, with bytes that depend on the tokenizer only."""
    tokenizer.save_pretrained(str(out))
    _rewrite(
        out / "tokenizer_config.json",
        drop=(*_SAVED_BY, "name_or_path", "is_local", "local_files_only", "backend"),
        add={"tokenizer_class": "PreTrainedTokenizerFast"}
        if type(tokenizer).__name__ == "TokenizersBackend"
        else {},
    )


def _for_older_readers(config: Any) -> dict[str, Any]:
    """Return what readers of transformers 4's layout look for. Without rope_theta they would take 10,000 for it, silently."""
    rope = getattr(config, "rope_parameters", None) or {}
    return {"dtype": "bfloat16"} | ({"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {})


def _rewrite(path: Path, drop: tuple[str, ...], add: dict[str, Any] | None = None) -> None:
    if path.is_file():
        data = json.loads(path.read_text(encoding="utf-8"))
        data = {key: value for key, value in data.items() if key not in drop} | (add or {})
        text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")

"""Forward and backward of one row of packed sequences, each seen alone: attention stays inside it, its positions begin at 0.

A row has batch size 1 and no mask: attention is called sequence by sequence, whose lengths are Python numbers, so nothing waits
for an accelerator and nothing is spent on pairs that may not see each other. Logits exist at trained positions only, some at a
time. Serves full and peft-wrapped models and `world.Sharded`. Knows nothing of samples, steps, learning rates or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- everybody's name for it
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from charforge.errors import CharForgeError
from charforge.models.packed import PackedAttention
from charforge.models.rows import Row

NAME = "charforge_packed"
_LENGTHS = 32
"""Rows are filled up to multiples of this, so that few shapes occur: memory was seen to grow by some 10 MB with each new length."""
_LOGITS = 1 << 24
"""Logits that exist at once on a processor: 64 MB in float32; eight times as many on an accelerator, which wants larger products.
Fewer would add up the output matrix's gradient more often than needed."""
_NO_LABEL = -100


def causal(model: Any) -> Any:
    """Return the causal language model inside a peft wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prepare(model: Any) -> None:
    """Make the model attend inside each sequence of a row; from then on its forward wants `sequences=` their lengths."""
    AttentionInterface.register(NAME, attend)
    causal(model).set_attn_implementation(NAME)


def attend(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: object,
    scaling: float,
    sequences: tuple[int, ...],
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The interface transformers calls: [1, heads, tokens, head_dim] in, [1, tokens, heads, head_dim] out."""
    window = others.get("sliding_window")
    if window is not None and max(sequences) > window:
        raise CharForgeError(
            f"sequences longer than the model's attention window of {window} are not trained here"
        )
    for name in ("softcap", "s_aux"):
        if others.get(name) is not None:
            raise CharForgeError(f"models with {name} in their attention are not trained here")
    if query.device.type == "cpu":
        return PackedAttention.apply(query[0], key[0], value[0], sequences, scaling)[None], None
    out = [
        F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        for q, k, v in zip(
            query.split(sequences, 2), key.split(sequences, 2), value.split(sequences, 2), strict=True
        )
    ]
    return torch.cat(out, 2).transpose(1, 2), None


def hidden_states(model: Any, row: Row) -> torch.Tensor:
    """Return what predicts the row's targets: [targets, hidden size], each from the place before its target."""
    inner = causal(model)
    more = -len(row.ids) % _LENGTHS
    lengths = (*row.lengths, more) if more else row.lengths
    device = inner.get_input_embeddings().weight.device
    ids = _tensor([*row.ids, *[row.ids[-1]] * more], device)
    positions = _tensor([place for length in lengths for place in range(length)], device)
    output = inner.base_model(
        input_ids=ids[None], position_ids=positions[None], use_cache=False, sequences=lengths
    )
    states: torch.Tensor = output.last_hidden_state[0]
    return states.index_select(0, _tensor([target - 1 for target in row.targets], device))


def backward(model: Any, row: Row, denominator: float, *, recompute: bool) -> torch.Tensor:
    """Add the gradients of the row's share of the mean loss over `denominator` tokens; returns that share, a scalar.

    With `recompute` each layer keeps only its input and is computed again: less memory, the same bits.
    """
    _recompute_layers(causal(model), yes=recompute)
    states = hidden_states(model, row)
    leaf = states.detach().requires_grad_()
    labels = _tensor([row.ids[target] for target in row.targets], states.device)
    total = torch.zeros((), device=states.device)
    for some in _some(model, len(labels)):
        logits = causal(model).get_output_embeddings()(leaf[some])
        with torch.no_grad():
            # The cross-entropy and its gradient by hand, in the memory of one copy: probabilities, less 1 where the label is.
            # On a processor `log_softmax` alone takes longer than all of this.
            scores = logits.float()
            scores -= scores.amax(-1, keepdim=True)
            places = torch.arange(len(scores), device=scores.device)
            chosen = scores[places, labels[some]]
            whole = scores.exp_().sum(-1)
            total += (whole.log() - chosen).sum() / denominator
            scores /= (whole * denominator)[:, None]
            scores[places, labels[some]] -= 1.0 / denominator
            gradient = scores.to(logits.dtype)
            del scores
        logits.backward(gradient)
        del logits, gradient
    states.backward(leaf.grad)
    return total


def measure(model: Any, rows: Sequence[Row]) -> list[float]:
    """Return the loss in nats of every sequence, added up over its targets: row by row, sequences in the row's order."""
    sums = []
    with torch.inference_mode():
        for row in rows:
            states = hidden_states(model, row)
            labels = _tensor([row.ids[target] for target in row.targets], states.device)
            head = causal(model).get_output_embeddings()
            losses = torch.cat(
                [
                    F.cross_entropy(head(states[some]).float(), labels[some], reduction="none").double()
                    for some in _some(model, len(labels))
                ]
            )
            ends = list(accumulate(row.lengths))
            counts = [
                sum(end - n <= t < end for t in row.targets) for end, n in zip(ends, row.lengths, strict=True)
            ]
            sums.append(torch.stack([part.sum() for part in losses.split(counts)]))
    return torch.cat(sums).tolist() if sums else []


def check_head(model: Any, row: Row) -> None:
    """Raise CharForgeError where the model does more than is known here: to its hidden states (scaling, capping), or across sequences.

    Compares logits of the row's last sequence, packed and by our way, with the model's own for that sequence alone.
    """
    inner = causal(model)
    length = row.lengths[-1]
    first = len(row.ids) - length
    places = [target for target in row.targets if target >= first][:8]
    if not places:
        return
    device = inner.get_input_embeddings().weight.device
    training = inner.training
    inner.eval()
    with torch.inference_mode():
        shortened = Row(row.ids, row.lengths, tuple(places), row.owners)
        ours = inner.get_output_embeddings()(hidden_states(model, shortened)).float()
        inner.set_attn_implementation("sdpa")
        try:
            whole = (
                inner(
                    input_ids=_tensor(row.ids[first:], device)[None],
                    use_cache=False,
                    logits_to_keep=_tensor([place - 1 - first for place in places], device),
                )
                .logits[0]
                .float()
            )
        finally:
            inner.set_attn_implementation(NAME)
            inner.train(training)
    # Rounding differs between the two ways; another function, or another sequence's words, make all of the difference.
    if (ours - whole).norm() > 0.1 * (whole - whole.mean(-1, keepdim=True)).norm():
        raise CharForgeError(
            f"models of type {inner.config.model_type} are not trained here: their logits are altered, "
            "or sequences in a row are not apart"
        )


def activation_bytes(model: Any, tokens: int, *, recompute: bool) -> int:
    """Estimate what backward needs of a row of `tokens` beside weights, gradients and optimiser states."""
    config = causal(model).config.get_text_config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    # Numbers a layer keeps a token: six of hidden size and float32 copies in the norms, queries and keys twice, three of the MLP's.
    layer = 14 * hidden + 4 * (getattr(config, "intermediate_size", None) or 4 * hidden)
    numbers = layers * hidden + layer if recompute else layers * layer
    return int(tokens * numbers * causal(model).dtype.itemsize + 3 * 4 * _LOGITS)


def _some(model: Any, targets: int) -> Iterator[slice]:
    """Cut the targets into as many at a time as `_LOGITS` allows."""
    logits = _LOGITS if causal(model).get_input_embeddings().weight.device.type == "cpu" else 8 * _LOGITS
    at_once = max(64, logits // causal(model).config.get_text_config().vocab_size // 64 * 64)
    for start in range(0, targets, at_once):
        yield slice(start, start + at_once)


def _recompute_layers(inner: Any, *, yes: bool) -> None:
    # Dropout has to fall on the same places again.
    dropout = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in inner.modules())
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=dropout)
    for module in inner.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = yes
            module._gradient_checkpointing_func = again  # noqa: SLF001


def _tensor(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """Integers on a device; copied from pinned memory, because else the copy would wait for all that the device still does."""
    tensor = torch.tensor(numbers)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)

"""The one token that training adds to a base model's vocabulary: `<|eot|>`, the end of a turn."""

from __future__ import annotations

from typing import Any

import torch

from charforge.dialogue import EOT
from charforge.errors import CharForgeError


def add_end_of_turn(model: Any, tokenizer: Any) -> None:
    """Add the one token `<|eot|>`, which begins as a copy of the token that ended a chat turn so far.

    The vocabulary grows to a multiple of 64; places beyond the tokenizer's are copies too and are never written.
    """
    eos = tokenizer.eos_token_id
    if EOT not in tokenizer.get_vocab():
        from tokenizers import AddedToken

        tokenizer.add_tokens([AddedToken(EOT, special=True, normalized=False)], special_tokens=True)
    before = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > before:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
        with torch.no_grad():
            for module in {model.get_input_embeddings(), model.get_output_embeddings()}:
                module.weight[before:] = module.weight[eos]
    elif EOT not in tokenizer.get_vocab():
        raise CharForgeError("the tokenizer of the base model takes no new token")
    ends = [eos, tokenizer.convert_tokens_to_ids(EOT)]
    model.generation_config.eos_token_id = list(dict.fromkeys(end for end in ends if end is not None))

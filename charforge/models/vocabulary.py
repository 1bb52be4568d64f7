"""The one token that training adds to a base model's vocabulary: `<|eot|>`, the end of a turn. Imports no torch by itself."""

from __future__ import annotations

from typing import Any

from charforge.dialogue import EOT
from charforge.errors import CharForgeError


def add_token(tokenizer: Any) -> bool:
    """Add `<|eot|>` to the tokenizer; returns whether it is new. CharForgeError where the tokenizer has no end token to begin from."""
    if EOT in tokenizer.get_vocab():
        return False
    if tokenizer.eos_token_id is None:
        raise CharForgeError(
            f"the tokenizer of the base model has no end token, which {EOT} begins as a copy of",
            "choose another base model, or name its end token in tokenizer_config.json (eos_token)",
        )
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(EOT, special=True, normalized=False)], special_tokens=True)
    if EOT not in tokenizer.get_vocab():
        raise CharForgeError("the tokenizer of the base model takes no new token")
    return True


def add_end_of_turn(model: Any, tokenizer: Any) -> None:
    """Add the one token `<|eot|>`, which begins as a copy of the token that ended a chat turn so far.

    The vocabulary grows by this token alone. Filled up to a round number, the places more would be copies as well, each with the
    probability of an end of turn, for nobody to write; and the product with the output matrix is no faster for it.
    Raises CharForgeError where the tokenizer has no end token or takes no new one.
    """
    eos = tokenizer.eos_token_id
    new = add_token(tokenizer)
    token = tokenizer.convert_tokens_to_ids(EOT)
    before = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > before:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if new or len(tokenizer) > before:
        for module in {model.get_input_embeddings(), model.get_output_embeddings()}:
            rows = module.weight.data
            # Where the model had room already, the token's place held numbers that nothing was ever trained to be.
            rows[token] = rows[eos]
            rows[before:] = rows[eos]
    ends = [eos, token]
    model.generation_config.eos_token_id = list(dict.fromkeys(end for end in ends if end is not None))

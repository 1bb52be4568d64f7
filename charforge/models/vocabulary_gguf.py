"""A tokenizer.json → the tokenizer fields of a GGUF file, or one clear error: llama.cpp brings its own tokenizers.

llama.cpp reads no rules from the file. It picks its code by two names, `tokenizer.ggml.model` and, for byte-level BPE,
`tokenizer.ggml.pre`, which says how text is split before merging. A wrong name gives other tokens without a word, so a name
is given only where the tokenizer's own splitting is, rule for rule, the one that llama.cpp has under that name. Plain data in,
plain data out: no torch, no gguf.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from charforge.dialogue import EOT
from charforge.errors import CharForgeError

# llama.cpp's token types. A control token is not text: it is never printed, and typed text never makes one.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

SPACE = "▁"
"""How SentencePiece's pieces spell a space."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens`, `types` and, of SentencePiece's kind, `scores` by id; `merges` as `left right`, of byte-level BPE.

    `model` and `pre` are llama.cpp's names. `special` is `{role: id}` with roles as GGUF's keys name them. `add_space_prefix`: a space
    goes before each stretch of text between special tokens. `first_space`: before the very first one only, which llama.cpp does
    not know: there a prompt has to begin with that space itself.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] | None
    scores: list[float] | None
    special: dict[str, int]
    add_bos: bool
    add_space_prefix: bool
    first_space: bool
    chat_template: str | None


def _byte_level(*, split: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": split}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _words(digits: str) -> str:
    """Return how Llama 3 and Qwen 2 split; they differ in how many digits stand together."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


# name → (splitting, Unicode normal form, whether a word that is a token is taken whole before any merge)
_KNOWN: dict[str, tuple[list[dict[str, Any]], str | None, bool]] = {
    "gpt-2": ([_byte_level(split=True)], None, False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, _byte_level(split=True)], None, False),
    "llama-bpe": ([_split(_words(r"\p{N}{1,3}")), _byte_level(split=False)], None, True),
    "qwen2": ([_split(_words(r"\p{N}")), _byte_level(split=False)], "NFC", False),
}


def read(folder: Path) -> Vocabulary:
    """Return the vocabulary of a model folder. CharForgeError where llama.cpp has no tokenizer that does the same."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CharForgeError(f"{folder} has no tokenizer.json", "only fast tokenizers can be written as GGUF")
    data = json.loads(path.read_text(encoding="utf-8"))
    settings = _json(folder / "tokenizer_config.json")
    model = data["model"]
    if model.get("type", "BPE") != "BPE":
        raise CharForgeError(f"a tokenizer of type {model['type']} cannot be written as GGUF", _HINT)
    tokens, types = _tokens(data)
    if model.get("byte_fallback"):
        name, pre, scores, prefix = "llama", "default", _scores(data, len(tokens)), _space(data)
        for n in range(256):
            if (byte := model["vocab"].get(f"<0x{n:02X}>")) is not None:
                types[byte] = BYTE
    else:
        name, pre, scores, prefix = "gpt2", _pre(data), None, "never"
    ids = {token: i for i, token in enumerate(tokens)}
    special = {
        role: ids[text]
        for role, key in _ROLES.items()
        if (text := _text(settings.get(key))) is not None and text in ids
    }
    if EOT in ids:
        # llama.cpp ends generation at an end of turn as it does at an end of text.
        special["eot"] = ids[EOT]
    if "unknown" in special and scores is not None:
        types[special["unknown"]] = UNKNOWN
    merges = None
    if scores is None:
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    template = folder / "chat_template.jinja"
    return Vocabulary(
        name,
        pre,
        tokens,
        types,
        merges,
        scores,
        special,
        _adds_bos(data, special),
        prefix == "always",
        prefix == "first",
        template.read_text(encoding="utf-8") if template.is_file() else settings.get("chat_template"),
    )


_ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_HINT = f"supported: byte-level BPE split as {', '.join(_KNOWN)} does, and the tokenizer of LLaMA 1 and 2"


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _text(token: Any) -> str | None:
    """Return a token's text: tokenizer_config.json holds it plain, or as an object."""
    found = token["content"] if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _tokens(data: dict[str, Any]) -> tuple[list[str], list[int]]:
    found = {i: (token, NORMAL) for token, i in data["model"]["vocab"].items()}
    for added in data.get("added_tokens", ()):
        found[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    if sorted(found) != list(range(len(found))):
        raise CharForgeError("the tokenizer's ids have gaps, so it cannot be written as GGUF")
    pairs = [found[i] for i in range(len(found))]
    return [token for token, _ in pairs], [kind for _, kind in pairs]


def _pre(data: dict[str, Any]) -> str:
    """Return llama.cpp's name for a byte-level tokenizer's way of splitting."""
    whole = data.get("pre_tokenizer") or {}
    steps = whole["pretokenizers"] if whole.get("type") == "Sequence" else [whole]
    # trim_offsets moves where a token is said to stand and changes no token.
    steps = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    normalizer = data.get("normalizer") or {}
    if normalizer.get("type") == "Sequence" and len(normalizer["normalizers"]) == 1:
        normalizer = normalizer["normalizers"][0]
    form = normalizer.get("type")
    ignore = bool(data["model"].get("ignore_merges"))
    for name, known in _KNOWN.items():
        if known == (steps, form, ignore):
            return name
    raise CharForgeError("the tokenizer splits text in a way that llama.cpp has no name for", _HINT)


def _adds_bos(data: dict[str, Any], special: dict[str, int]) -> bool:
    """Say whether every text begins with the BOS token, which is what training saw."""
    whole = data.get("post_processor") or {}
    for step in whole.get("processors", [whole]):
        if step.get("type") == "TemplateProcessing":
            for piece in step["single"]:
                if "SpecialToken" in piece:
                    ids = step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
                    return bool(piece is step["single"][0] and ids == [special.get("bos")])
    return False


# -- SentencePiece's kind --------------------------------------------------------------------------------------------


def _space(data: dict[str, Any]) -> str:
    """Return where text gets a space in front: always, first, never. CharForgeError where it is altered in any other way."""
    steps: list[Any] = []
    for part, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        whole = data.get(part) or {}
        steps += whole.get(inner, [whole] if whole else [])
    prefix = "never"
    for step in steps:
        match step:
            case {"type": "Prepend", "prepend": "▁"}:
                prefix = "always"
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                pass
            case {"type": "Metaspace", "replacement": "▁", "split": False, "prepend_scheme": scheme}:
                prefix = scheme
            case _:
                raise CharForgeError(
                    f"the tokenizer alters text by {step['type']}, which llama.cpp does not", _HINT
                )
    return prefix


def _scores(data: dict[str, Any], count: int) -> list[float]:
    """Return the pieces' scores. llama.cpp merges the neighbours whose joint piece scores highest, whatever pair they are.

    That is what the merges say if they come in the order of the pieces they make and no pair is missing; checked, because
    a vocabulary for which it is not so would be read otherwise there.
    """
    vocab: dict[str, int] = data["model"]["vocab"]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in data["model"]["merges"]]
    made = [vocab[left + right] for left, right in merges]
    if made != sorted(made):
        raise CharForgeError("the tokenizer's merges are not in the order of their pieces", _HINT)
    pairs = {(left, right) for left, right in merges}
    added = {token["content"] for token in data.get("added_tokens", ())}
    for piece in vocab.keys() - added:
        for cut in range(1, len(piece)):
            pair = (piece[:cut], piece[cut:])
            if pair[0] in vocab and pair[1] in vocab and pair not in pairs and not added & set(pair):
                raise CharForgeError(
                    f"the tokenizer makes {piece!r} not of {pair[0]!r} and {pair[1]!r}", _HINT
                )
    mergeable = set(made)
    return [float(-i) if i in mergeable else 0.0 for i in range(count)]

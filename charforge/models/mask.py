"""`python -m charforge.models.mask`: one sample as the trainer sees it, token by token. Loads a tokenizer and no model.

The job: {"base": tokenizer folder, "sft": JSONL path, "character", "loss", "context_length", "sample": index, id, or null for the
first}. The result: {"sample": {...}, "tokens": [{"text", "trained"}]}.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from charforge.errors import CharForgeError
from charforge.models.process import serve_job
from charforge.models.samples import check_mask, encode
from charforge.models.vocabulary import add_token


def mask(job: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Do the job of the module's docstring. CharForgeError where there is no such sample, or its mask is wrong.

    A `text` is the token's own piece of the decoded sample; letters of several tokens stand at the last of them.
    """
    from transformers import AutoTokenizer

    progress({"phase": "loading the tokenizer"})
    try:
        tokenizer = AutoTokenizer.from_pretrained(job["base"], local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CharForgeError(f"{job['base']} has no tokenizer that can be read: {first}") from error
    add_token(tokenizer)
    lines = Path(job["sft"]).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line]
    index = _find(records, job["sample"])
    record = records[index]
    left_out: list[dict[str, Any]] = []
    found = encode(tokenizer, record, job["character"], job["loss"], job["context_length"], left_out)
    check_mask(tokenizer, found, job["character"], job["loss"])
    tokens = []
    for sample in found:
        trained = set(sample.targets)
        pieces = _pieces(tokenizer, sample.ids)
        tokens += [{"text": piece, "trained": i in trained} for i, piece in enumerate(pieces)]
    return {
        "sample": {
            "index": index,
            "samples": len(records),
            "source": record["source"],
            "kind": record.get("kind"),
            "pieces": len(found),
            "left_out": left_out,
            "tokens": sum(len(sample.ids) for sample in found),
            "trained_tokens": sum(len(sample.targets) for sample in found),
        },
        "tokens": tokens,
    }


def _find(records: list[dict[str, Any]], wanted: int | str | None) -> int:
    if not records:
        raise CharForgeError("the dataset has no sample", "build it first: charforge build --to dataset")
    if wanted is None:
        return 0
    number = int(wanted) if isinstance(wanted, int) or wanted.isdecimal() else None
    if number is not None and number < len(records):
        return number
    for index, record in enumerate(records):
        if wanted in (record["source"]["id"], f"{record['source']['id']}/{record['source'].get('part', 1)}"):
            return index
    raise CharForgeError(
        f"the dataset has no sample {wanted!r}",
        f"give a number below {len(records)}, or an id such as {records[0]['source']['id']!r}",
    )


def _pieces(tokenizer: Any, ids: tuple[int, ...]) -> list[str]:
    """Return each token's text. A token that is a part of a letter decodes to U+FFFD alone: it waits for the others."""
    pieces, begin, before = [], 0, ""
    for end in range(1, len(ids) + 1):
        window = ids[begin:end]
        text = tokenizer.decode(list(window), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and end < len(ids):
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        # One token of context keeps the space that some tokenizers drop at the start of a text.
        begin = end - 1
        before = tokenizer.decode(
            list(ids[begin:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
    return pieces


if __name__ == "__main__":
    serve_job(mask)

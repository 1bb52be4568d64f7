"""Records of sft.jsonl → samples: token ids, and the places in them that loss falls on.

The mask is a contract. It is made from character offsets, and every turn's tokens are decoded and compared with its words when it is
made; `check_mask` reads the finished samples once more, from the tokens alone. Nothing is cut: a record longer than the context is
split between turns, each part with the prompt again, and a turn that fits nowhere is left out and named. Knows no model; imports
no torch.
"""

from __future__ import annotations

import hashlib
import random
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from charforge.dialogue import EOT, trained_spans, turn_spans
from charforge.errors import CharForgeError

GENERAL = "general"
_CLOSE = 16
"""Tokens by which a part's length may differ from what it is expected to be: a few at the border between prompt and turn."""
_FOREIGN_HEAD = re.compile(r"\n[^\n():]{1,80}? ?\((?:speaking|thinking)\):")


@dataclass(frozen=True, slots=True)
class Sample:
    """`ids` of prompt and output; `targets` are the places in `ids` that loss falls on, in order.

    `part` is the record's; `piece` counts from 1 where the record was split here. The output begins at `start` in `ids`.
    """

    source: str
    part: int
    ids: tuple[int, ...]
    targets: tuple[int, ...]
    kind: str = "dialogue"
    piece: int = 1
    start: int = 0

    @property
    def name(self) -> str:
        """Return how messages call it."""
        return f"{self.source} part {self.part}" + (f" piece {self.piece}" if self.piece > 1 else "")


class _Turn(NamedTuple):
    text: str
    thought: bool
    tokens: int


@dataclass(slots=True)
class Samples:
    """What `read` made of the records. `left_out`: {"source", "part", "tokens"} of each turn (or general sample) that fits nowhere."""

    samples: list[Sample] = field(default_factory=list)
    split: int = 0
    left_out: list[dict[str, Any]] = field(default_factory=list)


def read(tokenizer: Any, records: Iterable[dict[str, Any]], character: str, loss: str, limit: int) -> Samples:
    """Return the samples of all records, how many were split, and what was left out."""
    found = Samples()
    for record in records:
        pieces = encode(tokenizer, record, character, loss, limit, found.left_out)
        found.split += len(pieces) > 1
        found.samples += pieces
    return found


def encode(
    tokenizer: Any,
    record: dict[str, Any],
    character: str,
    loss: str,
    limit: int,
    left_out: list[dict[str, Any]] | None = None,
) -> list[Sample]:
    """Return the samples of an SFT record, none longer than `limit` tokens; more than one where it was split between turns.

    Loss falls on the whole output of a general record, else as `loss` says. A turn that is too long even alone with the prompt goes
    to `left_out`. Raises CharForgeError naming the sample where the tokens do not follow the turns' borders.
    """
    source, part = record["source"]["id"], record["source"].get("part", 1)
    general = record.get("kind") == GENERAL
    prompt, output = record["prompt"], record["output"]
    tokens = _tokens(tokenizer, prompt + output)
    if len(tokens[0]) + general <= limit:
        return [_sample(tokenizer, record, output, character, loss, 1, tokens)]
    outputs, sizes = (
        ([], [len(tokens[0]) + 1]) if general else _split(tokenizer, prompt, output, tokens[1], limit)
    )
    if left_out is not None:
        left_out += ({"source": source, "part": part, "tokens": size} for size in sizes)
    return [
        _sample(tokenizer, record, text, character, loss, piece, _tokens(tokenizer, prompt + text))
        for piece, text in enumerate(outputs, 1)
    ]


def _split(
    tokenizer: Any, prompt: str, output: str, offsets: Sequence[tuple[int, int]], limit: int
) -> tuple[list[str], list[int]]:
    """Return the parts of output, and the tokens (with the prompt) of each turn that is longer than `limit` by itself.

    A thought goes with what follows it, as far as both fit together. `offsets` are the whole text's: end marks part a text before it is
    cut into tokens, so a turn has about as many anywhere. Where that is too close to the limit the text is asked.
    """
    spans = turn_spans(output)
    if not spans:
        return [], [len(offsets)]
    begins = [span.start for span in spans]
    ends = [*begins[1:], len(output)]
    sizes = Counter(bisect_right(begins, max(first - len(prompt), 0)) - 1 for first, _ in offsets)
    in_prompt = sum(last <= len(prompt) for _, last in offsets)
    sizes[0] -= in_prompt
    turns = [
        _Turn(output[span.start : end], span.action == "thinking", sizes[i])
        for i, (span, end) in enumerate(zip(spans, ends, strict=True))
    ]

    def tokens(some: Sequence[_Turn]) -> int:
        about = in_prompt + sum(turn.tokens for turn in some)
        if abs(about - limit) > _CLOSE:
            return about
        return len(_tokens(tokenizer, prompt + "".join(turn.text for turn in some))[0])

    parts: list[list[_Turn]] = [[]]
    too_long: list[int] = []
    for turn in turns:
        if (alone := tokens([turn])) > limit:
            too_long.append(alone)
            parts.append([])
            continue
        if tokens([*parts[-1], turn]) > limit:
            before = parts[-1]
            moved: list[_Turn] = []
            while len(before) > 1 and before[-1].thought:
                moved.insert(0, before.pop())
            if tokens([*moved, turn]) > limit:
                before += moved
                moved = []
            parts.append(moved)
        parts[-1].append(turn)
    return ["".join(turn.text for turn in part) for part in parts if part], too_long


def _tokens(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids of text and the characters each stands for. Where the tokenizer begins texts with a token, so does this.

    What a tokenizer puts after a text (T5's end, for one) is not taken: a turn has its own end.
    """
    begin = tokenizer("")["input_ids"][:1]
    begin = begin if begin == [tokenizer.bos_token_id] else []
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = [(0, 0)] * len(begin) + [tuple(pair) for pair in encoding["offset_mapping"]]
    return [*begin, *encoding["input_ids"]], offsets


def _sample(
    tokenizer: Any,
    record: dict[str, Any],
    output: str,
    character: str,
    loss: str,
    piece: int,
    tokens: tuple[list[int], list[tuple[int, int]]],
) -> Sample:
    source, part = record["source"]["id"], record["source"].get("part", 1)
    name = Sample(source, part, (), (), piece=piece).name
    prompt, kind = record["prompt"], record.get("kind", "dialogue")
    ids, offsets = tokens
    start = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(ids))
    targets: list[int] = []
    spans = [(0, len(output))] if kind == GENERAL else trained_spans(output, character, loss)
    at = start
    for begin, end in spans:
        first, last = begin + len(prompt), end + len(prompt)
        while at < len(ids) and offsets[at][0] < first:
            at += 1
        since = at
        while at < len(ids) and offsets[at][1] <= last:
            at += 1
        # The mask is the contract, so it is checked for every turn and not believed: the words, all of them, and no other's.
        # White space apart: some tokenizers add a space after each special token.
        decoded = _text(tokenizer, ids[since:at])
        expected = output[begin:end]
        if "".join(decoded.split()) != "".join(expected.split()):
            raise CharForgeError(
                f"the sample {name}: the loss mask covers {decoded!r}, expected {expected!r}",
                "the base model's tokenizer has tokens that cross the turn's borders: choose another base model",
            )
        targets += range(since, at)
    if kind == GENERAL and not output.endswith(EOT) and tokenizer.eos_token_id is not None:
        # Else an answer to a general question would be learned without its end.
        targets.append(len(ids))
        ids.append(tokenizer.eos_token_id)
    # A first token has nothing before it to be predicted from.
    return Sample(
        source, part, tuple(ids), tuple(target for target in targets if target > 0), kind, piece, start
    )


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


# -- the contract, read from the tokens


def check_mask(tokenizer: Any, samples: Iterable[Sample], character: str, loss: str) -> dict[str, int]:
    """Check every sample's mask from its tokens alone, as the last thing before training; returns {"samples", "turns", "tokens"}.

    Character losses: each run of trained tokens follows `<character> (` (or `<character> (speaking):`) at the start of a turn,
    ends in `<|eot|>`, holds no other end of turn and no line that another speaker's turn could begin with. `completion` and general
    samples: nothing of the prompt is trained, and without a gap. Raises CharForgeError naming the first sample that breaks it.
    """
    eot = tokenizer.convert_tokens_to_ids(EOT)
    figures = {"samples": 0, "turns": 0, "tokens": 0}
    for sample in samples:
        if not sample.targets:
            continue
        figures["samples"] += 1
        figures["tokens"] += len(sample.targets)
        targets = sample.targets
        if targets[0] < max(1, sample.start) or targets[-1] >= len(sample.ids):
            raise _broken(sample, f"a token of the prompt is trained: {_near(tokenizer, sample, targets[0])}")
        runs = _runs(targets)
        if sample.kind == GENERAL or loss == "completion":
            if len(runs) > 1:
                raise _broken(
                    sample,
                    f"a token inside the output is not trained: {_near(tokenizer, sample, runs[0][1])}",
                )
            figures["turns"] += sum(sample.ids[target] == eot for target in targets)
            continue
        for begin, end in runs:
            figures["turns"] += 1
            text = _text(tokenizer, sample.ids[begin:end])
            if sample.ids[end - 1] != eot:
                raise _broken(sample, f"a trained turn does not end in {EOT}: {_short(text)}")
            if eot in sample.ids[begin : end - 1]:
                raise _broken(sample, f"trained tokens go on behind {EOT}: {_short(text)}")
            since = max(
                (i for i in range(sample.start, begin) if sample.ids[i] == eot), default=sample.start - 1
            )
            head = _text(tokenizer, sample.ids[since + 1 : begin]).strip()
            heads = re.compile(
                rf"(?:.*\n)?\s*{re.escape(character)} ?\("
                + (r"speaking\):" if loss == "character_speech" else ""),
                re.DOTALL,
            )
            if not heads.fullmatch(head):
                raise _broken(
                    sample,
                    f"a token is trained that {character} does not say: {_short(text)} after {_short(head)}",
                )
            # The run itself begins behind the name: a head on a later line is another turn's.
            if _FOREIGN_HEAD.search(text):
                raise _broken(sample, f"another speaker's turn is trained: {_short(text)}")
    return figures


def _runs(targets: Sequence[int]) -> list[tuple[int, int]]:
    """Return the half-open ranges of neighbouring targets."""
    runs: list[tuple[int, int]] = []
    for target in targets:
        if runs and runs[-1][1] == target:
            runs[-1] = (runs[-1][0], target + 1)
        else:
            runs.append((target, target + 1))
    return runs


def _near(tokenizer: Any, sample: Sample, place: int) -> str:
    return _short(_text(tokenizer, sample.ids[max(0, place - 2) : place + 6]))


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:38]} … {text[-38:]}")


def _broken(sample: Sample, message: str) -> CharForgeError:
    return CharForgeError(
        f"the loss mask of the sample {sample.name} is wrong: {message}",
        "nothing was trained; this is a fault of the sample or of charforge: look at it with `charforge show dataset --mask`",
    )


# -- which samples, and in which order


def some(records: list[dict[str, Any]], limit: int | None, seed: int) -> list[dict[str, Any]]:
    """Return `limit` of the records, chosen by digest so that they spread over all of them; all where it is None."""
    if limit is None:
        return records
    names = [f"{seed}:{record['source']['id']}:{record['source'].get('part', 1)}" for record in records]
    ranked = sorted(range(len(records)), key=lambda i: hashlib.sha256(names[i].encode()).hexdigest())
    return [records[i] for i in sorted(ranked[:limit])]


def held_out_sources(sources: Sequence[str], share: float, seed: int) -> set[str]:
    """Return the sources that are measured on and not trained on: the lowest share by SHA-256 of `seed:id`.

    At least one where share > 0 and there are five sources; none where there are fewer. Adding a source moves few others.
    """
    distinct = sorted(set(sources))
    if share <= 0 or len(distinct) < 5:
        return set()
    ranked = sorted(distinct, key=lambda source: hashlib.sha256(f"{seed}:{source}".encode()).digest())
    return set(ranked[: max(1, min(round(share * len(ranked)), len(ranked) - 1))])


def shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Return the samples in an order that depends on the seed only."""
    order = list(samples)
    random.Random(seed).shuffle(order)  # noqa: S311
    return order

"""Many requests → replies, in one running batch on one local model.

`Generator` takes requests at any time (`add`) and writes one token for each of them at a time (`step`): rows that are done
leave the batch, new ones join it, and each row samples by its own settings with its own random numbers. Knows nothing of
processes, weights files or what the text is for.

Why not transformers' `generate`: 64 replies of 64 tokens each (135M parameters, bfloat16, two Zen 4 cores) took it 25 s,
165 tokens/s; here they take 9 s. The time went to padded attention with repeated heads (26%), to drawing 49,152
exponentials a token (20%), and to copying the cache at each step (7%). It also computes rows that are done, and a prompt
prefix once per row. Here:

- tokens of all rows are packed in one sequence of batch size 1, without padding; a registered attention function
  gives each row its own past (see `attention`). So the matrix products see real tokens only, in prefill and decoding alike;
- a prefix that several rows share (a meta prompt, a rubric) is computed once and kept for later rows. Its keys and
  values are held once, and all rows' queries meet them in one matrix product;
- the keys and values of a prompt stay a while, for a prompt that begins with it: the next turn of a conversation computes what is new;
- a row needs one uniform number a token, which picks from its own sorted nucleus.

The numbers of a row depend on its seed, draw and prompt only, never on its batch mates. Its logits do in the last bits (matrix
products round differently at other batch sizes), so equal text is certain at equal batches and near certain in float32.
"""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from charforge.errors import CharForgeError
from charforge.llm.request import Reply, Request
from charforge.models import attention
from charforge.models.attention import Decode, Newcomer, OwnCache, Prefill, Prefix
from charforge.models.blocked import block
from charforge.models.kept import Kept, common
from charforge.models.sampling import Seen, numbers, sample

MAX_ROWS = 64
"""Rows decoded together. Beyond it two cores gain nothing: the matrix products are as wide as they need to be."""

_CACHE_BYTES = 1 << 30
"""Keys and values of the rows' own tokens; rows wait when they would exceed it, except a row alone."""
_PREFILL_TOKENS = 4096
"""Prompt tokens computed in one forward pass: bounds the memory of activations."""
_SAVED_TOKENS = 256
"""Prompt tokens that a new prefix must save: each prefix more costs each decoding step about 2 ms, a prompt token 0.5 ms."""
_PATIENCE = 8
"""Steps between admissions: each copies the cache, about one step's time."""
_PREFIXES = 8
"""Prefixes kept after their rows are gone, least recently used dropped first."""

END_OF_TURN = "<|eot|>"


@dataclass(eq=False)
class Row:
    """One request being answered."""

    key: Any
    request: Request
    ids: tuple[int, ...]
    random: random.Random
    matcher: Any = None
    prefix: Prefix | None = None
    known: list[torch.Tensor] | None = None
    seen: Seen = field(init=False)
    out: list[int] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        self.seen = Seen(self.ids, self.request.max_tokens)

    @property
    def shared(self) -> int:
        """Prompt tokens in the prefix."""
        return len(self.prefix.ids) if self.prefix else 0

    @property
    def own(self) -> int:
        """Prompt tokens after the prefix."""
        return len(self.ids) - self.shared

    @property
    def begun(self) -> int:
        """Prompt tokens that need not be computed: those of the prefix, and those `known` from an earlier prompt."""
        return self.shared + (self.known[0].shape[2] if self.known else 0)


@dataclass(frozen=True)
class Finished:
    """`outcome` of the request that was added under `key`."""

    key: Any
    outcome: Reply | CharForgeError


class Generator:
    """A batch that never stops: `add` requests, then `step` until it has nothing `waiting` or `active`."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        attention.install(model)
        self.model, self.tokenizer, self.config = model.eval(), tokenizer, model.config
        text = model.config.get_text_config()
        if any(kind != "full_attention" for kind in getattr(text, "layer_types", None) or ()):
            raise CharForgeError(f"models of type {text.model_type} (windowed attention) are not run here")
        self.layers: int = text.num_hidden_layers
        self.kv_heads: int = text.num_key_value_heads
        self.head_dim: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.context: int = text.max_position_embeddings
        self.vocabulary: int = model.get_output_embeddings().weight.shape[0]
        self.ends = self._end_tokens()
        with torch.inference_mode():
            block(model)
        # Control tokens other than the ends are never written, so that the text is all of what was sampled.
        banned = set(tokenizer.all_special_ids) | {
            i for i, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        banned |= set(range(len(tokenizer), self.vocabulary))
        self._banned = torch.tensor(sorted(banned - self.ends), dtype=torch.long)
        self._special = sorted(
            (tokenizer.convert_ids_to_tokens(i) for i in banned | self.ends if i < len(tokenizer)), key=len
        )
        self._constraints: Any = None
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()
        self._kept = Kept(2 * self.layers * self.kv_heads * self.head_dim * model.dtype.itemsize)
        self.waiting: list[Row] = []
        self.rows: list[Row] = []
        self._own = OwnCache(self.layers, self.kv_heads, self.head_dim)
        self._steps = 0  # since rows were last taken in

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self.waiting or self.rows)

    @property
    def size(self) -> int:
        """Rows that `step` would write at most: those under way and those that wait."""
        return min(MAX_ROWS, len(self.waiting) + sum(not row.done for row in self.rows))

    def generate(self, requests: Sequence[Request]) -> list[Reply | CharForgeError]:
        """Answer all requests and return their outcomes in the same order."""
        outcomes: dict[int, Reply | CharForgeError] = {}
        for i, request in enumerate(requests):
            try:
                self.add(i, request)
            except CharForgeError as error:
                outcomes[i] = error
        while self.busy:
            outcomes.update((done.key, done.outcome) for done in self.step())
        return [outcomes[i] for i in range(len(requests))]

    def add(self, key: Any, request: Request) -> None:
        """Queue a request. CharForgeError where it cannot be answered: too long, no chat template, bad schema."""
        ids = self.encode(request)
        room = self.context - len(ids)
        if room < request.max_tokens:
            raise CharForgeError(
                f"a prompt of {len(ids)} tokens and a reply of {request.max_tokens} exceed the model's context of {self.context}",
                "shorten the prompt or lower max_tokens",
            )
        self.waiting.append(Row(key, request, ids, numbers(request, ids), self._matcher(request.schema)))

    def cancel(self, key: Any) -> None:
        """Forget a request; nothing happens where it is done or unknown."""
        self.waiting = [row for row in self.waiting if row.key != key]
        for row in self.rows:
            row.done = row.done or row.key == key

    def encode(self, request: Request) -> tuple[int, ...]:
        """Return the prompt's token ids; messages go through the chat template and cannot forge its control tokens."""
        if request.prompt is not None:
            ids = self.tokenizer(request.prompt)["input_ids"]
        else:
            if not self.tokenizer.chat_template:
                raise CharForgeError(
                    "this model has no chat template", "send it a prompt instead of messages"
                )
            messages = [
                {"role": role, "content": self._harmless(content)} for role, content in request.messages or ()
            ]
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise CharForgeError("the prompt is empty")
        return tuple(ids)

    def step(self) -> list[Finished]:
        """Take in waiting rows where there is room, write one token for every row, and return the rows that are done."""
        with torch.inference_mode():
            finished = self._admit()
            if self.rows:
                alive, logits = self._decode()
                finished += self._write(alive, logits)
                self._keep_ended(alive)
            # Closing ranks copies the cache, so it waits until an eighth of the batch is done.
            if sum(row.done for row in self.rows) * 8 >= len(self.rows) > 0:
                self._reorder([(i, row) for i, row in enumerate(self.rows) if not row.done])
        return finished

    def _keep_ended(self, rows: Sequence[Row]) -> None:
        """Keep what the rows that just ended have written as well: the next turn of a conversation goes on from there."""
        for row in rows:
            if row.done:
                place = self.rows.index(row)
                count = row.own + len(row.out) - 1  # the last token was never put in
                layers = [
                    layer[:, place, :, :count].to(self.model.dtype, copy=True) for layer in self._own.layers
                ]
                self._kept.add((*row.ids, *row.out[:-1]), row.shared, layers)

    def _end_tokens(self) -> set[int]:
        ends = {self.tokenizer.eos_token_id}
        configured = self.model.generation_config.eos_token_id
        ends |= set(configured) if isinstance(configured, list) else {configured}
        vocabulary = self.tokenizer.get_vocab()
        # The second is the end of a text to every tokenizer that has it, whatever ends a chat turn.
        ends |= {vocabulary[token] for token in (END_OF_TURN, "<|endoftext|>") if token in vocabulary}
        return {token for token in ends if token is not None}

    def _harmless(self, content: str) -> str:
        for token in self._special:
            content = content.replace(token, f"{token[0]} {token[1:]}")
        return content

    def _matcher(self, schema: dict[str, Any] | None) -> Any:
        if schema is None:
            return None
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        if self._constraints is None:
            self._constraints = from_tokenizer(
                self.tokenizer, n_vocab=self.vocabulary, eos_token=sorted(self.ends)
            )
        # Free white space would let a small model write line breaks until it runs out of tokens.
        options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        matcher = LLMatcher(
            self._constraints,
            LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options),
            log_level=0,
        )
        if matcher.is_error():
            first = str(matcher.get_error()).splitlines()[0]
            raise CharForgeError(f"the reply's schema cannot constrain a local model: {first}")
        return matcher

    # -- taking rows in

    def _admit(self) -> list[Finished]:
        self._steps += 1
        free = MAX_ROWS - sum(not row.done for row in self.rows)
        early = self._steps < _PATIENCE and len(self.waiting) < MAX_ROWS // 4
        if not self.waiting or free == 0 or (self.rows and early):
            return []
        self._steps = 0
        self._assign_prefixes(self.waiting[:free])
        taken = self._that_fit(self.waiting[:free])
        if not taken:
            return []
        del self.waiting[: len(taken)]
        finished: list[Finished] = []
        entries: list[tuple[int | list[torch.Tensor], Row]] = [
            (i, row) for i, row in enumerate(self.rows) if not row.done
        ]
        for chunk in _chunks(taken):
            caches, logits = self._prefill(chunk)
            finished += self._write(chunk, logits)
            entries += [(cache, row) for cache, row in zip(caches, chunk, strict=True) if not row.done]
        # Rows of one prefix stand side by side: their queries are then one block.
        order: dict[int, int] = {}
        for _, row in entries:
            order.setdefault(id(row.prefix), len(order))
        self._reorder(sorted(entries, key=lambda entry: order[id(entry[1].prefix)]))
        return finished

    def _that_fit(self, rows: list[Row]) -> list[Row]:
        """Return the first of the rows whose keys and values have room beside those of the batch; at least one if it is empty."""
        per_token = 2 * self.layers * self.kv_heads * self.head_dim * 4
        alive = [row for row in self.rows if not row.done]
        longest = max((row.own + row.request.max_tokens for row in alive), default=0)
        for n, row in enumerate(rows):
            longest = max(longest, row.own + row.request.max_tokens)
            count = len(alive) + n + 1
            if count > 1 and count * longest * per_token > _CACHE_BYTES:
                return rows[:n]
        return rows

    def _reorder(self, entries: Sequence[tuple[int | list[torch.Tensor], Row]]) -> None:
        self._own.rebuild(
            [place for place, _ in entries], max((row.own + len(row.out) for _, row in entries), default=0)
        )
        self.rows = [row for _, row in entries]

    def _assign_prefixes(self, rows: list[Row]) -> None:
        """Give each row the longest kept prefix it begins with, and make new ones where rows share enough beyond that."""
        for row in rows:
            # One token of each prompt at least is left to compute: its logits are needed.
            row.prefix = self._longest_known(row.ids[:-1])
        ordered = sorted(rows, key=lambda row: row.ids)
        for start, stop, shared in _runs([row.ids[:-1] for row in ordered]):
            run = ordered[start:stop]
            if sum(max(0, shared - row.shared) for row in run[1:]) < _SAVED_TOKENS:
                continue
            prefix = self._make_prefix(run[0].ids[:shared])
            for row in run:
                if row.shared < shared:
                    row.prefix = prefix
        for row in rows:
            if row.prefix:
                self._prefixes.move_to_end(row.prefix.ids)
        while len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)

    def _longest_known(self, ids: tuple[int, ...]) -> Prefix | None:
        known = [prefix for key, prefix in self._prefixes.items() if ids[: len(key)] == key]
        return max(known, key=lambda prefix: len(prefix.ids), default=None)

    def _make_prefix(self, ids: tuple[int, ...]) -> Prefix:
        known = self._longest_known(ids)
        start = len(known.ids) if known else 0
        if known and start == len(ids):  # two groups of one batch share it
            return known
        context = Prefill([Newcomer(len(ids) - start, known)], self.layers)
        self._forward(list(ids[start:]), list(range(start, len(ids))), context, [len(ids) - start - 1])
        layers = context.caches[0]
        if known:
            layers = [torch.cat([old, new], 2) for old, new in zip(known.layers, layers, strict=True)]
        prefix = self._prefixes[ids] = Prefix(ids, layers)
        return prefix

    def _prefill(self, rows: Sequence[Row]) -> tuple[list[list[torch.Tensor]], torch.Tensor]:
        tokens: list[int] = []
        positions: list[int] = []
        last: list[int] = []
        for row in rows:
            row.known = self._kept.find(row.ids, row.shared)
            tokens += row.ids[row.begun :]
            positions += range(row.begun, len(row.ids))
            last.append(len(tokens) - 1)
        context = Prefill(
            [Newcomer(len(row.ids) - row.begun, row.prefix, row.known) for row in rows], self.layers
        )
        logits = self._forward(tokens, positions, context, last)
        for row, cache in zip(rows, context.caches, strict=True):
            row.known = None
            # They were computed in the model's own type, so nothing is lost.
            self._kept.add(row.ids, row.shared, [layer.to(self.model.dtype) for layer in cache])
        return context.caches, logits

    # -- writing

    def _decode(self) -> tuple[list[Row], torch.Tensor]:
        """Return the rows that are not done, and their logits."""
        groups: list[tuple[int, int, Prefix | None]] = []
        for i, row in enumerate(self.rows):
            if groups and groups[-1][2] is row.prefix:
                groups[-1] = (groups[-1][0], i + 1, row.prefix)
            else:
                groups.append((i, i + 1, row.prefix))
        lengths = [row.own + len(row.out) for row in self.rows]
        self._own.reserve(max(lengths))
        context = Decode(self._own, groups, lengths)
        tokens = [row.out[-1] for row in self.rows]
        positions = [len(row.ids) + len(row.out) - 1 for row in self.rows]
        alive = [i for i, row in enumerate(self.rows) if not row.done]
        return [self.rows[i] for i in alive], self._forward(tokens, positions, context, alive)

    def _forward(
        self, tokens: list[int], positions: list[int], context: Any, keep: list[int]
    ) -> torch.Tensor:
        """Return float32 logits [len(keep), vocabulary] of the packed tokens at the places `keep`."""
        logits: torch.Tensor = self.model(
            input_ids=torch.tensor([tokens]),
            position_ids=torch.tensor([positions]),
            logits_to_keep=torch.tensor(keep),
            use_cache=False,
            rows=context,
        ).logits[0]
        return logits.float()

    def _write(self, rows: Sequence[Row], logits: torch.Tensor) -> list[Finished]:
        """Sample the next token of each row from its logits, which are overwritten; returns the rows this ends."""
        logits[:, self._banned] = -torch.inf
        finished = []
        for row, token in zip(rows, sample(rows, logits), strict=True):
            outcome: Reply | CharForgeError | None
            try:
                outcome = token if isinstance(token, CharForgeError) else self._take(row, token)
            except CharForgeError as error:
                outcome = error
            if outcome is not None:
                row.done = True
                finished.append(Finished(row.key, outcome))
        return finished

    def _take(self, row: Row, token: int) -> Reply | None:
        """Add a token to a row; returns the outcome if it was the row's last."""
        request = row.request
        row.out.append(token)
        row.seen.add(token)
        if row.matcher is not None and not row.matcher.consume_token(token):
            raise CharForgeError(f"the constrained reply broke off: {row.matcher.get_error()}")
        if token in self.ends or (row.matcher is not None and row.matcher.is_stopped()):
            return self._reply(row, "stop")
        if request.stop:
            # Every token is at least one byte, so a stop string that just ended lies within this many tokens.
            window = max(len(stop.encode()) for stop in request.stop) + 4
            tail = self.tokenizer.decode(row.out[-window:], skip_special_tokens=True)
            if any(stop in tail for stop in request.stop):
                return self._reply(row, "stop")
        if len(row.out) >= request.max_tokens:
            return self._reply(row, "length")
        return None

    def _reply(self, row: Row, reason: str) -> Reply:
        text: str = self.tokenizer.decode(
            [token for token in row.out if token not in self.ends], skip_special_tokens=True
        )
        cuts = [at for stop in row.request.stop if (at := text.find(stop)) >= 0]
        if cuts:
            text = text[: min(cuts)]
        return Reply(
            text=text, finish_reason=reason, prompt_tokens=len(row.ids), completion_tokens=len(row.out)
        )


def _runs(ordered: Sequence[tuple[int, ...]]) -> list[tuple[int, int, int]]:
    """Return disjoint runs (start, stop, shared tokens) of neighbours in sorted order that begin alike.

    A run grows while it shares at least three quarters of what its first two rows share.
    """
    runs: list[tuple[int, int, int]] = []
    start = 0
    while start < len(ordered) - 1:
        shared = common(ordered[start], ordered[start + 1])
        stop = start + 2
        while stop < len(ordered):
            here = min(shared, common(ordered[start], ordered[stop]))
            if here < 0.75 * shared:
                break
            shared = here
            stop += 1
        if shared:
            runs.append((start, stop, shared))
        start = stop if shared else start + 1
    return runs


def _chunks(rows: Sequence[Row]) -> Iterable[list[Row]]:
    chunk: list[Row] = []
    tokens = 0
    for row in rows:
        size = row.own
        if chunk and tokens + size > _PREFILL_TOKENS:
            yield chunk
            chunk, tokens = [], 0
        chunk.append(row)
        tokens += size
    yield chunk

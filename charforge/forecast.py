"""What a build would cost: exact where a rehearsal knew the requests, a forecast with its reasons where it could not.

Three figures each: *low* (every record accepted at its first draw, replies as short as the shortest tenth), *expected* (as many draws
and as long replies as on average), *high* (every attempt used, replies as long as the longest tenth). What they rest on is, in
this order: the requests themselves, replies recorded in this store, and the assumptions below. Only calls that are not recorded
count. Knows stages by what they ask for; it asks nobody, reads no file, and knows no provider.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any

from charforge.engine.build import FAILED
from charforge.engine.digest import Action
from charforge.engine.graph import Source, Stage
from charforge.engine.stale import STALE, UP_TO_DATE
from charforge.llm.client import is_local
from charforge.questions import spread
from charforge.stages import interviews, questions, scores
from charforge.stages.slots import DRAWS_PER_SLOT, small

if TYPE_CHECKING:
    from charforge.engine.rehearse import Rehearsed
    from charforge.llm.money import Price
    from charforge.pipeline import Character
    from charforge.sections import CharacterSpec

GENERATING = ("scenes", "dialogues", "protective")
ASKING = (*GENERATING, "questions", "interviews", "scores")
TO_RUN, NOT_KNOWN, FAILS = "to run", "not yet known", "would fail"
STATES = {UP_TO_DATE: UP_TO_DATE, STALE: TO_RUN, FAILED: FAILS}

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_WORD = 4 / 3
DRAWS = 1.3
"""Assumed of a capable model: draws for each that is accepted."""
SMALL_CALLS = {"scenes": 4.0, "dialogues": 12.0, "protective": 12.0, "questions": 3.0}
"""Assumed of a small model, which is asked for little pieces: calls for each record."""
ENOUGH = 20
"""Recorded calls of a stage from which its draws are told before it ever was finished."""
SAMPLES = 3
"""Recorded calls that a distribution of tokens needs; with fewer, one is assumed."""
ANSWER_TOKENS, QUESTION_TOKENS, VERDICT_TOKENS, SCENE_TOKENS, PROTECTIVE_TOKENS = 80, 30, 90, 120, 450
"""Assumed of replies. A dialogue is assumed to have a third more words than it must."""
SCENE_TEXT = 400
"""Characters that a prompt is assumed to hold besides its template, the character's texts, and what was said before."""


@dataclass(frozen=True, slots=True)
class Range:
    """Low, expected and high."""

    low: float
    expected: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Range:
        """Return what is known."""
        return cls(value, value, value)

    @property
    def exact(self) -> bool:
        """Whether there is no doubt."""
        return self.low == self.high

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def __mul__(self, other: Range) -> Range:
        return Range(self.low * other.low, self.expected * other.expected, self.high * other.high)

    def times(self, factor: float) -> Range:
        """Return it, each figure multiplied."""
        return Range(self.low * factor, self.expected * factor, self.high * factor)

    def at_least(self, least: float) -> Range:
        """Return it with no figure below `least`."""
        return Range(max(self.low, least), max(self.expected, least), max(self.high, least))


NOTHING = Range.exactly(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a stage asks of one model. Tokens are totals of the calls to make; `cost` is in USD, None where the price is unknown.

    `prompt_basis` and `reply_basis` say what the tokens rest on.
    """

    model: str
    local: bool
    recorded: int
    calls: Range
    prompt_tokens: Range
    completion_tokens: Range
    cost: Range | None
    prompt_basis: str
    reply_basis: str


@dataclass(frozen=True, slots=True)
class Line:
    """What a build does with a stage. `stage` is its short name, `state` one of up to date, to run, not yet known, would fail."""

    stage: str
    state: str
    waits_for: tuple[str, ...]
    reasons: Sequence[Mapping[str, Any]]
    parts: list[Part]
    basis: str | None = None
    """What the number of calls rests on; None where it is exact, or there are none."""
    error: Exception | None = None


@dataclass(slots=True)
class Past:
    """What earlier builds in this store tell. `tokens`: (stage, model) → (prompt, completion) of recorded calls, latest first.

    `draws`: stage → calls for each record that was accepted, were a call to give one record.
    """

    tokens: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)
    draws: dict[str, float] = field(default_factory=dict)

    def add_call(self, stage: str, model: str, prompt: int | None, completion: int | None) -> None:
        """Take note of a recorded call."""
        if prompt is not None and completion is not None:
            self.tokens.setdefault((stage, model), []).append((prompt, completion))

    def add_yield(self, stage: str, found: Mapping[str, Any], per_call: int) -> None:
        """Take note of a stage's yield.json."""
        if found["accepted"]:
            self.draws[stage] = max(1.0, found["asked"] * per_call / found["accepted"])

    def of(self, stage: str, model: str) -> tuple[list[tuple[int, int]], str]:
        """Return the calls that are most like a stage's calls to a model, and what they are, in words."""
        own = self.tokens.get((stage, model), [])
        if len(own) >= SAMPLES:
            return own, f"{len(own):,} recorded calls of {stage}"
        any_model = [
            each
            for (name, other), found in self.tokens.items()
            if name == stage and is_local(other) == is_local(model)
            for each in found
        ]
        if len(any_model) >= SAMPLES:
            return any_model, f"{len(any_model):,} recorded calls of {stage} to other models"
        return [], ""


Pricing = Callable[[str], "Price | None"]


def forecast(character: Character, found: Mapping[str, Rehearsed], past: Past, price: Pricing) -> list[Line]:
    """Return a line for each of a character's stages in `found`, by full name, in graph order."""
    lines = []
    for stage in character.stages:
        each = found.get(stage.name)
        if each is None:
            continue
        name = stage.name.split("/", 1)[1]
        parts: list[Part] = []
        basis = None
        if name in ASKING:
            parts, basis = _Asked(character, stage, each, found, past, price).parts()
        waits = tuple(other.split("/", 1)[1] for other in each.waits_for)
        state = STATES.get(each.status, NOT_KNOWN)
        lines.append(Line(name, state, waits, each.reasons, parts, basis, each.error))
    return lines


@dataclass(slots=True)
class _Asked:
    """One stage that asks models."""

    character: Character
    stage: Stage
    rehearsed: Rehearsed
    found: Mapping[str, Rehearsed]
    past: Past
    price: Pricing

    @property
    def spec(self) -> CharacterSpec:
        return self.character.spec

    @property
    def name(self) -> str:
        return self.stage.name.split("/", 1)[1]

    def parts(self) -> tuple[list[Part], str | None]:
        """Return what is asked of each model, and what the numbers of calls rest on."""
        models = self._models()
        missing: dict[str, list[Action]] = {model: [] for model in models}
        for action in self.rehearsed.missing.values():
            missing.setdefault(action.params["model"], []).append(action)
        recorded = dict.fromkeys(missing, 0)
        for model in self.rehearsed.recorded.values():
            recorded[model] = recorded.get(model, 0) + 1
        done = self.rehearsed.outputs is not None or self.rehearsed.error is not None
        basis = None
        calls = {model: Range.exactly(len(actions)) for model, actions in missing.items()}
        if not done:
            if self.name in GENERATING:
                calls, basis = self._generating(missing)
            elif self.name == "questions":
                calls, basis = self._generated_questions()
            elif self.name == "interviews":
                calls, basis = self._interviews(missing, recorded)
            elif self.rehearsed.waits_for:
                calls, basis = self._scores(), "the questions of the spec"
        names = dict.fromkeys([*calls, *recorded])
        parts = [
            self._part(model, recorded.get(model, 0), calls.get(model, NOTHING), missing.get(model, []))
            for model in names
        ]
        parts = [part for part in parts if part.recorded or part.calls.high]
        return parts, None if all(part.calls.exact for part in parts) else basis

    def _models(self) -> list[str]:
        asked = self.character.models().get(self.name, [])
        weights = [model for model, _ in self._contestants()] if self.name == "interviews" else []
        return list(dict.fromkeys([*weights, *asked]))

    # -- how many calls ------------------------------------------------------------------------------------------

    def _generating(self, missing: Mapping[str, Sequence[Action]]) -> tuple[dict[str, Range], str]:
        """A rehearsal shows the next draw of each open slot, and no further one. Slots that were never opened are still to come."""
        model = self.spec.generator.model
        tiny = small(model)
        attempts = getattr(self.spec, self.name).attempts
        per_call = self.spec.scenes.per_call if self.name == "scenes" and not tiny else 1
        known = self.past.draws.get(self.name)
        source = "as in the last build"
        if known is None and len(self.rehearsed.recorded) >= ENOUGH and self.rehearsed.published:
            # A first build that was cut short: what it got on the way to here.
            known = max(1.0, len(self.rehearsed.recorded) * per_call / len(self.rehearsed.published))
            source = "as so far"
        draws = known or DRAWS
        left = sum(max(1, attempts - action.params["draw"] % DRAWS_PER_SLOT) for action in missing[model])
        total = Range(len(missing[model]), len(missing[model]) * draws, left)
        unopened = self._unopened()
        if unopened:
            each = SMALL_CALLS[self.name] if tiny and known is None else draws
            low = 1.0 if not tiny else each / 2
            total += Range(low, each, attempts * max(1.0, each if tiny else 1.0)).times(
                -(-unopened // per_call)
            )
        basis = (
            f"{draws:.2f} draws a record, {source}"
            if known
            else f"{SMALL_CALLS[self.name]:g} calls a record, assumed"
            if tiny
            else f"{DRAWS:g} draws a record, assumed"
        )
        return {
            model: Range(
                total.low, max(total.low, total.expected), max(total.low, total.expected, total.high)
            )
        }, basis

    def _unopened(self) -> int:
        """Return how many records a stage wants of which a rehearsal showed nothing."""
        if not self.rehearsed.waits_for:
            return 0
        if self.name == "dialogues":
            before = self.found.get(self.stage.name.replace("/dialogues", "/scenes"))
            return max(0, self.spec.scenes.count - (len(before.published) if before else 0))
        return int(getattr(self.spec, self.name).count or 0)

    def _contestants(self) -> list[tuple[str, str]]:
        """Return (model, style) of each contestant that is asked."""
        spec = self.spec.interview
        baselines = ("local/base" if name == "base" else name for name in spec.baselines)
        trained = [(f"local/{self.spec.id}", "character")] if spec.trained else []
        return [*trained, *((model, "chat") for model in baselines)]

    def _generated_questions(self) -> tuple[dict[str, Range], str]:
        """Nothing is asked where the spec has a file; else as many calls as questions need, each of which may fail."""
        spec = self.spec.interview
        if spec.questions is not None:
            return {}, ""
        wanted, model = spec.generate, spec.generate.model
        tiny = small(model)
        parts = [count for of in (wanted.single, wanted.multi) for _, count in questions.shares(of)]
        calls = sum(count if tiny else -(-count // questions.PER_CALL) for count in parts)
        each = SMALL_CALLS["questions"] if tiny else DRAWS
        return {model: Range(1, each, max(each, wanted.attempts)).times(calls)}, f"{each:g} draws, assumed"

    def _interviews(
        self, missing: Mapping[str, Sequence[Action]], recorded: Mapping[str, int]
    ) -> tuple[dict[str, Range], str]:
        """A rehearsal shows single questions, and of each talk how far it is recorded; the whole is known by its form."""
        spec, contestants = self.spec.interview, self._contestants()
        single, multi = (len(self._questions(key)) for key in ("single", "multi"))
        whole: dict[str, Range] = {}

        def add(model: str, calls: Range) -> None:
            whole[model] = whole.get(model, NOTHING) + calls

        for model, style in contestants:
            answers = single + multi * spec.turns
            thinks = style == "character" and spec.thoughts
            add(
                model,
                Range(1, 1.5 if thinks else 1, interviews.THOUGHT_CALLS if thinks else 1).times(answers),
            )
        asked = multi * (1 + len(contestants) * (spec.turns - 1)) if multi and contestants else 0
        add(spec.interviewer.model, Range(1, 1.1, interviews.QUESTION_DRAWS).times(asked))
        calls = {}
        for model, total in whole.items():
            had = recorded.get(model, 0)
            rest = Range(total.low - had, total.expected - had, total.high - had)
            calls[model] = rest.at_least(len(missing.get(model, ())))
        return calls, "the questions and turns of the spec"

    def _questions(self, key: str) -> list[dict[str, Any]]:
        """Return the questions of the spec's file, those that will be set aside among them, or places for generated ones."""
        spec = self.spec.interview
        limit = spec.limit_single if key == "single" else spec.limit_multi
        (stage,) = (each for each in self.character.stages if each.name == self.character.stage("questions"))
        ref = stage.inputs.get("questions")
        text = "question" if key == "single" else "subject"
        if isinstance(ref, Source):
            found: list[dict[str, Any]] = json.loads(ref.data)[key]
        else:
            topics = questions.shares(getattr(spec.generate, key))
            found = [
                {"id": f"{topic}-{place}", "topic": topic, text: f"{topic} {place}"}
                for topic, count in topics
                for place in range(count)
            ]
        return spread(found, limit)

    def _scores(self) -> dict[str, Range]:
        """Return the exact number of verdicts: which answers are judged depends on the questions only."""
        judge, spec = self.spec.judge, self.spec.interview
        names = [*(model for model, _ in self._contestants()), *(each.name for each in spec.transcripts)]
        single = [
            {"contestant": name, "text": each["question"], "topic": each["topic"], "question": each["id"]}
            for name in names
            for each in self._questions("single")
        ]
        turns = [
            {"contestant": name, "turns": [], "subject": each["subject"], "question": each["id"]}
            for name in names
            for each in self._questions("multi")
        ]
        plan = scores.plan(
            reference=names[0],
            single=single,
            turns=turns,
            dimensions=judge.dimensions,
            repeats=judge.repeats,
            limit=judge.limit,
            exam=judge.exam,
            pairwise=judge.pairwise,
        )
        return {model: Range.exactly(plan.calls) for model in self._models()}

    # -- how many tokens -----------------------------------------------------------------------------------------

    def _part(self, model: str, recorded: int, calls: Range, missing: Sequence[Action]) -> Part:
        local = is_local(model)
        prompt, prompt_basis, completion, reply_basis = self._tokens(model, missing)
        price = None if local else self.price(model)
        cost: Range | None = NOTHING if local or not calls.high else None
        if price is not None and not local:
            cost = prompt.times(price.input / 1e6) + completion.times(price.output / 1e6)
            cost = cost * calls
        return Part(
            model=model,
            local=local,
            recorded=recorded,
            calls=calls,
            prompt_tokens=prompt * calls,
            completion_tokens=completion * calls,
            cost=cost,
            prompt_basis=prompt_basis,
            reply_basis=reply_basis,
        )

    def _tokens(self, model: str, missing: Sequence[Action]) -> tuple[Range, str, Range, str]:
        """Return tokens of a prompt and of a reply, each with what they rest on."""
        past, words = self.past.of(self.name, model)
        limits = [action.params["max_tokens"] for action in missing] or [self._max_tokens(model)]
        if past:
            prompt = spread_of([each[0] for each in past])
            completion = spread_of([each[1] for each in past])
            return prompt, words, completion, words
        if missing:
            prompt = spread_of([_length(action) / CHARACTERS_PER_TOKEN for action in missing])
            words = f"{len(missing):,} prompts, {CHARACTERS_PER_TOKEN} characters a token"
        else:
            prompt = spread_of([self._prompt_length() / CHARACTERS_PER_TOKEN])
            words = "the templates' length"
        most = max(limits)
        low, expected = (min(most, value) for value in self._reply(model))
        return prompt, words, Range(low, expected, most), f"{expected:.0f} tokens a reply, assumed"

    def _max_tokens(self, model: str) -> int:
        spec = self.spec
        if self.name in GENERATING:
            return spec.generator.max_tokens
        if self.name == "scores":
            return spec.judge.max_tokens or scores.room_for(model)
        if self.name == "questions":
            return spec.interview.generate.max_tokens
        answers = model in {each for each, _ in self._contestants()}
        return spec.interview.max_tokens if answers else spec.interview.interviewer.max_tokens

    def _reply(self, model: str) -> tuple[float, float]:
        """Return (low, expected) tokens of a reply, assumed."""
        spec = self.spec
        match self.name:
            case "scenes":
                expected = SCENE_TOKENS * (1 if small(model) else spec.scenes.per_call)
            case "dialogues" if not small(model):
                return (
                    spec.dialogues.min_words * TOKENS_PER_WORD,
                    spec.dialogues.min_words * TOKENS_PER_WORD**2,
                )
            case "dialogues":
                expected = QUESTION_TOKENS
            case "protective":
                expected = QUESTION_TOKENS if small(model) else PROTECTIVE_TOKENS
            case "scores":
                expected = VERDICT_TOKENS
            case "questions":
                expected = QUESTION_TOKENS * (1 if small(model) else questions.PER_CALL)
            case _:
                answers = model in {each for each, _ in self._contestants()}
                expected = ANSWER_TOKENS if answers else QUESTION_TOKENS
        return expected / 2, expected

    def _prompt_length(self) -> float:
        """Return the characters of a prompt of which nothing is known but its templates."""
        templates = sum(
            len(ref.data)
            for key, ref in self.stage.inputs.items()
            if key.startswith("prompt:") and isinstance(ref, Source)
        )
        said = 0
        if self.name in {"interviews", "scores"}:
            said = (
                ANSWER_TOKENS
                * CHARACTERS_PER_TOKEN
                * min(self.spec.interview.history, self.spec.interview.turns)
            )
        return templates + SCENE_TEXT + said


def _length(action: Action) -> int:
    params = action.params
    return len(params["prompt"] or "") + sum(len(content) for _, content in params["messages"] or ())


def spread_of(values: Sequence[float]) -> Range:
    """Return the 10th percentile, the mean and the 90th percentile. The mean may lie outside, and then bounds."""
    mean = fmean(values)
    if len(values) < 2:
        return Range.exactly(mean)
    tenths = quantiles(values, n=10, method="inclusive")
    return Range(min(tenths[0], mean), mean, max(tenths[-1], mean))


def total(parts: Iterable[Part]) -> tuple[Range, list[str]]:
    """Return what is known of the cost, and the models whose price is not."""
    cost, unknown = NOTHING, []
    for part in parts:
        if part.cost is None:
            unknown.append(part.model)
        else:
            cost += part.cost
    return cost, list(dict.fromkeys(unknown))

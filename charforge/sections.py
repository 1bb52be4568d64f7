"""A character as frozen values, section by section, and how checked plain values become one.

What a file may say is charforge.spec's to judge: here every value is there and right. Paths are relative to the workspace.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`file` is relative to the workspace, as every path of a loaded spec is."""

    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Knows:
    """`until` is an ISO 8601 date, its year astronomical (44 BC is `-0043`)."""

    until: str
    never: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    model: str
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """`attempts` is draws per slot, `min_yield` the share of `count` below which the stage fails.

    `per_call` is how many scenes a capable model is asked for in one call.
    """

    count: int
    attempts: int
    min_yield: float
    per_call: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogues:
    attempts: int
    min_yield: float
    min_turns: int
    max_turns: int
    min_words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Protective:
    """`count` is None for one for each paragraph of the profile."""

    count: int | None
    attempts: int
    min_yield: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """The rules of charforge.checks.RULES that can be switched off. A limit of 0 is a rule that is off."""

    length: bool
    character_silent: bool
    third_person: bool
    assistant_talk: bool
    foreign_language: bool
    copied_prompt: int
    copied_paragraph: int
    repetition: bool
    near_duplicate: float
    ungrounded: int
    anachronism: bool
    no_provocation: bool

    def rules(self) -> dict[str, bool | float]:
        """Return true, a limit, or false for off, by the name of the rule."""
        return {name.replace("_", "-"): value or False for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """`max_words` bounds a sample, prompt included; training refuses one that has more than `Train.context_length` tokens."""

    max_words: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A weight difference, and the model that it is added to; both as `Train.base_model` names models."""

    delta: str
    onto: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted:
    """Samples of prompt and output that somebody released. The file: as `Train` says."""

    prompted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Raw dialogues that somebody released."""

    generated: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """General samples: their file, and how many of them for each sample of the character."""

    data: str
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """`target_modules` is `all-linear` or the names of layers. There for `full` as well, which does without."""

    rank: int
    alpha: int
    dropout: float
    target_modules: str | tuple[str, ...]
    merge: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """One optimizer step sees `batch_size * gradient_accumulation` samples; `max_samples` is None for all.

    A model is `embedded/name`, `org/name` or `org/name@revision` of the hub, or `./folder` of the workspace. A data file is
    `./path` of the workspace, or `org/dataset:path` or `org/dataset@revision:path` of the hub. `data` is `built` where
    none was released. `keep_checkpoints` is the one field that no output depends on.
    """

    base_model: str | Delta
    data: str | Prompted | Generated
    mix: Mix | None
    method: str
    lora: Lora
    epochs: int
    learning_rate: float
    batch_size: int
    gradient_accumulation: int
    schedule: str
    warmup_ratio: float
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    context_length: int
    precision: str
    tf32: bool
    gradient_checkpointing: str | bool
    packing: bool
    loss: str
    max_samples: int | None
    held_out: float
    keep: str
    keep_checkpoints: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interviewer:
    model: str
    temperature: float
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedQuestions:
    """`single` questions and `multi` subjects are wanted of `model`, which is asked `attempts` times for each that fails."""

    model: str
    temperature: float
    max_tokens: int
    single: int
    multi: int
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """A contestant whose answers are in files already."""

    name: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interview:
    """`limit_single` and `limit_multi` are None for all questions, and may be 0. `repetition_penalty` is for local models.

    `questions` is None where they are generated. Not `trained`: the trained character is no contestant.
    """

    trained: bool
    questions: str | None
    generate: GeneratedQuestions
    turns: int
    history: int
    thoughts: bool
    temperature: float
    top_p: float
    repetition_penalty: float | None
    max_tokens: int
    interviewer: Interviewer
    baselines: tuple[str, ...]
    transcripts: tuple[Transcript, ...]
    limit_single: int | None
    limit_multi: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """`limit` is None for all answers, and may be 0, as `pairwise` for questions. `panel` is more judges beside `model`.

    `max_tokens` is None for what each judge needs.
    """

    model: str
    panel: tuple[str, ...]
    dimensions: tuple[str, ...]
    temperature: float
    max_tokens: int | None
    repeats: int
    limit: int | None
    evidence: int
    exam: bool
    pairwise: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterSpec:
    """A character with every value filled in. `id` and `file` come from where the spec lies, not from its text.

    `portrays` and `notice` are for readers: no stage but the report gets to see them.
    """

    id: str
    file: str
    name: str
    short_name: str
    preset: str
    portrays: str | None
    notice: str | None
    profile: Profile
    knows: Knows
    generator: Generator
    written: str | None
    scenes: Scenes
    dialogues: Dialogues
    protective: Protective
    checks: Checks
    dataset: Dataset
    train: Train
    interview: Interview
    judge: Judge
    charforge: int = field(default=1)

    def resolved(self) -> dict[str, Any]:
        """Return every value as plain JSON data, the same for every spelling of the same spec, without `file`."""
        data = asdict(self, dict_factory=_jsonable)
        del data["file"]
        return data | {"checks": self.checks.rules()}


_SECTIONS = {
    cls.__name__: cls
    for cls in (
        Profile,
        Knows,
        Generator,
        Scenes,
        Dialogues,
        Protective,
        Checks,
        Dataset,
        Delta,
        Prompted,
        Generated,
        Mix,
        Lora,
        Train,
        Interviewer,
        GeneratedQuestions,
        Transcript,
        Interview,
        Judge,
    )
}


def build(values: dict[str, Any]) -> CharacterSpec:
    """Return the spec that checked values, whole and with workspace-relative paths, stand for."""
    spec: CharacterSpec = _build(CharacterSpec, values)
    return spec


def _build(cls: Any, values: dict[str, Any]) -> Any:
    """Return a `cls` of checked values: 1.0 becomes 1 for an int, 1 becomes 1.0 for a float, lists become tuples."""
    made: dict[str, Any] = {}
    for item in fields(cls):
        value = values[item.name]
        kind = str(item.type)  # a string: annotations are not evaluated
        if isinstance(value, dict):
            meant = (_SECTIONS[name] for name in kind.split(" | ") if name in _SECTIONS)
            section = next(section for section in meant if {f.name for f in fields(section)} == set(value))
            made[item.name] = _build(section, value)
        elif kind == "float":
            made[item.name] = float(value)
        elif kind in {"int", "int | None"} and value is not None:
            made[item.name] = int(value)
        elif kind == "tuple[Transcript, ...]":
            made[item.name] = tuple(_build(Transcript, each) for each in value)
        elif isinstance(value, list):
            made[item.name] = tuple(map(float, value) if "float" in kind else value)
        else:
            made[item.name] = value
    return cls(**made)


def _jsonable(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in pairs}

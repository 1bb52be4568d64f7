"""Made-up evaluations of any size, in the shapes of the real artifacts: for tests and measurements of the report.

Words are made of syllables by a seeded generator: no text of anybody, and the same in every run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from charforge import intervals
from charforge.metrics import METRICS, TRAPS
from charforge.stages.judging import DIMENSIONS

JUDGE = "openai/made-up-judge"
_SYLLABLES = (
    "ba",
    "le",
    "mi",
    "ron",
    "ta",
    "ves",
    "ki",
    "do",
    "sul",
    "pe",
    "an",
    "gri",
    "fo",
    "nu",
    "tel",
    "cha",
)
_GLUE = ("the", "and", "I", "was", "of", "my", "it", "in", "that", "to", "had", "with")
_TOPICS = ("past", "relations", "values", TRAPS)


@dataclass(frozen=True, slots=True)
class _Counted:
    """What statistics are told of a metric."""

    unit: str
    per: str


class _Maker:
    def __init__(self, seed: int, planted: str) -> None:
        self.random = random.Random(seed)  # noqa: S311  # no secret
        self._planted = planted
        self._words = ["".join(self.random.choices(_SYLLABLES, k=1 + n % 3)) for n in range(4000)]

    def text(self, words: int) -> str:
        """Return sentences of about that many words, and what was planted after them."""
        count = max(2, int(self.random.gauss(words, words / 4)))
        several = [
            self.random.choice(_GLUE)
            if self.random.random() < 0.45
            else self._words[int(self.random.paretovariate(0.7)) % len(self._words)]
            for _ in range(count)
        ]
        made = ". ".join(" ".join(several[at : at + 12]).capitalize() for at in range(0, count, 12))
        return f"{made}.{self._planted and ' '}{self._planted}"


def evaluation(
    *,
    contestants: int = 4,
    single: int = 100,
    multi: int = 20,
    dialogues: int = 80,
    passed: bool = True,
    planted: str = "",
    seed: int = 0,
) -> dict[str, Any]:
    """Return the arguments of stages.report.build for a made-up character.

    `contestants` answer `single` questions and give `multi` interviews of five turns; a judge grades all of it. `planted` is put
    into every text and name that somebody else may choose.
    """
    make = _Maker(seed, planted)
    plant = f"{planted and ' '}{planted}"
    kinds = ("trained", "base", "prompted", "imported")
    people: list[dict[str, Any]] = [
        {
            "name": kind if place < 2 else f"system-{place}{plant}",
            "kind": kind,
            "model": f"models/{place}{plant}",
            "style": "chat",
            "reference": place == 0,
        }
        for place in range(contestants)
        for kind in [kinds[min(place, 3)]]
    ]
    paragraphs = [
        {"id": f"p{n}{plant}", "number": n, "section": make.text(2), "text": make.text(80)}
        for n in range(1, 38)
    ]
    scenes = [
        {
            "id": f"scene/{n}{plant}",
            "type": "chat",
            "location": make.text(4),
            "background": make.text(30),
            "paragraph": paragraphs[n % len(paragraphs)]["id"],
        }
        for n in range(dialogues)
    ]
    talks: list[dict[str, Any]] = [
        {
            "id": f"dialogue/{n}{plant}",
            "kind": "generated",
            "scene": scene["id"],
            "location": scene["location"],
            "background": scene["background"],
            "paragraphs": [],
            "turns": [
                {"role": ("Visitor", "Made")[turn % 2], "action": "speaking", "content": make.text(25)}
                for turn in range(12)
            ],
        }
        for n, scene in enumerate(scenes)
    ]
    singles = [
        {
            "id": f"{one['name']}/q{n}",
            "contestant": one["name"],
            "question": f"q{n}",
            "topic": _TOPICS[n % 4],
            "text": f"{make.text(9)}?",
            "answer": make.text(70),
            "thoughts": [make.text(20)] if n % 9 == 0 else [],
            "finish_reason": "stop",
            "marks": ["cut-off"] if n % 17 == 0 else [],
        }
        for n in range(single)
        for one in people
    ]
    turns = [
        {
            "id": f"{one['name']}/m{n}",
            "contestant": one["name"],
            "question": f"m{n}",
            "topic": _TOPICS[n % 4],
            "subject": make.text(8),
            "marks": [],
            "turns": [
                {
                    "role": ("Visitor", "Made")[turn % 2],
                    "action": "speaking",
                    "content": make.text((20, 60)[turn % 2]),
                    "marks": [],
                }
                for turn in range(10)
            ],
        }
        for n in range(multi)
        for one in people
    ]
    scores = _scores(make, singles, turns, paragraphs, plant)
    pairs = _pairs(make, singles, people, plant)
    measures = _measures(make, singles, turns)
    told = {"passed": passed, "separated": 14 if passed else 3, "pairs": 16, "unscored": 0, "needed": 13}
    exam: dict[str, Any] = {
        "judges": {
            JUDGE: {
                "passed": passed,
                "dimensions": dict.fromkeys(DIMENSIONS, told),
                "means": {
                    anchor: dict.fromkeys(DIMENSIONS, mean)
                    for anchor, mean in (("right", 6.1), ("assistant", 2.4))
                },
            }
        }
    }
    statistics = intervals.summarise(
        contestants=people,
        measures=measures,
        metrics_units=_COUNTED,
        scores=scores,
        pairs=pairs,
        exam=exam,
        dimensions=DIMENSIONS,
    )
    metrics = {
        str(one["name"]): {
            key: statistics["metrics"].get(key, {}).get(one["name"], {}).get("value") for key in METRICS
        }
        for one in people
    }
    return {
        "spec": {
            "name": f"Made Up{plant}",
            "short_name": f"Made{plant}",
            "portrays": "living",
            "notice": f"Made up.{plant}",
            "knows": {"until": "1901-01-01", "never": ["cinema"]},
            "train": {"base_model": f"models/base{plant}", "method": "full", "epochs": 3},
        },
        "profile": {
            "name": "Made Up",
            "licence": f"CC0-1.0{plant}",
            "source": make.text(6),
            "paragraphs": paragraphs,
        },
        "dataset_stats": {"all": {"scenes": dialogues, "words": 300 * dialogues, "mean_turns": 12.0}},
        "yields": {
            "scenes": {
                "asked": 90,
                "accepted": 20,
                "wanted": 20,
                "rejected": {f"copied{plant}": 61, "short": 9},
            }
        },
        "rejected": [
            {
                "id": f"scene/{n}{plant}",
                "rule": f"copied{plant}",
                "detail": make.text(5),
                "text": make.text(60),
            }
            for n in range(70)
        ],
        "train_log": [
            {"step": n, "epoch": 1 + n // 40, "loss": 3.5 - n / 60 + make.random.random() / 3}
            for n in range(1, 121)
        ],
        "train_summary": {
            "base_loss": 3.6,
            "chosen_epoch": 2,
            "epochs": [
                {"epoch": n, "train_loss": 3.4 - n / 2, "held_out_loss": loss}
                for n, loss in ((1, 2.9), (2, 2.6), (3, 2.7))
            ],
            "held_out": [talks[0]["id"]] if talks else [],
            "training_samples": dialogues,
        },
        "probes": [{"question": make.text(6), "before": make.text(20), "after": make.text(20)}],
        "single": singles,
        "turns": turns,
        "scores": scores,
        "metrics": metrics,
        "samples": talks[:2],
        "provenance": {"stages": {f"profile{plant}": "ab" * 32}},
        "contestants": people,
        "measures": measures,
        "statistics": statistics,
        "exam": exam,
        "pairs": pairs,
        "set_aside": [
            {
                "id": "x",
                "kind": "single",
                "text": make.text(8),
                "rule": f"same words{plant}",
                "sample": talks[0]["id"],
                "detail": make.text(4),
            }
        ]
        if talks
        else [],
        "sft": [
            {
                "prompt": make.text(40),
                "output": "\n".join(f"{turn['role']} (speaking): {turn['content']}" for turn in one["turns"]),
                "kind": "dialogue",
                "source": {"id": one["id"], "origin": "generated", "paragraphs": [], "part": 1},
            }
            for one in talks
        ],
        "scenes": scenes,
        "dialogues": talks,
        "usage": {
            "scores": {
                f"{JUDGE}{plant}": {
                    "calls": len(scores),
                    "prompt_tokens": 10**6,
                    "completion_tokens": 10**5,
                    "cost": 2.5,
                }
            }
        },
    }


# A share is counted of flags, a mean of values; counts and what only a whole contestant has are left out.
_COUNTED = {
    key: _Counted(metric.unit, "answer-flag" if metric.unit == "share" else "answer-value")
    for key, metric in METRICS.items()
    if metric.unit in {"share", "words"}
}


def _grade(make: _Maker, contestant: str) -> int:
    """Return a grade, the trained character's about one higher."""
    return min(7, max(1, round(make.random.gauss(4.6 + (contestant == "trained"), 1.2))))


def _scores(
    make: _Maker, singles: list[Any], turns: list[Any], paragraphs: list[Any], plant: str
) -> list[dict[str, Any]]:
    made = []
    for kind, records in (("single", singles), ("turns", turns)):
        for record in records:
            for dimension in DIMENSIONS if kind == "turns" else DIMENSIONS[:4]:
                unscored = make.random.random() < 0.03
                shown = make.random.sample(paragraphs, 4)
                grade = _grade(make, record["contestant"])
                made.append(
                    {
                        "id": f"{record['id']}/{dimension}/{JUDGE}/0",
                        "answer": record["id"],
                        "contestant": record["contestant"],
                        "kind": kind,
                        "question": record["question"],
                        "topic": record["topic"],
                        "dimension": dimension,
                        "judge": JUDGE,
                        "repeat": 0,
                        "score": None if unscored else grade,
                        "unscored": f"no verdict{plant}" if unscored else None,
                        "verdict": make.text(60),
                        "evidence": [{"id": one["id"], "number": one["number"]} for one in shown],
                        "cites": [shown[0]["number"]],
                    }
                )
    return made


def _pairs(make: _Maker, singles: list[Any], people: list[Any], plant: str) -> list[dict[str, Any]]:
    made = []
    for question in sorted({record["question"] for record in singles})[:20]:
        for other in people[1:]:
            first, second = (make.random.choice(("one", "one", "other", "tie")) for _ in range(2))
            names = {"one": "trained", "other": other["name"], "tie": "tie"}
            made.append(
                {
                    "id": f"single/{question}/trained/{other['name']}/{JUDGE}/0",
                    "kind": "single",
                    "question": question,
                    "topic": "past",
                    "one": "trained",
                    "other": other["name"],
                    "judge": JUDGE,
                    "repeat": 0,
                    "first": first,
                    "second": second,
                    "winner": names[first] if first == second else "tie",
                    "unscored": [],
                    "words": [70, 70 + make.random.randrange(-20, 40)],
                    "verdicts": [f"first{plant}", make.text(30)],
                    "evidence": [],
                    "cites": [[], []],
                }
            )
    return made


def _measures(make: _Maker, singles: list[Any], turns: list[Any]) -> list[dict[str, Any]]:
    answers: list[tuple[str, Any, int | None, str]] = [
        ("single", record, None, record["answer"]) for record in singles
    ]
    answers += [
        ("turns", record, number, turn["content"])
        for record in turns
        for number, turn in enumerate(record["turns"][1::2])
    ]
    return [
        {
            "id": record["id"] if turn is None else f"{record['id']}/{turn}",
            "record": record["id"],
            "contestant": record["contestant"],
            "kind": kind,
            "question": record["question"],
            "topic": record["topic"],
            "turn": turn,
            "words": len(text.split()),
            "values": {
                key: float(len(text.split())) for key, one in _COUNTED.items() if one.per == "answer-value"
            },
            "flags": {
                key: make.random.random() < (0.1 if record["contestant"] == "trained" else 0.2)
                for key, one in _COUNTED.items()
                if one.per == "answer-flag"
            },
        }
        for kind, record, turn, text in answers
    ]

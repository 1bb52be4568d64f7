"""What an audit found, as data: levels, the stages in them, and each difference. Knows nothing of how it was found.

A verdict is one of four. `not checkable` means that something needed is not here; it is never a pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1

BIT_IDENTICAL = "bit-identical"
METRIC_EQUIVALENT = "metric-equivalent"
DIVERGENT = "divergent"
NOT_CHECKABLE = "not checkable"

WORST_FIRST = (DIVERGENT, NOT_CHECKABLE, METRIC_EQUIVALENT, BIT_IDENTICAL)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the lock says.

    `what` names it (`output scenes.jsonl`, `input prompt:scene`, `field params.generator.temperature`, `blob 3f2a…`, `usage`,
    `observations`), `said` is one line for people. `expected` is the lock's side, `found` the other; None: there is
    none. `record` is the first differing record where it was found down to records.
    """

    what: str
    said: str
    expected: str | None = None
    found: str | None = None
    record: Mapping[str, Any] | None = None

    def data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "what": self.what,
            "said": self.said,
            "expected": self.expected,
            "found": self.found,
            "record": None if self.record is None else dict(self.record),
        }


@dataclass(slots=True)
class Result:
    """What a level found of one stage. `checked` counts what was held against the lock, `why` says what was missing."""

    stage: str
    verdict: str
    checked: int = 0
    differences: list[Difference] = field(default_factory=list)
    why: str | None = None

    def data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "verdict": self.verdict,
            "checked": self.checked,
            "why": self.why,
            "differences": [difference.data() for difference in self.differences],
        }


@dataclass(slots=True)
class Level:
    """One level of an audit. `facts` is what else there is to say of how it was done."""

    name: str
    results: list[Result] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The worst of its stages' verdicts. Where nothing was checked, that is not checkable."""
        return worst(result.verdict for result in self.results)

    def counts(self) -> dict[str, int]:
        """Return how many stages got each verdict."""
        counted = Counter(result.verdict for result in self.results)
        return {verdict: counted[verdict] for verdict in reversed(WORST_FIRST) if counted[verdict]}

    def data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "verdict": self.verdict,
            "counts": self.counts(),
            "facts": dict(self.facts),
            "stages": {result.stage: result.data() for result in self.results},
        }


@dataclass(slots=True)
class Finding:
    """What a whole audit found of a character. `lock_sha256` is of the lock file's bytes, `environment` what it ran on."""

    character: str
    lock_sha256: str
    levels: list[Level]
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The worst of its levels' verdicts."""
        return worst(level.verdict for level in self.levels)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON data, without any time: two audits of the same bytes on the same machine say the same."""
        return {
            "charforge_audit": FORMAT,
            "character": self.character,
            "lock": self.lock_sha256,
            "verdict": self.verdict,
            "levels": {level.name: level.data() for level in self.levels},
            "environment": dict(self.environment),
        }


def worst(verdicts: Iterable[str]) -> str:
    """Return the worst of some verdicts; of none, that nothing was checkable."""
    given = set(verdicts)
    return next((verdict for verdict in WORST_FIRST if verdict in given), NOT_CHECKABLE)

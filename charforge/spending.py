"""What a build's calls used and cost, by stage and model, and how that is printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from charforge.asking import tally
from charforge.progress import Progress, clean

Spent = dict[str, dict[str, dict[str, Any]]]
"""By stage (`<character>/<stage>`) and model, as `asking.tally` adds up."""


class Spending(Progress):
    """Prints what the engine tells, and adds up the calls that were made now. Replayed ones cost nothing again."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: Spent = {}

    def call_made(self, stage: str, call: str, record: Mapping[str, Any]) -> None:
        """Add a call to its stage and model."""
        del call
        tally(self.spent.setdefault(stage, {}), str(record.get("model")), record)


def spending_lines(spent: Spent, *, lost: float = 0.0) -> Iterator[str]:
    """Yield a table of the calls made: a row a stage and model, and their sum where there are several.

    `lost`: USD that attempts without an answer may have cost, of calls that came to an end and of those that failed.
    """
    rows = [
        (stage, model, used)
        for stage, models in sorted(spent.items())
        for model, used in sorted(models.items())
    ]
    if rows:
        yield from _table(rows)
    if lost:
        yield f"  Answers that never came may have cost up to {_dollars(lost)} more."
    if any(used["unpriced"] for _, _, used in rows):
        yield "  Give prices in endpoints.toml to see what calls of unknown cost come to (docs/endpoints.md)."


def _table(rows: list[tuple[str, str, dict[str, Any]]]) -> Iterator[str]:
    whole = {key: sum(used[key] for _, _, used in rows) for key in rows[0][2]}
    if len(rows) > 1:
        rows = [*rows, ("all", "", whole)]
    cells = [
        (
            clean(stage),
            clean(model),
            f"{used['calls']:,} call{'s' * (used['calls'] != 1)}",
            f"{used['prompt_tokens']:,} + {used['completion_tokens']:,} tokens",
            _cost(used),
        )
        for stage, model, used in rows
    ]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    for stage, model, calls, tokens, cost in cells:
        yield (
            f"  {stage:{widths[0]}}  {model:{widths[1]}}  {calls:>{widths[2]}}  {tokens:>{widths[3]}}  {cost:>{widths[4]}}"
        )


def _cost(used: Mapping[str, Any]) -> str:
    if used["unpriced"] == used["calls"]:
        return "cost unknown"
    more = f" + {used['unpriced']:,} of unknown cost" if used["unpriced"] else ""
    return f"{_dollars(used['cost'])}{more}"


def _dollars(amount: float) -> str:
    """Return an amount with cents, or with as many digits as tell anything of a smaller one."""
    return f"${amount:,.2f}" if amount == 0 or amount >= 0.995 else f"${amount:.4f}"

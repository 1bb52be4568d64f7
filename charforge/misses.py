"""Requests that nothing is recorded for, told together: how many there are, and what the nearest recorded ones look like.

One at a time they would be found in as many builds as there are of them. Knows requests and how calls differ; neither the
store nor why nobody may be asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from os.path import commonprefix
from typing import Any

from charforge.engine import explain
from charforge.engine.digest import Action
from charforge.files import visible
from charforge.llm.errors import NotRecorded
from charforge.llm.request import Request

SHOWN = 5
"""Requests that are described."""
COMPARED = 20_000
"""Recorded calls that they are compared with."""
_FIELDS_SHOWN = 4
_GIST = 60


class AllNotRecorded(NotRecorded):
    """A stage could not be made: nothing may be sent, and these `requests` have no recorded reply."""

    def __init__(self, requests: list[Request], message: str, hint: str) -> None:
        super().__init__(requests[0], message, hint)
        self.requests = requests


class Misses:
    """Collects the misses of one stage, each once."""

    def __init__(self) -> None:
        self._requests: dict[str, tuple[Request, Action]] = {}

    def add(self, request: Request, action: Action) -> None:
        """Note a request and its call."""
        self._requests[action.digest] = (request, action)

    def error(self, recorded: Iterable[Mapping[str, Any]]) -> AllNotRecorded:
        """Return one error for all of them. `recorded` are the bodies of recorded calls, the likeliest first."""
        requests = [request for request, _ in self._requests.values()]
        # The canonical form on both sides: there 1.0 is 1.
        shown = list(islice(self._requests.values(), SHOWN))
        bodies = [action.plain() for _, action in shown]
        near = explain.nearest_calls(bodies, islice(recorded, COMPARED))
        models = Counter(request.model for request in requests)
        counted = ", ".join(f"{visible(model)} {count:,}" for model, count in sorted(models.items()))
        to = f"to {visible(requests[0].model)}" if len(models) == 1 else f"({counted})"
        one = len(requests) == 1
        lines = [
            (
                f"{len(requests):,} request{'' if one else 's'} {to} {'has' if one else 'have'} no recorded reply,"
                " and this build is --offline"
            ),
            *(
                f"  {gist}: {_likeness(body, other)}"
                for gist, body, other in zip(
                    _gists([request for request, _ in shown]), bodies, near, strict=True
                )
            ),
        ]
        if len(requests) > len(shown):
            lines.append(f"  … and {len(requests) - len(shown):,} more")
        return AllNotRecorded(
            requests,
            "\n".join(lines),
            "build without --offline, or bring in the replies: charforge record import FILE",
        )


def _gists(requests: Sequence[Request]) -> list[str]:
    """Return a few words of each. A stage's prompts begin alike, so they are told from where they no longer do."""
    texts = [" ".join((each.prompt or (each.messages or (("", ""),))[-1][1]).split()) for each in requests]
    # Of texts, not of paths, which is what the function was made for.
    start = len(commonprefix(texts)) if len(set(texts)) > 1 else 0  # noqa: RUF071
    return [
        visible(
            f"'{'…' if start else ''}{text[start : start + _GIST]}{'…' if len(text) > start + _GIST else ''}'"
            f" (draw {each.draw})"
        )
        for each, text in zip(requests, texts, strict=True)
    ]


def _likeness(body: Mapping[str, Any], other: Mapping[str, Any] | None) -> str:
    if other is None:
        return "no call is recorded here"
    found = explain.sentences(explain.reasons(other, body, {}), limit=_FIELDS_SHOWN)
    return visible(f"recorded is call {Action(**other).digest[:12]}, but {found}")

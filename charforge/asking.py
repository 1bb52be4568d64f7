"""How a stage asks models: through the engine, so that what was answered once is never asked, nor paid for, again.

The border between calls as the engine knows them and requests as models do. Knows no stage and no provider.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from charforge.engine.build import Context
from charforge.engine.digest import Action, canonical
from charforge.llm.client import is_local
from charforge.llm.errors import NotRecorded
from charforge.llm.local import WeightsRef
from charforge.llm.request import Answered, Ask, Reply, Request
from charforge.misses import Misses

CALL_VERSION = 1
"""Of what a local model does with a request. A remote model's own version is its name."""


class Answering(Protocol):
    """What answers requests."""

    def lane(self, model: str) -> str:
        """Name the endpoint that serves a model: its calls share places."""

    async def complete(self, request: Request, weights: WeightsRef | None) -> Reply:
        """Answer a request."""


@contextmanager
def asking(ctx: Context, workshop: Answering, folders: Mapping[str, WeightsRef]) -> Iterator[Ask]:
    """Give a stage its way to ask models: through the engine, so that what was answered once is never asked again.

    Where nothing may be sent, all requests that nothing is recorded for are raised as one error.
    """
    misses = Misses()
    usage: dict[str, dict[str, Any]] = ctx.record.setdefault("usage", {})

    async def ask(request: Request) -> Answered:
        action = Action("call", CALL_VERSION if is_local(request.model) else 1, request.params(), {})

        async def perform() -> tuple[bytes, dict[str, Any]]:
            reply = await workshop.complete(request, folders.get(request.weights or ""))
            record = {
                "model": request.model,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                **reply.facts,
            }
            return canonical({"text": reply.text, "finish_reason": reply.finish_reason}), record

        try:
            called = await ctx.call(action, perform, lane=workshop.lane(request.model))
        except NotRecorded:
            misses.add(request, action)
            raise
        tally(usage, request.model, called.record)
        data = json.loads(called.reply)
        return Answered(
            reply=Reply(text=data["text"], finish_reason=data["finish_reason"]), call=action.digest
        )

    try:
        yield ask
    except NotRecorded as error:
        raise misses.error(ctx.recorded_calls()) from error


def tally(usage: dict[str, dict[str, Any]], model: str, record: Mapping[str, Any]) -> None:
    """Add a call, by the record beside it, to what each model was used for.

    Tokens and cost (USD) are sums over the calls that tell them; `unpriced` counts calls of unknown cost, and `lost`
    is what attempts may have cost that brought no answer.
    """
    total = usage.setdefault(
        model,
        {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0, "lost": 0.0, "unpriced": 0},
    )
    total["calls"] += 1
    total["prompt_tokens"] += record.get("prompt_tokens") or 0
    total["completion_tokens"] += record.get("completion_tokens") or 0
    cost = 0.0 if is_local(model) else record.get("cost")
    total["cost"] += cost or 0.0
    total["lost"] += record.get("lost") or 0.0
    total["unpriced"] += cost is None

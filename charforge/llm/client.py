"""One way to any model: embedded and trained ones run here, every other name goes to litellm.

Knows how a request reaches a model. What the request means, and whether it was asked before, is others' business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from charforge.errors import CharForgeError
from charforge.llm.local import LocalLane, WeightsRef
from charforge.models.embedded import EMBEDDED

if TYPE_CHECKING:
    from charforge.llm.request import Reply, Request

EMBEDDED_PREFIX = "embedded/"
LOCAL_PREFIX = "local/"


class Client:
    """Answers requests. Close it when done: it may hold a worker process with gigabytes of weights."""

    def __init__(self, *, offline: bool = False) -> None:
        self._offline = offline
        self._local = LocalLane()

    async def complete(self, request: Request, weights: WeightsRef | None) -> Reply:
        """Return the model's reply. `weights` says where local weights lie. Raises CharForgeError."""
        if request.model.startswith(EMBEDDED_PREFIX) and weights is None:
            weights = WeightsRef("embedded", request.model.removeprefix(EMBEDDED_PREFIX))
        if weights is not None:
            return await self._local.complete(request, weights)
        if self._offline:
            raise CharForgeError(
                f"{request.model} is served over the network, and this build is --offline",
                "drop --offline, or name a local model such as embedded/smollm2-135m-instruct",
            )
        from charforge.llm import remote

        return await remote.complete(request)

    async def release(self) -> None:
        """Let go of local models, to make room for training."""
        await self._local.release()

    async def close(self) -> None:
        """End every worker."""
        await self._local.close()


def is_local(model: str) -> bool:
    """Say whether a model runs on this machine."""
    return model.startswith((EMBEDDED_PREFIX, LOCAL_PREFIX))


def weights_digest(model: str) -> str | None:
    """Return the digest of an embedded model's weights; None for a model whose weights we never see."""
    if not model.startswith(EMBEDDED_PREFIX):
        return None
    return EMBEDDED[model.removeprefix(EMBEDDED_PREFIX)].sha256

"""Why a model gave no reply. Each ends its call, and the stage that made it; what was answered before is kept.

A reply that came and cannot be used (cut off, refused, malformed) is none of these: it is a fact, recorded and then
rejected by the stages. Knows no provider and no transport.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from charforge.errors import CharForgeError

if TYPE_CHECKING:
    from charforge.llm.request import Request


class EndpointError(CharForgeError):
    """Nothing more can be had from this endpoint: every call to it ends."""


class WrongKey(EndpointError):
    """The endpoint refused the key, or there is none. The hint names the environment variable."""


class EndpointDown(EndpointError):
    """The endpoint gave no answer to anybody for longer than its patience."""


class RefusesAll(EndpointError):
    """The endpoint called every request bad, and never answered one: a setting is wrong, not a request."""


class BadRequest(CharForgeError):
    """The endpoint will not take this request, however often it is sent. The message shows the request."""


class NoAnswer(CharForgeError):
    """The deadline of a call passed. The message names the last failure."""


class BudgetReached(CharForgeError):
    """The next call could exceed `--max-cost`."""


class NotRecorded(CharForgeError):
    """Nothing may be sent, and no reply to this request is recorded."""

    def __init__(self, request: Request, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.request = request

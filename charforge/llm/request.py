"""What is asked of a language model, and what came back. Knows no provider and no transport.

A `Request` is a fact about content: every field of it can change the reply, so every field is part of
the call's digest. What cannot change the reply (key, URL, retries, concurrency, where weights lie on this
disk) is never a field here: it belongs to the client.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

Message = tuple[str, str]
"""(role, content); role is system, user or assistant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to one model. Exactly one of `messages` and `prompt` is set.

    `model` is `embedded/<name>`, `local/<name>` (weights of this build, named by `weights`), or any string litellm takes.
    `weights` is the digest of the weights where we know it, None for a remote model.
    `messages` are rendered by the model's own chat template; `prompt` is raw text to continue.
    `schema` is a JSON Schema the reply must satisfy; local models are constrained to it while sampling.
    `stop` ends the reply before any of its strings; the stop text is not part of the reply.
    `draw` tells apart the same request sent several times.
    """

    model: str
    weights: str | None = None
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    schema: dict[str, Any] | None = None
    max_tokens: int
    temperature: float
    top_p: float | None = None
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    draw: int = 0

    def __post_init__(self) -> None:
        if (self.messages is None) == (self.prompt is None):
            raise ValueError("a request has either messages or a prompt")

    def params(self) -> dict[str, Any]:
        """Return every field as plain JSON data, unset ones as explicit nulls: the call action's parameters."""
        data: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        data["messages"] = None if self.messages is None else [list(message) for message in self.messages]
        data["stop"] = list(self.stop)
        return data


FINISH_REASONS = ("stop", "length", "filtered", "malformed")
"""`length`: cut off at the token limit. `filtered`: refused by provider or model. `malformed`: an answer that is no reply
(not UTF-8, not JSON, no text in it, endless) came again and again; the text then says what was wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model answered. `finish_reason` is one of FINISH_REASONS.

    Token counts are the model's own, None where it gave none. `facts` are plain JSON about how the reply came (attempts,
    cost in USD, endpoint): they go to the record beside the trace and are no part of the reply.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A reply together with the digest of the call action that gave it.

    `cut` is the reply to the same question that was cut off before, if this one was given more room.
    """

    reply: Reply
    call: str
    cut: Answered | None = None


Ask = Callable[[Request], Awaitable[Answered]]
"""How a stage reaches a model. Raises CharForgeError where no reply could be had."""

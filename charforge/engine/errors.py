"""What can go wrong in the engine. `charforge.errors` is the user's side; the engine imports nothing from there."""

from __future__ import annotations


class EngineError(Exception):
    """Something outside the engine's power: a full disk, a store of a newer version, a damaged one.

    `message` is one line, `hint` says what to do next.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Damaged(EngineError):
    """A blob whose bytes are gone or do not hash to its name. It has been set aside; its action runs again."""

    def __init__(self, digest: str, why: str) -> None:
        super().__init__(f"stored blob {digest[:12]} {why}", "it is rebuilt by the next build")
        self.digest = digest

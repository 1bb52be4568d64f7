"""The pieces at hand for an audit: a store that is only looked at, a recording, both, or none.

Gives bytes only where they hash to their name, and remembers what did not. Judges nothing.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from charforge.engine.digest import Action, canonical, of_bytes
from charforge.engine.errors import Damaged
from charforge.engine.names import is_digest, is_name
from charforge.engine.reader import Reader
from charforge.engine.store import Trace
from charforge.recorded import Observation, Observed, observe
from charforge.recording import Recording

Manifest = dict[str, dict[str, Any]]


class Pieces:
    """What an audit can look at. Either part may be missing. One iteration over replies at a time.

    `damaged` collects, as they are met, digests whose stored bytes are others, with what is wrong in a few words.
    """

    def __init__(self, reader: Reader | None = None, recording: Recording | None = None) -> None:
        self.reader = reader
        self.recording = recording
        self.damaged: dict[str, str] = {}

    # -- bytes ---------------------------------------------------------------------------------------------------

    def blob(self, digest: str) -> bytes | None:
        """Return the bytes of that name, from the store, else from what the recording keeps; None where nobody has them."""
        if self.reader is not None and is_digest(digest) and self.reader.has(digest):
            try:
                return self.reader.read(digest)
            except Damaged:
                self.damaged[digest] = "the stored bytes hash to another name"
        return self.kept.get(digest)

    def tree(self, digest: str) -> Manifest | None:
        """Return a folder's manifest, `{path: {digest, size}}`; None where nobody has it, or it is none."""
        data = self.blob(digest)
        return None if data is None else manifest(data)

    def path(self, digest: str) -> Path | None:
        """Return the file that the store has under a name, unread; None where it has none, or keeps the bytes elsewhere."""
        if self.reader is None or not is_digest(digest):
            return None
        return next(self.reader.files([("", digest)]), None)

    @cached_property
    def kept(self) -> Mapping[str, bytes]:
        """The outputs of observed stages that the recording keeps, by digest. No weights are among them."""
        return {
            kept.digest: kept.data
            for each in self.observed.values()
            for kept in each.outputs.values()
            if kept.data is not None and of_bytes(kept.data) == kept.digest
        }

    @cached_property
    def observed(self) -> Mapping[str, Observed]:
        """The recording's observed stages, by action digest."""
        return (
            {} if self.recording is None else {each.action.digest: each for each in self.recording.observed()}
        )

    # -- actions and calls ---------------------------------------------------------------------------------------

    def body(self, action: str) -> dict[str, Any] | None:
        """Return an action's `{kind, version, params, inputs}`, which hashes to its digest; None where nobody has it."""
        found = None if self.reader is None else self.reader.action_body(action)
        if found is None and action in self.observed:
            found = self.observed[action].action.plain()
        return found

    def traces(self, action: str) -> list[Trace]:
        """Return every observation of an action that the store has, in order."""
        return [] if self.reader is None else self.reader.observations(action)

    def trace(self, action: str, outputs: Mapping[str, str]) -> Trace | None:
        """Return the observation of an action that gave these outputs; None where the store knows of none."""
        return next((one for one in self.traces(action) if dict(one.outputs) == dict(outputs)), None)

    def calls(self, action: str, outputs: Mapping[str, str] | None = None) -> list[str] | None:
        """Return the digests of the calls that a stage made; None where that is not known. Only a store says it.

        `outputs` choose among several observations of the action; without, the first that has a list counts.
        """
        for trace in self.traces(action):
            if outputs is not None and dict(trace.outputs) != dict(outputs):
                continue
            digest = trace.record.get("calls")
            if digest is None:
                return []
            data = self.blob(str(digest))
            if data is not None:
                return [str(call) for call in json.loads(data)]
        return None

    def replies(self, calls: Iterable[str] | None) -> Iterator[tuple[Action, bytes, Mapping[str, Any]]]:
        """Yield (call, reply, facts) of these calls, sorted by digest, each at most once; the store's before the recording's.

        None: of all calls that either knows. Those that are missing or damaged are left out.
        """
        wanted = None if calls is None else set(calls)
        last = ""
        # Both are sorted, and of equals the store's comes first.
        for each in heapq.merge(
            self._stored(wanted), self._recorded(wanted), key=lambda found: found.action.digest
        ):
            if each.action.digest != last:
                last = each.action.digest
                yield each.action, each.reply, each.facts

    def _stored(self, wanted: set[str] | None) -> Iterator[Observation]:
        if self.reader is None:
            return
        if wanted is None:
            # A body is no name: one that was changed in place has another digest, and then no reply.
            wanted = {Action(**body).digest for body in self.reader.call_bodies()}
        for call in sorted(wanted):
            try:
                found = self.observe(call)
            except Damaged as error:
                self.damaged[error.digest] = "the stored bytes hash to another name"
                continue
            if found is not None:
                yield found

    def observe(self, call: str) -> Observation | None:
        """Return the store's reply to a call, None where it has none. Raises Damaged."""
        if self.reader is None:
            return None
        try:
            return observe(self.reader, call)
        except KeyError:  # a trace without a reply, which no build of ours wrote
            return None

    def _recorded(self, wanted: set[str] | None) -> Iterator[Observation]:
        return (each for each in self.recording or () if wanted is None or each.action.digest in wanted)


def manifest(data: bytes) -> Manifest | None:
    """Return a folder's manifest from its bytes, None where they are none."""
    try:
        value = json.loads(data)
        sound = isinstance(value, dict) and all(
            is_name(path)
            and isinstance(each, dict)
            and set(each) == {"digest", "size"}
            and is_digest(each["digest"])
            and isinstance(each["size"], int)
            for path, each in value.items()
        )
        return value if sound and canonical(value) == data else None
    except (ValueError, RecursionError):
        return None

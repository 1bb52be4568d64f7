"""`python -m charforge.audit.replayer`: run stages again, each by itself, from recorded replies, and say what came of them.

A child process without a network and without other programs. It stands in a folder with a copy of the character's files and, in
`.charforge`, a store of its own that holds the recorded replies and what other stages are said to have made; it writes nowhere else.
The job, on stdin: `{"spec": path, "variation": [names], "stages": {kind: {input: digest}}}`. It answers with a JSON line
a stage, in the order of the graph:

    {"stage", "made": {the lock's line of it}}
    {"stage", "lacks": [inputs]}            their bytes are not in the store
    {"stage", "unanswered": n, "to": model} requests that no reply is recorded for
    {"stage", "failed": message}
    {"stage", "stopped": message}           nothing is wrong with it: this machine could not

or `{"ended": message}` where the character's files are no character here;
with `"refused"` beside it where it reached for the network; then `{"done": seconds}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from charforge.audit import variations
from charforge.models.process import claim_stdout, die_with_parent

if TYPE_CHECKING:
    from charforge.engine.build import Outcome
    from charforge.engine.graph import Graph, Stage
    from charforge.engine.store import Store
    from charforge.llm.local import WeightsRef
    from charforge.llm.request import Reply, Request

GIVEN = "given"
"""The kind of the actions under which the parent puts bytes into the store."""


# -- no network, no other programs -----------------------------------------------------------------------------------

_NETWORK = frozenset(
    {
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.getnameinfo",
        "socket.sendmsg",
        "socket.sendto",
    }
)
_PROGRAMS = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.system",
        "pty.spawn",
        "socket.bind",
        "subprocess.Popen",
    }
)

refused: list[str] = []
"""How the network was reached for. Code that forgives a failed connection cannot hide it here."""


class Refused(RuntimeError):
    """A replay reached for the network. Deliberately no OSError, which many forgive."""


def shut_off() -> None:
    """Refuse, for the rest of this process, the network, name look-ups included, and other programs."""

    def hook(event: str, _args: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            refused.append(event)
            raise Refused(f"a replay has no network: {event}")
        if event in _PROGRAMS:
            # No fault: plots are drawn without `fc-list`, too. But what another program does, this hook would not see.
            raise PermissionError(f"a replay runs no other programs: {event}")

    sys.addaudithook(hook)


# -- what stages see -------------------------------------------------------------------------------------------------


class Recorded:
    """A workshop that has nothing but what was recorded. Base weights that lie on this disk it writes again."""

    def lane(self, model: str) -> str:
        """Return the model's own name: nothing is sent anywhere."""
        return model

    async def complete(self, request: Request, weights: WeightsRef | None) -> Reply:
        """Refuse: the store had no reply to this request."""
        from charforge.llm.errors import NotRecorded

        del weights
        raise NotRecorded(request, f"{request.model}: no reply to this request is recorded")

    async def export_base(
        self, job: Mapping[str, Any], on_progress: Callable[[int, int, str], None]
    ) -> dict[str, Any]:
        """Write base weights as a build does, in this process."""
        from charforge.models.base import write_base

        del on_progress
        return await asyncio.to_thread(write_base, dict(job), lambda _: None)

    async def bring(self, job: Mapping[str, Any], on_progress: Callable[[int, int, str], None]) -> NoReturn:
        """Refuse: downloads are observed."""
        raise AssertionError(job, on_progress)

    train = probe = bring


async def replay(store: Store, graph: Graph, job: Mapping[str, Any], tell: Callable[[Any], None]) -> None:
    """Run the job's stages one after the other, and tell of each."""
    from charforge.engine.claims import Claims

    with closing(Claims(store.root / "claims")) as claims:
        for stage in graph:
            kind = stage.kind
            if kind in job["stages"]:
                began = time.perf_counter()
                refused.clear()
                found = await _one(store, claims, stage, job["stages"][kind], job["variation"])
                seconds = time.perf_counter() - began
                tell(
                    {"stage": kind, "seconds": seconds, **found}
                    | ({"refused": refused[:]} if refused else {})
                )


async def _one(
    store: Store, claims: Any, stage: Stage, inputs: Mapping[str, str], variation: list[str]
) -> dict[str, Any]:
    from charforge.engine import lock
    from charforge.engine.build import RAN, Build, Called
    from charforge.engine.errors import EngineError
    from charforge.engine.graph import Graph, Output, Source

    class Alone(Build):
        """A build of one stage."""

        async def checkout(self, tree: str) -> Path:
            # Every call to the weights in it is recorded, so nobody looks there.
            return Path(tree)

        async def call(self, *args: Any) -> Called:
            called = await super().call(*args)
            for _ in range(variations.turns(variation, args[1].digest)):
                await asyncio.sleep(0)
            return called

    lacking, taken = [], {}
    for name, ref in stage.inputs.items():
        if isinstance(ref, Source):
            taken[name] = ref
        elif name in inputs:
            try:
                data = b"" if ref.name.endswith("/") else store.read(inputs[name])
            except EngineError:
                lacking.append(name)
            else:
                taken[name] = Source(ref.label, inputs[name], data)
        elif isinstance(ref, Output):
            lacking.append(name)
    if lacking:
        return {"lacks": lacking}
    alone = replace(stage, inputs=taken, ahead=None, follows=None)
    build = Alone(store, claims, Graph([alone]), jobs=variations.jobs(variation), keep_going=True)
    outcome = (await build.run([stage.name]))[stage.name]
    trace = None if outcome.action is None else store.find(outcome.action)
    if outcome.status != RAN or trace is None:
        return _failure(outcome)
    return {"made": asdict(lock.line(store, trace)[0])}


def _failure(outcome: Outcome) -> dict[str, Any]:
    from charforge.engine.errors import EngineError
    from charforge.errors import CharForgeError
    from charforge.llm.errors import NotRecorded

    error = outcome.error
    if isinstance(error, NotRecorded):
        return {"unanswered": len(getattr(error, "requests", [error.request])), "to": error.request.model}
    # A lock's stage had what it needs: that weights cannot be had here says nothing of them.
    here = (EngineError, OSError, MemoryError) + (
        (CharForgeError,) if outcome.stage.endswith("/base") else ()
    )
    told = outcome.status if error is None else in_a_line(error)
    return {"stopped" if isinstance(error, here) else "failed": told}


def in_a_line(error: BaseException) -> str:
    """Return an error in one line."""
    from charforge.engine.errors import EngineError
    from charforge.errors import CharForgeError, FileProblems

    if isinstance(error, FileProblems):
        first = error.problems[0]
        return ": ".join(filter(None, [first.file, first.key, first.message]))
    if isinstance(error, CharForgeError | EngineError):
        return error.message.splitlines()[0]
    return f"{type(error).__name__}: {error}"


# -- the process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Do the job on stdin."""
    protocol = claim_stdout()
    die_with_parent()
    job = json.load(sys.stdin)

    def tell(message: Any) -> None:
        # Escaped: under the C locale paths hold halves of characters.
        protocol.write(json.dumps(message) + "\n")
        protocol.flush()

    began = time.perf_counter()
    shut_off()
    variations.enter(job["variation"])
    from charforge import pipeline, spec
    from charforge.engine.errors import EngineError
    from charforge.engine.graph import Graph
    from charforge.engine.receipt import Stamps
    from charforge.engine.store import Store
    from charforge.errors import CharForgeError

    workspace = Path.cwd()
    imported = time.perf_counter() - began
    try:
        loaded = spec.load(workspace / job["spec"], workspace)
        made = pipeline.character(loaded, workspace, Recorded(), Stamps())
        with Store(workspace / ".charforge") as store:
            asyncio.run(replay(store, Graph(made.stages), job, tell))
    except (CharForgeError, EngineError) as error:
        tell({"ended": in_a_line(error)})
    else:
        tell({"done": time.perf_counter() - began, "imports": imported})
    protocol.close()
    # Nothing is left to do, and taking torch apart takes a second.
    os._exit(0)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()

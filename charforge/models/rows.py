"""Samples → rows: several sequences one after the other, so that nothing is padded and matrix products are large.

A row is what one forward pass sees. Its sequences do not see each other: `passes` keeps attention inside each and lets its
positions begin at 0, so that a sample's loss is the same in any row. Knows neither torch nor a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Packable(Protocol):
    """What is known here of a sample: its tokens, and the places in them that loss falls on."""

    @property
    def ids(self) -> tuple[int, ...]: ...

    @property
    def targets(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Row:
    """`ids` of all its sequences in order, `lengths` of each; `targets` are places in `ids`, ascending; `owners` the samples' places.

    A target is never a sequence's first token: nothing before it could predict it.
    """

    ids: tuple[int, ...]
    lengths: tuple[int, ...]
    targets: tuple[int, ...]
    owners: tuple[int, ...]


def pack(samples: Sequence[Packable], length: int, *, packing: bool) -> list[Row]:
    """Return rows of at most `length` tokens that hold every sample once; one sample a row without `packing`.

    Best fit, longest first: each sample goes where it leaves the least room. Rows are ordered by their first sample and
    samples in a row by their place, so the result depends on the samples alone. A sample is never split; one longer than
    `length`, which `samples.encode` does not make, gets a row of its own.
    """
    if not packing:
        return [_row(samples, [i]) for i in range(len(samples))]
    members: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(samples)), key=lambda i: (-len(samples[i].ids), i)):
        need = len(samples[i].ids)
        fits = [row for row in range(len(room)) if room[row] >= need]
        if fits:
            row = min(fits, key=room.__getitem__)
        else:
            row = len(room)
            members.append([])
            room.append(length)
        members[row].append(i)
        room[row] -= need
    return [_row(samples, sorted(places)) for places in sorted(members, key=min)]


def _row(samples: Sequence[Packable], places: list[int]) -> Row:
    ids: list[int] = []
    targets: list[int] = []
    for place in places:
        sample = samples[place]
        targets += (len(ids) + target for target in sample.targets if target > 0)
        ids += sample.ids
    return Row(tuple(ids), tuple(len(samples[place].ids) for place in places), tuple(targets), tuple(places))

"""Packing: every sample whole and once, nothing longer than a row, always the same way."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from charforge.models.rows import Row, pack


class S(NamedTuple):
    ids: tuple[int, ...]
    targets: tuple[int, ...]


def sample(number: int, length: int) -> S:
    """Tokens that tell whose they are, loss on every second."""
    return S(tuple(number * 1000 + i for i in range(length)), tuple(range(0, length, 2)))


samples = st.lists(st.integers(1, 64), max_size=40).map(
    lambda lengths: [sample(i, length) for i, length in enumerate(lengths)]
)


def sequences(row: Row) -> list[tuple[int, ...]]:
    ends = [sum(row.lengths[: i + 1]) for i in range(len(row.lengths))]
    return [row.ids[end - length : end] for end, length in zip(ends, row.lengths, strict=True)]


@given(samples, st.booleans())
def test_every_sample_is_in_one_row_whole(samples: list[S], packing: bool) -> None:
    rows = pack(samples, 64, packing=packing)
    held = [(owner, ids) for row in rows for owner, ids in zip(row.owners, sequences(row), strict=True)]
    assert sorted(held) == [(i, sample.ids) for i, sample in enumerate(samples)]
    assert all(len(row.ids) == sum(row.lengths) <= 64 for row in rows)


@given(samples)
def test_targets_are_the_samples_targets_but_never_a_first_token(samples: list[S]) -> None:
    learned = sorted(row.ids[target] for row in pack(samples, 64, packing=True) for target in row.targets)
    assert learned == sorted(sample.ids[target] for sample in samples for target in sample.targets if target)


@given(samples)
def test_no_two_rows_would_fit_in_one(samples: list[S]) -> None:
    lengths = sorted(len(row.ids) for row in pack(samples, 64, packing=True))
    assert len(lengths) < 2 or lengths[0] + lengths[1] > 64


def test_fills_rows_with_what_fits_best() -> None:
    rows = pack([sample(i, length) for i, length in enumerate([30, 50, 14, 34, 40])], 64, packing=True)
    assert [row.owners for row in rows] == [(0, 3), (1, 2), (4,)]
    assert rows[1].targets == (*range(2, 50, 2), *range(52, 64, 2))


def test_without_packing_each_sample_has_a_row() -> None:
    rows = pack([sample(0, 3), sample(1, 5)], 64, packing=False)
    assert [(row.owners, row.lengths) for row in rows] == [((0,), (3,)), ((1,), (5,))]


def test_a_sample_longer_than_a_row_has_one_of_its_own() -> None:
    rows = pack([sample(0, 3), sample(1, 70), sample(2, 4)], 64, packing=True)
    assert [row.owners for row in rows] == [(0, 2), (1,)]

from __future__ import annotations

import pytest
import torch

from charforge.models import kept
from charforge.models.kept import Kept, common

LONG = tuple(range(100, 240))


def layers(ids, start=0):
    """Return keys and values of two layers that say which tokens they are of."""
    values = torch.tensor(ids[start:], dtype=torch.float32)
    return [values.view(1, 1, -1, 1).expand(2, 1, -1, 3).clone() for _ in range(2)]


def tokens(found):
    return None if found is None else [int(value) for value in found[1][0, 0, :, 0]]


def test_a_prompt_that_goes_on_finds_what_it_goes_on_from():
    store = Kept(1)
    store.add(LONG, 0, layers(LONG))
    assert tokens(store.find((*LONG, 7, 8), 0)) == [*LONG]
    assert tokens(store.find((*LONG, 7, 8), 10)) == [*LONG[10:]]
    assert tokens(store.find((*LONG[:80], 7), 0)) == [*LONG[:80]]


def test_one_token_is_left_to_compute():
    store = Kept(1)
    store.add(LONG, 0, layers(LONG))
    assert tokens(store.find(LONG, 0)) == [*LONG[:-1]]


def test_too_little_in_common_saves_nothing():
    store = Kept(1)
    store.add(LONG, 0, layers(LONG))
    assert store.find((*LONG[:63], 7), 0) is None
    assert store.find(LONG[:64], 0) is None
    assert store.find((1, 2, 3) * 50, 0) is None


def test_what_begins_after_a_rows_own_tokens_is_of_no_use_to_it():
    store = Kept(1)
    store.add(LONG, 10, layers(LONG, 10))
    assert store.find((*LONG, 7), 5) is None
    assert tokens(store.find((*LONG, 7), 12)) == [*LONG[12:]]


def test_a_prompt_takes_the_place_of_what_it_goes_on_from():
    store = Kept(1)
    store.add(LONG, 0, layers(LONG))
    store.add((*LONG, 7), 0, layers((*LONG, 7)))
    assert list(store.entries) == [(*LONG, 7)]
    assert store.tokens == 141


def test_the_prompt_used_longest_ago_goes_first(monkeypatch):
    monkeypatch.setattr(kept, "_KEPT_BYTES", 300)
    store = Kept(1)
    one, two, three = ((n, *LONG[1:]) for n in (1, 2, 3))
    store.add(one, 0, layers(one))
    store.add(two, 0, layers(two))
    store.find((*one, 7), 0)
    store.add(three, 0, layers(three))
    assert list(store.entries) == [one, three]
    assert store.tokens == 280


@pytest.mark.parametrize(("a", "b", "count"), [((), (1,), 0), ((1, 2), (1, 3), 1), ((1, 2), (1, 2, 3), 2)])
def test_common_counts_what_two_begin_with(a, b, count):
    assert common(a, b) == common(b, a) == count

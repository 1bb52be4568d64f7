from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from charforge.errors import CharForgeError
from charforge.llm.request import Request
from charforge.models.sampling import Seen, numbers, pick, sample


def row(ids=(1, 2), seed=0, **changes):
    fields = {"model": "m", "prompt": "x", "max_tokens": 9, "temperature": 0.7, "top_p": 0.9, "seed": seed}
    request = Request(**fields | changes)
    return SimpleNamespace(request=request, seen=Seen(ids, 9), random=numbers(request, ids), matcher=None)


def test_the_nucleus_is_the_smallest_set_with_the_mass():
    probabilities = np.array([0.05, 0.5, 0.15, 0.3], dtype=np.float32)
    picked = [pick(probabilities, 0.75, u) for u in np.linspace(0, 0.999, 200)]
    assert set(picked) == {1, 3}
    assert picked.count(1) == pytest.approx(200 * 0.5 / 0.8, abs=1)
    assert {pick(probabilities, 1.0, u) for u in np.linspace(0, 0.999, 200)} == {0, 1, 2, 3}
    # A tail below the shortcut's threshold still counts where the mass is only there.
    flat = np.full(50_000, 1 / 50_000, dtype=np.float32)
    flat[0] = 0.5
    assert pick(flat / flat.sum(), 0.9, 0.999) > 0


def test_a_rows_token_does_not_depend_on_its_batch_mates():
    torch.manual_seed(0)
    logits = 3 * torch.randn(40, 300)
    settings = [
        {"temperature": (0.0, 0.2, 1.3)[n % 3], "repetition_penalty": (None, 1.15, 2.0, 1.0)[n % 4]}
        for n in range(40)
    ]
    together = sample([row((n, n + 1, 7), **settings[n]) for n in range(40)], logits.clone())
    alone = [sample([row((n, n + 1, 7), **settings[n])], logits[n : n + 1].clone())[0] for n in range(40)]
    assert together == alone
    assert len(set(together)) > 20


def test_what_was_said_is_penalised_once_each():
    scores = torch.tensor([[2.0, 1.9, -1.0, -1.5]])
    assert sample([row((), temperature=0.0)], scores.clone()) == [0]
    assert sample([row((0, 0, 0), temperature=0.0, repetition_penalty=1.1)], scores.clone()) == [1]
    # Were it taken twice, -1.0 would be below -1.5.
    both = torch.tensor([[-1.0, -1.5]])
    assert sample([row((0, 0), temperature=0.0, repetition_penalty=1.4)], both) == [0]


def test_what_was_seen_grows_by_what_is_new():
    seen = Seen((5, 3, 5), 4)
    for token in (3, 9, 9, 5, 1):
        seen.add(token)
    assert sorted(seen.tokens) == [1, 3, 5, 9]
    assert len(seen) == 4


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_no_numbers_are_that_rows_error(broken):
    logits = torch.zeros(2, 5)
    logits[1] = broken
    good, bad = sample([row(), row()], logits)
    assert isinstance(good, int)
    assert isinstance(bad, CharForgeError)


def test_without_a_seed_numbers_are_fresh():
    request = Request(model="m", prompt="x", max_tokens=1, temperature=1.0)
    assert numbers(request, (1,)).random() != numbers(request, (1,)).random()
    assert isinstance(numbers(request, (1,)), random.Random)

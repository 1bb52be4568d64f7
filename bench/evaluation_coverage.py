"""How often a 95 % interval of charforge.intervals holds the truth, on made-up clustered data whose truth is known.

    python bench/evaluation_coverage.py [KIND …] [--repeats N]

Each cell: coverage in percent, and the interval's median width. Beside the interval in use stand those that were not chosen, on the
same data: Student t and the bootstrap (percentile, BCa) without the two pretended clusters, and an inverted exact sign-flip test
(up to 10 clusters: there are 2^n flips). Effects: 0, and 0.5 of the kind's unit. docs/statistics.md quotes this table.

Kinds of data: `values`, paired differences of a normal quantity, five turns a cluster, half of the variance between clusters; `words`,
differences of two log-normal lengths; `grades`, differences of two grades from 1 to 7 of one question; `rare grades`, of judges who
nearly always agree; `flags`, differences of two flags set in 1 of 20 answers, every sixth cluster five turns; `share`, such a flag alone
(0.02: the truth is 2 %); `parts`, differences of two shares of an answer's words, 0 in 9 of 10; `length`, grades that rise with the length of the answer, at equal length.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache

import numpy as np
from scipy import stats

from charforge import intervals
from charforge.intervals import GRADE_DIFFERENCE, SHARE, SHARE_DIFFERENCE, VALUE

CLUSTERS = (5, 10, 30, 100)


def values(rng, count, effect):
    return [list(effect + rng.normal(0, 0.7) + rng.normal(0, 0.7, 5)) for _ in range(count)]


def words(rng, count, effect):
    question = rng.normal(4, 0.4, count)
    own, theirs = (np.exp(question + shift + rng.normal(0, 0.6, count)) for shift in (effect, 0))
    return [[value] for value in own - theirs]


def grades(rng, count, effect):
    question = rng.normal(4.5, 0.8, count)
    own, theirs = (
        np.clip(np.round(question + shift + rng.normal(0, 1, count)), 1, 7) for shift in (effect, 0)
    )
    return [[value] for value in own - theirs]


def rare_grades(rng, count, effect):
    drawn = rng.random(count)
    sign = np.where(drawn < 0.08 + 0.4 * effect, 1.0, np.where(drawn > 0.92, -1.0, 0.0))
    return [[value] for value in sign * rng.integers(1, 3, count)]


def flags(rng, count, effect):
    own, theirs = share(rng, count, 0.05 + 0.4 * effect), share(rng, count, 0.05)
    return [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(own, theirs, strict=True)]


def share(rng, count, effect):
    likely = rng.beta(3 * effect, 3 - 3 * effect, count)
    return [list((rng.random(1 if place % 6 else 5) < one).astype(float)) for place, one in enumerate(likely)]


def parts(rng, count, effect):
    own, theirs = (
        np.where(rng.random(count) < often, 0.6 * rng.random(count), 0.0)
        for often in (0.1 + 0.4 * effect, 0.1)
    )
    return [[value] for value in own - theirs]


def length(rng, count, effect):
    longer = rng.normal(-0.3, 0.6, count)
    exact = effect + 1.0 * longer + rng.normal(0, 1.2, count)
    return list(zip(longer.tolist(), np.clip(np.round(exact), -6, 6).tolist(), strict=True))


KINDS = {
    "values": (values, VALUE, (0, 0.5)),
    "words": (words, VALUE, (0, 0.5)),
    "grades": (grades, GRADE_DIFFERENCE, (0, 0.5)),
    "rare grades": (rare_grades, GRADE_DIFFERENCE, (0, 0.5)),
    "flags": (flags, SHARE_DIFFERENCE, (0, 0.5)),
    "share": (share, SHARE, (0.02, 0.1, 0.5)),
    "parts": (parts, SHARE_DIFFERENCE, (0, 0.5)),
    "length": (length, GRADE_DIFFERENCE, (0, 0.5)),
}


# --- Intervals that were not chosen ----------------------------------------------------------------------------------


def student(totals, sizes):
    return intervals.student(list(zip(totals, sizes, strict=True)), len(totals) - 1)


def resampled(totals, sizes):
    weights = intervals.draws(len(totals))
    return (weights @ totals) / (weights @ sizes)


def percentile(totals, sizes):
    return tuple(np.quantile(resampled(totals, sizes), [0.025, 0.975]))


def bca(totals, sizes):
    """Efron's, with the median of ties counted half; the plain mean where there is no spread."""
    found, mean = resampled(totals, sizes), totals.sum() / sizes.sum()
    left_out = (totals.sum() - totals) / (sizes.sum() - sizes)
    apart = left_out.mean() - left_out
    if not apart.any():
        return mean, mean
    below = np.clip(((found < mean).mean() + (found <= mean).mean()) / 2, 1e-3, 1 - 1e-3)
    bias, bend = stats.norm.ppf(below), (apart**3).sum() / (6 * (apart**2).sum() ** 1.5)
    moved = bias + stats.norm.ppf([0.025, 0.975])
    return tuple(np.quantile(found, stats.norm.cdf(bias + moved / (1 - bend * moved))))


@cache
def subsets(count):
    """Return every subset but the empty one, (2^count - 1, count)."""
    return ((np.arange(1, 2**count)[:, None] >> np.arange(count)) & 1).astype(float)


def sign_flip(totals, sizes):
    """The exact test of a symmetric centre, inverted: order statistics of the means of all subsets (Hartigan 1969)."""
    if len(totals) > 10:
        return None
    means = np.sort((subsets(len(totals)) @ totals) / (subsets(len(totals)) @ sizes))
    place = int(0.025 * (len(means) + 1))
    return (-np.inf, np.inf) if place < 1 else (means[place - 1], means[-place])


REJECTED = {"t": student, "percentile": percentile, "BCa": bca, "sign flips": sign_flip}


# --- The table -------------------------------------------------------------------------------------------------------


def truth(kind, make, effect):
    """Return the true mean, from 400,000 clusters; of `length` it is the effect, of `share` the likelihood."""
    if kind in {"length", "share"}:
        return effect
    made = make(np.random.default_rng(0), 400_000, effect)
    return 0.0 if effect == 0 else sum(map(sum, made)) / sum(map(len, made))


def cell(found, true):
    """Return coverage and median width; intervals that could not be computed count as none at all."""
    told = [one for one in found if one is not None and one[0] is not None]
    if not told:
        return "–"
    held = sum(low - 1e-9 <= true <= high + 1e-9 for low, high in told) / len(told)
    width = np.median([high - low for low, high in told])
    rest = f" ({len(told) / len(found):.0%} told)" if len(told) < 0.995 * len(found) else ""
    return f"{held:.1%} / {width:.2f}{rest}"


def row(kind, effect, count, repeats):
    make, scale, _ = KINDS[kind]
    true, rng = truth(kind, make, effect), np.random.default_rng([count, int(effect * 100)])
    used, others = [], {name: [] for name in REJECTED}
    for _ in range(repeats):
        made = make(rng, count, effect)
        if kind == "length":
            found = intervals.at_equal_length(made, scale)
        else:
            found = intervals.interval(made, scale)
            totals, sizes = (np.array([f(one) for one in made], dtype=float) for f in (sum, len))
            for name, method in REJECTED.items():
                others[name].append(method(totals, sizes))
        used.append((found.low, found.high))
    return [
        kind,
        f"{effect:g}",
        str(count),
        cell(used, true),
        *(cell(each, true) for each in others.values()),
    ]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    arguments.add_argument("--repeats", type=int, default=500, help="data sets a row (default: 500)")
    asked = arguments.parse_args()
    head = ["data", "effect", "clusters", "in use", *REJECTED]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for kind in asked.kinds or KINDS:
        for effect in KINDS[kind][2]:
            for count in CLUSTERS:
                print("| " + " | ".join(row(kind, effect, count, asked.repeats)) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

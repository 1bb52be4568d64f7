"""Statistics of an evaluation: means with 95 % intervals, paired differences, agreement of judges. See docs/statistics.md.

Pure functions of records. Answers to one question, and the turns of one interview, are not independent, so everything is
counted by cluster: (kind, question). A single question is a cluster of its own, an interview's turns are one.

Which interval is used was chosen by coverage (bench/evaluation_coverage.py), for clusters as they are here:
- fewer than 50 clusters: Student t on the clusters' residuals. The bootstrap's intervals are too short there (percentile: 79 to 86 %
  in place of 95 % for 5 clusters, 87 to 92 % for 10; BCa is no better), and an exact sign-flip test can decide nothing below 6 clusters.
- flags of fewer than 50 single answers: the exact interval of Clopper and Pearson, for a share alone, not for a difference.
- 50 and more: percentile bootstrap over clusters. BCa covers less where flags are seldom set.
- Flags, shares and grades are often equal in nearly all clusters. Where all are, every method has no width: of shares of 2 % in 10
  clusters, Student t holds the truth 22 % of the time, and so does the bootstrap. So two pretended clusters, one a step of 1 up, one a
  step down, join the data of each interval, as Bonett and Price (2012) do for paired shares; it then holds the truth 93 to 100 % of the
  time. The mean that is shown is that of the data alone.

Equal on every machine: the resampling uses PCG64's raw stream, which numpy promises to keep, and sums that are exact in any order.
What cannot be computed is None. numpy, scipy and krippendorff are imported late.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    Record = Mapping[str, Any]
    Key = tuple[str, str]
    """A cluster: the kind and the question's id."""
    Array = np.ndarray[Any, np.dtype[np.float64]]

LEVEL = 0.95
BOOTSTRAP_FROM = 50
"""Clusters from which on the bootstrap is used."""
RESAMPLES = 4000
SEED = 20231206
SPREAD = 5
"""Of values without a smallest step: clusters that must differ from the commonest value, or there is no telling the spread."""
LENGTH_CLUSTERS = 10
LENGTH_SIDE = 0.05
"""Of the pairs, at least two and at least this share must lie on either side of equal length: no extrapolating."""

TOO_FEW, NO_SPREAD, EXACT, STUDENT, BOOTSTRAP = "too few", "no spread", "exact", "t", "bootstrap"


class Metric(Protocol):
    """What is used of metrics.Metric. `per` is answer-flag, answer-value or contestant."""

    @property
    def unit(self) -> str: ...
    @property
    def per(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Scale:
    """What a mean can be. `pretend` are the two values that join the data, around the mean where `around` is set."""

    low: float = -math.inf
    high: float = math.inf
    pretend: tuple[float, float] | None = None
    around: bool = False


SHARE = Scale(0, 1, (0, 1))
SHARE_DIFFERENCE = Scale(-1, 1, (-1, 1))
GRADE = Scale(1, 7, (-1, 1), around=True)
GRADE_DIFFERENCE = Scale(-6, 6, (-1, 1))
AMOUNT, VALUE = Scale(0), Scale()


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its interval. `low` and `high` are None where `method` is `too few` or `no spread`; low ≤ mean ≤ high."""

    mean: float | None
    low: float | None
    high: float | None
    clusters: int
    method: str

    @property
    def decided(self) -> bool:
        """Whether the interval, as it is shown, does not cover 0."""
        low, high = rounded(self.low), rounded(self.high)
        return low is not None and high is not None and (low > 0 or high < 0)


def rounded(value: float | None) -> float | None:
    """Return a value as statistics.json has it: six digits, no negative zero."""
    return None if value is None else round(value, 6) + 0.0


# --- Intervals -------------------------------------------------------------------------------------------------------


def interval(clusters: Iterable[Sequence[float]], scale: Scale) -> Interval:
    """Return the mean of all values with its 95 % interval; each of `clusters` holds the values of one cluster.

    The mean is over values, not over clusters. The order of clusters and of values changes nothing.
    """
    sums = sorted((math.fsum(values), float(len(values))) for values in clusters if values)
    count = len(sums)
    if not sums:
        return Interval(None, None, None, 0, TOO_FEW)
    mean = _mean(sums)
    if count < 2:
        return Interval(mean, None, None, count, TOO_FEW)
    if scale is SHARE and count < BOOTSTRAP_FROM and {*sums} <= {(0.0, 1.0), (1.0, 1.0)}:
        low, high = _binomial(round(math.fsum(total for total, _ in sums)), count)
        return Interval(mean, low, high, count, EXACT)
    if scale.pretend is None:
        means = [total / size for total, size in sums]
        if count - max(means.count(value) for value in set(means)) < min(SPREAD, count - 1):
            return Interval(mean, None, None, count, NO_SPREAD)
    else:
        size = math.fsum(size for _, size in sums) / count
        centre = mean if scale.around else 0.0
        sums = sorted([*sums, *((size * (centre + step), size) for step in scale.pretend)])
    method = STUDENT if count < BOOTSTRAP_FROM else BOOTSTRAP
    low, high = student(sums, count - 1) if method == STUDENT else percentile(sums)
    low, high = max(scale.low, min(low, mean)), min(scale.high, max(high, mean))
    return Interval(mean, low, high, count, method)


def _mean(sums: Sequence[tuple[float, float]]) -> float:
    return math.fsum(total for total, _ in sums) / math.fsum(size for _, size in sums)


def student(sums: Sequence[tuple[float, float]], freedom: int) -> tuple[float, float]:
    """Return the t interval of a ratio of sums, from the clusters' residuals (Cochran 1977, 6.4)."""
    mean, count = _mean(sums), len(sums)
    squares = math.fsum((total - mean * size) ** 2 for total, size in sums)
    error = math.sqrt(squares * count / (count - 1)) / math.fsum(size for _, size in sums)
    width = _quantile_of_t(freedom) * error
    return mean - width, mean + width


def _binomial(hits: int, count: int) -> tuple[float, float]:
    """Return Clopper and Pearson's interval of a share of single answers."""
    from scipy import special

    tail = (1 - LEVEL) / 2
    low = float(special.betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(special.betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high


@cache
def _quantile_of_t(freedom: int) -> float:
    from scipy import special  # 0.2 s faster than scipy.stats

    return float(special.stdtrit(freedom, (1 + LEVEL) / 2))


def percentile(sums: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the percentile interval of a ratio of sums over resampled clusters."""
    import numpy as np

    # Resampled with its sign as it is or turned, whichever sorts first, so that a difference the other way round has
    # the same interval the other way round.
    turned = sorted((0.0 - total, size) for total, size in sums)
    flip = turned < list(sums)
    totals, sizes = (_exact(column) for column in zip(*(turned if flip else sums), strict=True))
    weights = draws(len(sums))
    found = (weights @ totals) / (weights @ sizes)
    low, high = (float(value) for value in np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return (-high, -low) if flip else (low, high)


def _exact(values: Sequence[float]) -> Array:
    """Return values on a grid of 2^-20: sums of them with whole weights are exact, so their order does not matter."""
    import numpy as np

    return np.round(np.asarray(values, dtype=np.float64) * 2.0**20) / 2.0**20


@cache
def draws(count: int) -> Array:
    """Return how often each of `count` clusters is drawn in each resample, (resamples, count)."""
    import numpy as np

    resamples = max(1000, min(RESAMPLES, 2_000_000 // count))
    # The remainder's bias is below 1e-15.
    drawn = np.random.PCG64(SEED).random_raw(resamples * count) % np.uint64(count)
    places = drawn.astype(np.int64) + np.repeat(np.arange(resamples) * count, count)
    return np.bincount(places, minlength=resamples * count).reshape(resamples, count).astype(np.float64)


# --- At equal length -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AtEqualLength:
    """The difference where both answers are equally long. `why` says why it cannot be told; the rest is None then."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    slope: float | None = None
    why: str | None = None

    def record(self) -> dict[str, float | None] | None:
        """Return it as statistics.json has it."""
        if self.why is not None:
            return None
        return {key: rounded(getattr(self, key)) for key in ("mean", "low", "high", "slope")}


def at_equal_length(pairs: Iterable[tuple[float, float]], scale: Scale) -> AtEqualLength:
    """Return the intercept of a least-squares line through pairs (difference of log(1+words), difference), one a cluster.

    The interval leaves out one cluster at a time (the jackknife) and uses t.
    """
    import numpy as np

    found = sorted(pairs)
    count = len(found)
    if count < LENGTH_CLUSTERS:
        return AtEqualLength(why=f"fewer than {LENGTH_CLUSTERS} questions")
    needed = max(2.0, LENGTH_SIDE * count)
    if sum(x > 0 for x, _ in found) < needed or sum(x < 0 for x, _ in found) < needed:
        return AtEqualLength(why="one of the two is nearly always longer")
    middle = math.fsum(x for x, _ in found) / count
    if scale.pretend is not None:
        found = sorted([*found, *((middle, step) for step in scale.pretend)])
    xs, ys = np.asarray([x - middle for x, _ in found]), np.asarray([y for _, y in found])
    # Without x_i the sums of all others change by its own share alone.
    parts = np.stack([np.ones_like(xs), xs, ys, xs * xs, xs * ys])
    whole = np.asarray([[math.fsum(row)] for row in parts])
    slopes, intercepts = _lines(whole - parts, -middle)
    slope, intercept = (float(value[0]) for value in _lines(whole, -middle))
    if not (np.isfinite(slopes).all() and math.isfinite(slope)):
        return AtEqualLength(why="the lengths hardly differ")
    size = len(found)
    error = math.sqrt((size - 1) / size * math.fsum((intercepts - math.fsum(intercepts) / size) ** 2))
    width = _quantile_of_t(count - 2) * error
    mean, low, high = (
        min(max(value, scale.low), scale.high) for value in (intercept, intercept - width, intercept + width)
    )
    return AtEqualLength(mean, low, high, slope)


def _lines(sums: Array, place: float) -> tuple[Array, Array]:
    """Return slope and height at `place` of least-squares lines; `sums` is (n, x, y, xx, xy) by column."""
    import numpy as np

    n, x, y, xx, xy = sums
    spread = n * xx - x * x
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(spread > 1e-9 * n * n, (n * xy - x * y) / spread, np.nan)
    return slope, (y - slope * x) / n + slope * place


# --- Agreement -------------------------------------------------------------------------------------------------------


def alpha(ratings: Iterable[Mapping[str, float]]) -> float | None:
    """Return Krippendorff's ordinal α; each of `ratings` holds one thing's grades by rater.

    None where nothing was graded by two, or where all grades are equal: agreement by chance is then certain.
    """
    units = [dict(one) for one in ratings if len(one) > 1]
    if len({value for one in units for value in one.values()}) < 2:
        return None
    import krippendorff

    raters = sorted({rater for one in units for rater in one})
    # Sorted, so that sums inside are made in the same order whatever the order of records. 0 is below every grade.
    rows = sorted([one.get(rater, 0.0) for rater in raters] for one in units)
    data = [[value or math.nan for value in column] for column in zip(*rows, strict=True)]
    return float(krippendorff.alpha(reliability_data=data, level_of_measurement="ordinal"))


# --- The summary -----------------------------------------------------------------------------------------------------


def summarise(
    *,
    contestants: Sequence[Record],
    measures: Sequence[Record],
    metrics_units: Mapping[str, Metric],
    scores: Sequence[Record],
    pairs: Sequence[Record],
    exam: Record,
    dimensions: Sequence[str],
) -> dict[str, Any]:
    """Return statistics.json. Arguments are the records of the artifacts of these names; all but `contestants` may be empty.

    Differences are reference − other, over what both have. `metrics_units` is metrics.METRICS. Only judges who passed the exam
    count; where none did, all count and `usable` is False.
    """
    names = [str(one["name"]) for one in contestants]
    reference = next((str(one["name"]) for one in contestants if one["reference"]), None)
    others = [name for name in names if name != reference]
    judges = {str(one["judge"]) for one in (*scores, *pairs)} | set(exam.get("judges", {}))
    passed = {judge: exam.get("judges", {}).get(judge, {}).get("passed") for judge in sorted(judges)}
    counted = {judge for judge, ok in passed.items() if ok} or judges
    usable = any(passed.values())
    scores = [one for one in scores if one["judge"] in counted]
    lengths = _lengths(measures)
    by_dimension = {dimension: _grades(scores, dimension) for dimension in dimensions}
    differences = {
        dimension: {other: _score_difference(graded, reference, other, lengths) for other in others}
        for dimension, graded in by_dimension.items()
    }
    overall = {
        other: _overall_difference(by_dimension.values(), reference, other, lengths) for other in others
    }
    pairwise = {
        other: _pairwise([one for one in pairs if one["judge"] in counted], reference, other)
        for other in others
    }
    per_answer = {key: metric for key, metric in metrics_units.items() if metric.per.startswith("answer")}
    by_metric = {key: _values(measures, key, metric.per) for key, metric in per_answer.items()}
    metric_differences = {
        key: {
            other: _metric_difference(by_metric[key], reference, other, _scales(metric)[1])
            for other in others
        }
        for key, metric in per_answer.items()
    }
    return {
        "reference": reference,
        "judges": {judge: {"passed": ok} for judge, ok in passed.items()},
        "usable": usable,
        "scores": {
            dimension: {name: _score(graded, scores, dimension, name) for name in names}
            for dimension, graded in by_dimension.items()
        },
        "differences": differences,
        "overall": overall,
        "agreement": _agreement(scores, dimensions),
        "pairwise": pairwise,
        "metrics": {
            key: {name: _metric(by_metric[key], name, _scales(metric)[0]) for name in names}
            for key, metric in per_answer.items()
        },
        "metric_differences": metric_differences,
        "comparisons": {
            "scores": _comparisons(one for row in differences.values() for one in row.values()),
            "pairwise": _comparisons(pairwise.values()),
            "metrics": _comparisons(one for row in metric_differences.values() for one in row.values()),
        },
    }


def _comparisons(found: Iterable[Record]) -> dict[str, float | None]:
    """Count intervals, those that decide, and how many would by chance if nothing differed at all."""
    made = [one for one in found if one["low"] is not None]
    return {
        "made": len(made),
        "decided": sum(one["decided"] for one in made),
        "by_chance": rounded((1 - LEVEL) * len(made)),
    }


# --- Scores ----------------------------------------------------------------------------------------------------------

_Grades = dict[str, "dict[Key, dict[str, float]]"]
"""Contestant → question → judge → mean grade over repeats."""


def _grades(scores: Sequence[Record], dimension: str) -> _Grades:
    grades: dict[str, dict[Key, dict[str, list[float]]]] = {}
    for one in scores:
        if one["dimension"] == dimension and one["score"] is not None:
            of_contestant = grades.setdefault(one["contestant"], {})
            of_contestant.setdefault(_key(one), {}).setdefault(one["judge"], []).append(float(one["score"]))
    return {
        name: {
            key: {judge: _average(values) for judge, values in judged.items()} for key, judged in own.items()
        }
        for name, own in grades.items()
    }


def _key(record: Record) -> Key:
    return str(record["kind"]), str(record["question"])


def _average(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _score(grades: _Grades, scores: Sequence[Record], dimension: str, name: str) -> dict[str, Any]:
    own = grades.get(name, {})
    found = interval([[_average(judged.values())] for judged in own.values()], GRADE)
    asked = [one["score"] for one in scores if one["dimension"] == dimension and one["contestant"] == name]
    unscored = sum(score is None for score in asked)
    return {
        **_limits(found),
        "scored": len(asked) - unscored,
        "unscored": unscored,
        "questions": len(own),
        "clusters": found.clusters,
    }


def _limits(found: Interval) -> dict[str, Any]:
    return {"mean": rounded(found.mean), "low": rounded(found.low), "high": rounded(found.high)}


def _score_difference(
    grades: _Grades, reference: str | None, other: str, lengths: Mapping[str, Mapping[Key, float]]
) -> dict[str, Any]:
    return _graded_difference(_by_question(grades, reference, other), reference, other, lengths)


def _overall_difference(
    dimensions: Iterable[_Grades],
    reference: str | None,
    other: str,
    lengths: Mapping[str, Mapping[Key, float]],
) -> dict[str, Any]:
    """Return the difference over all dimensions together: one question to the data, where each dimension is one more chance."""
    several: dict[Key, list[float]] = defaultdict(list)
    for grades in dimensions:
        for key, value in _by_question(grades, reference, other).items():
            several[key].append(value)
    values = {key: _average(several[key]) for key in several}
    return _graded_difference(values, reference, other, lengths)


def _by_question(grades: _Grades, reference: str | None, other: str) -> dict[Key, float]:
    """Return reference − other, taken within a judge first: a judge who grades low does so for both."""
    own, theirs = grades.get(reference or "", {}), grades.get(other, {})
    by_question: dict[Key, float] = {}
    for key in own.keys() & theirs.keys():
        both = own[key].keys() & theirs[key].keys()
        if both:
            by_question[key] = _average(own[key][judge] - theirs[key][judge] for judge in both)
    return by_question


def _graded_difference(
    by_question: Mapping[Key, float],
    reference: str | None,
    other: str,
    lengths: Mapping[str, Mapping[Key, float]],
) -> dict[str, Any]:
    found = interval([[value] for value in by_question.values()], GRADE_DIFFERENCE)
    own_words, their_words = lengths.get(reference or "", {}), lengths.get(other, {})
    at_length = at_equal_length(
        [
            (_longer(own_words[key], their_words[key]), value)
            for key, value in by_question.items()
            if key in own_words and key in their_words
        ],
        GRADE_DIFFERENCE,
    )
    return {
        **_difference(found, len(by_question)),
        "length": at_length.record(),
        "length_why": at_length.why,
    }


def _difference(found: Interval, pairs: int) -> dict[str, Any]:
    return {
        **_limits(found),
        "pairs": pairs,
        "clusters": found.clusters,
        "method": found.method,
        "decided": found.decided,
    }


def _longer(words: float, than: float) -> float:
    return math.log1p(words) - math.log1p(than)


def _lengths(measures: Sequence[Record]) -> dict[str, dict[Key, float]]:
    """Return contestant → question → mean words of its answers."""
    words: dict[str, dict[Key, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in measures:
        words[one["contestant"]][_key(one)].append(float(one["words"]))
    return {name: {key: _average(several) for key, several in own.items()} for name, own in words.items()}


def _agreement(scores: Sequence[Record], dimensions: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return α between judges (of their means over repeats), and between repeats (of each judge alone, then the mean)."""
    judges: dict[str, float | None] = {}
    repeats: dict[str, float | None] = {}
    for dimension in dimensions:
        by_answer: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for one in scores:
            if one["dimension"] == dimension and one["score"] is not None:
                by_answer[one["judge"]][one["answer"]][str(one["repeat"])] = float(one["score"])
        graded: dict[str, dict[str, float]] = defaultdict(dict)
        for judge, answers in by_answer.items():
            for answer, repeated in answers.items():
                graded[answer][judge] = _average(repeated.values())
        judges[dimension] = rounded(alpha(graded.values()))
        alphas = [alpha(by_answer[judge].values()) for judge in sorted(by_answer)]
        known = [one for one in alphas if one is not None]
        repeats[dimension] = rounded(_average(known)) if known else None
    return {"judges": judges, "repeats": repeats}


# --- Pairwise --------------------------------------------------------------------------------------------------------

_HALVES = {"win": 1.0, "tie": 0.0, "loss": -1.0}


def _pairwise(pairs: Sequence[Record], reference: str | None, other: str) -> dict[str, Any]:
    """Return wins of the reference against another; a tie is half a win. By question: mean over judges and repeats first."""
    counts = {"win": 0, "tie": 0, "loss": 0}
    unscored = disagreed = 0
    by_question: dict[Key, list[float]] = defaultdict(list)
    longer: dict[Key, float] = {}
    for one in pairs:
        if {one["one"], one["other"]} != {reference, other}:
            continue
        if one["winner"] is None:
            unscored += 1
            continue
        disagreed += one["first"] != one["second"]
        what = "tie" if one["winner"] == "tie" else "win" if one["winner"] == reference else "loss"
        counts[what] += 1
        by_question[_key(one)].append(_HALVES[what])
        words = one["words"] if one["one"] == reference else one["words"][::-1]
        longer[_key(one)] = _longer(*words)
    values = {key: _average(several) for key, several in by_question.items()}
    # Of wins minus losses, from -1 to 1, so that both ends are treated alike.
    found = interval([[value] for value in values.values()], SHARE_DIFFERENCE)
    at_length = at_equal_length([(longer[key], value) for key, value in values.items()], SHARE_DIFFERENCE)
    length = at_length.record()
    return {
        "wins": counts["win"],
        "ties": counts["tie"],
        "losses": counts["loss"],
        "unscored": unscored,
        "disagreed": disagreed,
        "rate": _rate(found.mean),
        "low": _rate(found.low),
        "high": _rate(found.high),
        "pairs": len(values),
        "clusters": found.clusters,
        "method": found.method,
        "decided": found.decided,
        "length": None
        if length is None
        else {
            "mean": _rate(at_length.mean),
            "low": _rate(at_length.low),
            "high": _rate(at_length.high),
            "slope": rounded((at_length.slope or 0.0) / 2),
        },
        "length_why": at_length.why,
    }


def _rate(value: float | None) -> float | None:
    return None if value is None else rounded((1 + value) / 2)


# --- Metrics ---------------------------------------------------------------------------------------------------------

_Values = dict[str, "dict[Key, dict[int, float]]"]
"""Contestant → question → turn (-1: a single answer) → value."""


def _scales(metric: Metric) -> tuple[Scale, Scale]:
    """Return the scale of a metric's mean and of its difference."""
    if metric.per == "answer-flag" or metric.unit == "share":
        return SHARE, SHARE_DIFFERENCE
    return (AMOUNT if metric.unit in {"words", "count", "bits"} else VALUE), VALUE


def _values(measures: Sequence[Record], key: str, per: str) -> _Values:
    where = "flags" if per == "answer-flag" else "values"
    found: _Values = {}
    for one in measures:
        value = one[where].get(key)
        if value is not None:
            turn = -1 if one["turn"] is None else int(one["turn"])
            found.setdefault(one["contestant"], {}).setdefault(_key(one), {})[turn] = float(value)
    return found


def _metric(values: _Values, name: str, scale: Scale) -> dict[str, Any]:
    own = values.get(name, {})
    found = interval([list(turns.values()) for turns in own.values()], scale)
    return {
        "value": rounded(found.mean),
        "low": rounded(found.low),
        "high": rounded(found.high),
        "answers": sum(map(len, own.values())),
        "clusters": found.clusters,
    }


def _metric_difference(values: _Values, reference: str | None, other: str, scale: Scale) -> dict[str, Any]:
    own, theirs = values.get(reference or "", {}), values.get(other, {})
    clusters = [
        [own[key][turn] - theirs[key][turn] for turn in sorted(own[key].keys() & theirs[key].keys())]
        for key in own.keys() & theirs.keys()
    ]
    return _difference(interval(clusters, scale), sum(map(len, clusters)))

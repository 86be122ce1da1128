"""Interquartile means and bootstrap intervals over seeds, within each task: how sure the numbers are."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from sb3_gipo.studies.curves import Floats


class Estimate(NamedTuple):
    """
    :param point: the number itself
    :param low: end of its interval
    :param high: end of its interval
    """

    point: float
    low: float
    high: float


class Sampling(NamedTuple):
    """
    :param reps: of the bootstrap
    :param confidence: of the intervals
    :param random_state: the same one gives the same intervals
    """

    reps: int = 2000
    confidence: float = 0.95
    random_state: int = 0

    def generator(self) -> np.random.Generator:
        """:return: at its beginning"""
        return np.random.default_rng(self.random_state)


def iqm(values: Floats, axis: int = 0) -> Floats:
    """
    Interquartile mean: of what is left when the lowest and the highest quarter (rounded down) are cut off, as rliable's.

    :param values: of any shape
    :param axis: to take the mean over
    :return: without that axis
    """
    ordered = np.sort(values, axis=axis)
    cut = int(0.25 * values.shape[axis])
    kept = np.take(ordered, np.arange(cut, values.shape[axis] - cut), axis=axis)
    return np.asarray(kept.mean(axis=axis), dtype=float)


def resampled(values: Floats, sampling: Sampling, generator: np.random.Generator) -> Floats:
    """
    :param values: ``[runs, ...]`` of one task
    :param sampling: how often
    :param generator: to draw with
    :return: ``[reps, runs, ...]``: runs drawn with replacement, each with its whole curve
    """
    rows = generator.integers(len(values), size=(sampling.reps, len(values)))
    return values[rows]


def iqm_samples(values: Floats, drawn: Floats) -> Floats:
    """
    :param values: of the runs, ``[runs, ...]``
    :param drawn: of the same by the bootstrap, ``[reps, runs, ...]``
    :return: interquartile means over runs, ``[1 + reps, ...]``: row 0 is of the runs themselves
    """
    return np.concatenate([iqm(values)[None], iqm(drawn, axis=1)])


def interval(samples: Floats, confidence: float) -> tuple[Floats, Floats]:
    """
    :param samples: ``[reps, ...]``, may hold infinities
    :param confidence: part of them inside
    :return: the ends, ``[...]``
    """
    tail = (1 - confidence) / 2
    # of the samples themselves: between a number and infinity there is nothing to interpolate
    low = np.quantile(samples, tail, axis=0, method="lower")
    high = np.quantile(samples, 1 - tail, axis=0, method="higher")
    return low, high


def estimate(point: float | Floats, samples: Floats, confidence: float) -> Estimate:
    """
    :param point: of the runs themselves
    :param samples: of the bootstrap, ``[reps]``
    :param confidence: of the interval
    :return: both
    """
    low, high = interval(samples, confidence)
    return Estimate(float(point), float(low), float(high))


def iqm_estimate(values: Floats, sampling: Sampling) -> Estimate:
    """
    :param values: of the runs of one task, ``[runs]``
    :param sampling: of the bootstrap
    :return: their interquartile mean
    """
    return estimate(iqm(values), iqm(resampled(values, sampling, sampling.generator()), axis=1), sampling.confidence)


def difference_estimate(values: Floats, others: Floats, sampling: Sampling) -> Estimate:
    """
    :param values: of the runs of one contestant on a task, ``[runs]``
    :param others: of those of another, ``[its runs]``
    :param sampling: of the bootstrap
    :return: interquartile mean of the one - that of the other
    """
    generator = sampling.generator()
    one, other = (iqm(resampled(each, sampling, generator), axis=1) for each in (values, others))
    return estimate(iqm(values) - iqm(others), one - other, sampling.confidence)


def iqm_band(values: list[Floats], sampling: Sampling) -> tuple[Floats, Floats, Floats]:
    """
    :param values: for each task the curves of the same number of runs, ``[runs, E]``
    :param sampling: of the bootstrap
    :return: interquartile mean over runs and tasks at each evaluation, and the ends of its interval, ``[E]`` each
    """
    generator = sampling.generator()
    drawn = np.concatenate([resampled(each, sampling, generator) for each in values], axis=1)
    low, high = interval(iqm(drawn, axis=1), sampling.confidence)
    return iqm(np.concatenate(values)), low, high


def aggregated(scores: Mapping[str, Floats], sampling: Sampling) -> dict[str, Estimate]:
    """
    rliable's interquartile mean over runs and tasks.

    :param scores: of each contestant, ``[runs, tasks]``
    :param sampling: of the bootstrap
    :return: of each contestant
    """
    from rliable import metrics

    return _estimates(scores, lambda each: np.array([metrics.aggregate_iqm(each)]), sampling)


def improvement(scores: Floats, others: Mapping[str, Floats], sampling: Sampling) -> dict[str, Estimate]:
    """
    How often a run of the one beats a run of the other, on average over the tasks (rliable's probability of improvement).

    :param scores: of the one, ``[runs, tasks]``
    :param others: of each other one, ``[its runs, tasks]``
    :param sampling: of the bootstrap
    :return: against each other one
    """
    pairs = {name: [scores, other] for name, other in others.items()}
    return _estimates(pairs, lambda x, y: np.array([beats(x, y)]), sampling)


def differences(scores: Floats, others: Mapping[str, Floats], sampling: Sampling) -> dict[str, Estimate]:
    """
    :param scores: of the one, ``[runs, tasks]``
    :param others: of each other one, ``[its runs, tasks]``
    :param sampling: of the bootstrap
    :return: rliable's interquartile mean over runs and tasks of the one - that of each other one
    """
    from rliable import metrics

    pairs = {name: [scores, other] for name, other in others.items()}
    return _estimates(pairs, lambda x, y: np.array([metrics.aggregate_iqm(x) - metrics.aggregate_iqm(y)]), sampling)


def beats(scores: Floats, other: Floats) -> float:
    """
    As ``rliable.metrics.probability_of_improvement``, which takes a thousand times as long.

    :param scores: ``[runs, tasks]``
    :param other: ``[its runs, tasks]``
    :return: part of the pairs in which the first is higher, ties count half, mean over the tasks
    """
    difference = scores[:, None, :] - other[None, :, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def profiles(scores: Mapping[str, Floats], levels: Floats, sampling: Sampling) -> dict[str, tuple[Floats, Floats, Floats]]:
    """
    rliable's performance profiles: the part of all runs with a score above each level.

    :param scores: of each contestant, ``[runs, tasks]``
    :param levels: ``[L]``
    :param sampling: of the bootstrap
    :return: of each contestant the profile and the ends of its interval, ``[L]`` each
    """
    from rliable import library

    def profile(each: Floats, at: Floats) -> Floats:
        # rliable's own calls Python for every level
        return np.asarray((each.reshape(1, -1) > at[:, None]).mean(axis=1), dtype=float)

    with _seeded(sampling):
        points, intervals = library.create_performance_profile(
            dict(scores),
            levels,
            custom_profile_func=profile,
            reps=sampling.reps,
            confidence_interval_size=sampling.confidence,
        )
    return {name: (points[name], intervals[name][0], intervals[name][1]) for name in scores}


def _estimates(scores: Mapping[str, Any], function: Callable[..., Floats], sampling: Sampling) -> dict[str, Estimate]:
    from rliable import library

    with _seeded(sampling):
        points, intervals = library.get_interval_estimates(
            dict(scores), function, reps=sampling.reps, confidence_interval_size=sampling.confidence
        )
    return {name: Estimate(*(float(each) for each in (points[name][0], *intervals[name][:, 0]))) for name in scores}


@contextmanager
def _seeded(sampling: Sampling) -> Iterator[None]:
    """rliable's ``random_state`` does not reach its resampling, which draws from NumPy's global generator."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(sampling.random_state)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002

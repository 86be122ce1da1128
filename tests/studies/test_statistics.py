"""Interquartile means and bootstrap intervals, against SciPy, rliable and known distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rliable import metrics
from scipy.stats import trim_mean

from sb3_gipo.studies import statistics
from sb3_gipo.studies.statistics import Sampling, aggregated, beats, improvement, iqm, iqm_band, iqm_estimate, profiles

SAMPLING = Sampling(reps=300)


@given(st.integers(1, 12).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-1e6, 1e6))))
def test_iqm_is_scipys_trimmed_mean(values: np.ndarray) -> None:
    """Of any number of values."""
    np.testing.assert_allclose(iqm(values), trim_mean(values, 0.25), atol=1e-6)


@given(arrays(np.float64, 7, elements=st.floats(-100, 100)), st.floats(-10, 10), st.floats(0.1, 10))
def test_iqm_moves_with_its_values(values: np.ndarray, shift: float, scale: float) -> None:
    """Scale and shift, nothing depends on the order, and no higher value makes it lower."""
    np.testing.assert_allclose(iqm(scale * values + shift), scale * iqm(values) + shift, atol=1e-6)
    np.testing.assert_allclose(iqm(values[::-1]), iqm(values), atol=1e-9)
    raised = values + np.arange(7)
    assert iqm(raised) >= iqm(values) - 1e-9


def test_aggregated_is_rliables() -> None:
    """Point and interval; the same ones every time, and NumPy's generator of the user stays where it was."""
    scores = {"one": np.random.default_rng(0).normal(size=(5, 7)), "two": np.full((4, 7), 0.5)}
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    found = aggregated(scores, SAMPLING)
    assert np.random.random() == expected
    assert found == aggregated(scores, SAMPLING)
    assert found["one"].point == metrics.aggregate_iqm(scores["one"])
    assert found["one"].low < found["one"].point < found["one"].high
    assert found["two"] == (0.5, 0.5, 0.5)  # identical seeds: the interval collapses


def test_our_bootstrap_is_that_of_rliable() -> None:
    """The vectorised one for whole curves gives the intervals of rliable's."""
    tasks = np.random.default_rng(1).normal(size=(6, 5))
    sampling = Sampling(reps=4000)
    theirs = aggregated({"x": tasks}, sampling)["x"]
    score, low, high = iqm_band([column[:, None] for column in tasks.T], sampling)
    np.testing.assert_allclose([score[0], low[0], high[0]], theirs, atol=0.03)


def test_coverage() -> None:
    """Of 40 normal values, the interval of the mean of the middle half holds the true one about as often as it says."""
    generator = np.random.default_rng(5)
    held = 0
    for number in range(150):
        estimate = iqm_estimate(generator.normal(2.0, 1.0, size=40), Sampling(400, 0.9, number))
        held += estimate.low <= 2.0 <= estimate.high
    assert 0.8 <= held / 150 <= 0.97


def test_differences() -> None:
    """Of the means of the middle half; without seeds that differ it has no width, and it is on the side of the higher one."""
    assert statistics.difference_estimate(np.full(5, 0.9), np.full(4, 0.4), SAMPLING) == (0.5, 0.5, 0.5)
    generator = np.random.default_rng(0)
    found = statistics.difference_estimate(generator.random(5) + 1, generator.random(5), SAMPLING)
    assert 0 < found.low < found.point < found.high < 2


def test_wider_with_more_confidence() -> None:
    """And the point lies inside."""
    values = np.arange(8.0)
    narrow, wide = (iqm_estimate(values, Sampling(1000, confidence)) for confidence in (0.6, 0.99))
    assert wide.low < narrow.low < narrow.point == 3.5 < narrow.high < wide.high


def test_intervals_with_infinities() -> None:
    """Never is a value like others: the interval may end there, and is not something in between."""
    samples = np.array([1.0] * 50 + [np.inf] * 50)
    assert statistics.interval(samples, 0.9) == (1.0, np.inf)


def test_beats_is_rliables_probability_of_improvement() -> None:
    """With ties, and with other numbers of runs."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 4, size=(5, 3)).astype(float), generator.integers(0, 4, size=(4, 3)).astype(float)
    assert beats(x, y) == pytest.approx(metrics.probability_of_improvement(x, y))


def test_improvement() -> None:
    """Always, never, and against itself."""
    scores = np.random.default_rng(0).random((5, 3))
    found = improvement(scores, {"lower": scores - 2, "higher": scores + 2, "same": scores}, SAMPLING)
    assert found["lower"] == (1.0, 1.0, 1.0)
    assert found["higher"] == (0.0, 0.0, 0.0)
    assert found["same"].point == pytest.approx(0.5)
    assert found["same"].low < 0.5 < found["same"].high


def test_differences_over_tasks() -> None:
    """
    Of the interquartile means over runs and tasks: a shift comes out as it is, without width where no two runs differ; and it
    is scipy's trimmed mean of all numbers.
    """
    generator = np.random.default_rng(0)
    scores, other = generator.random((5, 3)), generator.random((4, 3))
    found = statistics.differences(scores, {"lower": scores - 2, "other": other}, SAMPLING)
    assert found["lower"].point == pytest.approx(2.0)
    assert found["lower"].low < 2.0 < found["lower"].high
    expected = trim_mean(scores.ravel(), 0.25) - trim_mean(other.ravel(), 0.25)
    assert found["other"].point == pytest.approx(expected)
    assert statistics.differences(np.full((5, 2), 0.9), {"x": np.full((3, 2), 0.4)}, SAMPLING)["x"] == (0.5, 0.5, 0.5)


def test_profiles() -> None:
    """Part of the runs above each level."""
    levels = np.array([0.0, 0.5, 1.0])
    points, low, high = profiles({"x": np.array([[0.2, 0.6], [0.4, 0.8]])}, levels, SAMPLING)["x"]
    assert points.tolist() == [1.0, 0.5, 0.0]
    assert (low <= points).all()
    assert (points <= high).all()

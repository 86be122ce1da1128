"""Curves on a common grid, areas, final scores and first crossings, with answers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sb3_gipo.studies.curves import area, area_to, curves_of, final, halfway, normalise, on_grid, steps_to, steps_to_stay

GRID = np.array([0.0, 10.0, 20.0, 30.0])
values = arrays(np.float64, (3, 4), elements=st.floats(-100, 100))


@pytest.mark.parametrize(
    ("curve", "target", "expected"),
    [
        ([0, 1, 2, 3], 1.5, 15.0),  # half way between the second and the third
        ([0, 1, 2, 3], 2.0, 20.0),  # an evaluation is at it
        ([0, 1, 2, 3], 3.1, math.inf),  # never
        ([5, 1, 2, 3], 4.0, 0.0),  # at the beginning
        ([0, 4, 0, 4], 2.0, 5.0),  # the first crossing, also where it falls again
        ([0, 0, 0, 8], 2.0, 22.5),
        ([1, 1, 1, 1], 1.0, 0.0),
        ([0, 0.5, 0.7 - 1e-16, 0.7 - 1e-16], 0.7, 20.0),  # one is rounded up, the other down
        ([0, 5e8, 7e8 - 1e-7, 7e8 - 1e-7], 7e8, 20.0),
        ([0, 0.5, 0.69999, 0.69999], 0.7, math.inf),  # more than rounding
        ([0, 5e-12, 6e-12, 6e-12], 7e-12, math.inf),  # small numbers are no rounding
        ([math.nan, 0, 1, 2], 1.5, 25.0),
    ],
)
def test_steps_to(curve: list[float], target: float, expected: float) -> None:
    """First crossing, on the line between two evaluations."""
    assert steps_to(GRID, np.array(curve, dtype=float), target) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("curve", "target", "expected"),
    [
        ([0, 1, 2, 3], 1.5, 15.0),  # one crossing: the same
        ([0, 4, 0, 4], 2.0, 25.0),  # the last of two
        ([0, 4, 2, 4], 2.0, 5.0),  # it touches the target and is not below
        ([0, 4, 4, 1], 2.0, math.inf),  # below at the end
        ([5, 4, 3, 2], 2.0, 0.0),  # never below
        ([5, 1, 5, 5], 3.0, 15.0),
        ([0, 1, 0, 4], 4.0, 30.0),  # there at the end
        ([0, 0.7, 0.7 - 1e-16, 0.7], 0.7, 10.0),  # rounding is not below
    ],
)
def test_steps_to_stay(curve: list[float], target: float, expected: float) -> None:
    """Last crossing, on the line between two evaluations."""
    assert steps_to_stay(GRID, np.array(curve, dtype=float), target) == pytest.approx(expected)


@given(values, st.floats(-100, 100))
def test_after_the_last_crossing_nothing_is_below(curves: np.ndarray, target: float) -> None:
    """Up to it something is, it is not before the first crossing, and the same where the curve only rises."""
    first, last = steps_to(GRID, curves, target), steps_to_stay(GRID, curves, target)
    assert (last >= first).all()
    rising = np.maximum.accumulate(curves, axis=-1)
    np.testing.assert_array_equal(steps_to_stay(GRID, rising, target), steps_to(GRID, rising, target))
    for curve, steps in zip(curves, last, strict=True):
        assert (curve[steps <= GRID] >= target - 1e-9).all()
        assert steps == 0 or curve[steps >= GRID][-1] <= target + 1e-9


@given(values, st.floats(-100, 100))
@example(np.array([[-1.1e-8, 12.0, -1.1e-8, -1.1e-8]]), 0.0)  # so much below is more than rounding
def test_a_crossing_is_on_the_curve(curves: np.ndarray, target: float) -> None:
    """Where it crosses, the curve has the target's height (or it began above); never is never."""
    for curve, steps in zip(curves, steps_to(GRID, curves, target), strict=True):
        if math.isinf(steps):
            assert (curve < target).all()
        elif steps == 0:
            assert curve[0] >= target or np.isclose(np.interp(0, GRID, curve), target)
        else:
            assert np.isclose(np.interp(steps, GRID, curve), target, atol=1e-6)


@given(values, st.floats(-100, 100), st.floats(0, 50))
def test_a_higher_curve_is_not_later_and_a_higher_target_not_earlier(curves: np.ndarray, target: float, up: float) -> None:
    """Monotone in both."""
    steps = steps_to(GRID, curves, target)
    assert (steps_to(GRID, curves + up, target) <= steps + 1e-6).all()
    assert (steps_to(GRID, curves, target + up) >= steps - 1e-6).all()


@given(values, st.integers(-20, 20), st.integers(-5, 5), st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_units_do_not_matter(curves: np.ndarray, target: int, shift: int, scale: float) -> None:
    """Another zero and another unit of the return leave the steps as they are."""
    whole = np.round(curves)  # so that scaling and shifting are exact
    expected = steps_to(GRID, whole, target)
    np.testing.assert_allclose(steps_to(GRID, scale * whole + shift, scale * target + shift), expected)


def test_area_and_final() -> None:
    """Trapezoids by the length of the grid; mean of the last evaluations."""
    curve = np.array([[0.0, 1.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    np.testing.assert_allclose(area(GRID, curve), [20 / 30, 2.0])
    np.testing.assert_allclose(final(curve, 2), [0.5, 2.0])
    np.testing.assert_allclose(final(curve, 1), [0.0, 2.0])
    rising = np.arange(5.0)  # the middle of the budget is at 2
    assert (halfway(rising, 1), halfway(rising, 2), halfway(rising, 9)) == (2.0, 1.5, 1.5)


def test_step_0_is_no_result() -> None:
    """With one or two evaluations neither the end nor halfway takes the one at step 0 for one of them."""
    assert final(np.array([-90.0, 4.0]), 2) == 4.0
    assert halfway(np.array([-90.0, 4.0]), 2) is None
    assert final(np.array([-90.0, 4.0, 6.0]), 9) == 5.0
    assert halfway(np.array([-90.0, 4.0, 6.0]), 2) == 4.0


def test_area_up_to_an_end() -> None:
    """Of a line from 0 to 3 the mean up to 15 is 0.75; where nothing was spent between two evaluations nothing is counted."""
    assert area_to(GRID, np.array([0.0, 1.0, 2.0, 3.0]), 15.0) == pytest.approx(0.75)
    assert area_to(GRID, np.array([0.0, 1.0, 2.0, 3.0]), 30.0) == pytest.approx(1.5)
    # no learning before the second evaluation: a height of 4 at first, then down to 0
    assert area_to(np.array([0.0, 0.0, 10.0]), np.array([9.0, 4.0, 0.0]), 10.0) == pytest.approx(2.0)


def test_grid() -> None:
    """Linear between two evaluations, nothing beyond them."""
    assert on_grid([0, 10, 20], [0, 5, 6], [0, 4, 20]).tolist() == [0, 2, 6]
    assert np.isnan(on_grid([2, 10], [0, 5], [0, 12])).all()


def test_scores() -> None:
    """The low return is 0, the high one 1."""
    assert normalise(np.array([50.0, 100.0, 150.0]), (50.0, 100.0)).tolist() == [0.0, 1.0, 2.0]


def test_records_become_curves() -> None:
    """Returns are means over episodes; evaluations a step late are put on the grid; unknown gradient steps stay unknown."""
    evaluations = [
        {
            "steps": s,
            "gradient_steps": None,
            "seconds": s,
            "returns": [r, r + 2],
            "successes": [True, False],
            "lengths": [1, 1],
        }
        for s, r in ((0, 0.0), (12, 11.0), (20, 19.0))
    ]
    found = curves_of([{"seed": 7, "evaluations": evaluations}], [0, 10, 20])
    np.testing.assert_allclose(found.returns, [[1.0, 1 + 11 * 10 / 12, 20.0]])
    assert found.successes is not None
    assert found.successes.tolist() == [[0.5, 0.5, 0.5]]
    assert np.isnan(found.gradient_steps).all()
    assert found.of([7]).seeds == (7,)

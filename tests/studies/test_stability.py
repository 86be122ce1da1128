"""Runs that ran away are found; those that did not are not."""

from typing import Any

import pytest

from sb3_gipo.studies.plan import Statistics
from sb3_gipo.studies.stability import exceeded, last_intervals, ran_away, stability

TAIL, KL, DRIFT = "lag/abs_log_rho_p95", "train/approx_kl", "train/kl_behaviour"


def record(
    key: str, values: list[float], not_finite: int | None = None, late: int = 0, steps: int | None = 9
) -> dict[str, Any]:
    """Of 1000 steps, an interval for each value, the largest number in it twice the mean; in one a number was not finite."""
    length = 1000 // len(values)
    at = [length * (k + 1) for k in range(len(values))]
    traces: list[dict[str, Any]] = [
        {"until": step + late, "mean": {key: value}, "max": {key: 2 * value}, "not_finite": {}}
        for step, value in zip(at, values, strict=True)
    ]
    if not_finite is not None:
        traces[not_finite]["not_finite"] = {key: 1}
    evaluations = [{"gradient_steps": 0}, {"gradient_steps": steps}]
    return {
        **{"task": {"name": "lift"}, "seed": 3, "planned_evaluations": {"at": at}, "traces": traces},
        "evaluations": evaluations,
    }


@pytest.mark.parametrize(
    ("key", "values", "away"),
    [
        (TAIL, [0.2] * 10, False),
        (TAIL, [0.2] * 8 + [6.0, 6.0], True),
        (TAIL, [0.2] * 8 + [5.5, 4.0], False),  # the mean of the end counts
        (TAIL, [90.0] * 8 + [1.0, 1.0], False),  # it came back
        (KL, [0.02] * 10, False),
        (KL, [0.02] * 8 + [1.5, 1.5], True),
        (DRIFT, [0.2] * 10, False),
        (DRIFT, [0.2] * 8 + [2.0, 2.0], True),  # each update is small, all together go far
        ("train/std", [1e9] * 10, False),
    ],
)
def test_limits(key: str, values: list[float], away: bool) -> None:
    """Means over the last fifth of the steps."""
    found = ran_away(record(key, values), Statistics())
    assert (found is not None) is away
    assert found is None or key in found


def test_numbers_that_are_not_finite() -> None:
    """At any time."""
    found = ran_away(record(KL, [0.1] * 10, not_finite=0), Statistics())
    assert found == "train/approx_kl was not finite by step 100"
    assert ran_away(record("train/explained_variance", [0.1] * 10, not_finite=0), Statistics()) is None


def test_limits_are_settings() -> None:
    """And nothing logged is no reason."""
    assert ran_away(record(KL, [0.3] * 10), Statistics(kl_limit=0.2)) is not None
    assert ran_away({"planned_evaluations": {"at": [10]}, "traces": []}, Statistics()) is None


def test_the_last_fifth_goes_by_the_plan() -> None:
    """Evaluations come a step late where two environments step at once: the interval before the last fifth stays before it."""
    values = [0.0] * 7 + [90.0, 1.0, 2.0]
    for late in (0, 1, 99):
        assert [each["mean"][TAIL] for each in last_intervals(record(TAIL, values, late=late))] == [1.0, 2.0]
        assert ran_away(record(TAIL, values, late=late), Statistics()) is None
    # one evaluation for several planned ones, and steps that a fifth does not divide: 410 is after 409.6
    few = {"planned_evaluations": {"at": [102, 205, 307, 410, 512]}}
    assert last_intervals({**few, "traces": [{"until": 307}, {"until": 410}, {"until": 512}]}) == [{"until": 512}]
    assert last_intervals({**few, "traces": [{"until": 205}, {"until": 512}]}) == [{"until": 512}]


def test_beyond_a_limit_at_some_time() -> None:
    """The largest numbers of the intervals, which the means hide; who ran away has been beyond it too."""
    came_back = record(KL, [0.02, 0.6] + [0.02] * 8)
    assert ran_away(came_back, Statistics()) is None
    assert exceeded(came_back, Statistics()) == "train/approx_kl was 1.2 by step 200 (above 1)"
    assert exceeded(record(KL, [0.02, 0.4] + [0.02] * 8), Statistics()) is None
    assert exceeded(record(KL, [0.1] * 10, not_finite=0), Statistics()) == "train/approx_kl was not finite by step 100"
    only_means = record(DRIFT, [0.02, 1.3] + [0.02] * 8)
    for interval in only_means["traces"]:
        del interval["max"][DRIFT]
    assert exceeded(only_means, Statistics()) == "train/kl_behaviour was 1.3 by step 200 (above 1)"


def test_counts() -> None:
    """By run; where nothing was logged nobody knows."""
    runs = [record(KL, [0.02] * 10), record(KL, [0.02, 0.6] + [0.02] * 8), record(KL, [0.02] * 8 + [2.0, 2.0])]
    found = stability(runs, 1, 2, Statistics())
    assert (found.finished, found.failed, found.missing) == (3, 1, 2)
    assert found.ran_away == ("lift, seed 3: train/approx_kl was 2 over the last 20 % of the steps (above 1)",)
    assert found.exceeded is not None
    assert len(found.exceeded) == 2
    assert found.untrained == ()
    nothing = stability([record("train/ent_coef", [9.0] * 10)], 0, 0, Statistics())
    assert (nothing.ran_away, nothing.exceeded) == (None, None)


@pytest.mark.parametrize(("steps", "untrained"), [(0, ("lift, seed 3",)), (1, ()), (None, ())])
def test_who_never_learnt(steps: int | None, untrained: tuple[str, ...]) -> None:
    """No gradient step by the end; where they are not counted nobody knows."""
    assert stability([record(KL, [0.1], steps=steps)], 0, 0, Statistics()).untrained == untrained

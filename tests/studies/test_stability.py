"""Runs that ran away are found; those that did not are not."""

from typing import Any

import pytest

from sb3_gipo.studies.plan import Statistics
from sb3_gipo.studies.stability import ran_away

TAIL, KL = "lag/abs_log_rho_p95", "train/approx_kl"


def record(key: str, values: list[float], not_finite: int | None = None) -> dict[str, Any]:
    """Of 1000 steps, an interval for each value; in one of them a number was not finite."""
    length = 1000 // len(values)
    traces = [{"until": length * (k + 1), "mean": {key: value}, "max": {}, "not_finite": {}} for k, value in enumerate(values)]
    if not_finite is not None:
        traces[not_finite]["not_finite"] = {key: 1}
    return {"steps": 1000, "traces": traces}


@pytest.mark.parametrize(
    ("key", "values", "away"),
    [
        (TAIL, [0.2] * 10, False),
        (TAIL, [0.2] * 8 + [6.0, 6.0], True),
        (TAIL, [0.2] * 8 + [5.5, 4.0], False),  # the mean of the end counts
        (TAIL, [90.0] * 8 + [1.0, 1.0], False),  # it came back
        (KL, [0.02] * 10, False),
        (KL, [0.02] * 8 + [1.5, 1.5], True),
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
    assert ran_away({"steps": 10, "traces": []}, Statistics()) is None

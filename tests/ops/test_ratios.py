"""Trust of any surrogate, quantiles of the ratio by the sign of the advantage, normalised effective sample size."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_gipo.ops import surrogates
from sb3_gipo.ops.ratios import ratio_quantiles, ratio_quantiles_by_sign, trust, trust_summary
from sb3_gipo.ops.utilization import normalized_ess, quantile, quantiles
from tests.ops import references
from tests.ops.strategies import PROPERTY

MODERATE = st.floats(-8.0, 8.0)
SAMPLES = st.lists(st.tuples(MODERATE, st.one_of(st.just(0.0), st.floats(-5.0, 5.0))), min_size=1, max_size=30)


# --- trust --------------------------------------------------------------------------------------------------------------


@PROPERTY
@given(log_ratios=st.lists(MODERATE, min_size=1, max_size=20), sigma=st.floats(0.3, 5.0))
def test_trust_of_gipo_is_its_gaussian(log_ratios: list[float], sigma: float) -> None:
    """``w / rho`` is ``omega`` (paper, eq. 5), worked out with ``math``."""
    log_ratio = th.tensor(log_ratios, dtype=th.float64)
    got = trust(surrogates.gipo(log_ratio, th.ones_like(log_ratio), sigma=sigma).multiplier, log_ratio)
    expected = [math.exp(-(x**2) / (2 * sigma**2)) for x in log_ratios]
    assert got.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_trust_of_the_others() -> None:
    """PPO trusts wholly or not at all, no-clip always, SAPO by ``4 p (1 - p)``."""
    log_ratio = th.tensor([0.0, 0.1, 1.0, -1.0, -1.0, 1.0], dtype=th.float64)
    advantages = th.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0], dtype=th.float64)
    clip = surrogates.ppo_clip(log_ratio, advantages, clip_range=0.2).multiplier
    assert trust(clip, log_ratio).tolist() == pytest.approx([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    assert trust(surrogates.no_clip(log_ratio, advantages).multiplier, log_ratio).tolist() == pytest.approx([1.0] * 6)
    p = [1 / (1 + math.exp(-(math.exp(x) - 1))) for x in log_ratio.tolist()]
    sapo = surrogates.sapo(log_ratio, advantages, tau_neg=1.0).multiplier
    assert trust(sapo, log_ratio).tolist() == pytest.approx([4 * q * (1 - q) for q in p])


def test_trust_far_outside() -> None:
    """Beyond +-20 the ratio is clamped, in the multiplier and here: what is left is omega, 1 for no-clip, never above 1."""
    log_ratio = th.tensor([30.0, -30.0, 21.0], dtype=th.float64)
    advantages = th.tensor([-1.0, 1.0, -1.0], dtype=th.float64)
    assert trust(surrogates.no_clip(log_ratio, advantages).multiplier, log_ratio).tolist() == pytest.approx([1.0] * 3)
    cauchy = surrogates.gipo(log_ratio, advantages, sigma=0.4, kernel="cauchy").multiplier
    assert trust(cauchy, log_ratio).tolist() == pytest.approx([1 / (1 + 50.0**2)] * 3)
    clip = surrogates.ppo_clip(log_ratio, advantages, clip_range=0.2).multiplier
    assert trust(clip, log_ratio).tolist() == pytest.approx([1.0, math.exp(-10.0), 1.0])  # PPO's ratio itself is not clamped
    assert trust(th.tensor([2.0]), th.tensor([0.0])).item() == 1.0


def test_trust_summary_by_hand() -> None:
    """Trust 1, 0.5, 0.3, 0.1, 0.05: a weight at a threshold is not below it."""
    weights = th.tensor([1.0, 0.5, 0.3, 0.1, 0.05], dtype=th.float64)
    mean, tenth, half = trust_summary(weights, th.zeros(5, dtype=th.float64))
    assert mean.item() == pytest.approx(0.39)
    assert (tenth.item(), half.item()) == (pytest.approx(1 / 5), pytest.approx(3 / 5))


# --- ratio quantiles ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(samples=SAMPLES)
def test_quantiles_by_sign_agree_with_counting(samples: list[tuple[float, float]]) -> None:
    """Each sign by itself, with the reference that sorts by hand; samples without advantage are in neither."""
    log_ratio, advantages = (th.tensor(column, dtype=th.float64) for column in zip(*samples, strict=True))
    found = ratio_quantiles_by_sign(log_ratio, advantages)
    for got, ratios in zip(
        found, ([math.exp(x) for x, a in samples if a > 0], [math.exp(x) for x, a in samples if a < 0]), strict=True
    ):
        if not ratios:
            assert got is None
            continue
        assert got is not None
        expected = [references.quantile(ratios, q) for q in (0.0, 0.05, 0.5, 0.95, 0.99, 1.0)]
        assert [value.item() for value in got] == pytest.approx(expected, rel=1e-9)


def test_ratio_quantiles_by_hand() -> None:
    """Ratios 1, 2, 4: the median is 2 and the quantile 0.95 lies nine tenths of the way from 2 to 4."""
    got = ratio_quantiles(th.tensor([math.log(4.0), 0.0, math.log(2.0)], dtype=th.float64))
    assert got is not None
    assert {name: value.item() for name, value in got._asdict().items()} == pytest.approx(
        {"min": 1.0, "p05": 1.1, "p50": 2.0, "p95": 3.8, "p99": 3.96, "max": 4.0}
    )
    assert ratio_quantiles(th.zeros(0)) is None


@PROPERTY
@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), qs=st.lists(st.floats(0.0, 1.0), max_size=4))
def test_several_quantiles_are_each_of_them(values: list[float], qs: list[float]) -> None:
    """One sort for several quantiles changes none of them; NumPy agrees."""
    tensor = th.tensor(values, dtype=th.float64)
    got = [value.item() for value in quantiles(tensor, tuple(qs))]
    assert got == [quantile(tensor, q).item() for q in qs]
    assert got == pytest.approx(list(np.quantile(values, qs)), rel=1e-9, abs=1e-9)


# --- normalised effective sample size -----------------------------------------------------------------------------------


def test_normalised_ess_by_hand() -> None:
    """Equal weights: 1. One that outweighs n: 1/n. Weights 1, 2, 3: 36 / 14 / 3. None, or all zero: 0."""
    assert normalized_ess(th.full((5,), 0.2)).item() == pytest.approx(1.0)
    assert normalized_ess(th.tensor([0.0, 7.0, 0.0, 0.0])).item() == pytest.approx(1 / 4)
    assert normalized_ess(th.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(36 / 14 / 3)
    assert normalized_ess(th.zeros(0)).item() == 0.0
    assert normalized_ess(th.zeros(3)).item() == 0.0


@pytest.mark.parametrize("function", [trust, trust_summary, ratio_quantiles_by_sign])
def test_shapes_that_differ_are_refused(function: object) -> None:
    """The message names both."""
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        function(th.ones(3), th.ones(2))  # type: ignore[operator]  # the three functions above

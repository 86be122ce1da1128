"""Utilization, effective sample size, lag and quantile."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_gipo.ops import surrogates
from sb3_gipo.ops.utilization import Utilization, effective_sample_size, lag, quantile, utilization
from tests.ops import references
from tests.ops.strategies import DTYPES, LOG_RATIOS, PROPERTY, assert_close

MULTIPLIERS = st.one_of(st.just(0.0), st.floats(1e-6, 3.0), st.floats(1e-6, 1e-1), st.sampled_from([1e-20, 4e8]))
ADVANTAGES = st.one_of(st.just(0.0), st.floats(1e-6, 5.0), st.floats(-5.0, -1e-6), st.sampled_from([1e-4, -1e-4, 1e3, -1e3]))
SAMPLES = st.lists(st.tuples(MULTIPLIERS, ADVANTAGES, st.booleans()), min_size=1, max_size=20)
THRESHOLDS = st.one_of(st.floats(1e-4, 1.0), st.sampled_from([1e-2, 1e-3]))
WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=20)

Samples = list[tuple[float, float, bool]]


def as_tensors(samples: Samples, dtype: th.dtype = th.float64) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Multipliers, advantages and ages [B]."""
    multiplier, advantages, old = zip(*samples, strict=True)
    return th.tensor(multiplier, dtype=dtype), th.tensor(advantages, dtype=dtype), th.tensor(old)


def numbers(metrics: Any) -> dict[str, float]:
    """Name and number of each metric."""
    assert all(value.shape == () for value in metrics)
    return {name: value.item() for name, value in metrics._asdict().items()}


# --- utilization --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@PROPERTY
@given(samples=SAMPLES, eps_w=THRESHOLDS, eps_c=THRESHOLDS)
def test_metrics_agree_with_counting(dtype: th.dtype, samples: Samples, eps_w: float, eps_c: float) -> None:
    """Every metric is what one gets by going through the samples one by one (paper, C.4)."""
    tensors = as_tensors(samples, dtype)
    multiplier, advantages, old = (x.tolist() for x in tensors)
    at_a_threshold = any(
        abs(w - eps_w) < 1e-6 * eps_w or abs(abs(w * a) - eps_c) < 1e-6 * eps_c
        for w, a in zip(multiplier, advantages, strict=True)
    )
    expected = references.utilization(multiplier, advantages, old, eps_w=eps_w, eps_c=eps_c)
    got = numbers(utilization(*tensors, eps_w=eps_w, eps_c=eps_c))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if not (at_a_threshold and name in ("suppressed_frac", "near_zero_frac")):
            assert got[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_metrics_by_hand() -> None:
    """Six samples, counted with pencil and paper."""
    multiplier = th.tensor([0.0, 0.005, 0.01, 1.0, 2.0, 0.5])
    advantages = th.tensor([9.0, 0.1, -0.1, -3.0, 1.0, 0.0])
    old = th.tensor([True, True, False, True, False, True])
    # c = 0, 0.0005, 0.001, 3, 2, 0
    got = numbers(utilization(multiplier, advantages, old, eps_w=0.01, eps_c=0.0008))
    assert got["dead_frac"] == pytest.approx(1 / 6)  # the first
    assert got["suppressed_frac"] == pytest.approx(1 / 6)  # the second; the third is not below 0.01
    assert got["near_zero_frac"] == pytest.approx(3 / 6)  # the first, the second, the last
    assert got["old_share"] == pytest.approx(3.0005 / 5.0015)
    assert got["ess_old"] == pytest.approx(3.0005**2 / (9 + 0.0005**2))
    assert got["ess_eff_old"] == pytest.approx(3.0005**2 / (9 + 0.0005**2) / 4)


def test_thresholds_are_strict_and_have_defaults() -> None:
    """A multiplier of exactly ``eps_w = 1e-2`` is not suppressed, a contribution of exactly ``eps_c = 1e-3`` not near zero."""
    young = th.zeros(4, dtype=th.bool)
    multiplier = th.tensor([1e-2, 0.99e-2, 1.01e-2, 0.0], dtype=th.float64)
    assert utilization(multiplier, th.ones(4, dtype=th.float64), young).suppressed_frac.item() == 0.25
    advantages = th.tensor([1e-3, -0.99e-3, -1.01e-3, 1.0], dtype=th.float64)
    assert utilization(th.ones(4, dtype=th.float64), advantages, young).near_zero_frac.item() == 0.25


@PROPERTY
@given(samples=SAMPLES)
def test_metrics_stay_in_range(samples: Samples) -> None:
    """Shares lie in [0, 1], dead and suppressed samples are different ones, and ESS lies between 1 and the old samples."""
    multiplier, advantages, old = as_tensors(samples, th.float32)
    got = numbers(utilization(multiplier, advantages, old))
    for name in ("dead_frac", "suppressed_frac", "near_zero_frac", "old_share", "ess_eff_old"):
        assert 0.0 <= got[name] <= 1.0 + 1e-5, name
    assert got["dead_frac"] + got["suppressed_frac"] <= 1.0 + 1e-6
    assert got["near_zero_frac"] >= got["dead_frac"] - 1e-6
    if ((multiplier * advantages).abs() * old).sum() > 0:
        assert 1.0 - 1e-5 <= got["ess_old"] <= old.sum().item() * (1 + 1e-5)


@PROPERTY
@given(samples=SAMPLES, scale=st.floats(1e-3, 1e3), sign=st.sampled_from([-1.0, 1.0]))
def test_old_share_and_ess_do_not_depend_on_the_scale_of_advantages(samples: Samples, scale: float, sign: float) -> None:
    """Advantages in other units, or of the other sign, give the same shares."""
    multiplier, advantages, old = as_tensors(samples)
    one, other = utilization(multiplier, advantages, old), utilization(multiplier, sign * scale * advantages, old)
    for name in ("dead_frac", "suppressed_frac", "old_share", "ess_old", "ess_eff_old"):
        assert getattr(one, name).item() == pytest.approx(getattr(other, name).item(), rel=1e-9), name


@PROPERTY
@given(samples=SAMPLES, data=st.data())
def test_metrics_do_not_depend_on_the_order(samples: Samples, data: st.DataObject) -> None:
    """Any order of the samples gives the same metrics."""
    shuffled = data.draw(st.permutations(samples))
    one, other = numbers(utilization(*as_tensors(samples))), numbers(utilization(*as_tensors(shuffled)))
    assert one == pytest.approx(other, rel=1e-9)


def of(multiplier: list[float], advantages: list[float], old: list[bool]) -> dict[str, float]:
    """Metrics of these samples."""
    return numbers(utilization(*as_tensors(list(zip(multiplier, advantages, old, strict=True)), th.float32)))


NOTHING_OLD = {"old_share": 0.0, "ess_old": 0.0, "ess_eff_old": 0.0}


def test_without_old_samples() -> None:
    """Nothing old: a share of nothing is 0, and nothing is divided by zero."""
    assert of([1.0, 2.0], [1.0, -1.0], [False, False]) == {
        "dead_frac": 0.0,
        "suppressed_frac": 0.0,
        "near_zero_frac": 0.0,
        **NOTHING_OLD,
    }


def test_when_all_are_dead() -> None:
    """Every multiplier 0: all dead, all near zero, none suppressed, no contribution to share."""
    assert of([0.0, 0.0], [5.0, -5.0], [True, False]) == {
        "dead_frac": 1.0,
        "suppressed_frac": 0.0,
        "near_zero_frac": 1.0,
        **NOTHING_OLD,
    }


def test_when_all_advantages_are_zero() -> None:
    """No advantage: nothing contributes, but nothing is dead."""
    assert of([1.0, 1e-3], [0.0, 0.0], [True, True]) == {
        "dead_frac": 0.0,
        "suppressed_frac": 0.5,
        "near_zero_frac": 1.0,
        **NOTHING_OLD,
    }


def test_when_the_old_contribute_nothing() -> None:
    """Old samples that are all dead: their share and their effective number are 0, not undefined."""
    got = of([0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [True, True, False])
    assert (got["old_share"], got["ess_old"], got["ess_eff_old"]) == (0.0, 0.0, 0.0)


def test_one_old_sample() -> None:
    """One sample, old: it is all there is, and counts as one."""
    assert of([0.5], [-2.0], [True]) == {
        "dead_frac": 0.0,
        "suppressed_frac": 0.0,
        "near_zero_frac": 0.0,
        "old_share": 1.0,
        "ess_old": 1.0,
        "ess_eff_old": 1.0,
    }


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e10, 1e30])
def test_huge_and_tiny_contributions(size: float) -> None:
    """In float32, contributions whose squares would leave its range still give the share and the effective number."""
    got = of([1.0, 1.0, 1.0, 2.0], [size] * 4, [True, True, False, False])
    assert got["old_share"] == pytest.approx(2 / 5, rel=1e-6)
    assert got["ess_old"] == pytest.approx(2.0, rel=1e-6)
    assert got["ess_eff_old"] == pytest.approx(1.0, rel=1e-6)


def test_the_surrogates_measured_alike() -> None:
    """Of the same stale samples PPO kills those it clips; GIPO suppresses them, and none is dead."""
    log_ratio = th.tensor([-1.0, -1.0, 0.0, 0.1, 3.0, 3.0])
    advantages = th.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    old = log_ratio.abs() > 0.5
    ppo = utilization(surrogates.ppo_clip(log_ratio, advantages, clip_range=0.2).multiplier, advantages, old)
    gipo = utilization(surrogates.gipo(log_ratio, advantages, sigma=0.5).multiplier, advantages, old)
    assert ppo.dead_frac.item() == pytest.approx(2 / 6)
    assert gipo.dead_frac.item() == 0.0
    # omega rho = e^(3 - 18) and no other is below 1e-2: e^(-1 - 2) is about 0.05
    assert gipo.suppressed_frac.item() == pytest.approx(2 / 6)
    assert isinstance(gipo, Utilization)


@pytest.mark.parametrize("short", [0, 1, 2])
def test_shapes_that_differ_are_refused(short: int) -> None:
    """One tensor with a sample less raises, and the message names it."""
    tensors = [th.ones(4), th.ones(4), th.ones(4, dtype=th.bool)]
    tensors[short] = tensors[short][:3]
    with pytest.raises(ValueError, match=rf"{('multiplier', 'advantages', 'old')[short]} \(3,\)"):
        utilization(*tensors)


# --- effective sample size ----------------------------------------------------------------------------------------------


@PROPERTY
@given(weights=WEIGHTS)
def test_ess_agrees_with_the_reference(weights: list[float]) -> None:
    """``(sum c)^2 / sum c^2``."""
    got = effective_sample_size(th.tensor(weights, dtype=th.float64)).item()
    assert got == pytest.approx(references.effective_sample_size(weights), rel=1e-9)


def test_ess_by_hand() -> None:
    """Weights 1, 2, 3: 36 / 14; n equal weights count as n; one that outweighs all counts as 1."""
    assert effective_sample_size(th.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(36 / 14)
    assert effective_sample_size(th.full((7,), 0.3)).item() == pytest.approx(7.0)
    assert effective_sample_size(th.tensor([1e-12, 5.0, 1e-12])).item() == pytest.approx(1.0)
    assert effective_sample_size(th.tensor([0.0, 2.0, 2.0])).item() == pytest.approx(2.0)


@PROPERTY
@given(weights=WEIGHTS, scale=st.sampled_from([1e-35, 1e-20, 1.0, 1e20, 1e33]))
def test_ess_does_not_depend_on_the_scale_and_stays_in_range(weights: list[float], scale: float) -> None:
    """1 <= ESS <= n for weights of any unit, in float32, unless all are 0."""
    got = effective_sample_size(th.tensor([scale * w for w in weights], dtype=th.float32)).item()
    assert got == pytest.approx(references.effective_sample_size(weights), rel=1e-4)
    if any(weights):
        assert 1.0 - 1e-5 <= got <= len(weights) * (1 + 1e-5)


def test_ess_of_nothing() -> None:
    """No weights, and weights that are all 0, are no samples."""
    assert effective_sample_size(th.zeros(0)).item() == 0.0
    assert effective_sample_size(th.zeros(3)).item() == 0.0


# --- lag ----------------------------------------------------------------------------------------------------------------


@PROPERTY
@given(samples=st.lists(st.tuples(st.integers(0, 1000), LOG_RATIOS), min_size=1, max_size=40), threshold=st.integers(0, 100))
def test_lag_agrees_with_counting(samples: list[tuple[int, float]], threshold: int) -> None:
    """Mean and largest gap, share above the threshold, 95th percentile of ``|log rho|`` (paper, C.3 and eq. 40)."""
    gaps, log_ratios = zip(*samples, strict=True)
    got = numbers(lag(th.tensor(gaps), th.tensor(log_ratios, dtype=th.float64), threshold))
    assert got == pytest.approx(
        {
            "version_gap_mean": sum(gaps) / len(gaps),
            "version_gap_max": max(gaps),
            "old_frac": sum(1 for gap in gaps if gap > threshold) / len(gaps),
            "abs_log_rho_p95": references.quantile([abs(x) for x in log_ratios], 0.95),
        },
        rel=1e-6,
    )


def test_lag_by_hand() -> None:
    """Gaps 0, 4, 5, 11 with a threshold of 4: a gap at the threshold is not old."""
    got = numbers(lag(th.tensor([0, 4, 5, 11]), th.tensor([0.0, 1.0, -2.0, -3.0]), 4))
    assert got["version_gap_mean"] == 5.0
    assert got["version_gap_max"] == 11.0
    assert got["old_frac"] == 0.5
    # position 0.95 * 3 = 2.85 between 2 and 3
    assert got["abs_log_rho_p95"] == pytest.approx(2.85)


# --- quantile -----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40),
    q=st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.25, 0.5, 0.95, 1.0])),
)
def test_quantile_agrees_with_the_reference_and_with_numpy(values: list[float], q: float) -> None:
    """Linear interpolation between order statistics, as NumPy does by default."""
    got = quantile(th.tensor(values, dtype=th.float64), q)
    assert_close(got, np.array(references.quantile(values, q)), 1e3)
    assert_close(got, np.quantile(values, q), 1e3)


def test_quantile_by_hand() -> None:
    """Of 30, 10, 20: least, median, greatest, and 0.75 halfway between the upper two; of one number it is that number."""
    values = th.tensor([30.0, 10.0, 20.0])
    assert [quantile(values, q).item() for q in (0.0, 0.5, 0.75, 1.0)] == [10.0, 20.0, 25.0, 30.0]
    assert quantile(th.tensor([3.0]), 0.95).item() == 3.0
    assert math.isclose(quantile(th.arange(101.0), 0.95).item(), 95.0)


def test_quantile_of_more_than_torch_allows() -> None:
    """17 million numbers, where ``torch.quantile`` refuses."""
    values = th.ones(17_000_000)
    values[:1_000_000] = 2.0
    with pytest.raises(RuntimeError, match="too large"):
        th.quantile(values, 0.95)
    assert quantile(values, 0.95).item() == 2.0
    assert quantile(values, 0.9).item() == 1.0

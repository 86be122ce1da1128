"""The paper's bounds: against scipy, against enumeration, and at their edges."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import lambertw

from sb3_gipo.ops.bounds import damping_bias_bound, deviation_bound, multiplier_bound, optimal_truncation
from sb3_gipo.ops.surrogates import importance_ratio, trust_weight
from tests.ops.strategies import PROPERTY

SIGMAS = st.one_of(st.floats(0.01, 30.0), st.sampled_from([0.2, 0.5, 1.0, 2.0]))
TRUNCATIONS = st.floats(1e-3, 20.0)

# --- Lemma 5.3 ----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(sigma=SIGMAS)
def test_multiplier_bound_is_the_exponential(sigma: float) -> None:
    """Lemma 5.3: ``exp(sigma^2 / 2)``."""
    assert multiplier_bound(sigma) == pytest.approx(np.exp(sigma**2 / 2), rel=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 4.0])
def test_multiplier_bound_is_the_largest_multiplier(sigma: float) -> None:
    """Lemma 5.3: of all ratios on a fine grid the largest ``omega rho`` is the bound."""
    log_ratio = th.linspace(-20.0, 20.0, 400_001, dtype=th.float64)
    largest = (trust_weight(log_ratio, sigma) * importance_ratio(log_ratio)).max().item()
    assert largest == pytest.approx(multiplier_bound(sigma), rel=1e-6)
    assert largest <= multiplier_bound(sigma) * (1 + 1e-12)


def test_multiplier_bound_by_hand() -> None:
    """sigma = 1: e^(1/2); sigma = 2: e^2; beyond what a float can hold: infinite, not an error."""
    assert multiplier_bound(1.0) == pytest.approx(1.6487212707)
    assert multiplier_bound(2.0) == pytest.approx(7.3890560989)
    assert multiplier_bound(37.0) < math.inf
    assert multiplier_bound(38.0) == multiplier_bound(1e200) == math.inf


# --- Theorem 5.4 --------------------------------------------------------------------------------------------------------

EXPERIMENTS = {
    "sigma": st.floats(0.05, 3.0),
    "max_advantage": st.floats(1e-2, 100.0),
    "n_samples": st.integers(1, 1_000_000),
    "delta": st.floats(1e-6, 0.999),
}


@PROPERTY
@given(**EXPERIMENTS)
def test_deviation_bound_inverts_hoeffding(sigma: float, max_advantage: float, n_samples: int, delta: float) -> None:
    """Theorem 5.4: Hoeffding's ``2 exp(-2 N t^2 / (b - a)^2)``, ``b = -a = A exp(sigma^2 / 2)``, is delta at the bound."""
    deviation = deviation_bound(sigma, max_advantage, n_samples, delta)
    width = 2 * max_advantage * math.exp(sigma**2 / 2)
    assert 2 * math.exp(-2 * n_samples * deviation**2 / width**2) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize("delta", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("n_samples", [1, 10, 100, 1000])
@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_deviation_bound_holds_for_the_widest_distribution(sigma: float, n_samples: int, delta: float) -> None:
    """Theorem 5.4: contributions of plus or minus the largest size, by coin flips, miss it with a chance of at most delta."""
    largest = 3.0 * multiplier_bound(sigma)
    deviation = deviation_bound(sigma, 3.0, n_samples, delta)
    heads = np.arange(n_samples + 1)
    means = largest * (2 * heads / n_samples - 1)
    chance = stats.binom.pmf(heads, n_samples, 0.5)[np.abs(means) > deviation].sum()
    assert chance <= delta


def test_deviation_bound_by_hand() -> None:
    """sigma = 1, A = 2, N = 8, delta = 2/e: 2 e^(1/2) sqrt(2 * 1 / 8) = e^(1/2)."""
    assert deviation_bound(1.0, 2.0, 8, 2 / math.e) == pytest.approx(1.6487212707)


# --- Lemma 5.1 ----------------------------------------------------------------------------------------------------------


@PROPERTY
@given(sigma=SIGMAS, truncation=TRUNCATIONS, tail=st.floats(0.0, 1.0))
def test_bias_bound_is_the_sum_of_its_terms(sigma: float, truncation: float, tail: float) -> None:
    """Lemma 5.1: ``u^2 / (2 sigma^2) + exp(-u) + tail``."""
    expected = 0.5 * np.square(truncation / sigma) + np.exp(-truncation) + tail
    assert damping_bias_bound(sigma, truncation, tail) == pytest.approx(expected, rel=1e-12)


def test_bias_bound_by_hand() -> None:
    """sigma = 1, u = 2: 2 + e^-2; without a tail unless one is given."""
    assert damping_bias_bound(1.0, 2.0) == pytest.approx(2.1353352832)
    assert damping_bias_bound(1.0, 2.0, 0.25) == pytest.approx(2.3853352832)


@PROPERTY
@given(
    seed=st.integers(0, 2**32),
    n_actions=st.integers(2, 8),
    concentration=st.floats(0.1, 5.0),
    sigma=st.floats(0.05, 10.0),
    truncation=TRUNCATIONS,
)
def test_bias_bound_holds_on_discrete_distributions(
    seed: int, n_actions: int, concentration: float, sigma: float, truncation: float
) -> None:
    """Lemma 5.1: what damping takes from the ratio mass, summed over every action, is within the bound for every ``u``."""
    mu, pi = np.random.default_rng(seed).dirichlet(np.full(n_actions, concentration), size=2) + 1e-9
    mu, pi = mu / mu.sum(), pi / pi.sum()
    log_ratio = th.as_tensor(np.log(pi / mu))
    taken = (importance_ratio(log_ratio) * (1 - trust_weight(log_ratio, sigma))).numpy() @ mu
    tail = pi[log_ratio.numpy() > truncation].sum()
    assert 0 <= taken <= damping_bias_bound(sigma, truncation, min(tail, 1.0)) * (1 + 1e-9)


# --- the best u ---------------------------------------------------------------------------------------------------------


@PROPERTY
@given(sigma=st.one_of(st.floats(1e-3, 50.0), st.sampled_from([1e-6, 1e-2, 1e3, 1e6])))
def test_optimal_truncation_is_lambert_w(sigma: float) -> None:
    """Appendix B.3: ``u* = W(sigma^2)``, as scipy has it."""
    assert optimal_truncation(sigma) == pytest.approx(lambertw(sigma**2).real, rel=1e-9)


@PROPERTY
@given(sigma=st.floats(0.05, 30.0), factor=st.floats(0.1, 10.0).filter(lambda f: abs(f - 1) > 1e-3))
def test_optimal_truncation_minimises_the_bound(sigma: float, factor: float) -> None:
    """Appendix B.3: no other ``u`` makes the first two terms smaller, and there they are ``W^2 / (2 s^2) + W / s^2``."""
    best = optimal_truncation(sigma)
    smallest = damping_bias_bound(sigma, best)
    assert smallest == pytest.approx((best**2 / 2 + best) / sigma**2, rel=1e-9)
    assert smallest < damping_bias_bound(sigma, factor * best)


def test_optimal_truncation_by_hand() -> None:
    """W(e) = 1, as 1 e^1 = e; W(1) is the omega constant."""
    assert optimal_truncation(math.sqrt(math.e)) == pytest.approx(1.0, rel=1e-12)
    assert optimal_truncation(1.0) == pytest.approx(0.5671432904097838, rel=1e-12)


# --- refusals -----------------------------------------------------------------------------------------------------------

POSITIVE: list[tuple[str, Callable[[float], float]]] = [
    ("sigma", multiplier_bound),
    ("sigma", optimal_truncation),
    ("sigma", lambda value: damping_bias_bound(value, 1.0)),
    ("truncation", lambda value: damping_bias_bound(1.0, value)),
    ("sigma", lambda value: deviation_bound(value, 1.0, 10, 0.1)),
    ("max_advantage", lambda value: deviation_bound(1.0, value, 10, 0.1)),
    ("n_samples", lambda value: deviation_bound(1.0, 1.0, value, 0.1)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(("name", "function"), POSITIVE)
def test_arguments_must_be_positive_and_finite(name: str, function: Callable[[float], float], value: float) -> None:
    """An argument outside (0, inf) raises, and the message names it and its value."""
    with pytest.raises(ValueError, match=rf"`{name}` must be a finite number above 0, got {value}"):
        function(value)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 1.1, math.nan])
def test_delta_must_be_a_probability(delta: float) -> None:
    """A probability of failure outside (0, 1) raises, and the message gives it."""
    with pytest.raises(ValueError, match=rf"`delta` must be a probability in \(0, 1\), got {delta}"):
        deviation_bound(1.0, 1.0, 10, delta)


def test_less_than_one_sample_is_refused() -> None:
    """``N`` is documented as at least 1: half a sample raises."""
    with pytest.raises(ValueError, match="n_samples"):
        deviation_bound(1.0, 1.0, 0.5, 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("tail", [-0.5, 1.5, math.nan])
def test_tail_must_be_a_probability(tail: float) -> None:
    """The tail is documented as in [0, 1]: anything else raises instead of giving a bound that is none."""
    with pytest.raises(ValueError, match="tail_probability"):
        damping_bias_bound(1.0, 1.0, tail)

"""The terms beside the surrogate: value loss, entropy loss, divergence from the behaviour policy."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sb3_gipo.ops.losses import entropy_loss, k3_divergence, k3_slope, value_loss
from tests.ops import references
from tests.ops.strategies import DTYPES, PROPERTY, assert_close

NUMBERS = st.floats(-100.0, 100.0)


def random_tensors(n_tensors: int, n: int, seed: int) -> list[th.Tensor]:
    """Gaussian numbers [n] each."""
    rng = np.random.default_rng(seed)
    return [th.tensor(rng.normal(size=n), dtype=th.float32) for _ in range(n_tensors)]


# --- value loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@PROPERTY
@given(
    samples=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=12),
    clip_range=st.one_of(st.none(), st.floats(0.01, 50.0)),
)
def test_value_loss_agrees_with_the_reference(
    dtype: th.dtype, samples: list[tuple[float, float, float]], clip_range: float | None
) -> None:
    """The loss is the mean squared error, of values that move at most ``clip_range`` from the old ones where it is given."""
    values, targets, old_values = (th.tensor(x, dtype=dtype) for x in zip(*samples, strict=True))
    total = 0.0
    for value, target, old in zip(values.tolist(), targets.tolist(), old_values.tolist(), strict=True):
        held = value if clip_range is None else min(max(value, old - clip_range), old + clip_range)
        total += (target - held) ** 2
    expected = np.array(total / len(samples))
    # a difference of hundreds, rounded, then squared
    scale = max(abs(x) for sample in samples for x in sample) ** 2
    assert_close(value_loss(values, targets, old_values, clip_range), expected, scale)


def test_value_loss_by_hand() -> None:
    """Values (1, 4), targets (2, 2): (1 + 4) / 2; held within 1 of old values (1, 2) the second is 3: (1 + 1) / 2."""
    values, targets, old_values = th.tensor([1.0, 4.0]), th.tensor([2.0, 2.0]), th.tensor([1.0, 2.0])
    assert value_loss(values, targets).item() == 2.5
    assert value_loss(values, targets, old_values, 1.0).item() == 1.0
    # held from below: value 0 is 1 under the old 1, allowed 0.5: (2 - 0.5)^2
    assert value_loss(th.tensor([0.0]), th.tensor([2.0]), th.tensor([1.0]), 0.5).item() == 2.25


@pytest.mark.parametrize("clip_range", [None, 0.2, 1.0])
@pytest.mark.parametrize("n_samples", [1, 7, 1000])
def test_value_loss_is_sb3s_to_the_last_bit(n_samples: int, clip_range: float | None) -> None:
    """Loss and gradient equal those of the lines in SB3's ``PPO.train``, bit for bit."""
    values, returns, old_values = random_tensors(3, n_samples, seed=n_samples)
    theirs, ours = (values.clone().requires_grad_() for _ in range(2))
    values_pred = theirs
    if clip_range is not None:
        values_pred = old_values + th.clamp(theirs - old_values, -clip_range, clip_range)
    their_loss = F.mse_loss(returns, values_pred)
    their_loss.backward()
    our_loss = value_loss(ours, returns, old_values, clip_range)
    our_loss.backward()
    assert th.equal(our_loss, their_loss)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert th.equal(ours.grad, theirs.grad)


def test_clipped_values_need_the_old_ones() -> None:
    """Asking for clipping without old values fails at once and says what is missing."""
    with pytest.raises(AssertionError, match="needs `old_values`"):
        value_loss(th.zeros(2), th.zeros(2), clip_range=0.2)


# --- entropy loss -------------------------------------------------------------------------------------------------------


def test_entropy_loss_is_the_negative_mean_entropy() -> None:
    """Entropies 1, 2 and 6 give -3, whatever the log-probabilities."""
    assert entropy_loss(th.tensor([1.0, 2.0, 6.0]), th.tensor([50.0, 60.0, 70.0])).item() == -3.0


def test_entropy_loss_without_a_closed_form() -> None:
    """Log-probabilities -1, -2 and -6 estimate an entropy of 3, hence a loss of -3."""
    assert entropy_loss(None, th.tensor([-1.0, -2.0, -6.0])).item() == -3.0


@pytest.mark.parametrize("closed_form", [True, False])
def test_entropy_loss_is_sb3s_to_the_last_bit(closed_form: bool) -> None:
    """Loss and gradient equal those of the lines in SB3's ``PPO.train``, bit for bit."""
    entropy, log_prob = (x.requires_grad_() for x in random_tensors(2, 1000, seed=0))
    theirs = -th.mean(entropy) if closed_form else -th.mean(-log_prob)
    ours = entropy_loss(entropy if closed_form else None, log_prob)
    assert th.equal(ours, theirs)
    leaf = entropy if closed_form else log_prob
    assert th.equal(th.autograd.grad(ours, leaf)[0], th.autograd.grad(theirs, leaf)[0])


# --- divergence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@PROPERTY
@given(log_ratios=st.lists(st.floats(-50.0, 50.0), min_size=1, max_size=12))
def test_divergence_agrees_with_the_reference(dtype: th.dtype, log_ratios: list[float]) -> None:
    """``(rho - 1) - log rho`` for each sample, the ratio limited to ``exp(+-20)``."""
    log_ratio = th.tensor(log_ratios, dtype=dtype)
    assert_close(k3_divergence(log_ratio), np.array([references.k3(x) for x in log_ratio.tolist()]))


def test_divergence_by_hand() -> None:
    """At rho = 1: 0; at rho = 2: 1 - log 2; at rho = 1/2: log 2 - 1/2."""
    log_ratio = th.tensor([0.0, math.log(2.0), math.log(0.5)], dtype=th.float64)
    np.testing.assert_allclose(k3_divergence(log_ratio), [0.0, 0.3068528194, 0.1931471806], atol=1e-10)


@PROPERTY
@given(log_ratios=st.lists(st.one_of(st.floats(-50.0, 50.0), st.floats(-1e-3, 1e-3)), min_size=1, max_size=12))
def test_divergence_is_never_negative(log_ratios: list[float]) -> None:
    """Every sample contributes at least 0, up to the rounding of a ratio near 1."""
    for dtype in DTYPES:
        assert k3_divergence(th.tensor(log_ratios, dtype=dtype)).min().item() >= -th.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("log_ratio", [90.0, -90.0, 1e6, -1e6, 1e9, -1e9, 1e30, -1e30])
def test_divergence_far_off_policy(log_ratio: float, dtype: th.dtype) -> None:
    """However far the log-ratio is out, the contribution is finite and positive, and its slope still pulls back."""
    leaf = th.tensor([log_ratio], dtype=dtype, requires_grad=True)
    contribution = k3_divergence(leaf)
    (slope,) = th.autograd.grad(contribution.sum(), leaf)
    assert 0 < contribution.item() < math.inf
    assert slope.item() == pytest.approx(math.exp(20.0) if log_ratio > 0 else -1.0, rel=1e-6)


@PROPERTY
@given(log_ratios=st.lists(st.floats(-20.0, 20.0), min_size=1, max_size=12))
def test_divergence_pulls_towards_the_behaviour_policy(log_ratios: list[float]) -> None:
    """Its slope along the log-ratio is ``rho - 1``."""
    leaf = th.tensor(log_ratios, dtype=th.float64, requires_grad=True)
    (slope,) = th.autograd.grad(k3_divergence(leaf).sum(), leaf)
    assert_close(slope, np.expm1(log_ratios))


@pytest.mark.parametrize("n_actions", [2, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_divergence_averages_to_kl_of_mu_and_pi(seed: int, n_actions: int) -> None:
    """Summed over every action with the behaviour policy's chances it is ``KL(mu || pi)`` exactly, not ``KL(pi || mu)``."""
    rng = np.random.default_rng(seed)
    mu, pi = rng.dirichlet(np.ones(n_actions), size=2)
    contributions = k3_divergence(th.as_tensor(np.log(pi) - np.log(mu))).numpy()
    assert np.sum(mu * contributions) == pytest.approx(np.sum(mu * np.log(mu / pi)), rel=1e-10)


@pytest.mark.parametrize("spread", [1e-3, 0.1, 1.0, 5.0])
def test_divergence_is_sb3s_approx_kl_to_the_last_bit(spread: float) -> None:
    """Each contribution equals the one in SB3's ``approx_kl``, rounding included: ``target_kl`` stops where PPO stops."""
    (log_ratio,) = random_tensors(1, 1000, seed=0)
    log_ratio *= spread
    assert log_ratio.abs().max() < 20.0
    assert th.equal(k3_divergence(log_ratio), (th.exp(log_ratio) - 1) - log_ratio)


def test_slope_of_the_divergence_is_its_derivative() -> None:
    """Also beyond the bound, and below it, the slope is what automatic differentiation finds."""
    log_ratio = th.cat([th.linspace(-60.0, 60.0, 121), th.tensor([19.999, 20.001])]).double().requires_grad_()
    (expected,) = th.autograd.grad(k3_divergence(log_ratio).sum(), log_ratio)
    np.testing.assert_allclose(k3_slope(log_ratio.detach()), expected, rtol=1e-12)

"""Surrogates: loss and multiplier of each, and the properties the paper claims for the trust weight."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_gipo.ops import surrogates
from sb3_gipo.ops.surrogates import KERNELS, Kernel, SurrogateTerms, from_callable, gipo, importance_ratio, trust_weight
from tests.ops import references
from tests.ops.strategies import ADVANTAGES, DTYPES, LOG_RATIOS, PROPERTY, SAMPLES, WIDTHS, Samples, as_tensors, assert_close

CLIP_RANGES = st.one_of(st.floats(0.01, 0.9), st.sampled_from([0.0, 0.1, 0.2, 1.0, 2.0]))


class Case(NamedTuple):
    """A surrogate, what it is compared with, and what its parameters are drawn from."""

    ours: Callable[..., SurrogateTerms]
    reference: Callable[..., references.Terms]
    parameters: st.SearchStrategy[dict[str, Any]]


CASES = {
    **{
        f"gipo-{kernel}": Case(
            surrogates.gipo, references.gipo, st.fixed_dictionaries({"sigma": WIDTHS, "kernel": st.just(kernel)})
        )
        for kernel in KERNELS
    },
    **{
        f"gipo-{kernel}-sigma_neg": Case(
            surrogates.gipo,
            references.gipo,
            st.fixed_dictionaries({"sigma": WIDTHS, "sigma_neg": WIDTHS, "kernel": st.just(kernel)}),
        )
        for kernel in KERNELS
    },
    "gipo-one-sided": Case(
        surrogates.gipo,
        references.gipo,
        st.fixed_dictionaries({"sigma": WIDTHS, "restoring": st.sampled_from([0.5, 1.0, 3.0])}),
    ),
    "ppo_clip": Case(surrogates.ppo_clip, references.ppo_clip, st.fixed_dictionaries({"clip_range": CLIP_RANGES})),
    "sapo-default": Case(surrogates.sapo, references.sapo, st.just({})),
    "sapo": Case(surrogates.sapo, references.sapo, st.fixed_dictionaries({"tau_pos": WIDTHS, "tau_neg": WIDTHS})),
    "no_clip": Case(surrogates.no_clip, references.no_clip, st.just({})),
}
EVERY_SURROGATE = pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
EVERY_KERNEL = pytest.mark.parametrize("kernel", KERNELS)

# One set of parameters for each, for tests of something else.
NAMED: dict[str, Callable[[th.Tensor, th.Tensor], SurrogateTerms]] = {
    **{
        f"gipo-{kernel}": lambda x, a, kernel=kernel: gipo(x, a, sigma=0.7, sigma_neg=0.3, kernel=kernel)  # type: ignore[misc]
        for kernel in KERNELS
    },
    "ppo_clip": lambda x, a: surrogates.ppo_clip(x, a, clip_range=0.2),
    "sapo": lambda x, a: surrogates.sapo(x, a, tau_pos=1.0, tau_neg=2.0),
    "no_clip": surrogates.no_clip,
}
EVERY_NAMED = pytest.mark.parametrize("surrogate", list(NAMED.values()), ids=list(NAMED))


def slope_of(surrogate: Callable[..., SurrogateTerms], log_ratio: th.Tensor, advantages: th.Tensor, **how: Any) -> th.Tensor:
    """``d loss / d log rho`` of each sample by autograd [B]."""
    leaf = log_ratio.clone().requires_grad_()
    (slope,) = th.autograd.grad(surrogate(leaf, advantages, **how).loss.sum(), leaf)
    return slope


def random_samples(n: int, seed: int, dtype: th.dtype = th.float32, spread: float = 1.0) -> tuple[th.Tensor, th.Tensor]:
    """Gaussian log-ratios and advantages [n]."""
    rng = np.random.default_rng(seed)
    return th.tensor(spread * rng.normal(size=n), dtype=dtype), th.tensor(rng.normal(size=n), dtype=dtype)


# --- against the references ---------------------------------------------------------------------------------------------


@EVERY_DTYPE
@EVERY_SURROGATE
@PROPERTY
@given(samples=SAMPLES, data=st.data())
def test_loss_and_multiplier_agree_with_the_reference(
    case: Case, dtype: th.dtype, samples: Samples, data: st.DataObject
) -> None:
    """Loss and multiplier equal the paper's formulas on random and extreme samples."""
    parameters = data.draw(case.parameters)
    log_ratio, advantages = as_tensors(samples, dtype)
    expected = [case.reference(x, a, **parameters) for x, a in zip(log_ratio.tolist(), advantages.tolist(), strict=True)]
    terms = case.ours(log_ratio, advantages, **parameters)
    assert terms.loss.dtype == terms.multiplier.dtype == dtype
    assert_close(terms.loss, np.array([e.loss for e in expected]))
    # on the edge of PPO's clip range the multiplier jumps: which side a rounded ratio is on is tested below
    edges = [1 - parameters["clip_range"], 1 + parameters["clip_range"]] if "clip_range" in parameters else []
    sure = [x == 0 or all(abs(math.exp(min(x, 80.0)) - edge) > 1e-5 for edge in edges) for x in log_ratio.tolist()]
    assert_close(terms.multiplier[th.tensor(sure)], np.array([e.multiplier for e in expected])[sure])


@pytest.mark.parametrize("name", ["gipo-gaussian-sigma_neg", "gipo-laplacian-sigma_neg", "gipo-cauchy-sigma_neg", "sapo"])
def test_float64_in_gives_float64_accuracy(name: str) -> None:
    """A parameter that float32 cannot hold is not rounded to float32 on its way into a float64 formula."""
    case = CASES[name]
    parameters = (
        {"tau_pos": 0.7, "tau_neg": 1.3} if name == "sapo" else {"sigma": 0.7, "sigma_neg": 3.3, "kernel": name.split("-")[1]}
    )
    log_ratio, advantages = random_samples(50, seed=0, dtype=th.float64)
    expected = [case.reference(x, a, **parameters) for x, a in zip(log_ratio.tolist(), advantages.tolist(), strict=True)]
    terms = case.ours(log_ratio, advantages, **parameters)
    np.testing.assert_allclose(terms.loss, [e.loss for e in expected], rtol=1e-12)
    np.testing.assert_allclose(terms.multiplier, [e.multiplier for e in expected], rtol=1e-12)


@EVERY_DTYPE
@EVERY_SURROGATE
@PROPERTY
@given(samples=SAMPLES, data=st.data())
def test_multiplier_is_the_gradient(case: Case, dtype: th.dtype, samples: Samples, data: st.DataObject) -> None:
    """``d loss / d log rho = -w A`` for every sample, also beyond the bound of the log-ratio, where the gradient passes."""
    parameters = data.draw(case.parameters)
    log_ratio, advantages = as_tensors(samples, dtype)
    multiplier = case.ours(log_ratio, advantages, **parameters).multiplier
    slope = slope_of(case.ours, log_ratio, advantages, **parameters)
    assert_close(slope, -(multiplier.double() * advantages.double()).numpy())


@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(), (0,), (3,), (4, 2), (2, 3, 4)], ids=str)
@EVERY_NAMED
def test_samples_are_treated_alike_in_any_shape(
    surrogate: Callable[..., SurrogateTerms], shape: tuple[int, ...], dtype: th.dtype
) -> None:
    """Loss and multiplier have the shape of the samples, and a sample's numbers do not depend on its neighbours."""
    log_ratio, advantages = random_samples(math.prod(shape), seed=1, dtype=dtype)
    terms = surrogate(log_ratio.reshape(shape), advantages.reshape(shape))
    assert terms.loss.shape == terms.multiplier.shape == shape
    for i in range(math.prod(shape)):
        alone = surrogate(log_ratio[i : i + 1], advantages[i : i + 1])
        th.testing.assert_close(terms.loss.flatten()[i], alone.loss[0], rtol=1e-5, atol=1e-7)
        th.testing.assert_close(terms.multiplier.flatten()[i], alone.multiplier[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["gipo", "ppo_clip", "sapo", "no_clip"])
def test_shapes_that_differ_are_refused(name: str) -> None:
    """Log-ratios [B, D] with advantages [B] would broadcast silently; they raise and both shapes are named."""
    parameters = {"gipo": {"sigma": 1.0}, "ppo_clip": {"clip_range": 0.2}}.get(name, {})
    with pytest.raises(ValueError, match=r"log_ratio \(4, 2\), advantages \(4,\)"):
        getattr(surrogates, name)(th.zeros(4, 2), th.zeros(4), **parameters)


# --- by hand ------------------------------------------------------------------------------------------------------------

BY_HAND = [
    # omega = e^(-1 / 2), rho = e, w = e^(1 / 2); loss = -2 w
    ("gipo", {"sigma": 1.0}, 1.0, 2.0, -3.2974425414, 1.6487212707),
    # omega = e^(-1 / 2), rho = 1 / e, w = e^(-3 / 2); loss = 2 w
    ("gipo", {"sigma": 1.0}, -1.0, -2.0, 0.4462603203, 0.2231301601),
    # A < 0: sigma_neg counts; omega = e^(-1 / (2 / 4)) = e^-2, w = e^-3
    ("gipo", {"sigma": 1.0, "sigma_neg": 0.5}, -1.0, -2.0, 0.0995741367, 0.0497870684),
    # A > 0 and A = 0: sigma counts, as above
    ("gipo", {"sigma": 1.0, "sigma_neg": 0.5}, -1.0, 2.0, -0.4462603203, 0.2231301601),
    ("gipo", {"sigma": 1.0, "sigma_neg": 0.5}, -1.0, 0.0, 0.0, 0.2231301601),
    # beyond the bound: omega = e^(-400 / 200) = e^-2, rho = e^20, w = e^18
    ("gipo", {"sigma": 10.0}, 30.0, 1.0, -65659969.1373, 65659969.1373),
    # omega = e^(-2 / 2) = e^-1, rho = e^-2, w = e^-3
    ("gipo", {"sigma": 2.0, "kernel": "laplacian"}, -2.0, 1.0, -0.0497870684, 0.0497870684),
    # omega = 1 / (1 + (-2 / 2)^2) = 1 / 2, w = e^-2 / 2
    ("gipo", {"sigma": 2.0, "kernel": "cauchy"}, -2.0, 1.0, -0.0676676416, 0.0676676416),
    # rho = 1.5: a positive advantage is clipped at 1.2, a negative one is not
    ("ppo_clip", {"clip_range": 0.2}, math.log(1.5), 2.0, -2.4, 0.0),
    ("ppo_clip", {"clip_range": 0.2}, math.log(1.5), -2.0, 3.0, 1.5),
    # rho = 0.5: a negative advantage is clipped at 0.8, a positive one is not
    ("ppo_clip", {"clip_range": 0.2}, math.log(0.5), -2.0, 1.6, 0.0),
    ("ppo_clip", {"clip_range": 0.2}, math.log(0.5), 2.0, -1.0, 0.5),
    # inside the range
    ("ppo_clip", {"clip_range": 0.2}, math.log(1.1), 3.0, -3.3, 1.1),
    ("ppo_clip", {"clip_range": 0.2}, math.log(0.9), -3.0, 2.7, 0.9),
    # rho = 1: p = 1 / 2, f = 2 / tau, w = 1, whatever tau
    ("sapo", {}, 0.0, 1.0, -2.0, 1.0),
    ("sapo", {}, 0.0, -1.0, 1.9047619048, 1.0),  # tau_neg = 1.05
    # rho = 2, tau = 1: p = sigmoid(1) = 0.7310585786, f = 4 p, w = 2 * 4 p (1 - p)
    ("sapo", {}, math.log(2.0), 1.0, -2.9242343145, 1.5728954659),
    # rho = 1.5, tau = 2: p = sigmoid(1), f = 2 p, w = 1.5 * 4 p (1 - p)
    ("sapo", {"tau_neg": 2.0}, math.log(1.5), -1.0, 1.4621171573, 1.1796715995),
    # A = 0 takes tau_neg: rho = 1.5, p = sigmoid(1)
    ("sapo", {"tau_neg": 2.0}, math.log(1.5), 0.0, 0.0, 1.1796715995),
    ("no_clip", {}, math.log(2.0), 3.0, -6.0, 2.0),
    ("no_clip", {}, math.log(0.25), -3.0, 0.75, 0.25),
    # beyond the bound: e^20, e^-20
    ("no_clip", {}, 35.0, 1.0, -485165195.4098, 485165195.4098),
    ("no_clip", {}, -35.0, 1.0, -2.0611536224e-9, 2.0611536224e-9),
]


@pytest.mark.parametrize(("name", "parameters", "log_ratio", "advantage", "loss", "multiplier"), BY_HAND)
def test_numbers_worked_by_hand(
    name: str, parameters: dict[str, Any], log_ratio: float, advantage: float, loss: float, multiplier: float
) -> None:
    """Loss and multiplier are the numbers one gets with pencil and paper."""
    tensors = th.tensor([log_ratio], dtype=th.float64), th.tensor([advantage], dtype=th.float64)
    terms = getattr(surrogates, name)(*tensors, **parameters)
    assert terms.loss.item() == pytest.approx(loss, rel=1e-9)
    assert terms.multiplier.item() == pytest.approx(multiplier, rel=1e-9)


# --- the importance ratio -----------------------------------------------------------------------------------------------


@EVERY_DTYPE
@PROPERTY
@given(log_ratios=st.lists(LOG_RATIOS, min_size=1, max_size=12))
def test_ratio_is_the_exponential_of_the_limited_log_ratio(dtype: th.dtype, log_ratios: list[float]) -> None:
    """``rho = exp(clamp(log rho, -20, 20))``, bit for bit inside the bound."""
    log_ratio = th.tensor(log_ratios, dtype=dtype)
    ratio = importance_ratio(log_ratio)
    assert_close(ratio, np.exp(np.clip(log_ratio.double().numpy(), -20.0, 20.0)))
    inside = log_ratio.abs() <= 20.0
    assert th.equal(ratio[inside], th.exp(log_ratio)[inside])


@EVERY_DTYPE
@pytest.mark.parametrize("size", [20.5, 1e3, 1e6, 1e8, 3e8, 1e9, 1e17, 1e30])
def test_ratio_saturates_at_its_bound(size: float, dtype: th.dtype) -> None:
    """However far the log-ratio is beyond the bound, the ratio is the one at the bound, and its gradient is the ratio."""
    log_ratio = th.tensor([size, -size], dtype=dtype, requires_grad=True)
    ratio = importance_ratio(log_ratio)
    expected = th.exp(th.tensor([20.0, -20.0], dtype=dtype))
    th.testing.assert_close(ratio, expected, rtol=1e-6, atol=0)
    (slope,) = th.autograd.grad(ratio.sum(), log_ratio)
    th.testing.assert_close(slope, expected, rtol=1e-6, atol=0)


@EVERY_DTYPE
@pytest.mark.parametrize("size", [20.5, 1e3, 1e6, 1e8, 3e8, 1e9, 1e17, 1e30])
def test_no_sample_is_too_far_to_be_clipped(size: float, dtype: th.dtype) -> None:
    """PPO clips a ratio that is out of its range however far out it is."""
    terms = surrogates.ppo_clip(th.tensor([size, -size], dtype=dtype), th.tensor([1.0, -1.0], dtype=dtype), clip_range=0.2)
    assert terms.multiplier.tolist() == [0.0, 0.0]
    th.testing.assert_close(terms.loss, th.tensor([-1.2, 0.8], dtype=dtype))


@EVERY_DTYPE
@EVERY_NAMED
@PROPERTY
@given(log_ratios=st.lists(st.one_of(st.floats(-1e30, 1e30), st.sampled_from([1e30, -1e30])), min_size=1, max_size=8))
def test_everything_is_finite_for_finite_input(
    surrogate: Callable[..., SurrogateTerms], dtype: th.dtype, log_ratios: list[float]
) -> None:
    """Loss, multiplier and gradient are finite for every finite log-ratio (paper, section 4.1), no multiplier negative."""
    for advantage in (2.5, -2.5, 0.0):
        log_ratio = th.tensor(log_ratios, dtype=dtype)
        advantages = th.full_like(log_ratio, advantage)
        terms = surrogate(log_ratio, advantages)
        assert th.isfinite(terms.loss).all()
        assert th.isfinite(terms.multiplier).all()
        assert (terms.multiplier >= 0).all()
        assert th.isfinite(slope_of(surrogate, log_ratio, advantages)).all()


# --- the trust weight ---------------------------------------------------------------------------------------------------


@EVERY_KERNEL
@PROPERTY
@given(log_ratios=st.lists(LOG_RATIOS, min_size=1, max_size=12), sigma=WIDTHS)
def test_weight_agrees_with_the_reference(kernel: Kernel, log_ratios: list[float], sigma: float) -> None:
    """The weight alone equals the paper's formula, for a width given as a number and as a tensor."""
    log_ratio = th.tensor(log_ratios, dtype=th.float64)
    expected = np.array([references.omega(x, sigma, kernel) for x in log_ratios])
    assert_close(trust_weight(log_ratio, sigma, kernel), expected)
    assert th.equal(trust_weight(log_ratio, th.full_like(log_ratio, sigma), kernel), trust_weight(log_ratio, sigma, kernel))


@EVERY_KERNEL
@PROPERTY
@given(log_ratios=st.lists(LOG_RATIOS, min_size=1, max_size=12), sigma=WIDTHS)
def test_weight_is_symmetric(kernel: Kernel, log_ratios: list[float], sigma: float) -> None:
    """``omega(rho) = omega(1 / rho)`` (paper, section 4.2), bit for bit."""
    log_ratio = th.tensor(log_ratios)
    assert th.equal(trust_weight(log_ratio, sigma, kernel), trust_weight(-log_ratio, sigma, kernel))


@EVERY_KERNEL
@PROPERTY
@given(log_ratios=st.lists(LOG_RATIOS, min_size=2, max_size=12), sigma=WIDTHS)
def test_weight_falls_with_the_distance_and_never_leaves_its_range(
    kernel: Kernel, log_ratios: list[float], sigma: float
) -> None:
    """``0 <= omega <= 1``, and a sample further from ``rho = 1`` never weighs more."""
    log_ratio = th.tensor(sorted(log_ratios, key=abs), dtype=th.float64)
    weight = trust_weight(log_ratio, sigma, kernel)
    assert weight.min() >= 0
    assert weight.max() <= 1
    assert (weight.diff() <= 0).all()


@EVERY_DTYPE
@EVERY_KERNEL
@PROPERTY
@given(sigma=WIDTHS)
def test_weight_is_one_on_policy(kernel: Kernel, dtype: th.dtype, sigma: float) -> None:
    """``omega(1) = 1`` exactly, for every width."""
    assert trust_weight(th.zeros(1, dtype=dtype), sigma, kernel).item() == 1.0


@EVERY_KERNEL
@pytest.mark.parametrize("sigma", [0.2, 1.0, 3.0])
def test_weight_has_no_jump(kernel: Kernel, sigma: float) -> None:
    """Between neighbouring log-ratios the weight moves no more than its steepest slope allows; PPO's multiplier jumps."""
    # largest |d omega / d log rho|: at x = sigma; at x = 0; at x = sigma / sqrt(3)
    steepest = {"gaussian": math.exp(-0.5), "laplacian": 1.0, "cauchy": 3 * math.sqrt(3) / 8}[kernel] / sigma
    log_ratio = th.linspace(-5.0, 5.0, 20_001, dtype=th.float64)
    step = (log_ratio[1] - log_ratio[0]).item()
    slopes = trust_weight(log_ratio, sigma, kernel).diff() / step
    assert slopes.abs().max().item() == pytest.approx(steepest, rel=1e-2)
    jumps = surrogates.ppo_clip(log_ratio, th.ones_like(log_ratio), clip_range=0.2).multiplier.diff()
    assert jumps.min().item() == pytest.approx(-1.2, rel=1e-3)


@pytest.mark.parametrize("kernel", ["gaussian", "cauchy"])
@pytest.mark.parametrize("sigma", [0.2, 1.0, 3.0])
def test_weight_has_no_kink(kernel: Kernel, sigma: float) -> None:
    """The slope of the smooth kernels does not jump either: their curvature is largest at ``rho = 1``, and known there."""
    curvature_at_one = {"gaussian": 1.0, "cauchy": 2.0}[kernel] / sigma**2
    log_ratio = th.linspace(-5.0, 5.0, 20_001, dtype=th.float64)
    step = (log_ratio[1] - log_ratio[0]).item()
    curvature = trust_weight(log_ratio, sigma, kernel).diff(n=2).abs() / step**2
    assert curvature.max().item() == pytest.approx(curvature_at_one, rel=1e-3)


@EVERY_KERNEL
@PROPERTY
@given(samples=SAMPLES)
def test_wide_trust_recovers_no_clip(kernel: Kernel, samples: Samples) -> None:
    """``sigma -> inf`` gives the plain importance-weighted surrogate."""
    log_ratio, advantages = as_tensors(samples, th.float64)
    wide = gipo(log_ratio, advantages, sigma=1e9, kernel=kernel)
    plain = surrogates.no_clip(log_ratio, advantages)
    th.testing.assert_close(wide.loss, plain.loss, rtol=1e-6, atol=1e-12)
    th.testing.assert_close(wide.multiplier, plain.multiplier, rtol=1e-6, atol=1e-12)


@EVERY_KERNEL
@PROPERTY
@given(log_ratios=st.lists(st.floats(0.01, 5.0), min_size=1, max_size=12), sign=st.sampled_from([-1.0, 1.0]))
def test_narrow_trust_keeps_only_the_on_policy_samples(kernel: Kernel, log_ratios: list[float], sign: float) -> None:
    """``sigma -> 0`` leaves nothing of a sample off ``rho = 1`` and all of a sample on it."""
    log_ratio = th.tensor([0.0, *(sign * x for x in log_ratios)], dtype=th.float64)
    multiplier = gipo(log_ratio, th.ones_like(log_ratio), sigma=1e-6, kernel=kernel).multiplier
    assert multiplier[0].item() == 1.0
    assert multiplier[1:].max().item() < 1e-5


def test_equal_widths_are_one_width() -> None:
    """``sigma_neg = sigma`` and ``sigma_neg = None`` are the same, bit for bit."""
    log_ratio, advantages = random_samples(100, seed=2)
    both, one = gipo(log_ratio, advantages, sigma=0.3, sigma_neg=0.3), gipo(log_ratio, advantages, sigma=0.3)
    assert th.equal(both.loss, one.loss)
    assert th.equal(both.multiplier, one.multiplier)


def test_one_sided_trust_keeps_what_leads_back() -> None:
    """By hand: the ratios 2 and 1/2 under both signs of the advantage, a multiplier of at most 1.5 on the way back."""
    log_ratio = th.tensor([math.log(2.0), math.log(0.5), math.log(2.0), math.log(0.5), 0.0])
    advantages = th.tensor([1.0, -1.0, -1.0, 1.0, 1.0])
    terms = gipo(log_ratio, advantages, sigma=math.log(2.0), restoring=1.5)
    damped = math.exp(-0.5)
    expected = th.tensor([2.0 * damped, 0.5 * damped, 1.5, 0.5, 1.0])
    th.testing.assert_close(terms.multiplier, expected)
    th.testing.assert_close(terms.loss, -expected * advantages)


def test_gaussian_is_the_default_kernel() -> None:
    """Without a kernel, weight and surrogate are the paper's Gaussian."""
    log_ratio, advantages = random_samples(100, seed=3)
    assert th.equal(trust_weight(log_ratio, 0.5), trust_weight(log_ratio, 0.5, "gaussian"))
    assert th.equal(
        gipo(log_ratio, advantages, sigma=0.5).loss, gipo(log_ratio, advantages, sigma=0.5, kernel="gaussian").loss
    )


@EVERY_KERNEL
def test_no_gradient_flows_through_the_weight(kernel: Kernel) -> None:
    """The weight is a constant: neither the log-ratio nor anything else gets a gradient from it."""
    log_ratio, advantages = random_samples(100, seed=4, dtype=th.float64)
    leaf = log_ratio.clone().requires_grad_()
    weight = trust_weight(leaf, 0.7, kernel)
    assert not weight.requires_grad
    slope = slope_of(gipo, log_ratio, advantages, sigma=0.7, kernel=kernel)
    # with a weight that is not constant the slope would be d(omega rho) / d log rho instead of omega rho
    th.testing.assert_close(slope, -weight * th.exp(log_ratio) * advantages)


@EVERY_NAMED
def test_only_the_loss_carries_a_gradient(surrogate: Callable[..., SurrogateTerms]) -> None:
    """The multiplier is a measurement: no gradient flows through it."""
    log_ratio, advantages = random_samples(10, seed=5)
    terms = surrogate(log_ratio.requires_grad_(), advantages)
    assert terms.loss.requires_grad
    assert not terms.multiplier.requires_grad


@EVERY_NAMED
def test_inputs_are_left_alone(surrogate: Callable[..., SurrogateTerms]) -> None:
    """Neither log-ratios nor advantages are written to or made to require a gradient, not even to derive a multiplier."""
    log_ratio, advantages = random_samples(100, seed=6, spread=20.0)
    before = log_ratio.clone(), advantages.clone()
    surrogate(log_ratio, advantages)
    from_callable(lambda x, a: surrogate(x, a).loss)(log_ratio, advantages)
    assert th.equal(log_ratio, before[0])
    assert th.equal(advantages, before[1])
    assert not log_ratio.requires_grad


# --- Lemma 5.3 ----------------------------------------------------------------------------------------------------------


@EVERY_DTYPE
@PROPERTY
@given(log_ratios=st.lists(LOG_RATIOS, min_size=1, max_size=12), sigma=st.floats(0.01, 10.0), advantage=ADVANTAGES)
def test_multiplier_is_bounded(dtype: th.dtype, log_ratios: list[float], sigma: float, advantage: float) -> None:
    """Lemma 5.3: ``omega rho <= exp(sigma^2 / 2)`` for every log-ratio and advantage."""
    log_ratio = th.tensor(log_ratios, dtype=dtype)
    multiplier = gipo(log_ratio, th.full_like(log_ratio, advantage), sigma=sigma).multiplier
    assert multiplier.max().item() <= math.exp(sigma**2 / 2) * (1 + 1e-5)


@PROPERTY
@given(log_ratios=st.lists(LOG_RATIOS, min_size=1, max_size=12), sigma=st.floats(0.6, 10.0))
def test_multiplier_is_positive(log_ratios: list[float], sigma: float) -> None:
    """Lemma 5.3: ``0 < omega rho``: no sample is dead, unlike in PPO (as far as float64 reaches)."""
    log_ratio = th.tensor(log_ratios, dtype=th.float64)
    assert gipo(log_ratio, th.ones_like(log_ratio), sigma=sigma).multiplier.min().item() > 0


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0, 4.0])
def test_bound_is_attained(sigma: float) -> None:
    """Lemma 5.3: the largest multiplier is ``exp(sigma^2 / 2)`` at ``rho = exp(sigma^2)``, and smaller on either side."""
    log_ratio = th.tensor([sigma**2 - 0.01, sigma**2, sigma**2 + 0.01], dtype=th.float64)
    below, at, above = gipo(log_ratio, th.ones_like(log_ratio), sigma=sigma).multiplier.tolist()
    assert at == pytest.approx(math.exp(sigma**2 / 2), rel=1e-12)
    assert below < at > above


# --- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    ("name", "surrogate", "others"),
    [
        ("sigma", gipo, {}),
        ("sigma_neg", gipo, {"sigma": 1.0}),
        ("tau_pos", surrogates.sapo, {}),
        ("tau_neg", surrogates.sapo, {}),
    ],
)
def test_widths_and_temperatures_must_be_positive_and_finite(
    name: str, surrogate: Callable[..., SurrogateTerms], others: dict[str, float], value: float
) -> None:
    """A parameter outside (0, inf) raises, and the message names it and its value."""
    with pytest.raises(ValueError, match=rf"`{name}` must be a finite number above 0, got {value}"):
        surrogate(th.zeros(2), th.ones(2), **{name: value}, **others)


def test_unknown_kernel_is_refused() -> None:
    """A misspelt kernel raises, and the message lists what there is."""
    with pytest.raises(ValueError, match="Unknown kernel 'gausian'; choose one of gaussian, laplacian, cauchy"):
        gipo(th.zeros(2), th.ones(2), sigma=1.0, kernel="gausian")  # type: ignore[arg-type]


# --- PPO is SB3's -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.1, 0.5, 10.0])
@pytest.mark.parametrize("clip_range", [0.0, 0.1, 0.2, 0.3, 1.0])
@pytest.mark.parametrize("n_samples", [1, 2, 7, 64, 1000])
def test_ppo_clip_is_sb3s_to_the_last_bit(n_samples: int, clip_range: float, spread: float) -> None:
    """Loss and gradient equal those of the lines in SB3's ``PPO.train``, bit for bit."""
    log_prob, advantages = random_samples(n_samples, seed=n_samples, spread=spread)
    old_log_prob = random_samples(n_samples, seed=n_samples + 1, spread=spread)[0]
    advantages[::5] = 0.0
    old_log_prob[::3] = log_prob[::3]
    assert (log_prob - old_log_prob).abs().max() < 80.0

    theirs = log_prob.clone().requires_grad_()
    ratio = th.exp(theirs - old_log_prob)
    policy_loss_1 = advantages * ratio
    policy_loss_2 = advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range)
    their_loss = -th.min(policy_loss_1, policy_loss_2).mean()
    their_loss.backward()

    ours = log_prob.clone().requires_grad_()
    terms = surrogates.ppo_clip(ours - old_log_prob, advantages, clip_range=clip_range)
    our_loss = terms.loss.mean()
    our_loss.backward()
    assert th.equal(our_loss, their_loss)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert th.equal(ours.grad, theirs.grad)


@EVERY_DTYPE
@pytest.mark.parametrize("clip_range", [0.0, 0.1, 0.123, 0.2, 0.3, 0.9])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_ppo_is_dead_exactly_where_its_gradient_is(advantage: float, clip_range: float, dtype: th.dtype) -> None:
    """The multiplier is exactly 0 where autograd says 0 and nowhere else, to the last bit around the edges of the range."""
    edges = th.tensor([math.log(1 - clip_range), math.log(1 + clip_range)], dtype=dtype)
    near = [edges]
    for direction in (-1e9, 1e9):
        neighbour = edges
        for _ in range(8):
            neighbour = th.nextafter(neighbour, th.full_like(edges, direction))
            near.append(neighbour)
    log_ratio = th.cat([*near, random_samples(50, seed=7, dtype=dtype)[0]])
    advantages = th.full_like(log_ratio, advantage)
    multiplier = surrogates.ppo_clip(log_ratio, advantages, clip_range=clip_range).multiplier
    slope = slope_of(surrogates.ppo_clip, log_ratio, advantages, clip_range=clip_range)
    assert th.equal(multiplier == 0, slope == 0)
    assert 0 < (multiplier == 0).sum() < len(multiplier)


# --- a user's own -------------------------------------------------------------------------------------------------------


@EVERY_DTYPE
@EVERY_NAMED
@PROPERTY
@given(samples=SAMPLES)
def test_multiplier_of_a_bare_loss_is_derived(
    surrogate: Callable[..., SurrogateTerms], dtype: th.dtype, samples: Samples
) -> None:
    """A callable that returns only our loss gets our multiplier; where ``A = 0`` the multiplier is the one at ``A = 1``."""
    log_ratio, advantages = as_tensors(samples, dtype)
    derived = from_callable(lambda x, a: surrogate(x, a).loss)(log_ratio, advantages)
    defined = surrogate(log_ratio, th.where(advantages == 0, th.ones_like(advantages), advantages)).multiplier
    assert th.equal(derived.loss, surrogate(log_ratio, advantages).loss)
    assert_close(derived.multiplier, defined.double().numpy())


def test_a_users_own_formula() -> None:
    """A truncated ratio ``-min(rho, 2) A``, worked by hand: the multiplier is ``rho`` below 2 and 0 above."""
    surrogate = from_callable(lambda log_ratio, advantages: -log_ratio.exp().clamp(max=2.0) * advantages)
    log_ratio = th.tensor([0.5, 1.5, 3.0, 1.5, 3.0], dtype=th.float64).log()
    advantages = th.tensor([2.0, -2.0, 2.0, 0.0, 0.0], dtype=th.float64)
    terms = surrogate(log_ratio, advantages)
    th.testing.assert_close(terms.loss, th.tensor([-1.0, 3.0, -4.0, 0.0, 0.0], dtype=th.float64))
    th.testing.assert_close(terms.multiplier, th.tensor([0.5, 1.5, 0.0, 1.5, 0.0], dtype=th.float64))


def test_derived_multiplier_leaves_the_users_graph_alone() -> None:
    """The loss stays differentiable, the multiplier carries no gradient, and finding it adds nothing to any gradient."""
    log_prob, advantages = random_samples(20, seed=8)
    leaf = log_prob.clone().requires_grad_()
    terms = from_callable(lambda x, a: surrogates.no_clip(x, a).loss)(2.0 * leaf, advantages)
    assert leaf.grad is None
    assert not terms.multiplier.requires_grad
    terms.loss.sum().backward()
    assert leaf.grad is not None
    th.testing.assert_close(leaf.grad, -2.0 * th.exp(2.0 * log_prob) * advantages)


def test_multiplier_is_derived_without_a_graph_too() -> None:
    """Under ``no_grad`` the multiplier of a bare loss is the same."""
    log_ratio, advantages = random_samples(20, seed=9)
    surrogate = from_callable(lambda x, a: surrogates.no_clip(x, a).loss)
    with th.no_grad():
        terms = surrogate(log_ratio, advantages)
    assert th.equal(terms.multiplier, surrogate(log_ratio, advantages).multiplier)
    assert not terms.loss.requires_grad


def test_own_multiplier_is_passed_through() -> None:
    """A callable that returns loss and multiplier is believed: both come back as they are."""
    own = SurrogateTerms(th.arange(3.0), th.full((3,), 7.0))
    terms = from_callable(lambda log_ratio, advantages: own)(th.zeros(3), th.ones(3))
    assert terms is own


AVERAGING: list[Callable[[th.Tensor, th.Tensor], Any]] = [
    lambda x, a: -(x.exp() * a).mean(),
    lambda x, a: -(x.exp() * a).sum(dim=-1),
    lambda x, a: -(x.exp() * a).mean().expand(3, 1),
    lambda x, a: SurrogateTerms(-(x.exp() * a).mean(), x.exp().detach()),
]


@pytest.mark.parametrize("function", AVERAGING)
def test_reduced_losses_are_refused(function: Callable[[th.Tensor, th.Tensor], Any]) -> None:
    """A loss that is not one number a sample raises, and the message says what to return and what came."""
    with pytest.raises(ValueError, match=r"tensor of shape \(3, 2\), got shape .*Do not average it"):
        from_callable(function)(th.zeros(3, 2), th.ones(3, 2))


def test_losses_that_are_no_tensors_are_refused() -> None:
    """A Python number instead of a tensor raises, and the message names its type."""
    with pytest.raises(ValueError, match=r"tensor of shape \(3,\), got a float"):
        from_callable(lambda log_ratio, advantages: 0.0)(th.zeros(3), th.ones(3))  # type: ignore[arg-type,return-value]

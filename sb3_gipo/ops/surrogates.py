"""
Surrogates of the policy-gradient objective: GIPO, PPO-clip, SAPO and no-clip.

Every surrogate is a function of the log importance ratio and the advantage of each sample, and returns the loss of each
sample next to the multiplier ``w`` that the loss puts on ``A * grad log pi``. Measuring utilization through ``w`` makes
all of them comparable.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch as th

from sb3_gipo.ops.checks import check_positive, check_same_shape

# The log-ratio is held inside +-20 before it is exponentiated, so that every weight is finite (paper, section 4.1).
LOG_RATIO_BOUND = 20.0
# PPO's ratio is not weighted: it is held just inside the range of float32, so that PPO stays PPO to the last bit.
PPO_LOG_RATIO_BOUND = 80.0

# A parameter of a formula: a number, or a scalar tensor of one, which is not checked (that would read it from the device).
Number = float | th.Tensor

Kernel = Literal["gaussian", "laplacian", "cauchy"]
KERNELS: tuple[Kernel, ...] = ("gaussian", "laplacian", "cauchy")


class SurrogateTerms(NamedTuple):
    """
    What a surrogate says about each sample.

    ``loss`` [...]: to be minimised, differentiable through the log-ratio.
    ``multiplier`` [...]: ``w`` such that the gradient of ``-loss`` is ``w * A * grad log pi``; no gradient.
    """

    loss: th.Tensor
    multiplier: th.Tensor


# What a surrogate is: (log_ratio [...], advantages [...]) -> loss of each sample [...], or loss and multiplier.
Surrogate = Callable[[th.Tensor, th.Tensor], SurrogateTerms]
UserSurrogate = Callable[[th.Tensor, th.Tensor], th.Tensor | SurrogateTerms]


def importance_ratio(log_ratio: th.Tensor, bound: float = LOG_RATIO_BOUND) -> th.Tensor:
    """
    Importance ratio ``rho = pi / mu`` (paper, eq. 2), finite for every finite log-ratio.

    The log-ratio is clamped to ``+-bound`` in value only: the gradient still passes, so that a sample beyond the bound is
    limited, not lost.

    :param log_ratio: ``log pi(a|s) - log mu(a|s)`` [...]
    :param bound: largest ``|log rho|``, above 0
    :return: ratio [...], in ``[exp(-bound), exp(bound)]``
    """
    value = log_ratio.detach()
    if not log_ratio.requires_grad:
        return th.exp(value.clamp(-bound, bound))
    # the bracket is 0 and carries the gradient; subtracting an excess instead would lose the bound to rounding far outside
    return th.exp(value.clamp(-bound, bound) + (log_ratio - value))


def trust_weight(log_ratio: th.Tensor, sigma: Number, kernel: Kernel = "gaussian") -> th.Tensor:
    """
    Trust weight ``omega`` of a sample: how far its log-ratio is from 0, seen through a kernel (paper, eq. 5).

    ``gaussian``: ``exp(-(log rho)^2 / (2 sigma^2))``; ``laplacian``: ``exp(-|log rho| / sigma)``;
    ``cauchy``: ``1 / (1 + (log rho / sigma)^2)`` (the last two from the authors' released code).
    Symmetric in ``log rho``, 1 at ``rho = 1``, never a source of gradient.

    :param log_ratio: ``log rho`` [...]
    :param sigma: width of the kernel, above 0, a number or a tensor that broadcasts to [...]
    :param kernel: one of ``KERNELS``
    :return: weight in [0, 1] [...]
    :raises ValueError: for an unknown kernel
    """
    distance = log_ratio.detach().clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).abs() / sigma
    if kernel == "gaussian":
        return th.exp(-0.5 * distance.square())
    if kernel == "laplacian":
        return th.exp(-distance)
    if kernel == "cauchy":
        return 1.0 / (1.0 + distance.square())
    raise ValueError(f"Unknown kernel {kernel!r}; choose one of {', '.join(KERNELS)}.")


def gipo(
    log_ratio: th.Tensor,
    advantages: th.Tensor,
    *,
    sigma: Number,
    sigma_neg: Number | None = None,
    kernel: Kernel = "gaussian",
    restoring: float | None = None,
) -> SurrogateTerms:
    """
    GIPO surrogate ``-omega(rho_bar) * rho * A`` with ``rho_bar = stop_gradient(rho)`` (paper, eq. 4-7).

    With ``restoring`` the trust weight is one-sided: it damps only what would carry the ratio further away from 1
    (``A log rho > 0``); what would bring it back counts in full, as under PPO's ``min``. The paper names the blindness for
    that sign as its limitation.

    :param log_ratio: ``log rho`` [...]
    :param advantages: ``A`` [...]
    :param sigma: width of the trust weight, in units of ``log rho``, in (0, inf)
    :param sigma_neg: width where ``A < 0``; ``None``: the same
    :param kernel: one of ``KERNELS``
    :param restoring: largest multiplier of a sample that would bring its ratio back, above 0; ``None``: damped as any other
    :return: loss and multiplier of each sample [...]: ``omega * rho``; ``min(rho, restoring)`` of one that brings its ratio
        back
    :raises ValueError: for shapes that differ, a width or ``restoring`` outside (0, inf) or an unknown kernel
    """
    check_same_shape(log_ratio=log_ratio, advantages=advantages)
    check_positive(sigma=sigma)
    width = sigma
    if sigma_neg is not None and (isinstance(sigma_neg, th.Tensor) or sigma_neg != sigma):
        check_positive(sigma_neg=sigma_neg)
        width = th.where(advantages < 0, _scalar(sigma_neg, log_ratio), _scalar(sigma, log_ratio))
    ratio = importance_ratio(log_ratio)
    weight = trust_weight(log_ratio, width, kernel)
    if restoring is not None:
        check_positive(restoring=restoring)
        brings_back = log_ratio.detach().sign() * advantages.sign() < 0  # of the signs: a product can underflow
        weight = th.where(brings_back, (restoring / ratio.detach()).clamp(max=1.0), weight)
    weighted = weight * ratio
    return SurrogateTerms(-(weighted * advantages), weighted.detach())


def ppo_clip(log_ratio: th.Tensor, advantages: th.Tensor, *, clip_range: Number) -> SurrogateTerms:
    """
    PPO's clipped surrogate ``-min(rho A, clip(rho, 1 - eps, 1 + eps) A)`` (paper, eq. 3; arXiv 1707.06347).

    :param log_ratio: ``log rho`` [...]
    :param advantages: ``A`` [...]
    :param clip_range: ``eps``, at least 0
    :return: loss and multiplier of each sample [...]: ``rho`` where not clipped, exactly 0 where clipped
    :raises ValueError: for shapes that differ or a negative ``clip_range``
    """
    check_same_shape(log_ratio=log_ratio, advantages=advantages)
    if not (isinstance(clip_range, th.Tensor) or clip_range >= 0):
        raise ValueError(f"`clip_range` must be at least 0, got {clip_range}.")
    ratio = importance_ratio(log_ratio, PPO_LOG_RATIO_BOUND)
    clipped_ratio = th.clamp(ratio, 1 - clip_range, 1 + clip_range)  # type: ignore[arg-type]  # both are numbers or tensors
    plain, limited = advantages * ratio, advantages * clipped_ratio
    return SurrogateTerms(-th.min(plain, limited), ratio.detach().masked_fill(limited < plain, 0.0))


def sapo(log_ratio: th.Tensor, advantages: th.Tensor, *, tau_pos: float = 1.0, tau_neg: float = 1.05) -> SurrogateTerms:
    """
    Soft adaptive surrogate ``-(4 / tau) sigmoid(tau (rho - 1)) A`` (SAPO, arXiv 2511.20347).

    :param log_ratio: ``log rho`` [...]
    :param advantages: ``A`` [...]
    :param tau_pos: temperature where ``A > 0``, in (0, inf)
    :param tau_neg: temperature elsewhere, in (0, inf)
    :return: loss and multiplier ``4 rho p (1 - p)`` of each sample [...], ``p = sigmoid(tau (rho - 1))``
    :raises ValueError: for shapes that differ or a temperature outside (0, inf)
    """
    check_same_shape(log_ratio=log_ratio, advantages=advantages)
    check_positive(tau_pos=tau_pos, tau_neg=tau_neg)
    tau = th.where(advantages > 0, log_ratio.new_tensor(tau_pos), log_ratio.new_tensor(tau_neg))
    ratio = importance_ratio(log_ratio)
    logit = tau * (ratio - 1.0)
    # Always take the sigmoid of a negative number: 1 - p keeps its digits in float32 where p is close to 1.
    positive = logit > 0
    tail = th.sigmoid(th.where(positive, -logit, logit))
    gate = th.where(positive, 1.0 - tail, tail)
    slope = 4.0 * (tail * (1.0 - tail)).detach()
    return SurrogateTerms(-(4.0 / tau) * gate * advantages, slope * ratio.detach())


def no_clip(log_ratio: th.Tensor, advantages: th.Tensor) -> SurrogateTerms:
    """
    Plain importance-weighted surrogate ``-rho A``.

    :param log_ratio: ``log rho`` [...]
    :param advantages: ``A`` [...]
    :return: loss and multiplier ``rho`` of each sample [...]
    :raises ValueError: for shapes that differ
    """
    check_same_shape(log_ratio=log_ratio, advantages=advantages)
    ratio = importance_ratio(log_ratio)
    return SurrogateTerms(-(ratio * advantages), ratio.detach())


def from_callable(function: UserSurrogate) -> Surrogate:
    """
    Give a user's surrogate the type of ours: where it returns only the loss, the multiplier is derived from it.

    :param function: ``(log_ratio [...], advantages [...]) -> loss of each sample [...]``, or ``SurrogateTerms``
    :return: a surrogate that returns loss and multiplier
    """

    def surrogate(log_ratio: th.Tensor, advantages: th.Tensor) -> SurrogateTerms:
        terms = function(log_ratio, advantages)
        if isinstance(terms, SurrogateTerms):
            _check_loss_of_each_sample(terms.loss, log_ratio)
            return terms
        _check_loss_of_each_sample(terms, log_ratio)
        return SurrogateTerms(terms, _multiplier_by_autograd(function, log_ratio, advantages))

    return surrogate


def _scalar(number: Number, like: th.Tensor) -> th.Tensor:
    return number if isinstance(number, th.Tensor) else like.new_tensor(number)


def _check_loss_of_each_sample(loss: th.Tensor, log_ratio: th.Tensor) -> None:
    if not isinstance(loss, th.Tensor) or loss.shape != log_ratio.shape:
        given = f"shape {tuple(loss.shape)}" if isinstance(loss, th.Tensor) else f"a {type(loss).__name__}"
        raise ValueError(
            f"A surrogate must return the loss of each sample, a tensor of shape {tuple(log_ratio.shape)}, got {given}. "
            "Do not average it: GIPO does."
        )


def _multiplier_by_autograd(function: UserSurrogate, log_ratio: th.Tensor, advantages: th.Tensor) -> th.Tensor:
    """``w = -(d loss / d log rho) / A``; where ``A = 0`` that is 0/0, so the limit is taken at ``A = 1``."""
    some_advantage = th.where(advantages == 0, th.ones_like(advantages), advantages)
    with th.enable_grad():
        leaf = log_ratio.detach().requires_grad_()
        loss = function(leaf, some_advantage)
        assert isinstance(loss, th.Tensor)
        (slope,) = th.autograd.grad(loss.sum(), leaf)
    return -slope / some_advantage

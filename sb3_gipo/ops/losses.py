"""The terms that stand beside the surrogate in the full loss (paper, eq. 9-11)."""

import torch as th
from torch.nn import functional as F

from sb3_gipo.ops.surrogates import LOG_RATIO_BOUND, Number, importance_ratio


def value_loss(
    values: th.Tensor, value_targets: th.Tensor, old_values: th.Tensor | None = None, clip_range: Number | None = None
) -> th.Tensor:
    """
    Mean squared error of the value function (paper, eq. 10), with PPO's optional clipping around the old values.

    :param values: ``V(s)`` under the current parameters [B]
    :param value_targets: [B]
    :param old_values: values from before this update, needed where ``clip_range`` is given [B]
    :param clip_range: largest change of a value that is still followed; depends on the reward scale
    :return: scalar
    """
    if clip_range is not None:
        assert old_values is not None, "clipping the value function needs `old_values`"
        change = th.clamp(values - old_values, -clip_range, clip_range)  # type: ignore[arg-type]  # both numbers or tensors
        values = old_values + change
    return F.mse_loss(value_targets, values)


def entropy_loss(entropy: th.Tensor | None, log_prob: th.Tensor) -> th.Tensor:
    """
    Negative mean entropy (paper, eq. 11); estimated from the log-probabilities where it has no closed form.

    :param entropy: entropy of the action distribution, or ``None`` [B]
    :param log_prob: log-probability of the action, joint [B]
    :return: scalar
    """
    if entropy is None:
        return -th.mean(-log_prob)
    return -th.mean(entropy)


def k3_divergence(log_ratio: th.Tensor) -> th.Tensor:
    """
    Estimate of ``KL(mu || pi)`` from samples of ``mu`` that is never negative: ``(rho - 1) - log rho``
    (http://joschu.net/blog/kl-approx.html). The ratio is held in range; the pull back towards ``mu``
    is not lost beyond it.

    :param log_ratio: ``log pi - log mu`` [...]
    :return: contribution of each sample, at least 0 [...]
    """
    return (importance_ratio(log_ratio) - 1) - log_ratio.clamp(max=LOG_RATIO_BOUND)


def k3_slope(log_ratio: th.Tensor) -> th.Tensor:
    """
    Derivative of :func:`k3_divergence` by the log-ratio: ``rho - 1``, and beyond the bound ``rho``.

    :param log_ratio: ``log pi - log mu`` [...]
    :return: of each sample [...]
    """
    return importance_ratio(log_ratio) - (log_ratio <= LOG_RATIO_BOUND).to(log_ratio.dtype)

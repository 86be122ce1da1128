"""
How old the replayed data are, and how much of them moves the policy (paper, sections 6.1, C.3 and C.4).

All are defined through the surrogate's multiplier ``w``, so that every surrogate is measured alike.
"""

from typing import NamedTuple

import torch as th

from sb3_gipo.ops.checks import check_same_shape

EPS_W = 1e-2  # multipliers below count as suppressed
EPS_C = 1e-3  # contributions below count as near zero


class Utilization(NamedTuple):
    """Utilization metrics of a set of samples, each a scalar tensor (paper, C.4)."""

    dead_frac: th.Tensor  # share with w = 0
    suppressed_frac: th.Tensor  # share with 0 < w < eps_w
    near_zero_frac: th.Tensor  # share with |w A| < eps_c
    old_share: th.Tensor  # part of sum |w A| that comes from old samples
    ess_old: th.Tensor  # effective number of old samples
    ess_eff_old: th.Tensor  # the same, as a share of the old samples


class Lag(NamedTuple):
    """Policy lag of a set of samples, each a scalar tensor (paper, C.3)."""

    version_gap_mean: th.Tensor
    version_gap_max: th.Tensor
    old_frac: th.Tensor
    abs_log_rho_p95: th.Tensor


def utilization(
    multiplier: th.Tensor, advantages: th.Tensor, old: th.Tensor, *, eps_w: float = EPS_W, eps_c: float = EPS_C
) -> Utilization:
    """
    Utilization metrics (paper, C.4), with the contribution proxy ``c = |w A|``.

    A share of nothing is 0: ``old_share`` where nothing contributes, ``ess_old`` and ``ess_eff_old`` without old samples.

    :param multiplier: ``w`` of each sample [B]
    :param advantages: ``A`` as used in the actor update [B]
    :param old: true where the version gap is above the threshold [B]
    :param eps_w: multipliers in (0, ``eps_w``) count as suppressed
    :param eps_c: contributions below ``eps_c`` count as near zero
    :return: the metrics, scalars
    :raises ValueError: for shapes that differ
    """
    check_same_shape(multiplier=multiplier, advantages=advantages, old=old)
    contribution = (multiplier * advantages).abs()
    old_contribution = contribution[old]
    total = contribution.sum()
    ess_old = effective_sample_size(old_contribution)
    return Utilization(
        dead_frac=_mean(multiplier == 0),
        suppressed_frac=_mean((multiplier > 0) & (multiplier < eps_w)),
        near_zero_frac=_mean(contribution < eps_c),
        old_share=th.where(total > 0, old_contribution.sum() / total, th.zeros_like(total)),
        ess_old=ess_old,
        ess_eff_old=normalized_ess(old_contribution),
    )


def effective_sample_size(weights: th.Tensor) -> th.Tensor:
    """
    Effective sample size ``(sum c)^2 / sum c^2`` of non-negative weights (Kish), 0 for no weights or all zero.

    :param weights: ``c`` [B]
    :return: scalar between 0 and B
    """
    if len(weights) == 0:
        return weights.new_zeros(())
    # scaled by the largest weight, so that neither huge nor tiny weights leave the range of float32 when squared
    largest = weights.max()
    scaled = weights / th.where(largest > 0, largest, th.ones_like(largest))
    squares = scaled.square().sum()
    return th.where(squares > 0, scaled.sum().square() / squares, th.zeros_like(squares))


def normalized_ess(weights: th.Tensor) -> th.Tensor:
    """
    Effective sample size as a share of the samples, ``(sum c)^2 / (B sum c^2)``; 0 for no weights or all zero.

    :param weights: non-negative [B]
    :return: scalar in [0, 1]: 1 where all weigh the same, ``1 / B`` where one outweighs all
    """
    return effective_sample_size(weights) / max(len(weights), 1)


def lag(version_gap: th.Tensor, log_ratio: th.Tensor, old_threshold: int) -> Lag:
    """
    Lag summaries and tail drift (paper, C.3 and eq. 40).

    :param version_gap: current policy version minus the version that chose the action [B]
    :param log_ratio: joint ``log rho`` [B]
    :param old_threshold: a sample is old where its gap is above this
    :return: mean and largest gap, share of old samples, 95th percentile of ``|log rho|``, scalars
    """
    gap = version_gap.to(log_ratio.dtype)
    return Lag(
        version_gap_mean=gap.mean(),
        version_gap_max=gap.max(),
        old_frac=_mean(version_gap > old_threshold),
        abs_log_rho_p95=quantile(log_ratio.abs(), 0.95),
    )


def quantile(values: th.Tensor, q: float) -> th.Tensor:
    """
    Linearly interpolated quantile, for any number of samples (``torch.quantile`` stops at 16 million).

    :param values: [B], at least one
    :param q: in [0, 1]
    :return: scalar
    """
    return quantiles(values, (q,))[0]


def quantiles(values: th.Tensor, qs: tuple[float, ...]) -> list[th.Tensor]:
    """
    Several quantiles of the same samples, for one sort.

    :param values: [B], at least one
    :param qs: each in [0, 1]
    :return: scalars, one for each ``q``
    """
    ordered = values.sort().values
    found = []
    for q in qs:
        position = q * (len(values) - 1)
        low = int(position)
        high = min(low + 1, len(values) - 1)
        found.append(th.lerp(ordered[low], ordered[high], position - low))
    return found


def _mean(mask: th.Tensor) -> th.Tensor:
    return mask.to(th.float32).mean()

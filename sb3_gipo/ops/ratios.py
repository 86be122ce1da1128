"""How far the learner has moved from the policies that collected the data: ratios and trust of a set of samples."""

from typing import NamedTuple

import torch as th

from sb3_gipo.ops.checks import check_same_shape
from sb3_gipo.ops.surrogates import PPO_LOG_RATIO_BOUND, importance_ratio
from sb3_gipo.ops.utilization import quantiles


class TrustSummary(NamedTuple):
    """How much of each ratio a surrogate keeps, each a scalar tensor in [0, 1]."""

    trust_mean: th.Tensor
    below_a_tenth: th.Tensor  # share with a trust weight below 0.1
    below_a_half: th.Tensor  # share with a trust weight below 0.5


class RatioQuantiles(NamedTuple):
    """Quantiles of the importance ratio, each a scalar tensor."""

    min: th.Tensor
    p05: th.Tensor
    p50: th.Tensor
    p95: th.Tensor
    p99: th.Tensor
    max: th.Tensor


def trust(multiplier: th.Tensor, log_ratio: th.Tensor) -> th.Tensor:
    """
    Trust weight of any surrogate: the part ``w / rho`` of the ratio that it keeps, at most 1.

    For GIPO that is ``omega`` (paper, eq. 5); for PPO-clip 0 where clipped, else 1; for SAPO ``4 p (1 - p)``; for no-clip 1.
    The ratio is clamped to ``|log rho| <= 20``, as in GIPO's own weight.

    :param multiplier: ``w`` [B]
    :param log_ratio: ``log rho`` as the surrogate saw it [B]
    :return: trust weight [B]
    :raises ValueError: for shapes that differ
    """
    check_same_shape(multiplier=multiplier, log_ratio=log_ratio)
    return (multiplier / importance_ratio(log_ratio)).clamp(max=1.0)


def trust_summary(multiplier: th.Tensor, log_ratio: th.Tensor) -> TrustSummary:
    """
    Mean trust weight, and the shares of samples that are hardly trusted.

    :param multiplier: ``w`` [B], at least one
    :param log_ratio: ``log rho`` as the surrogate saw it [B]
    :return: scalars
    :raises ValueError: for shapes that differ
    """
    weight = trust(multiplier, log_ratio)
    return TrustSummary(weight.mean(), (weight < 0.1).float().mean(), (weight < 0.5).float().mean())


def ratio_quantiles(log_ratio: th.Tensor) -> RatioQuantiles | None:
    """
    Quantiles of the importance ratio of a set of samples, linearly interpolated.

    :param log_ratio: ``log rho`` [B]
    :return: scalars; ``None`` of no samples
    """
    if len(log_ratio) == 0:
        return None
    ratio = importance_ratio(log_ratio, PPO_LOG_RATIO_BOUND)
    return RatioQuantiles(*quantiles(ratio, (0.0, 0.05, 0.5, 0.95, 0.99, 1.0)))


def ratio_quantiles_by_sign(
    log_ratio: th.Tensor, advantages: th.Tensor
) -> tuple[RatioQuantiles | None, RatioQuantiles | None]:
    """
    Quantiles of the ratio where the advantage is positive and where it is negative: a large ratio raises a good action once
    more in the first, and throws the policy off in the second (PPO clips neither below nor above there).

    :param log_ratio: ``log rho`` [B]
    :param advantages: as used in the actor update [B]
    :return: where the advantage is above 0, where it is below 0; ``None`` where there is no such sample
    :raises ValueError: for shapes that differ
    """
    check_same_shape(log_ratio=log_ratio, advantages=advantages)
    return ratio_quantiles(log_ratio[advantages > 0]), ratio_quantiles(log_ratio[advantages < 0])

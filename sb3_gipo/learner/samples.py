"""Everything that one update drew, and what is to be said of it: the same for every algorithm that can be observed."""

from typing import NamedTuple

import torch as th

from sb3_gipo.ops.losses import k3_divergence
from sb3_gipo.ops.ratios import trust_summary
from sb3_gipo.ops.surrogates import LOG_RATIO_BOUND
from sb3_gipo.ops.utilization import EPS_C, EPS_W, lag, utilization


class UpdateSamples(NamedTuple):
    """
    All minibatches of an update, one after the other: S ratios, which are those of the B samples, or with a ratio for each
    action dimension those of every dimension.
    """

    multiplier: th.Tensor  # ``w`` of each ratio [S]
    advantages: th.Tensor  # ``A`` as used in the actor update [S]
    log_ratio: th.Tensor  # as the surrogate saw it: to the policy that trust is measured against [S]
    ratio_gap: th.Tensor  # version gap of the sample it belongs to [S]
    joint_log_ratio: th.Tensor  # to the behaviour policy, of the whole action [B]
    start_log_ratio: th.Tensor  # to the policy at the start of this update, of the whole action [B]
    version_gap: th.Tensor  # [B]


def update_metrics(
    samples: UpdateSamples, old_threshold: int, eps_w: float = EPS_W, eps_c: float = EPS_C
) -> dict[str, th.Tensor]:
    """
    What every update logs about the data it used (paper, C.3 and C.4).

    :param samples: of one update, at least one
    :param old_threshold: version gap above which a sample counts as old
    :param eps_w: multipliers in (0, ``eps_w``) count as suppressed
    :param eps_c: contributions below ``eps_c`` count as near zero
    :return: logger key and scalar
    """
    old = samples.ratio_gap > old_threshold
    used = utilization(samples.multiplier, samples.advantages, old, eps_w=eps_w, eps_c=eps_c)._asdict()
    if not bool(old.any()):  # of no old samples there is nothing to say
        del used["ess_old"], used["ess_eff_old"]
    used["trust_mean"] = trust_summary(samples.multiplier, samples.log_ratio).trust_mean
    late = lag(samples.version_gap, samples.joint_log_ratio, old_threshold)._asdict()
    return {
        **{f"utilization/{name}": value for name, value in used.items()},
        **{f"lag/{name}": value for name, value in late.items()},
        "replay/replayed_frac": (samples.version_gap > 0).float().mean(),
        "train/kl_behaviour": k3_divergence(samples.joint_log_ratio).mean(),
        "train/clamped_frac": (samples.log_ratio.abs() > LOG_RATIO_BOUND).float().mean(),
    }


def as_numbers(metrics: dict[str, th.Tensor]) -> dict[str, float]:
    """
    :param metrics: name and scalar tensor, all on one device
    :return: the same as Python numbers, for one transfer
    """
    if not metrics:
        return {}
    return dict(zip(metrics, th.stack([value.double() for value in metrics.values()]).tolist(), strict=True))

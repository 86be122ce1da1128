"""What is to be said of an update beyond what GIPO logs by itself, overall and by age of the samples."""

from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_gipo.learner.observed import LastMinibatch, ObservedUpdate
from sb3_gipo.learner.samples import UpdateSamples
from sb3_gipo.ops import surrogates
from sb3_gipo.ops.ages import group_by_age
from sb3_gipo.ops.losses import k3_divergence
from sb3_gipo.ops.ratios import ratio_quantiles_by_sign, trust_summary
from sb3_gipo.ops.surrogates import Surrogate
from sb3_gipo.ops.utilization import effective_sample_size, normalized_ess, quantile, utilization
from sb3_gipo.rollouts.replay import RolloutReplayBuffer

Metrics = dict[str, th.Tensor]


def overall_metrics(update: ObservedUpdate) -> Metrics:
    """
    :param update: to describe
    :return: logger key and scalar
    """
    samples = update.samples
    named = {f"ratio/{name}": value for name, value in _ratio_metrics(samples).items()}
    named["utilization/ess_eff"] = normalized_ess((samples.multiplier * samples.advantages).abs())
    named.update({f"utilization/{name}": value for name, value in _trust_metrics(samples).items() if name != "trust_mean"})
    clipped = surrogates.ppo_clip(samples.log_ratio, samples.advantages, clip_range=update.clip_range).multiplier
    named["utilization/dead_frac_if_clipped"] = (clipped == 0).float().mean()
    named["lag/version_gap_min"] = samples.version_gap.min()
    named["train/kl_previous"] = k3_divergence(samples.start_log_ratio).mean()
    if len(update.grad_norms):
        named["train/grad_norm_max"] = update.grad_norms.max()
    return named


def metrics_by_age(samples: UpdateSamples, eps_w: float, eps_c: float) -> dict[str, Metrics]:
    """
    The same quantities for each bucket of the version gap.

    :param samples: of one update
    :param eps_w: multipliers in (0, ``eps_w``) count as suppressed
    :param eps_c: contributions below ``eps_c`` count as near zero
    :return: label of the bucket -> name and scalar
    """
    total = (samples.multiplier * samples.advantages).abs().sum()
    described: dict[str, Metrics] = {}
    for part in split_by_age(samples):
        contribution = (part.samples.multiplier * part.samples.advantages).abs()
        size = len(part.samples.multiplier)
        nothing_old = th.zeros(size, dtype=th.bool, device=total.device)
        used = utilization(part.samples.multiplier, part.samples.advantages, nothing_old, eps_w=eps_w, eps_c=eps_c)
        described[part.label] = {
            "frac": total.new_tensor(size / len(samples.multiplier)),
            "share": th.where(total > 0, contribution.sum() / total, th.zeros_like(total)),
            "dead_frac": used.dead_frac,
            "suppressed_frac": used.suppressed_frac,
            "near_zero_frac": used.near_zero_frac,
            "ess": effective_sample_size(contribution),
            "ess_eff": normalized_ess(contribution),
            **_trust_metrics(part.samples),
            **{f"ratio_{name}": value for name, value in _ratio_metrics(part.samples).items()},
            "abs_log_rho_p95": quantile(part.samples.joint_log_ratio.abs(), 0.95),
            "kl_behaviour": k3_divergence(part.samples.joint_log_ratio).mean(),
            "kl_previous": k3_divergence(part.samples.start_log_ratio).mean(),
        }
    return described


class AgePart(NamedTuple):
    """One bucket of the version gap, and the samples of the update that fall into it."""

    label: str
    samples: UpdateSamples


def split_by_age(samples: UpdateSamples) -> list[AgePart]:
    """
    :param samples: of one update
    :return: the same, one part for each bucket of the version gap, youngest first
    """
    by_sample = group_by_age(samples.version_gap)
    same = samples.ratio_gap is samples.version_gap
    by_ratio = by_sample if same else group_by_age(samples.ratio_gap)
    ratios = ("multiplier", "advantages", "log_ratio", "ratio_gap")
    parts = []
    for of_ratios, of_samples in zip(by_ratio, by_sample, strict=True):
        index = {name: of_ratios.positions if name in ratios else of_samples.positions for name in samples._fields}
        columns = {name: getattr(samples, name)[at] for name, at in index.items()}
        parts.append(AgePart(of_samples.label, UpdateSamples(**columns)))
    return parts


def policy_gradient_norms(last: LastMinibatch, surrogate: Surrogate, policy: BasePolicy) -> Metrics:
    """
    Norm of the part of the policy gradient that each bucket of the version gap adds in the last minibatch, under the policy as
    it is now. The parts add up, as vectors, to the gradient of the surrogate over the whole minibatch.

    :param last: minibatch
    :param surrogate: of the update
    :param policy: that was trained; it is looked at in evaluation mode, so that it stays as it is
    :return: label of the bucket -> scalar; nothing where no parameter of the actor is trained
    """
    was_training = policy.training
    devices = [policy.device] if policy.device.type == "cuda" else []
    policy.set_training_mode(False)
    try:
        with th.random.fork_rng(devices=devices):
            return _policy_gradient_norms(last, surrogate, [p for p in policy.parameters() if p.requires_grad])
    finally:
        policy.set_training_mode(was_training)


def _policy_gradient_norms(last: LastMinibatch, surrogate: Surrogate, parameters: list[th.nn.Parameter]) -> Metrics:
    log_prob = last.log_prob()
    if not log_prob.requires_grad:
        return {}
    by_dimension = log_prob.dim() > 1
    advantages = last.advantages.unsqueeze(1).expand_as(log_prob) if by_dimension else last.advantages
    loss = surrogate(log_prob - last.old_log_prob, advantages).loss
    loss = loss.sum(dim=1) if by_dimension else loss
    gap = last.version_gap
    if last.valid is not None:
        loss, gap = loss[last.valid], gap[last.valid]
    norms: Metrics = {}
    groups = group_by_age(gap)
    for group in groups:
        part = loss[group.positions].sum() / len(loss)
        # the last one frees the graph: a compiled one may be gone through only once
        gradients = th.autograd.grad(part, parameters, retain_graph=group is not groups[-1], allow_unused=True)
        norms[group.label] = th.nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
    return norms


def stored_by_age(replay: RolloutReplayBuffer, version: int) -> tuple[Metrics, dict[str, Metrics]]:
    """
    What is stored, as against what was drawn.

    :param replay: not empty
    :param version: of the policy that the update began with
    :return: name and scalar for all of it; label of the bucket -> name and scalar
    """
    everything = np.arange(len(replay))
    gap = th.from_numpy(version - replay.gather("policy_version", everything).astype(np.int64))
    draws = th.from_numpy(replay.gather("draws", everything).astype(np.int64))
    overall = {"version_gap_mean": gap.double().mean(), "version_gap_max": gap.max()}
    return overall, {
        group.label: {
            "stored_frac": th.tensor(len(group.positions) / len(gap)),
            "reuse_mean": draws[group.positions].double().mean(),
            "reuse_max": draws[group.positions].max(),
        }
        for group in group_by_age(gap)
    }


def _trust_metrics(samples: UpdateSamples) -> Metrics:
    summary = trust_summary(samples.multiplier, samples.log_ratio)
    names = ("trust_mean", "trust_below_0.1", "trust_below_0.5")
    return dict(zip(names, summary, strict=True))


def _ratio_metrics(samples: UpdateSamples) -> Metrics:
    by_sign = ratio_quantiles_by_sign(samples.log_ratio, samples.advantages)
    return {
        f"{sign}_{name}": value
        for sign, found in zip(("pos", "neg"), by_sign, strict=True)
        if found is not None
        for name, value in found._asdict().items()
    }

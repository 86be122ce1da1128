"""What an update leaves behind for those who watch it: callbacks, and whoever asks after it."""

from collections.abc import Callable
from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo.learner.objective import ObjectiveSettings, ObjectiveTerms
from sb3_gipo.learner.samples import UpdateSamples
from sb3_gipo.ops.surrogates import Surrogate
from sb3_gipo.policies import evaluate_actions
from sb3_gipo.rollouts.types import ReplayBatch


class LastMinibatch(NamedTuple):
    """The last minibatch of an update, to be looked at again: S ratios of B samples."""

    log_prob: Callable[[], th.Tensor]  # of its actions under the policy of the day, differentiable [B] or [B, D]
    old_log_prob: th.Tensor  # of the behaviour policy [B] or [B, D]
    advantages: th.Tensor  # as used [B]
    version_gap: th.Tensor  # [B]
    valid: th.Tensor | None  # which samples are data and which are padding [B]; ``None``: all are data
    arrays: dict[str, th.Tensor]  # observations, actions, ratios and what else belongs to it, by name


class ObservedUpdate(NamedTuple):
    """One update of any algorithm that can be observed."""

    number: int  # of updates so far, this one included
    samples: UpdateSamples
    metrics: dict[str, float]  # logger key and value, of ``update_metrics``
    surrogate: Surrogate  # with the parameters of the day
    clip_range: float  # of PPO's clip, whether or not that is the surrogate
    grad_norms: th.Tensor  # of each minibatch, before clipping [K]
    last: LastMinibatch
    failed: dict[str, th.Tensor]  # the last minibatch without a finite gradient, by name; empty: there was none


def last_minibatch(
    policy: ActorCriticPolicy, batch: ReplayBatch, terms: ObjectiveTerms, how: ObjectiveSettings
) -> LastMinibatch:
    """
    :param policy: the policy that is trained
    :param batch: last minibatch of the update
    :param terms: of it
    :param how: the terms of the loss
    :return: the same, for those who watch
    """
    by_dimension = batch.old_dimension_log_prob

    def log_prob() -> th.Tensor:
        now = evaluate_actions(policy, batch.observations, batch.actions, how.ratio_level, how.sampled_actions)
        return now.log_prob if now.dimension_log_prob is None else now.dimension_log_prob

    return LastMinibatch(
        log_prob=log_prob,
        old_log_prob=batch.old_log_prob if by_dimension is None else by_dimension,
        advantages=terms.advantages.detach(),
        version_gap=batch.version_gap,
        valid=None,
        arrays={
            **batch_arrays(batch),
            "log_ratio": terms.log_ratio.detach(),
            "multiplier": terms.multiplier,
            "used_advantages": terms.advantages,
        },
    )


def batch_arrays(batch: ReplayBatch) -> dict[str, th.Tensor]:
    """
    :param batch: minibatch
    :return: its tensors by name, the parts of a ``Dict`` observation as ``observations[key]``
    """
    arrays: dict[str, th.Tensor] = {}
    for name, value in batch._asdict().items():
        arrays.update(named_parts(name, value))
    return arrays


def named_parts(name: str, value: object) -> dict[str, th.Tensor]:
    """
    :param name: of a field
    :param value: a tensor, a mapping of tensors, or ``None``
    :return: its tensors by name
    """
    if isinstance(value, th.Tensor):
        return {name: value}
    if isinstance(value, dict):
        return {f"{name}[{key}]": part for key, part in value.items()}
    return {}

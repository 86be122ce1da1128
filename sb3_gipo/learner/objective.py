"""The full loss of one minibatch (paper, eq. 9), put together from the formulas in ``ops``."""

from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo.ops.losses import entropy_loss, k3_divergence, value_loss
from sb3_gipo.ops.surrogates import Surrogate
from sb3_gipo.policies import RatioLevel, evaluate_actions
from sb3_gipo.rollouts.types import ReplayBatch


class NonFiniteUpdateError(ValueError):
    """
    No minibatch of an update had a finite gradient; the parameters are as they were before.

    :param message: what happened and what to do
    :param batch: the last minibatch that failed
    """

    def __init__(self, message: str, batch: ReplayBatch) -> None:
        super().__init__(message)
        self.batch = batch


class ObjectiveSettings(NamedTuple):
    """What the loss is made of during one update."""

    surrogate: Surrogate
    ratio_level: RatioLevel
    normalize_advantage: bool
    vf_coef: float
    ent_coef: float
    kl_coef: float
    clip_range: float  # of the ratio; here only counted
    clip_range_vf: float | None
    sampled_actions: bool  # actions are as sampled, not as SB3's rollout buffer holds them


class ObjectiveTerms(NamedTuple):
    """Loss of a minibatch, its terms, and what each sample did."""

    loss: th.Tensor
    policy_loss: th.Tensor
    value_loss: th.Tensor
    entropy_loss: th.Tensor
    clip_fraction: th.Tensor
    approx_kl: th.Tensor  # divergence from the policy at the start of this update
    multiplier: th.Tensor  # of each ratio [B] or [B, D]
    advantages: th.Tensor  # as used [B]
    log_ratio: th.Tensor  # to the behaviour policy, as the surrogate saw it [B] or [B, D]
    joint_log_ratio: th.Tensor  # of the whole action [B]
    start_log_ratio: th.Tensor  # of the whole action, to the policy at the start of this update [B]


def objective(policy: ActorCriticPolicy, batch: ReplayBatch, how: ObjectiveSettings) -> ObjectiveTerms:
    """
    ``surrogate + vf_coef * value loss - ent_coef * entropy (+ kl_coef * divergence from the behaviour policy)``.

    :param policy: current policy, in training mode
    :param batch: minibatch
    :param how: which terms
    :return: the loss, differentiable, and what is logged of it
    """
    now = evaluate_actions(policy, batch.observations, batch.actions, how.ratio_level, how.sampled_actions)
    advantages = batch.advantages
    # Normalization does not make sense if mini batchsize == 1, see GH issue #325
    if how.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    joint = now.log_prob - batch.old_log_prob
    if now.dimension_log_prob is None:
        log_ratio = joint
        terms = how.surrogate(log_ratio, advantages)
        policy_loss = terms.loss.mean()
    else:
        assert batch.old_dimension_log_prob is not None
        log_ratio = now.dimension_log_prob - batch.old_dimension_log_prob
        terms = how.surrogate(log_ratio, advantages.unsqueeze(1).expand_as(log_ratio))
        # summed over dimensions: at a ratio of 1 this is the gradient of the joint ratio
        policy_loss = terms.loss.sum(dim=1).mean()
    critic_loss = value_loss(now.values, batch.value_targets, batch.old_values, how.clip_range_vf)
    entropy = entropy_loss(now.entropy, now.log_prob)
    loss = policy_loss + how.ent_coef * entropy + how.vf_coef * critic_loss
    if how.kl_coef > 0:
        loss = loss + how.kl_coef * k3_divergence(joint).mean()
    with th.no_grad():
        clip_fraction = th.mean((th.abs(th.exp(log_ratio) - 1) > how.clip_range).float())
        start_log_ratio = now.log_prob - batch.start_log_prob
        approx_kl = th.mean(k3_divergence(start_log_ratio))
    return ObjectiveTerms(
        loss=loss,
        policy_loss=policy_loss,
        value_loss=critic_loss,
        entropy_loss=entropy,
        clip_fraction=clip_fraction,
        approx_kl=approx_kl,
        multiplier=terms.multiplier,
        advantages=advantages,
        log_ratio=log_ratio,
        joint_log_ratio=joint,
        start_log_ratio=start_log_ratio,
    )

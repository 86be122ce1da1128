"""The full loss of one minibatch (paper, eq. 9), put together from the formulas in ``ops``."""

from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo.ops import surrogates
from sb3_gipo.ops.losses import entropy_loss, k3_divergence, k3_slope, value_loss
from sb3_gipo.ops.surrogates import Kernel, Number, Surrogate, SurrogateTerms, UserSurrogate, importance_ratio
from sb3_gipo.policies import Evaluation, RatioLevel, evaluate_actions
from sb3_gipo.rollouts.types import ReplayBatch

SurrogateName = Literal["gipo", "ppo_clip", "sapo", "no_clip"]
SURROGATES: tuple[SurrogateName, ...] = ("gipo", "ppo_clip", "sapo", "no_clip")


# The policy that the ratio of the surrogate is measured against.
TrustRegion = Literal["behaviour", "iteration"]
TRUST_REGIONS: tuple[TrustRegion, ...] = ("behaviour", "iteration")


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
    """What the loss is made of during one update: first what stays, then the numbers of the day."""

    surrogate_name: SurrogateName | UserSurrogate
    kernel: Kernel
    surrogate_kwargs: dict[str, Any]
    ratio_level: RatioLevel
    trust_region: TrustRegion
    normalize_advantage: bool
    sampled_actions: bool  # actions are as sampled, not as SB3's rollout buffer holds them
    bf16: bool  # forward pass in bfloat16 where torch's autocast allows it
    clip_range: Number  # of the ratio; beside PPO's surrogate only counted
    clip_range_vf: Number | None
    sigma: Number
    sigma_neg: Number | None
    ent_coef: Number
    vf_coef: Number
    kl_coef: Number  # the number 0: no penalty

    @property
    def surrogate(self) -> Surrogate:
        """With its parameters of the day; the four and a user's function are one type."""
        further = self.surrogate_kwargs
        if callable(self.surrogate_name):
            return surrogates.from_callable(partial(self.surrogate_name, **further))
        if self.surrogate_name == "gipo":
            return partial(surrogates.gipo, sigma=self.sigma, sigma_neg=self.sigma_neg, kernel=self.kernel, **further)
        if self.surrogate_name == "ppo_clip":
            return partial(surrogates.ppo_clip, clip_range=self.clip_range, **further)
        function = {"sapo": surrogates.sapo, "no_clip": surrogates.no_clip}[self.surrogate_name]
        return partial(function, **further)

    @property
    def differentiates_surrogate(self) -> bool:
        """Whether the surrogate is a user's, of which nothing is known but its value."""
        return callable(self.surrogate_name)


class ObjectiveTerms(NamedTuple):
    """Loss of a minibatch, its terms, and what each sample did; nothing of it is differentiable."""

    loss: th.Tensor
    policy_loss: th.Tensor
    value_loss: th.Tensor
    entropy_loss: th.Tensor
    multiplier: th.Tensor  # of each ratio [B] or [B, D]
    advantages: th.Tensor  # as used [B]
    log_ratio: th.Tensor  # as the surrogate saw it: to the policy that trust is measured against [B] or [B, D]
    joint_log_ratio: th.Tensor  # of the whole action, to the behaviour policy [B]
    start_log_ratio: th.Tensor  # of the whole action, to the policy at the start of this update [B]

    def divergence(self) -> th.Tensor:
        """:return: from the policy at the start of this update, PPO's ``approx_kl``, a scalar"""
        return k3_divergence(self.start_log_ratio).mean()


class Slope(NamedTuple):
    """What to start the backward pass with: results of the network, and the derivative of the loss by each of them."""

    roots: list[th.Tensor]
    derivatives: list[th.Tensor | None]  # ``None``: 1

    def add(self, root: th.Tensor, derivative: th.Tensor) -> None:
        """
        :param root: a result of the network
        :param derivative: of the loss by it, as far as it is not in the other roots [same shape]
        """
        self.roots.append(root)
        self.derivatives.append(derivative)

    def backward(self) -> None:
        """Add the gradient of the loss to that of the parameters."""
        th.autograd.backward(*self._with_gradient())

    def gradient(self, parameters: th.Tensor) -> th.Tensor:
        """
        :param parameters: that the roots were computed with [P]
        :return: gradient of the loss [P]
        """
        roots, derivatives = self._with_gradient()
        return th.autograd.grad(roots, parameters, derivatives)[0]

    def _with_gradient(self) -> tuple[list[th.Tensor], list[th.Tensor | None]]:
        # a frozen actor or critic has none; where both are, torch says so
        pairs = list(zip(self.roots, self.derivatives, strict=True))
        kept = [pair for pair in pairs if pair[0].requires_grad] or pairs[:1]
        return [root for root, _ in kept], [derivative for _, derivative in kept]


def objective(policy: ActorCriticPolicy, batch: ReplayBatch, how: ObjectiveSettings) -> tuple[ObjectiveTerms, Slope]:
    """
    ``surrogate + vf_coef * value loss - ent_coef * entropy (+ kl_coef * divergence from the behaviour policy)``.

    The gradient of a surrogate is ``-w A grad log pi`` (paper, eq. 7), and its multiplier ``w`` is known: so the graph of a
    surrogate, as long as the network's own, is not built. A user's function is differentiated as it is written.

    :param policy: current policy, in training mode
    :param batch: minibatch
    :param how: which terms
    :return: what is logged of the loss, and its slope
    """
    now = _evaluate(policy, batch, how)
    log_prob, old_log_prob = now.log_prob, batch.old_log_prob
    if now.dimension_log_prob is not None:
        assert batch.old_dimension_log_prob is not None
        log_prob, old_log_prob = now.dimension_log_prob, batch.old_dimension_log_prob
    with th.no_grad():
        advantages = batch.advantages
        # Normalization does not make sense if mini batchsize == 1, see GH issue #325
        if how.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    with th.set_grad_enabled(how.differentiates_surrogate):
        to_behaviour = log_prob - old_log_prob
        of_ratio = advantages if log_prob.dim() == 1 else advantages.unsqueeze(1).expand_as(log_prob)
        terms, log_ratio = _surrogate_terms(how, log_prob, batch, of_ratio, to_behaviour)
        # summed over dimensions: at a ratio of 1 this is the gradient of the joint ratio
        policy_loss = (terms.loss if log_ratio.dim() == 1 else terms.loss.sum(dim=1)).mean()
    critic_loss = value_loss(now.values, batch.value_targets, batch.old_values, how.clip_range_vf)
    entropy = entropy_loss(now.entropy, now.log_prob)
    rest = how.vf_coef * critic_loss
    if isinstance(how.ent_coef, th.Tensor) or how.ent_coef != 0:
        rest = rest + how.ent_coef * entropy
    slope = Slope([rest + policy_loss if how.differentiates_surrogate else rest], [None])
    with th.no_grad():
        if not how.differentiates_surrogate:
            slope.add(log_prob, (-1.0 / len(advantages)) * of_ratio * terms.multiplier)
        joint = to_behaviour.detach() if now.dimension_log_prob is None else now.log_prob - batch.old_log_prob
        loss = policy_loss + how.ent_coef * entropy + how.vf_coef * critic_loss
        if isinstance(how.kl_coef, th.Tensor) or how.kl_coef > 0:
            loss = loss + how.kl_coef * k3_divergence(joint).mean()
            slope.add(now.log_prob, how.kl_coef / len(advantages) * k3_slope(joint))
        return ObjectiveTerms(
            loss=loss,
            policy_loss=policy_loss.detach(),
            value_loss=critic_loss.detach(),
            entropy_loss=entropy.detach(),
            multiplier=terms.multiplier.detach(),
            advantages=advantages,
            log_ratio=log_ratio.detach(),
            joint_log_ratio=joint,
            start_log_ratio=now.log_prob - batch.start_log_prob,
        ), slope


def _surrogate_terms(
    how: ObjectiveSettings, log_prob: th.Tensor, batch: ReplayBatch, advantages: th.Tensor, to_behaviour: th.Tensor
) -> tuple[SurrogateTerms, th.Tensor]:
    """:return: terms, and the log-ratio that they are of"""
    if how.trust_region == "behaviour":
        return how.surrogate(to_behaviour, advantages), to_behaviour
    # how likely the action had become by the start of this update, truncated as in V-trace
    correction = importance_ratio(batch.start_log_prob - batch.old_log_prob).clamp(max=1.0)
    from_start = log_prob - batch.start_log_prob
    terms = how.surrogate(from_start, advantages)
    return SurrogateTerms(correction * terms.loss, correction * terms.multiplier), from_start


def _evaluate(policy: ActorCriticPolicy, batch: ReplayBatch, how: ObjectiveSettings) -> Evaluation:
    with th.autocast(policy.device.type, th.bfloat16) if how.bf16 else nullcontext():
        now = evaluate_actions(policy, batch.observations, batch.actions, how.ratio_level, how.sampled_actions)
    if not how.bf16:
        return now
    return Evaluation(*(None if part is None else part.float() for part in now))  # type: ignore[arg-type]  # parts stay in order

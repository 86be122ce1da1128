"""
Policies of GIPO: SB3's own, and the two questions GIPO asks them beyond what SB3 does: which action was really sampled, and
how likely is each of its dimensions.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_gipo.rollouts.recorder import BehaviourSample


class _CriticOptions(ActorCriticPolicy):
    """
    What GIPO's policies take beside the arguments of SB3's.

    :param critic_layer_norm: layer normalisation after every linear layer of the critic's own network (``net_arch["vf"]``): it
        keeps a wide critic from running away where it is fitted to the same data many times over
    """

    def __init__(self, *args: Any, critic_layer_norm: bool = False, **kwargs: Any) -> None:
        self.critic_layer_norm = critic_layer_norm  # the networks are built by the constructor
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        if self.critic_layer_norm:
            layers = self.mlp_extractor.value_net
            self.mlp_extractor.value_net = th.nn.Sequential(*_with_layer_norm(layers)).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "critic_layer_norm": self.critic_layer_norm}


def _with_layer_norm(layers: Iterable[th.nn.Module]) -> Iterator[th.nn.Module]:
    for layer in layers:
        yield layer
        if isinstance(layer, th.nn.Linear):
            yield th.nn.LayerNorm(layer.out_features)


class MlpPolicy(_CriticOptions, ActorCriticPolicy):
    """SB3's, with the options of the critic."""


class CnnPolicy(_CriticOptions, ActorCriticCnnPolicy):
    """SB3's, with the options of the critic."""


class MultiInputPolicy(_CriticOptions, MultiInputActorCriticPolicy):
    """SB3's, with the options of the critic."""


RatioLevel = Literal["joint", "dimension"]
RATIO_LEVELS: tuple[RatioLevel, ...] = ("joint", "dimension")

_PER_DIMENSION = (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
)


class Evaluation(NamedTuple):
    """What the current policy says of stored observations and actions."""

    values: th.Tensor  # [B]
    log_prob: th.Tensor  # joint [B]
    dimension_log_prob: th.Tensor | None  # of each action dimension [B, D]
    entropy: th.Tensor | None  # [B]; None where it has no closed form


def n_action_dimensions(space: spaces.Space[Any]) -> int:
    """
    :param space: action space
    :return: ``D``: how many ratios one action has under ``ratio_level="dimension"``
    """
    return 1 if isinstance(space, spaces.Discrete) else get_action_dim(space)


def check_policy(policy: ActorCriticPolicy, ratio_level: RatioLevel, stores_actions: bool) -> None:
    """
    Refuse a policy whose actions cannot be replayed as asked.

    :param policy: to check
    :param ratio_level: one ratio for an action, or one for each dimension
    :param stores_actions: whether actions are stored and evaluated again by GIPO itself
    :raises ValueError: for a squashed policy whose sample before the ``tanh`` is out of reach, or a distribution without
        log-probabilities for each dimension
    """
    distribution = getattr(policy, "action_dist", None)
    if stores_actions and policy.squash_output and not isinstance(distribution, StateDependentNoiseDistribution):
        raise ValueError(
            f"{type(policy).__name__} squashes its actions, and its {type(distribution).__name__} does not keep the sample "
            "before the tanh. Once an action saturates at +-1 that sample cannot be computed back, its log-probability would "
            "belong to another action, and replay would learn from wrong gradients. "
            "Use gSDE (`use_sde=True`), leave `squash_output` off, or train without replay (`replay_capacity=None`)."
        )
    if ratio_level == "dimension" and type(distribution) not in _PER_DIMENSION:
        raise ValueError(
            f'`ratio_level="dimension"` needs the log-probability of each action dimension, which a '
            f"{type(distribution).__name__} does not give."
            ' Use `ratio_level="joint"`.'
        )


def actions_to_tensor(actions: np.ndarray, space: spaces.Space[Any], device: th.device) -> th.Tensor:
    """
    :param actions: stored actions [B, *action]
    :param space: action space
    :param device: where to
    :return: what ``policy.evaluate_actions`` takes: indices [B] for ``Discrete``, else [B, D]
    """
    if isinstance(space, spaces.Discrete):
        return th.as_tensor(actions.astype(np.int64), device=device)
    if isinstance(space, spaces.MultiDiscrete):
        return th.as_tensor(actions.astype(np.int64), device=device).reshape(len(actions), -1)
    return th.as_tensor(actions.astype(np.float32, copy=False), device=device).reshape(len(actions), -1)


def evaluate_actions(
    policy: ActorCriticPolicy, observations: PyTorchObs, actions: th.Tensor, ratio_level: RatioLevel, sampled: bool
) -> Evaluation:
    """
    Evaluate stored actions under the current policy.

    :param policy: current policy
    :param observations: as the policy expects them [B, *obs]
    :param actions: as ``policy.evaluate_actions`` takes them
    :param ratio_level: whether the log-probability of each dimension is wanted too
    :param sampled: actions are as sampled, before the ``tanh`` of a squashed policy; if false, as SB3 stores them
    :return: values, log-probabilities and entropy
    """
    unsquashed = sampled and policy.squash_output
    values, log_prob, entropy = policy.evaluate_actions(observations, th.tanh(actions) if unsquashed else actions)
    if not unsquashed and ratio_level == "joint":
        return Evaluation(values.flatten(), log_prob, None, entropy)
    # `evaluate_actions` has just set the distribution of these observations
    by_dimension = _log_prob_by_dimension(policy.action_dist, actions)
    if unsquashed:
        log_prob = by_dimension.sum(dim=1)
    return Evaluation(values.flatten(), log_prob, by_dimension if ratio_level == "dimension" else None, entropy)


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Spare torch's distributions the look at every argument, which costs as much as they do; for this context only."""
    checks: bool = th.distributions.Distribution._validate_args
    th.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        th.distributions.Distribution.set_default_validate_args(checks)


def reads_distribution(policy: ActorCriticPolicy, ratio_level: RatioLevel) -> bool:
    """
    :param policy: that acts
    :param ratio_level: whether the log-probability of each dimension is wanted too
    :return: whether :func:`describe_actions` has to be asked, as what SB3's loop has is not what is stored
    """
    return policy.squash_output or ratio_level != "joint"


def describe_actions(
    policy: ActorCriticPolicy, ratio_level: RatioLevel, actions: np.ndarray, log_probs: th.Tensor
) -> BehaviourSample:
    """
    What the policy really sampled in its latest forward pass, with the log-probabilities that belong to it; for where it
    :func:`reads_distribution`.

    :param policy: right after it chose these actions
    :param ratio_level: whether the log-probability of each dimension is wanted too
    :param actions: as SB3's loop has them [N, *action]
    :param log_probs: joint, as SB3's loop has them [N]
    :return: what is stored
    """
    distribution = policy.action_dist
    with th.no_grad():
        if policy.squash_output:
            assert isinstance(distribution, StateDependentNoiseDistribution)
            # the noise matrix is still the one that was used: the sample before the tanh comes back exactly
            sampled = distribution.distribution.mean + distribution.get_noise(distribution._latent_sde)
        else:
            sampled = actions_to_tensor(actions, policy.action_space, log_probs.device)
        by_dimension = _log_prob_by_dimension(distribution, sampled).float()
    if policy.squash_output:
        actions, log_probs = sampled.cpu().numpy(), by_dimension.sum(dim=1)
    kept = by_dimension.cpu().numpy() if ratio_level == "dimension" else None
    return BehaviourSample(actions, log_probs.cpu().numpy(), kept)


def _log_prob_by_dimension(distribution: Distribution, actions: th.Tensor) -> th.Tensor:
    """
    :param distribution: set for a batch of observations
    :param actions: as sampled (before the ``tanh``) [B, D], or [B] for ``Discrete``
    :return: [B, D]; its sum over dimensions is the joint log-probability
    """
    if isinstance(distribution, MultiCategoricalDistribution):
        pairs = zip(distribution.distribution, actions.unbind(dim=1), strict=True)
        return th.stack([_log_prob(categorical, choice) for categorical, choice in pairs], dim=1)
    if isinstance(distribution, CategoricalDistribution):
        return _log_prob(distribution.distribution, actions).unsqueeze(1)
    assert isinstance(distribution, (BernoulliDistribution, DiagGaussianDistribution, StateDependentNoiseDistribution))
    assert not isinstance(distribution, SquashedDiagGaussianDistribution)
    by_dimension = _log_prob(distribution.distribution, actions)
    if isinstance(distribution, StateDependentNoiseDistribution) and distribution.bijector is not None:
        by_dimension = by_dimension - distribution.bijector.log_prob_correction(actions)
    return by_dimension


def _log_prob(distribution: th.distributions.Distribution, actions: th.Tensor) -> th.Tensor:
    log_prob: th.Tensor = distribution.log_prob(actions)  # type: ignore[no-untyped-call]  # torch does not annotate it
    return log_prob

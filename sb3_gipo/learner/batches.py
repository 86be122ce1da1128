"""Minibatches: from SB3's rollout buffer, as PPO takes them, or from the replay."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from stable_baselines3.common.utils import obs_as_tensor

from sb3_gipo.learner.replay_targets import ReplayTargets
from sb3_gipo.policies import actions_to_tensor
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import ReplayBatch


def from_rollout_buffer(
    samples: RolloutBufferSamples | DictRolloutBufferSamples, action_space: spaces.Space[Any]
) -> ReplayBatch:
    """
    :param samples: a minibatch of the rollout that was just collected
    :param action_space: of the environment
    :return: the same as a batch whose behaviour policy is the one at the start of this update
    """
    actions = samples.actions
    if isinstance(action_space, spaces.Discrete):
        actions = actions.long().flatten()
    return ReplayBatch(
        observations=samples.observations,
        actions=actions,
        old_log_prob=samples.old_log_prob,
        old_dimension_log_prob=None,
        start_log_prob=samples.old_log_prob,
        old_values=samples.old_values,
        value_targets=samples.returns,
        advantages=samples.advantages,
        version_gap=th.zeros_like(samples.advantages, dtype=th.int32),
    )


def from_replay(
    replay: RolloutReplayBuffer, positions: np.ndarray, targets: ReplayTargets, normalizer: Normalizer, device: th.device
) -> ReplayBatch:
    """
    :param replay: where the transitions are
    :param positions: which ones [B]
    :param targets: of the whole replay
    :param normalizer: with the current statistics
    :param device: of the learner
    :return: the minibatch on that device
    """
    at = th.from_numpy(positions)
    by_dimension = None
    if replay.n_dimensions is not None:
        by_dimension = th.as_tensor(replay.gather("dimension_log_probs", positions), device=device)
    return ReplayBatch(
        observations=obs_as_tensor(normalizer.observation(replay.gather("observations", positions)), device),
        actions=actions_to_tensor(replay.gather("actions", positions), replay.action_space, device),
        old_log_prob=th.as_tensor(replay.gather("log_probs", positions), device=device),
        old_dimension_log_prob=by_dimension,
        start_log_prob=targets.log_prob[at].to(device),
        old_values=targets.values[at].to(device),
        value_targets=targets.value_targets[at].to(device),
        advantages=targets.advantages[at].to(device),
        version_gap=th.as_tensor(replay.policy_version - replay.gather("policy_version", positions), device=device),
    )

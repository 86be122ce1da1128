"""Minibatches: from SB3's rollout buffer, as PPO takes them, or from the replay."""

from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples, TensorDict

from sb3_gipo.learner.replay_targets import ReplayTargets
from sb3_gipo.policies import actions_to_tensor
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import Observation, ReplayBatch

# Observations up to this size move to the device once for an update; larger ones (images) minibatch by minibatch.
_RESIDENT_BYTES = 2**30


class MinibatchSource(NamedTuple):
    """All that an update may draw, laid out so that a minibatch is three gathers."""

    observations: th.Tensor | TensorDict  # normalised as the policy expects [R, *obs]
    rows: th.Tensor | None  # row of the observation at each position [P]; ``None``: the same
    actions: th.Tensor  # as ``policy.evaluate_actions`` takes them [P, ...]
    old_dimension_log_prob: th.Tensor | None  # [P, D]
    version_gap: th.Tensor  # [P]
    facts: th.Tensor  # the other fields of a batch, each a row [5, P]
    device: th.device

    def take(self, positions: np.ndarray) -> ReplayBatch:
        """
        :param positions: which ones [B]
        :return: the minibatch on the device of the learner
        """
        at = th.from_numpy(positions).to(self.device)
        rows = at if self.rows is None else self.rows[at]
        by_dimension = None if self.old_dimension_log_prob is None else self.old_dimension_log_prob[at]
        old_log_prob, start_log_prob, old_values, value_targets, advantages = self.facts.index_select(1, at).unbind()
        return ReplayBatch(
            observations=self._observations(rows),
            actions=self.actions.index_select(0, at),
            old_log_prob=old_log_prob,
            old_dimension_log_prob=by_dimension,
            start_log_prob=start_log_prob,
            old_values=old_values,
            value_targets=value_targets,
            advantages=advantages,
            version_gap=self.version_gap.index_select(0, at),
        )

    def _observations(self, rows: th.Tensor) -> th.Tensor | TensorDict:
        def gather(column: th.Tensor) -> th.Tensor:
            return column.index_select(0, rows.to(column.device)).to(self.device)

        if isinstance(self.observations, dict):
            return {key: gather(column) for key, column in self.observations.items()}
        return gather(self.observations)


def taken(source: MinibatchSource, positions: Iterable[np.ndarray]) -> Generator[ReplayBatch, None, None]:
    """
    :param source: where to take from
    :param positions: of each minibatch
    :return: the minibatches
    """
    for drawn in positions:
        yield source.take(drawn)


def rollout_batches(
    buffer: RolloutBuffer, batch_size: int, action_space: spaces.Space[Any], device: th.device
) -> Generator[ReplayBatch, None, None]:
    """
    One epoch of PPO's minibatches, in SB3's own order.

    :param buffer: with the rollout that was just collected
    :param batch_size: of a minibatch; the last one may be smaller
    :param action_space: of the environment
    :param device: of the learner
    :return: the minibatches
    """
    if not _is_sb3s(buffer):
        for samples in buffer.get(batch_size):
            yield from_rollout_buffer(samples, action_space)
        return
    positions = _drawn_positions(buffer, batch_size)
    yield from taken(_rollout_source(buffer, action_space, device), positions)


def _is_sb3s(buffer: RolloutBuffer) -> bool:
    """Whether it makes its minibatches as SB3's does, and not in a way of its own."""
    return all(
        any(getattr(type(buffer), name) is getattr(sb3s, name) for sb3s in (RolloutBuffer, DictRolloutBuffer))
        and name not in vars(buffer)
        for name in ("get", "_get_samples", "to_torch", "swap_and_flatten")
    )


def _drawn_positions(buffer: RolloutBuffer, batch_size: int) -> list[np.ndarray]:
    """The positions of an epoch, drawn by the buffer's own method, which is given nothing to gather."""
    # shadows the method of its class for as long as this takes
    buffer.__dict__["_get_samples"] = lambda positions, env=None: positions
    try:
        return list(buffer.get(batch_size))  # type: ignore[arg-type]
    finally:
        del buffer.__dict__["_get_samples"]


def _rollout_source(buffer: RolloutBuffer, action_space: spaces.Space[Any], device: th.device) -> MinibatchSource:
    """Views of the rollout; only after its positions were drawn, by which SB3 flattens the arrays."""
    actions = th.from_numpy(buffer.actions.astype(np.float32, copy=False)).to(device)
    if isinstance(action_space, spaces.Discrete):
        actions = actions.long().flatten()
    columns = (buffer.log_probs, buffer.log_probs, buffer.values, buffer.returns, buffer.advantages)
    facts = th.from_numpy(np.stack([column.reshape(-1) for column in columns])).to(device)
    gaps = th.zeros(facts.shape[1], dtype=th.int32, device=device)
    return MinibatchSource(_resident(buffer.observations, device), None, actions, None, gaps, facts, device)


def from_rollout_buffer(
    samples: RolloutBufferSamples | DictRolloutBufferSamples, action_space: spaces.Space[Any]
) -> ReplayBatch:
    """
    :param samples: a minibatch of the rollout that was just collected, made by a buffer in its own way
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


def replay_source(
    replay: RolloutReplayBuffer, targets: ReplayTargets, normalizer: Normalizer, device: th.device
) -> MinibatchSource:
    """
    :param replay: where the transitions are
    :param targets: of the whole replay
    :param normalizer: with the current statistics
    :param device: of the learner
    :return: the observations as views where nothing normalises them, and copies of what is small
    """
    everything = np.arange(len(replay))
    rows = None
    if normalizer.normalizes_observations:
        observations = normalizer.observation(replay.gather("observations", everything))
    else:
        observations, rows = replay.column("observations"), th.from_numpy(replay.rows(everything)).to(device)
    by_dimension = None
    if replay.n_dimensions is not None:
        by_dimension = th.from_numpy(replay.gather("dimension_log_probs", everything)).to(device)
    old_log_prob = th.from_numpy(replay.gather("log_probs", everything))
    facts = (old_log_prob, targets.log_prob, targets.values, targets.value_targets, targets.advantages)
    return MinibatchSource(
        observations=_resident(observations, device),
        rows=rows,
        actions=actions_to_tensor(replay.gather("actions", everything), replay.action_space, device),
        old_dimension_log_prob=by_dimension,
        version_gap=th.from_numpy(replay.policy_version - replay.gather("policy_version", everything)).to(device),
        facts=th.stack(facts).to(device),
        device=device,
    )


def _resident(observations: Observation, device: th.device) -> th.Tensor | TensorDict:
    def place(column: np.ndarray) -> th.Tensor:
        tensor = th.from_numpy(column)
        return tensor.to(device) if column.nbytes <= _RESIDENT_BYTES else tensor

    if isinstance(observations, dict):
        return {key: place(column) for key, column in observations.items()}
    return place(observations)

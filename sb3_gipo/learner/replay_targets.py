"""Values, ratios and targets of everything in the replay, computed with the policy and the normaliser of the day."""

from collections import defaultdict
from typing import Literal, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_gipo.ops.targets import Targets, gae, vtrace
from sb3_gipo.policies import actions_to_tensor, evaluate_actions
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import Observation, map_observation, observation_parts

Target = Literal["vtrace", "gae", "stored"]
TARGETS: tuple[Target, ...] = ("vtrace", "gae", "stored")

_CHUNK_ELEMENTS = 2**22  # observation numbers evaluated at once: bounds the memory of a pass over a replay of images
# Rows evaluated at once: on a CPU what the layers of a network pass on stays in its cache.
_CPU_ROWS, _GPU_ROWS = 1024, 16384


class TargetSettings(NamedTuple):
    """How targets are computed; see :func:`sb3_gipo.ops.targets.vtrace`."""

    target: Target
    gamma: float
    gae_lambda: float
    rho_bar: float
    c_bar: float
    chain_rollouts: bool  # a trace goes on into the rollout that follows


class ReplayTargets(NamedTuple):
    """For every position of the replay [size], on the CPU."""

    log_prob: th.Tensor  # joint, under the policy at the start of this update
    values: th.Tensor
    value_targets: th.Tensor
    advantages: th.Tensor


@th.no_grad()
def compute_targets(
    replay: RolloutReplayBuffer, policy: ActorCriticPolicy, normalizer: Normalizer, how: TargetSettings
) -> ReplayTargets:
    """
    One pass of the current policy over the whole replay, then one backward scan over its segments, or over chains of them.

    :param replay: not empty
    :param policy: current policy, in evaluation mode, as it is when it collects
    :param normalizer: with the current statistics
    :param how: which targets
    :return: log-probabilities, values, value targets and advantages of every position [size]
    """
    values, log_prob = _evaluate_all(replay, policy, normalizer)
    everything = np.arange(len(replay))
    if how.target == "stored":
        stored = {name: th.from_numpy(replay.gather(name, everything)) for name in ("values", "returns", "advantages")}
        return ReplayTargets(log_prob, stored["values"], stored["returns"], stored["advantages"])
    log_ratio = log_prob - th.from_numpy(replay.gather("log_probs", everything))
    rewards = th.from_numpy(normalizer.reward(replay.gather("rewards", everything)))
    terminated = th.from_numpy(replay.gather("terminated", everything))
    truncated = th.from_numpy(replay.gather("truncated", everything))
    next_values = _next_values(replay, values, policy, normalizer)
    value_targets, advantages = th.empty_like(values), th.empty_like(values)
    for positions in _side_by_side(_chains(replay) if how.chain_rollouts else _pieces(replay)):
        facts = [column[positions] for column in (rewards, values, next_values, terminated, truncated)]
        targets = _scan(log_ratio[positions], facts, how)
        value_targets[positions] = targets.value_targets
        advantages[positions] = targets.advantages
    return ReplayTargets(log_prob, values, value_targets, advantages)


def _scan(log_ratio: th.Tensor, facts: list[th.Tensor], how: TargetSettings) -> Targets:
    if how.target == "gae":
        return gae(*facts, gamma=how.gamma, gae_lambda=how.gae_lambda)
    return vtrace(log_ratio, *facts, gamma=how.gamma, gae_lambda=how.gae_lambda, rho_bar=how.rho_bar, c_bar=how.c_bar)


def _evaluate_all(
    replay: RolloutReplayBuffer, policy: ActorCriticPolicy, normalizer: Normalizer
) -> tuple[th.Tensor, th.Tensor]:
    values, log_probs = [], []
    chunk = _chunk_size(replay.gather("observations", np.zeros(1, dtype=np.int64)), policy.device)
    for start in range(0, len(replay), chunk):
        positions = np.arange(start, min(start + chunk, len(replay)))
        observations = obs_as_tensor(normalizer.observation(replay.gather("observations", positions)), policy.device)
        actions = actions_to_tensor(replay.gather("actions", positions), replay.action_space, policy.device)
        evaluation = evaluate_actions(policy, observations, actions, "joint", sampled=True)
        values.append(evaluation.values)
        log_probs.append(evaluation.log_prob)
    return th.cat(values).cpu(), th.cat(log_probs).cpu()


def _next_values(
    replay: RolloutReplayBuffer, values: th.Tensor, policy: ActorCriticPolicy, normalizer: Normalizer
) -> th.Tensor:
    """Value of what followed each transition, before any reset [size]."""
    segments = replay.segments
    last = _predict_values(map_observation(_join, *(s.last_observations for s in segments)), policy, normalizer)
    terminal = _predict_values(map_observation(_join, *(s.terminal_observations for s in segments)), policy, normalizer)
    next_values = th.empty_like(values)
    offset = 0
    for segment in segments:
        end = offset + segment.size
        # time-major: the transition after (t, n) of the same environment lies N places further
        next_values[offset : end - segment.n_envs] = values[offset + segment.n_envs : end]
        next_values[end - segment.n_envs : end] = last[: segment.n_envs]
        last, offset = last[segment.n_envs :], end
    truncated = th.from_numpy(replay.gather("truncated", np.arange(len(replay))))
    next_values[truncated] = terminal  # both in order of position
    return next_values


def _predict_values(raw: Observation, policy: ActorCriticPolicy, normalizer: Normalizer) -> th.Tensor:
    size, chunk = len(observation_parts(raw)[0]), _chunk_size(raw, policy.device)
    values = [th.empty(0)]
    for start in range(0, size, chunk):
        part = map_observation(lambda column, start=start: column[start : start + chunk], raw)
        values.append(policy.predict_values(obs_as_tensor(normalizer.observation(part), policy.device)).flatten().cpu())
    return th.cat(values)


def _pieces(replay: RolloutReplayBuffer) -> list[np.ndarray]:
    """Positions of each segment [T, N]."""
    pieces, offset = [], 0
    for segment in replay.segments:
        pieces.append(np.arange(offset, offset + segment.size).reshape(segment.n_steps, segment.n_envs))
        offset += segment.size
    return pieces


def _chains(replay: RolloutReplayBuffer) -> list[np.ndarray]:
    """As :func:`_pieces`, with rollouts joined that follow one another."""
    chains: list[list[np.ndarray]] = []
    of_rollout: dict[int | None, list[np.ndarray]] = {}  # the chain that each is part of, by its number
    for segment, piece in zip(replay.segments, _pieces(replay), strict=True):
        chain = of_rollout.get(segment.follows)
        if chain is None:  # the first, or what was before it is not here
            chain = []
            chains.append(chain)
        chain.append(piece)
        of_rollout[segment.number] = chain
    return [np.concatenate(chain) for chain in chains]


def _side_by_side(chains: list[np.ndarray]) -> list[th.Tensor]:
    """Positions of all chains of one length side by side, [T, sum of N] for each length: one scan serves them all."""
    by_length: dict[int, list[np.ndarray]] = defaultdict(list)
    for positions in chains:
        by_length[len(positions)].append(positions)
    return [th.from_numpy(np.concatenate(group, axis=1)) for group in by_length.values()]


def _join(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def _chunk_size(observation: Observation, device: th.device) -> int:
    elements = sum(int(np.prod(part.shape[1:])) for part in observation_parts(observation))
    return int(np.clip(_CHUNK_ELEMENTS // max(elements, 1), 128, _CPU_ROWS if device.type == "cpu" else _GPU_ROWS))

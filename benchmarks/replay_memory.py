"""
Bytes per stored transition, against the raw payload of the facts that are stored.

    python benchmarks/replay_memory.py

Fills a replay with rollouts of several kinds of environment and prints a Markdown table; fails above a ratio of 1.1.
"""

import argparse
import sys
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import action_dtype, observation_dtype

LIMIT = 1.1
KINDS: dict[str, tuple[spaces.Space[Any], spaces.Space[Any]]] = {
    "CartPole (4 floats, Discrete)": (spaces.Box(-1, 1, (4,)), spaces.Discrete(2)),
    "Pendulum (3 floats, Box 1)": (spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))),
    "Meta-World (39 floats, Box 4)": (spaces.Box(-1, 1, (39,)), spaces.Box(-1, 1, (4,))),
    "Meta-World, 256 bins (MultiDiscrete 4)": (spaces.Box(-1, 1, (39,)), spaces.MultiDiscrete([256] * 4)),
    "Ant (105 float64, Box 8)": (spaces.Box(-1, 1, (105,), np.float64), spaces.Box(-1, 1, (8,))),
    "Atari (4 x 84 x 84 uint8, Discrete)": (spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(18)),
    "camera and joints (Dict)": (
        spaces.Dict({"camera": spaces.Box(0, 255, (3, 64, 64), np.uint8), "joints": spaces.Box(-1, 1, (14,))}),
        spaces.Box(-1, 1, (7,)),
    ),
}


def payload(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> int:
    """Bytes of one transition's facts: observation, action, reward, two end flags, log-probability, policy version."""
    is_dict = isinstance(observation_space, spaces.Dict)
    parts = observation_space.spaces.values() if is_dict else [observation_space]  # type: ignore[attr-defined]  # a Dict
    observation = sum(int(np.prod(part.shape)) * observation_dtype(part).itemsize for part in parts)
    action = int(np.prod(action_space.shape or (1,))) * action_dtype(action_space).itemsize
    return observation + action + 4 + 1 + 1 + 4 + 4


def sample(space: spaces.Space[Any], leading: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Any numbers of the right shape: their values do not matter here."""
    if isinstance(space, spaces.Dict):
        return {key: sample(part, leading, rng) for key, part in space.spaces.items()}
    return rng.integers(0, 2, size=(*leading, *(space.shape or ())))


def measure(observation_space: spaces.Space[Any], action_space: spaces.Space[Any], n_rollouts: int, n_steps: int) -> float:
    """Bytes per transition of a full replay; an episode is truncated every 500 steps, as in Meta-World."""
    n_envs, rng = 2, np.random.default_rng(0)
    replay = RolloutReplayBuffer(n_rollouts * n_steps * n_envs, observation_space, action_space)
    truncated = np.zeros((n_steps, n_envs), dtype=bool)
    truncated[499::500] = True
    for _ in range(n_rollouts):
        replay.add_rollout(
            observations=sample(observation_space, (n_steps, n_envs), rng),
            actions=sample(action_space, (n_steps, n_envs), rng),
            rewards=np.zeros((n_steps, n_envs)),
            terminated=np.zeros((n_steps, n_envs)),
            truncated=truncated,
            last_observations=sample(observation_space, (n_envs,), rng),
            terminal_observations=sample(observation_space, (int(truncated.sum()),), rng),
            log_probs=np.zeros((n_steps, n_envs)),
        )
    for _ in replay.sample(10, 64):
        pass  # whatever sampling keeps counts too
    return replay.nbytes / len(replay)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=4, help="rollouts in the replay")
    parser.add_argument("--steps", type=int, default=500, help="steps of each of the two environments in a rollout")
    args = parser.parse_args()
    print("| transition | payload, bytes | stored, bytes | ratio |\n|---|---|---|---|")
    worst = 0.0
    for name, (observation_space, action_space) in KINDS.items():
        raw = payload(observation_space, action_space)
        stored = measure(observation_space, action_space, args.rollouts, args.steps)
        worst = max(worst, stored / raw)
        print(f"| {name} | {raw} | {stored:.1f} | {stored / raw:.3f} |")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())

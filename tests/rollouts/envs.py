"""Environments that count: every observation and reward says which environment, episode and step it comes from."""

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

Encode = Callable[[int, int, int], Any]

# Episode lengths of the environment itself, in turn; TIME_LIMIT cuts the second short and meets the end of the third.
LENGTHS = (3, 9, 4)
TIME_LIMIT = 4

VECTOR = spaces.Box(-1000.0, 1000.0, (3,), np.float32)
NUMBER = spaces.Discrete(1000)
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)  # channel-last: SB3 wraps it in VecTransposeImage
DICT = spaces.Dict({"vector": VECTOR, "image": IMAGE, "level": spaces.Discrete(20)})


def encode_vector(index: int, episode: int, step: int) -> np.ndarray:
    """The three numbers themselves."""
    return np.array([index, episode, step], np.float32)


def encode_number(index: int, episode: int, step: int) -> np.int64:
    """One integer made of the three."""
    return np.int64(index * 100 + episode * 10 + step)


def encode_image(index: int, episode: int, step: int) -> np.ndarray:
    """One number in each channel, and every pixel different from its neighbours, so that a wrong transposition shows."""
    height, width, _ = IMAGE.shape
    pattern = (np.arange(height)[:, None] * 3 + np.arange(width)[None]) % 60
    return np.stack([pattern + 60 + number for number in (index * 10, episode, step)], axis=-1).astype(np.uint8)


def encode_dict(index: int, episode: int, step: int) -> dict[str, Any]:
    """All of the above."""
    return {
        "vector": encode_vector(index, episode, step),
        "image": encode_image(index, episode, step),
        "level": np.int64(step),
    }


ENCODE: dict[str, tuple[spaces.Space[Any], Encode]] = {
    "vector": (VECTOR, encode_vector),
    "number": (NUMBER, encode_number),
    "image": (IMAGE, encode_image),
    "dict": (DICT, encode_dict),
}


class Counting(gym.Env[Any, Any]):
    """
    Episodes of known lengths that end in a terminal state.

    :param index: of this environment among those of the vectorised one
    :param kind: of observation, a key of ``ENCODE``
    :param action_space: any; actions change nothing
    """

    def __init__(self, index: int, kind: str, action_space: spaces.Space[Any]) -> None:
        self.observation_space, self._encode = ENCODE[kind]
        self.action_space = action_space
        self._index, self._episode, self._step = index, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._episode, self._step = self._episode + 1, 0
        return self._encode(self._index, self._episode, 0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        terminated = self._step >= LENGTHS[self._episode % len(LENGTHS)]
        reward = self._index * 100 + self._episode * 10 + self._step + 0.5
        return self._encode(self._index, self._episode, self._step), reward, terminated, False, {}


class Fault(gym.Wrapper[Any, Any, Any, Any]):
    """
    Changes what one step returns.

    :param env: to wrap
    :param at: which step, counted over all episodes
    :param change: from (observation, reward) to (observation, reward)
    """

    def __init__(self, env: gym.Env[Any, Any], at: int, change: Callable[[Any, float], tuple[Any, float]]) -> None:
        super().__init__(env)
        self._at, self._change, self._count = at, change, 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._count == self._at:
            observation, reward = self._change(observation, float(reward))
        self._count += 1
        return observation, reward, terminated, truncated, info


@dataclasses.dataclass
class Step:
    """What one step of an environment took and gave."""

    observation: Any
    action: Any
    reward: float
    terminated: bool
    truncated: bool
    next_observation: Any


class Log(gym.Wrapper[Any, Any, Any, Any]):
    """Writes down every step, with Gymnasium's own flags."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.steps: list[Step] = []
        self.latest: Any = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.latest, info = self.env.reset(**kwargs)
        return self.latest, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        before = self.latest
        self.latest, reward, terminated, truncated, info = self.env.step(action)
        self.steps.append(Step(before, np.array(action), float(reward), terminated, truncated, self.latest))
        return self.latest, reward, terminated, truncated, info


def counting_env(
    n_envs: int,
    kind: str = "vector",
    action_space: spaces.Space[Any] | None = None,
    fault: tuple[int, int, Callable[[Any, float], tuple[Any, float]]] | None = None,
) -> tuple[VecEnv, list[Log]]:
    """
    :param n_envs: number of environments
    :param kind: of observation
    :param action_space: a Box of two dimensions where none is given
    :param fault: environment, step over all its episodes, and how that step is changed
    :return: vectorised environment, and the log of each environment
    """
    logs: list[Log] = []

    def make(index: int) -> gym.Env[Any, Any]:
        space = action_space if action_space is not None else spaces.Box(-1.0, 1.0, (2,), np.float32)
        env: gym.Env[Any, Any] = TimeLimit(Counting(index, kind, space), TIME_LIMIT)
        if fault is not None and fault[0] == index:
            env = Fault(env, fault[1], fault[2])
        logs.append(Log(env))
        return logs[-1]

    return DummyVecEnv([lambda index=index: make(index) for index in range(n_envs)]), logs

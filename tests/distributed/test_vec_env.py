"""An actor's environments give what ``DummyVecEnv`` gives."""

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_gipo.distributed.actor import Actor
from sb3_gipo.distributed.async_gipo import AsyncGIPO
from sb3_gipo.distributed.vec_env import ActorVecEnv
from tests.small_envs import OBSERVATION_SPACES, SpaceEnv

STEPS = 25  # several episodes


@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
def test_gives_what_dummy_vec_env_gives(observation: str) -> None:
    """Every number of every step, and what is returned keeps its value in the steps after it."""
    given: dict[type[DummyVecEnv], list[Any]] = {}
    for kind in (DummyVecEnv, ActorVecEnv):
        env = make_vec_env(lambda: SpaceEnv(observation), 2, seed=1, vec_env_cls=kind)
        env.action_space.seed(0)
        given[kind] = [env.reset()]
        given[kind] += [env.step(np.stack([env.action_space.sample() for _ in range(2)])) for _ in range(STEPS)]
        for latest in given[kind][1:]:
            for info in latest[3]:
                info.get("episode", {}).pop("t", None)  # of the clock
    np.testing.assert_equal(given[ActorVecEnv], given[DummyVecEnv])


class ReusingEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Writes into the same info at every step, as a simulator in C does."""

    def __init__(self) -> None:
        super().__init__(SpaceEnv(horizon=4))
        self._info: dict[str, Any] = {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        self._info.update(info)
        self._info["contacts"] = self._info.get("contacts", 0) + 1
        return observation, reward, terminated, truncated, self._info


def test_infos_of_a_step_stay_what_they_were() -> None:
    """Also where the environment goes on writing, or a wrapper writes into what it was given."""
    env = VecNormalize(ActorVecEnv([ReusingEnv]))
    env.reset()
    infos = [env.step(np.zeros((1, 2), np.float32))[3][0] for _ in range(6)]
    assert [info["contacts"] for info in infos] == [1, 2, 3, 4, 5, 6]
    infos[0]["mine"] = True
    assert all("mine" not in info for info in infos[1:])


class BooksEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the books of its episode itself, always in the same dictionary."""

    def __init__(self) -> None:
        super().__init__(SpaceEnv(horizon=4))
        self._books = {"r": 0.0, "l": 0, "t": 0.0}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, _, _, truncated, info = super().step(action)
        self._books["l"] += 1
        return observation, 0.0, False, truncated, {**info, "episode": self._books} if truncated else info


def test_ends_of_a_rollout_are_those_of_their_time() -> None:
    """Several ends in one rollout, told by one dictionary that the environment goes on writing into."""
    learner = AsyncGIPO("MlpPolicy", SpaceEnv, backend="serial", rollout_length=12, batch_size=12, replay_capacity=24)
    actor = Actor(dataclasses.replace(learner._plan(), make_env=lambda *_: ActorVecEnv([BooksEnv])), 0)
    lengths = [end.info["episode"]["l"] for end in actor.collect().ends]
    assert lengths == sorted(set(lengths))
    assert len(lengths) >= 2

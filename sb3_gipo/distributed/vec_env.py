"""SB3's ``DummyVecEnv`` for an actor, at less cost for a step."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs
from stable_baselines3.common.vec_env.util import dict_to_obs


class ActorVecEnv(DummyVecEnv):
    """
    Gives what ``DummyVecEnv`` gives, copied without ``deepcopy``.

    Observations are arrays: copying those is enough. An info is a dictionary of its own, its values are the environment's:
    for who reads them before the next step, as an actor does.

    :param env_fns: make the environments
    """

    def __init__(self, env_fns: list[Callable[[], gym.Env[Any, Any]]]) -> None:
        super().__init__(env_fns)
        self.buf_infos = _Infos(self.buf_infos)

    def _obs_from_buf(self) -> VecEnvObs:
        return dict_to_obs(self.observation_space, {key: values.copy() for key, values in self.buf_obs.items()})


class _Infos(list[dict[str, Any]]):
    def __deepcopy__(self, memo: dict[int, Any]) -> list[dict[str, Any]]:
        return [dict(info) for info in self]

"""Short runs of every algorithm that the callbacks watch, and what they log."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_gipo import GIPO
from tests.small_envs import POLICIES, SpaceEnv

# A high rate: at PPO's default almost nothing is clipped in so few steps, and nothing could be measured wrongly.
SETTINGS: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 3, "learning_rate": 1e-2, "seed": 0, "device": "cpu"}


class MaskedEnv(SpaceEnv):
    """One action is forbidden at every step."""

    def action_masks(self) -> np.ndarray:
        assert isinstance(self.action_space, spaces.Discrete)
        return np.arange(self.action_space.n) != self._t % self.action_space.n


class Memory(KVWriter):
    """Keeps every dump of the logger."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.dumps.append(dict(key_values))

    def close(self) -> None:
        pass


def make(kind: str, action: str = "box", observation: str = "box", env: gym.Env[Any, Any] | None = None, **kwargs: Any) -> Any:
    """
    :param kind: ``"ppo"``, ``"maskable"``, ``"recurrent"``, ``"gipo"`` (with replay)
    :return: a model with two environments and a logger that keeps what is dumped in ``model.logger.output_formats[0]``
    """
    env_class = MaskedEnv if kind == "maskable" else SpaceEnv
    action = "discrete" if kind == "maskable" else action
    fns = [lambda seed=seed: env or env_class(observation, action, seed=seed) for seed in range(1 if env else 2)]
    policy = POLICIES.get(observation, "MlpPolicy")
    classes: dict[str, tuple[type[BaseAlgorithm], str]] = {
        "ppo": (PPO, policy),
        "maskable": (MaskablePPO, policy),
        "recurrent": (RecurrentPPO, "MlpLstmPolicy"),
        "gipo": (GIPO, policy),
    }
    algorithm, policy = classes[kind]
    model = algorithm(policy, DummyVecEnv(fns), **{**SETTINGS, **kwargs})  # type: ignore[arg-type]  # names of policies
    model.set_logger(Logger(None, [Memory()]))
    return model


def learn(model: Any, callback: BaseCallback | list[BaseCallback] | None, iterations: int = 4) -> list[dict[str, Any]]:
    """:return: what was logged, dump by dump"""
    model.learn(iterations * model.n_steps * model.n_envs, callback=callback)
    memory = model.logger.output_formats[0]
    model.logger.dump()  # the last update is recorded when training ends
    return memory.dumps


def parameters(model: Any) -> th.Tensor:
    """All parameters, one after the other."""
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])

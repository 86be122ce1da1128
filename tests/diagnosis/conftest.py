"""Real logs of SB3's algorithms and of GIPO, each made once."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from sb3_gipo import GIPO
from sb3_gipo.callbacks import UtilizationCallback


def train(folder: Path, algorithm: Any, steps: int, callback: BaseCallback | None = None, **arguments: Any) -> None:
    th.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PPO's hints about batch sizes
        model = algorithm("MlpPolicy", make_vec_env("CartPole-v1", seed=0), seed=0, device="cpu", **arguments)
        model.set_logger(configure(str(folder), ["tensorboard", "csv"]))
        model.learn(steps, callback=callback)
    model.logger.close()


@pytest.fixture(scope="session")
def real_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as RL Zoo leaves it: runs of several algorithms, one with a space in its name."""
    logs = tmp_path_factory.mktemp("real")
    short = {"n_steps": 64, "batch_size": 32, "n_epochs": 3}
    train(logs / "ppo" / "CartPole-v1_1", PPO, 1280, **short)
    train(logs / "ppo" / "with callback", PPO, 1280, UtilizationCallback(), **short)
    everything = {**short, "replay_capacity": 512}  # an update draws as much as is stored: rollouts of every age
    train(logs / "gipo" / "CartPole-v1_1", GIPO, 1280, **everything)
    train(logs / "gipo" / "with callback", GIPO, 1280, UtilizationCallback(), **everything)
    train(logs / "a2c", A2C, 1000)
    train(logs / "dqn", DQN, 1000, learning_starts=100)
    return logs

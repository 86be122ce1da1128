"""Networks, environments and the variants of GIPO that are measured."""

import argparse
import inspect
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy

# What is learnt does not matter here: so small that the policy stays where it was, however often train() is called.
STANDSTILL = 1e-6

NO_REPLAY: dict[str, Any] = {"replay_capacity": None, "target": "stored"}


class NoiseEnv(gym.Env[np.ndarray, Any]):
    """
    Noise of any shape at no cost: for networks whose environment is not what is measured.

    :param observation_space: of the observations
    :param action_space: of the actions, which change nothing
    """

    def __init__(self, observation_space: spaces.Box, action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0
        observation_space.seed(0)
        self.frames = [observation_space.sample() for _ in range(16)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.frames[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.frames[self.steps % 16], float(self.np_random.random()), False, self.steps >= 200, {}


class TimedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Adds up the seconds spent inside an environment; sits inside of ``Monitor`` and of the vectorised environment."""

    seconds = 0.0

    def step(self, action: Any) -> Any:
        start = time.perf_counter()
        result = self.env.step(action)
        self.seconds += time.perf_counter() - start
        return result

    def reset(self, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = self.env.reset(**kwargs)
        self.seconds += time.perf_counter() - start
        return result


class LayerNormPolicy(ActorCriticPolicy):
    """SB3's actor-critic with ``LayerNorm`` after each hidden linear layer."""

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        for name in ("policy_net", "value_net"):
            layers: list[th.nn.Module] = []
            for layer in getattr(self.mlp_extractor, name):
                layers.append(layer)
                if isinstance(layer, th.nn.Linear):
                    layers.append(th.nn.LayerNorm(layer.out_features))
            setattr(self.mlp_extractor, name, th.nn.Sequential(*layers))


def image_env() -> NoiseEnv:
    """:return: frames as of Atari, stacked, channels last"""
    return NoiseEnv(spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(6))


def with_compiled(args: argparse.Namespace) -> bool:
    """:return: whether compiled variants are measured: not with ``--no-compile``, nor where GIPO has no such argument"""
    from sb3_gipo import GIPO  # here: the interpreter of another contestant may lack what it needs

    return not args.no_compile and "compile" in inspect.signature(GIPO.__init__).parameters


def variants(replay_capacity: int, gradient_steps: int, compiled: bool) -> dict[str, dict[str, Any]]:
    """
    :param replay_capacity: of the variants with replay
    :param gradient_steps: the number of PPO's minibatches
    :param compiled: whether to have the compiled ones too
    :return: arguments of GIPO by the name of the variant
    """
    replay = {"replay_capacity": replay_capacity, "gradient_steps": gradient_steps}
    found: dict[str, dict[str, Any]] = {
        "GIPO as PPO": {"surrogate": "ppo_clip", **NO_REPLAY},
        "GIPO": NO_REPLAY,
        "GIPO, replay": replay,
    }
    if compiled:
        found["GIPO compiled"] = {**NO_REPLAY, "compile": True}
        found["GIPO, replay, compiled"] = {**replay, "compile": True}
    return found


def prepare(model: Any, rollouts: int) -> BaseCallback:
    """
    Do what ``learn`` does before the first update: SB3's own setup and collection, without any update.

    :param model: PPO or GIPO with an environment
    :param rollouts: how many to collect; the rollout buffer holds the last one, a replay all of them
    :return: the callback to collect more with
    """
    model.set_logger(Logger(folder=None, output_formats=[]))
    size = model.n_steps * model.n_envs
    _, callback = model._setup_learn(rollouts * size, None)
    callback.on_training_start({}, {})
    for _ in range(rollouts):
        collect(model, callback)
    return callback


def collect(model: Any, callback: BaseCallback) -> None:
    """:param callback: what :func:`prepare` returned"""
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)

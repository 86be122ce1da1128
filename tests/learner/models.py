"""Models with data in their rollout buffer and their replay, before the first gradient step."""

from typing import Any

from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_gipo import GIPO
from tests.small_envs import POLICIES, SpaceEnv

SETTINGS: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "n_epochs": 2, "learning_rate": 1e-2, "seed": 1, "device": "cpu"}
ON_POLICY: dict[str, Any] = {"replay_capacity": None, "target": "stored"}


def make_env(observation: str = "box", action: str = "box", n_envs: int = 2) -> VecEnv:
    return DummyVecEnv([lambda index=index: SpaceEnv(observation, action, seed=index) for index in range(n_envs)])


def make_model(observation: str = "box", action: str = "box", **kwargs: Any) -> GIPO:
    """A small model of any kind."""
    net: dict[str, Any] = {"net_arch": [8]}
    if observation == "image":
        net.update(features_extractor_class=NatureCNN, features_extractor_kwargs={"features_dim": 8})
    if observation == "dict_image":
        net.update(features_extractor_kwargs={"cnn_output_dim": 8})
    net.update(kwargs.pop("policy_kwargs", {}))
    env = make_env(observation, action)
    return GIPO(POLICIES.get(observation, "MlpPolicy"), env, policy_kwargs=net, **{**SETTINGS, **kwargs})


def collected(observation: str = "box", action: str = "box", iterations: int = 1, **kwargs: Any) -> GIPO:
    """The same after some iterations that leave the policy as it was."""
    rate = kwargs.pop("learning_rate", SETTINGS["learning_rate"])
    model = make_model(observation, action, **kwargs, learning_rate=0.0)
    model.learn(iterations * 32, log_interval=10**6)
    model.learning_rate = rate
    model._setup_lr_schedule()
    return model

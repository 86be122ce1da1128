"""An algorithm that fails while it trains; an environment that prints what it likes."""

from typing import Any

import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3 import PPO


class BrokenPPO(PPO):
    def learn(self, *arguments: Any, **more: Any) -> Any:
        raise RuntimeError("the gripper is on fire")


class Chatty(CartPoleEnv):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        print("loading meshes ...", end="", flush=True)


gym.register("Chatty-v0", Chatty, max_episode_steps=10)

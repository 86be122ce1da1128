"""An algorithm that fails while it trains."""

from typing import Any

from stable_baselines3 import PPO


class BrokenPPO(PPO):
    def learn(self, *arguments: Any, **more: Any) -> Any:
        raise RuntimeError("the gripper is on fire")

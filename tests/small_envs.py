"""Small, fast, seeded environments with every kind of space."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

OBSERVATION_SPACES = {
    "box": spaces.Box(-1.0, 1.0, (3,), np.float32),
    "float64": spaces.Box(-1.0, 1.0, (2,), np.float64),
    "discrete": spaces.Discrete(5),
    "multidiscrete": spaces.MultiDiscrete([3, 4]),
    "multibinary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"position": spaces.Box(-1.0, 1.0, (2,), np.float32), "mode": spaces.Discrete(3)}),
    "image": spaces.Box(0, 255, (36, 36, 1), np.uint8),
    "dict_image": spaces.Dict(
        {"camera": spaces.Box(0, 255, (36, 36, 3), np.uint8), "joints": spaces.Box(-1.0, 1.0, (2,), np.float32)}
    ),
}
ACTION_SPACES = {
    "box": spaces.Box(-0.5, 0.5, (2,), np.float32),
    "box_matrix": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "multibinary": spaces.MultiBinary(3),
}
POLICIES = {"dict": "MultiInputPolicy", "dict_image": "MultiInputPolicy", "image": "CnnPolicy"}


class SpaceEnv(gym.Env[Any, Any]):
    """
    Random observations; the reward prefers large actions. Episodes are cut at ``horizon`` (truncation) and now and then end
    before it (termination).
    """

    def __init__(self, observation: str = "box", action: str = "box", horizon: int = 7, seed: int = 0) -> None:
        self.observation_space = OBSERVATION_SPACES[observation]
        self.action_space = ACTION_SPACES[action]
        self.horizon = horizon
        self._rng = np.random.default_rng(seed)
        self._t = 0

    def _observe(self) -> Any:
        self.observation_space.seed(int(self._rng.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        reward = float(np.sum(action)) + float(self._rng.normal()) * 0.1
        terminated = bool(self._rng.random() < 0.05)
        truncated = self._t >= self.horizon and not terminated
        return self._observe(), reward, terminated, truncated, {"is_success": reward > 0}


class OneStateEnv(gym.Env[np.ndarray, int]):
    """One state, reward 1, a time limit: the true value is ``1 / (1 - gamma)`` for who does not take the limit for an end."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, horizon: int = 16) -> None:
        self.horizon = horizon
        self._t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return np.ones(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._t += 1
        return np.ones(1, np.float32), 1.0, False, self._t >= self.horizon, {}


class TargetDictEnv(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """The action should be the target that the observation shows, twice over; the episode lasts 10 steps."""

    observation_space = spaces.Dict(
        {"target": spaces.Box(-1.0, 1.0, (2,), np.float32), "sign": spaces.Discrete(2)},
    )
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self._t = 0
        self._target = np.zeros(2, np.float32)
        self._sign = 0

    def _observe(self) -> dict[str, Any]:
        self._target = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        self._sign = int(self.np_random.integers(2))
        return {"target": self._target, "sign": self._sign}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        wanted = self._target if self._sign else -self._target
        reward = -float(np.abs(action - wanted).mean())
        self._t += 1
        return self._observe(), reward, False, self._t >= 10, {}

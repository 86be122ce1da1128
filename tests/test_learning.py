"""Learning happens: before and after are compared on the same seeds with a permutation test."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo import GIPO
from tests.small_envs import TargetDictEnv

pytestmark = pytest.mark.slow


def returns_of(model: GIPO, make: Any, episodes: int = 20) -> np.ndarray:
    """Returns of the same episodes, whatever the model: the environment is seeded, actions are deterministic."""
    env: VecEnv = make_vec_env(make, n_envs=1, seed=123)
    returns, _ = evaluate_policy(model, env, n_eval_episodes=episodes, return_episode_rewards=True)
    return np.asarray(returns)


def assert_improves(make: Any, policy: str, steps: int, at_least: float, **kwargs: Any) -> None:
    """Train, and ask that the same episodes end better: significantly, and by enough to matter."""
    model = GIPO(policy, make_vec_env(make, n_envs=4, seed=0), seed=1, **kwargs)
    before = returns_of(model, make)
    model.learn(steps)
    after = returns_of(model, make)
    test = permutation_test(
        (after, before),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=2000,
        rng=np.random.default_rng(0),
    )
    assert test.pvalue < 0.01, f"before {before.mean():.1f}, after {after.mean():.1f}, p = {test.pvalue:.3f}"
    assert after.mean() >= at_least, f"before {before.mean():.1f}, after {after.mean():.1f}"


def test_cartpole() -> None:
    """GIPO with its defaults balances CartPole."""
    assert_improves("CartPole-v1", "MlpPolicy", 25_000, at_least=400.0, n_steps=256)


def test_pendulum() -> None:
    """GIPO swings the pendulum up with PPO's usual settings for it, replay on."""
    assert_improves("Pendulum-v1", "MlpPolicy", 60_000, at_least=-300.0, n_steps=256, gamma=0.9, learning_rate=1e-3)


def test_dict_observations() -> None:
    """GIPO learns what depends on two entries of a Dict observation."""
    assert_improves(TargetDictEnv, "MultiInputPolicy", 30_000, at_least=-3.5, n_steps=128, gamma=0.5, learning_rate=1e-3)


def test_stale_replay_still_teaches() -> None:
    """With little fresh data in a large replay (most samples are old) CartPole is learnt all the same."""
    little = {"n_steps": 64, "replay_capacity": 4096, "gradient_steps": 20, "batch_size": 256, "learning_rate": 3e-4}
    assert_improves("CartPole-v1", "MlpPolicy", 24_000, at_least=250.0, **little)

"""``HealthCallback`` on real runs: broken on purpose, each in one way, and healthy ones."""

import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_gipo import GIPO, NonFiniteUpdateError
from sb3_gipo.callbacks import HealthCallback, HealthReport, HealthWarning
from sb3_gipo.callbacks.health import NAMES, _RewardSignal, relative_entropy
from tests.callbacks.runs import Memory

PENDULUM: dict[str, Any] = {"gamma": 0.9, "learning_rate": 1e-3, "n_steps": 512}
BOTH = [PPO, GIPO]


class Broken(gym.Wrapper[Any, Any, Any, Any]):
    """Returns something else than the environment does, from a certain step on."""

    def __init__(self, env: gym.Env[Any, Any], what: str, at: int = 0) -> None:
        super().__init__(env)
        self.what, self.at, self.steps = what, at, 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.steps >= self.at:
            if self.what == "nan observation":
                observation = observation * np.nan
            elif self.what == "infinite reward":
                reward = math.inf
            elif self.what == "zero reward":
                reward = 0.0
            elif self.what == "constant reward":
                reward = -1.0
            elif self.what == "huge reward":
                reward = 3e38 * (1 if self.steps % 2 else -1)
        return observation, reward, terminated, truncated, info


def train(
    algorithm: Any, env_id: str, steps: int, what: str = "", at: int = 0, callback: HealthCallback | None = None, **kwargs: Any
) -> tuple[HealthCallback, list[dict[str, Any]], Exception | None]:
    """:return: the callback with its reports, what was logged, and what ended the run"""
    normalize = kwargs.pop("normalize", False)
    env: Any = make_vec_env(env_id, seed=0, n_envs=1, wrapper_class=Broken, wrapper_kwargs={"what": what, "at": at})
    env = VecNormalize(env) if normalize else env
    model = algorithm("MlpPolicy", env, seed=0, device="cpu", **kwargs)
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    callback = callback or HealthCallback()
    ended_by = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.learn(steps, callback=callback)
        except ValueError as error:
            ended_by = error
    model.logger.dump()
    told = [str(warning.message) for warning in caught if issubclass(warning.category, HealthWarning)]
    assert told == [report.message for report in callback.reports]
    return callback, memory.dumps, ended_by


def said(callback: HealthCallback) -> list[str]:
    return [report.symptom for report in callback.reports]


# --- healthy --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize(
    ("env_id", "steps", "kwargs"),
    [
        ("CartPole-v1", 12_000, {"n_steps": 1024}),
        ("Pendulum-v1", 10_000, PENDULUM),
        ("MetaWorld/reach-v3", 8_000, {"n_steps": 500, "batch_size": 250, "normalize": True}),
    ],
    ids=["cartpole", "pendulum", "reach"],
)
def test_a_healthy_run_hears_nothing(algorithm: Any, env_id: str, steps: int, kwargs: dict[str, Any]) -> None:
    """At usual settings not a word."""
    callback, dumps, ended_by = train(algorithm, env_id, steps, **kwargs)
    assert callback.reports == []
    assert ended_by is None
    assert {f"health/{name}" for name in NAMES} <= set(dumps[-1])
    assert all(dumps[-1][f"health/{name}"] == 0 for name in NAMES)


# --- broken on purpose ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [("CartPole-v1", {"learning_rate": 0.3, "n_steps": 1024}), ("Pendulum-v1", PENDULUM | {"learning_rate": 1.0})],
    ids=["cartpole", "pendulum"],
)
def test_learning_rate_1000_times_too_high(algorithm: Any, env_id: str, kwargs: dict[str, Any]) -> None:
    """KL runaway first; the advice is to lower the learning rate."""
    callback, dumps, _ = train(algorithm, env_id, 5_000, **kwargs)
    assert said(callback)[0] == "kl_runaway"
    assert "KL runaway" in callback.reports[0].message
    assert "Lower `learning_rate`" in callback.reports[0].message
    assert len(set(said(callback))) == len(callback.reports)  # once, not every iteration
    assert any(dump.get("health/kl_runaway") == 1 for dump in dumps)
    assert any("KL runaway" in dump.get("health/report", "") for dump in dumps)


@pytest.mark.parametrize(("env_id", "kwargs"), [("CartPole-v1", {"n_steps": 512}), ("Pendulum-v1", PENDULUM)], ids=str)
def test_sigma_of_a_thousandth(env_id: str, kwargs: dict[str, Any]) -> None:
    """Sigma too narrow, and nothing of what follows from it."""
    callback, _, _ = train(GIPO, env_id, 3_000, sigma=1e-3, **kwargs)
    assert said(callback) == ["sigma_too_narrow"]
    assert "Raise `sigma`" in callback.reports[0].message
    assert "0.001" in callback.reports[0].message


def test_sigma_of_a_hundred() -> None:
    """Sigma too wide, next to the runaway that it leads to where nothing else holds the policy."""
    callback, _, _ = train(GIPO, "Pendulum-v1", 6_000, sigma=100.0, kl_coef=0.0, **PENDULUM)
    assert "sigma_too_wide" in said(callback)
    assert set(said(callback)) <= {"sigma_too_wide", "kl_runaway"}


@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_zero_rewards(algorithm: Any, env_id: str) -> None:
    """No reward signal, also where episodes end early."""
    callback, _, _ = train(algorithm, env_id, 2_000, "zero reward", n_steps=512)
    assert said(callback) == ["no_reward_signal"]
    assert "every reward was 0" in callback.reports[0].message
    assert "Check the reward function" in callback.reports[0].message


@pytest.mark.parametrize("normalize", [False, True])
def test_a_constant_reward(normalize: bool) -> None:
    """The same reward at every step says nothing where no episode ends early, and something where one does."""
    callback, _, _ = train(PPO, "Pendulum-v1", 3_000, "constant reward", n_steps=512, normalize=normalize)
    assert "every reward was -1 and no episode ended early" in callback.reports[0].message
    callback, _, _ = train(PPO, "CartPole-v1", 3_000, "constant reward", n_steps=512, normalize=normalize)
    assert callback.reports == []


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("what", ["nan observation", "infinite reward"])
@pytest.mark.parametrize("algorithm", BOTH)
def test_an_environment_that_returns_what_is_not_finite(algorithm: Any, what: str, normalize: bool, tmp_path: Path) -> None:
    """Said at that very step, before the run breaks, with the step saved; the advice is about the environment."""
    callback = HealthCallback(save_path=tmp_path / "bad")
    callback, _, ended_by = train(algorithm, "Pendulum-v1", 2_000, what, 700, callback, normalize=normalize, **PENDULUM)
    assert said(callback) == ["non_finite"]
    report = callback.reports[0]
    assert report.timesteps == 700
    assert "nvironment 0" in report.message
    assert what.split()[1] in report.message
    assert "from the environment" in report.message
    assert "learning_rate" not in report.message
    assert report.batch is not None
    with np.load(report.batch) as saved:
        assert saved["actions"].shape == (1,)
    assert ended_by is not None or normalize  # SB3's VecNormalize clips what is infinite


def test_a_solved_cartpole_is_healthy() -> None:
    """Reward 1 at every step and no episode that ends early any more: once it did end early, that is success."""
    signal = _RewardSignal()
    signal.see(np.ones(1), np.array([True]), [{}])
    for _ in range(2):
        signal.start_rollout()
        signal.see(np.ones(1), np.array([False]), [{}])
        signal.see(np.ones(1), np.array([True]), [{"TimeLimit.truncated": True}])
        assert signal.varies
    never = _RewardSignal()
    never.see(np.ones(1), np.array([True]), [{"TimeLimit.truncated": True}])
    assert not never.varies


def test_an_update_without_a_finite_gradient(tmp_path: Path) -> None:
    """GIPO stops; the minibatch is saved and the words come before the exception."""
    callback = HealthCallback(save_path=tmp_path)
    callback, _, ended_by = train(GIPO, "Pendulum-v1", 4_000, "huge reward", 0, callback, n_steps=512)
    assert isinstance(ended_by, NonFiniteUpdateError)
    assert said(callback) == ["non_finite"]
    batch = callback.reports[0].batch
    assert batch is not None
    with np.load(batch) as saved:
        assert set(saved) >= {"observations", "actions", "old_log_prob", "advantages"}
        assert len(saved["advantages"]) == 64


def test_parameters_that_are_not_finite() -> None:
    """PPO fails inside its update, somewhere in a distribution; the callback says what happened."""
    callback = HealthCallback(ignore=["kl_runaway"])
    callback, _, ended_by = train(PPO, "Pendulum-v1", 4_000, "huge reward", 0, callback, n_steps=512)
    assert ended_by is not None
    assert said(callback) == ["non_finite"]
    assert "not finite" in callback.reports[0].message


# --- what a user may ask of it --------------------------------------------------------------------------------------------


def test_the_offending_minibatch_is_saved(tmp_path: Path) -> None:
    """A whole minibatch, as plain arrays."""
    callback = HealthCallback(save_path=tmp_path / "a" / "b")
    callback, _, _ = train(GIPO, "CartPole-v1", 2_000, "zero reward", 0, callback, n_steps=256)
    report = callback.reports[0]
    assert report.batch == tmp_path / "a" / "b" / f"no_reward_signal_{report.timesteps}_steps.npz"
    assert str(report.batch) in report.message
    with np.load(report.batch) as saved:
        assert saved["observations"].shape == (64, 4)
        assert saved["version_gap"].shape == (64,)
    assert list((tmp_path / "a" / "b").iterdir()) == [report.batch]


def test_stop_on() -> None:
    """Training ends soon after the report, in the usual way."""
    callback = HealthCallback(stop_on=["no_reward_signal"])
    callback, _, ended_by = train(PPO, "CartPole-v1", 20_000, "zero reward", 0, callback, n_steps=256)
    assert ended_by is None
    assert callback.reports[0].timesteps == 3 * 256
    assert callback.model.num_timesteps == 3 * 256 + 1


def test_on_report_and_ignore(capsys: pytest.CaptureFixture[str]) -> None:
    """A function of one's own is told; what is ignored is not said."""
    told: list[HealthReport] = []
    callback = HealthCallback(on_report=told.append)
    train(PPO, "CartPole-v1", 2_000, "zero reward", 0, callback, n_steps=256)
    assert told == callback.reports
    assert [report.since_timesteps for report in told] == [256]
    callback = HealthCallback(ignore=["no_reward_signal", "value_not_explaining", "entropy_collapse"])
    _, dumps, _ = train(PPO, "CartPole-v1", 2_000, "zero reward", 0, callback, n_steps=256)
    assert callback.reports == []
    assert "health/no_reward_signal" not in dumps[-1]
    assert "health" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({"stop_on": ["sigma"]}, "sigma;.*sigma_too_narrow"), ({"ignore": "non_finite"}, r"collection.*\['non_finite'\]")],
    ids=str,
)
def test_bad_names(kwargs: dict[str, Any], words: str) -> None:
    """Refused at once; the message lists the symptoms."""
    with pytest.raises(ValueError, match=words):
        HealthCallback(**kwargs)


def test_relative_entropy_by_hand() -> None:
    """Uniform is 1; a Gaussian is measured by its standard deviation against half the range."""
    assert relative_entropy(math.log(4), spaces.Discrete(4)) == pytest.approx(1.0)
    assert relative_entropy(math.log(6), spaces.MultiDiscrete([2, 3])) == pytest.approx(1.0)
    assert relative_entropy(math.log(2), spaces.MultiBinary(2)) == pytest.approx(0.5)
    assert relative_entropy(0.0, spaces.Discrete(1)) == 1.0
    gaussian = th.distributions.Independent(th.distributions.Normal(th.zeros(2), th.tensor([0.5, 2.0])), 1)
    entropy = gaussian.entropy().item()
    assert relative_entropy(entropy, spaces.Box(-2.0, 2.0, (2,))) == pytest.approx(0.5)  # geometric mean 1 of a range of 2
    assert relative_entropy(entropy, spaces.Box(-np.inf, np.inf, (2,))) == pytest.approx(1.0)
    assert relative_entropy(1e9, spaces.Box(-1.0, 1.0, (1,))) < math.inf

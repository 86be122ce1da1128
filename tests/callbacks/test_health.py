"""``HealthCallback`` on real runs: broken on purpose, each in one way, and healthy ones."""

import contextlib
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
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_gipo import GIPO, NonFiniteUpdateError
from sb3_gipo.callbacks import HealthCallback, HealthReport, HealthWarning
from sb3_gipo.callbacks.health import ENOUGH_EPISODES, ENOUGH_STEPS, NAMES, RewardSignal, relative_entropy
from sb3_gipo.learner import step
from tests.callbacks.runs import Memory, learn, make

PENDULUM: dict[str, Any] = {"gamma": 0.9, "learning_rate": 1e-3, "n_steps": 512}
SYMMETRIC: dict[str, Any] = {"surrogate_kwargs": {}}  # trust in which old samples fade, whatever their sign
BOTH = [PPO, GIPO]


class Broken(gym.Wrapper[Any, Any, Any, Any]):
    """Returns something else than the environment does, from a certain step on."""

    def __init__(self, env: gym.Env[Any, Any], what: str, at: int = 0) -> None:
        super().__init__(env)
        self.what, self.at, self.steps = what, at, 0

    def set_what(self, what: str) -> None:
        self.what = what

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
    if algorithm is GIPO:  # what PPO does; with more a ratio tail may be seen first
        kwargs = {**kwargs, "batch_size": 64, "gradient_steps": 10 * kwargs["n_steps"] // 64}
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
    callback, _, _ = train(algorithm, env_id, 6_000, "zero reward", n_steps=512, n_epochs=1)
    assert said(callback) == ["no_reward_signal"]
    assert "every reward was 0" in callback.reports[0].message
    assert "Check the reward function" in callback.reports[0].message


@pytest.mark.parametrize("normalize", [False, True])
def test_a_constant_reward(normalize: bool) -> None:
    """The same reward at every step says nothing where no episode ends early, and something where one does."""
    quick: dict[str, Any] = {"n_steps": 512, "n_epochs": 1, "normalize": normalize}
    callback = HealthCallback(ignore=only("no_reward_signal"))
    train(PPO, "Pendulum-v1", 6_000, "constant reward", 0, callback, **quick)
    assert "every reward was -1 and no episode ended early" in callback.reports[0].message
    callback = HealthCallback(ignore=only("no_reward_signal"))
    train(PPO, "CartPole-v1", 6_000, "constant reward", 0, callback, **quick)
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
    assert ended_by is not None or algorithm is PPO  # which may train on


def test_a_solved_cartpole_is_healthy() -> None:
    """Reward 1 at every step and no episode that ends early any more: once it did end early, that is success."""
    cut = [{"TimeLimit.truncated": True}]
    signal = RewardSignal()
    signal.see(np.ones(1), np.array([True]), [{}])
    for _ in range(2 * ENOUGH_EPISODES):
        signal.start_rollout()
        signal.see(np.ones(1), np.array([False]), [{}])
        signal.see(np.ones(1), np.array([True]), cut)
        assert not signal.teaches_nothing
    never = RewardSignal()
    for _ in range(2 * ENOUGH_EPISODES):
        never.start_rollout()
        never.see(np.ones(1), np.array([True]), cut)
    assert never.teaches_nothing


def test_how_much_must_be_seen_before_rewards_are_said_to_be_missing() -> None:
    """Twenty whole episodes, or as many steps where they do not end; one other reward begins the count again."""
    none, end = np.array([False, False]), np.array([True, True])
    signal = RewardSignal()
    for _ in range(ENOUGH_EPISODES // 2 - 1):
        signal.see(np.zeros(2), end, [{}, {}])
    assert not signal.teaches_nothing
    signal.see(np.zeros(2), end, [{}, {}])
    assert signal.teaches_nothing
    signal.see(np.array([0.0, 1.0]), none, [{}, {}])
    assert not signal.teaches_nothing
    signal.start_rollout()
    assert not signal.teaches_nothing
    for _ in range(ENOUGH_STEPS // 2):
        signal.see(np.zeros(2), none, [{}, {}])
    assert signal.teaches_nothing


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
        assert len(saved["advantages"]) == 128


def test_parameters_that_are_not_finite() -> None:
    """PPO fails inside its update, somewhere in a distribution; the callback says what happened."""
    callback = HealthCallback(ignore=["kl_runaway"])
    callback, _, ended_by = train(PPO, "Pendulum-v1", 4_000, "huge reward", 0, callback, n_steps=512)
    assert ended_by is not None
    assert said(callback) == ["non_finite"]
    assert "not finite" in callback.reports[0].message


def only(name: str) -> list[str]:
    return [other for other in NAMES if other != name]


@pytest.mark.filterwarnings("ignore::sb3_gipo.callbacks.HealthWarning")
@pytest.mark.parametrize(
    ("name", "kind", "kwargs"),
    [
        ("utilization_collapse", "ppo", {"learning_rate": 0.1, "n_epochs": 10}),
        ("utilization_collapse", "gipo", {"learning_rate": 0.1, "sigma": 0.1}),
        ("heavy_ratio_tail", "ppo", {"learning_rate": 0.1, "n_epochs": 10}),
        ("heavy_ratio_tail", "gipo", {"learning_rate": 0.1}),
        ("replay_too_old", "gipo", {**SYMMETRIC, "learning_rate": 0.03, "sigma": 0.02, "kl_coef": 0.0, "old_threshold": 1}),
        ("entropy_collapse", "ppo", {"action": "discrete", "learning_rate": 0.0}),
        ("value_not_explaining", "ppo", {"n_steps": 128, "learning_rate": 0.0}),
    ],
    ids=str,
)
def test_the_other_symptoms_in_real_runs(name: str, kind: str, kwargs: dict[str, Any]) -> None:
    """Each is seen in a run that has it, from what the run itself logs, and is said once."""
    model = make(kind, **kwargs)
    if name == "entropy_collapse":
        with th.no_grad():
            model.policy.action_net.bias[0] = 50.0
    callback = HealthCallback(ignore=only(name))
    learn(model, callback, iterations=15)
    assert said(callback) == [name]
    assert callback.reports[0].timesteps < 15 * model.n_steps * model.n_envs
    healthy = HealthCallback(ignore=only(name))
    learn(make(kind, **{**kwargs, "learning_rate": 1e-3, "sigma": 0.5} if kind == "gipo" else {"n_epochs": 1}), healthy)
    assert healthy.reports == []


def test_forbidden_actions_are_no_collapse() -> None:
    """Where all actions but one are forbidden, the policy has no choice and is none the worse."""
    model = make("maskable")
    model.env.envs[0].unwrapped.action_masks = lambda: np.array([True, False, False, False])
    model.env.envs[1].unwrapped.action_masks = lambda: np.array([True, False, False, False])
    callback = HealthCallback(ignore=only("entropy_collapse"))
    learn(model, callback, iterations=6)
    assert callback.reports == []


@pytest.mark.filterwarnings("ignore::sb3_gipo.callbacks.HealthWarning")
def test_an_environment_that_goes_on_returning_what_is_not_finite() -> None:
    """A broken environment that SB3 trains on with (VecNormalize clips infinity) is one episode, however long it lasts."""
    env = VecNormalize(DummyVecEnv([lambda: Broken(gym.make("Pendulum-v1"), "infinite reward", 100)]), training=False)
    model = PPO("MlpPolicy", env, n_steps=32, n_epochs=1, batch_size=32, seed=0, device="cpu")
    callback = HealthCallback(ignore=only("non_finite"))
    model.learn(32 * 40, callback=callback)
    assert [report.timesteps for report in callback.reports] == [100]


@pytest.mark.filterwarnings("ignore::sb3_gipo.callbacks.HealthWarning")
def test_which_minibatch_is_saved(tmp_path: Path) -> None:
    """Of skipped minibatches one of them; of a policy that has broken, the minibatch it could not evaluate."""
    model = make("gipo")
    skipped: list[th.Tensor] = []
    objective = step.objective

    def broken(policy: Any, batch: Any, how: Any) -> Any:
        terms, slope = objective(policy, batch, how)
        if len(skipped) % 3 != 2:
            slope = slope._replace(roots=[root * float("nan") for root in slope.roots])
        skipped.append(batch.advantages)
        return terms, slope

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "objective", broken)
        callback = HealthCallback(save_path=tmp_path / "gipo")
        learn(model, callback, iterations=2)
    report = next(report for report in callback.reports if report.symptom == "non_finite")
    assert "minibatches of this update had no finite gradient" in report.message
    assert report.batch is not None
    with np.load(report.batch) as saved:
        found = [i for i, advantages in enumerate(skipped) if np.array_equal(advantages.numpy(), saved["advantages"])]
    assert [i % 3 != 2 for i in found] == [True]
    model = make("ppo")
    callback = HealthCallback(save_path=tmp_path / "ppo", ignore=only("non_finite"))
    model.policy.optimizer.step = lambda: [p.data.fill_(float("nan")) for p in model.policy.parameters()]
    with pytest.raises(ValueError, match="nan"):
        learn(model, callback, iterations=1)
    assert callback.reports[0].batch is not None
    with np.load(callback.reports[0].batch) as saved:
        assert saved["observations"].shape == (16, 3)


def test_two_reports_at_once_are_both_in_the_log() -> None:
    """The text of a round holds everything that was said in it."""
    callback = HealthCallback(ignore=set(NAMES) - {"heavy_ratio_tail", "utilization_collapse"})
    with pytest.warns(HealthWarning):
        dumps = learn(make("gipo", learning_rate=0.1, sigma=0.1), callback, iterations=8)
    assert sorted(said(callback)) == ["heavy_ratio_tail", "utilization_collapse"]
    assert callback.reports[0].timesteps == callback.reports[1].timesteps
    (text,) = (dump["health/report"] for dump in dumps if "health/report" in dump)
    assert all(report.message in text for report in callback.reports)


def test_saving_that_fails_does_not_end_the_training(tmp_path: Path) -> None:
    """A folder that cannot be made is said, and training goes on."""
    (tmp_path / "file").write_text("in the way")
    callback = HealthCallback(save_path=tmp_path / "file")
    callback, _, ended_by = train(PPO, "CartPole-v1", 2_500, "zero reward", 0, callback, n_steps=256)
    assert ended_by is None
    assert "could not be saved" in callback.reports[0].message
    assert callback.reports[0].batch is None


def test_the_end_of_an_episode_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """With ``verbose=1``."""
    env = make_vec_env("CartPole-v1", n_envs=1, seed=0, wrapper_class=Broken, wrapper_kwargs={"what": "zero reward", "at": 0})
    model = PPO("MlpPolicy", env, n_steps=64, n_epochs=1, seed=0, device="cpu")
    callback = HealthCallback(verbose=1, ignore=only("no_reward_signal"))
    with pytest.warns(HealthWarning, match="No reward"):
        model.learn(64 * 20, callback=callback)
    env.envs[0].get_wrapper_attr("set_what")("")
    model.learn(64 * 12, callback=callback, reset_num_timesteps=False)
    assert "no_reward_signal is over after" in capsys.readouterr().out


def test_what_ppo_meets_outside_of_a_step() -> None:
    """A first observation, and a terminal one that is bootstrapped from, that are not finite: named at once."""

    class First(gym.Wrapper[Any, Any, Any, Any]):
        def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
            observation, info = self.env.reset(**kwargs)
            return observation * np.nan, info

    class Last(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            observation, reward, terminated, truncated, info = self.env.step(action)
            return observation * (np.nan if truncated else 1.0), reward, terminated, truncated, info

    for wrapper, words, at in ((First, "an observation", 0), (Last, "a terminal observation", 200)):
        model = PPO(
            "MlpPolicy", DummyVecEnv([lambda w=wrapper: w(gym.make("Pendulum-v1"))]), n_steps=256, n_epochs=1, device="cpu"
        )
        callback = HealthCallback(ignore=only("non_finite"))
        with (
            pytest.warns(HealthWarning, match=f"environment 0: the environment returned {words}"),
            contextlib.suppress(ValueError),
        ):
            model.learn(256, callback=callback)
        assert callback.reports[0].timesteps == at


def test_a_warning_points_to_the_users_line() -> None:
    """Not into our files, nor into SB3's."""
    model = make("ppo", learning_rate=10.0)
    with pytest.warns(HealthWarning) as caught, contextlib.suppress(ValueError):
        model.learn(1_000, callback=HealthCallback())
    assert {Path(warning.filename).name for warning in caught if warning.category is HealthWarning} == {"test_health.py"}


def test_zero_rewards_come_before_what_follows_from_them() -> None:
    """While nothing but zeros was seen, and too few to say so, nothing else is said either."""
    callback = HealthCallback()
    train(GIPO, "Pendulum-v1", 6_000, "zero reward", 0, callback, n_steps=256, learning_rate=3e-3)
    assert said(callback)[0] == "no_reward_signal"
    assert callback.reports[0].timesteps >= 20 * 200


def test_a_callback_for_two_models() -> None:
    """The second run starts with a clean sheet; a second ``learn`` of the same model goes on."""
    callback = HealthCallback(ignore=only("no_reward_signal"))
    for _ in range(2):
        env = make_vec_env(
            "CartPole-v1", n_envs=1, seed=0, wrapper_class=Broken, wrapper_kwargs={"what": "zero reward", "at": 0}
        )
        model = PPO("MlpPolicy", env, n_steps=256, n_epochs=1, seed=0, device="cpu")
        with pytest.warns(HealthWarning):
            model.learn(2_500, callback=callback)
        assert said(callback) == ["no_reward_signal"]
    model.learn(1_000, callback=callback, reset_num_timesteps=False)
    assert said(callback) == ["no_reward_signal"]


# --- what a user may ask of it --------------------------------------------------------------------------------------------


def test_the_offending_minibatch_is_saved(tmp_path: Path) -> None:
    """A whole minibatch, as plain arrays."""
    callback = HealthCallback(save_path=tmp_path / "a" / "b")
    callback, _, _ = train(GIPO, "CartPole-v1", 2_500, "zero reward", 0, callback, n_steps=256)
    report = callback.reports[0]
    assert report.batch == tmp_path / "a" / "b" / f"no_reward_signal_{report.timesteps}_steps.npz"
    assert str(report.batch) in report.message
    with np.load(report.batch) as saved:
        assert saved["observations"].shape == (128, 4)
        assert saved["version_gap"].shape == saved["log_ratio"].shape == saved["multiplier"].shape == (128,)
    assert list((tmp_path / "a" / "b").iterdir()) == [report.batch]


def test_stop_on() -> None:
    """Training ends soon after the report, in the usual way."""
    callback = HealthCallback(stop_on=["no_reward_signal"])
    callback, _, ended_by = train(PPO, "CartPole-v1", 20_000, "zero reward", 0, callback, n_steps=256)
    assert ended_by is None
    assert callback.model.num_timesteps == callback.reports[0].timesteps + 1
    assert callback.reports[0].timesteps < 2_500


def test_on_report_and_ignore(capsys: pytest.CaptureFixture[str]) -> None:
    """A function of one's own is told; what is ignored is not said."""
    told: list[HealthReport] = []
    callback = HealthCallback(on_report=told.append)
    train(PPO, "CartPole-v1", 2_500, "zero reward", 0, callback, n_steps=256)
    assert told == callback.reports
    assert [report.symptom for report in told] == ["no_reward_signal"]
    assert told[0].timesteps == told[0].since_timesteps + 2 * 256
    callback = HealthCallback(ignore=["no_reward_signal", "value_not_explaining", "entropy_collapse"])
    _, dumps, _ = train(PPO, "CartPole-v1", 2_500, "zero reward", 0, callback, n_steps=256)
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
    """Uniform is 1; a Gaussian is measured by its standard deviation against the one it began with."""
    assert relative_entropy(math.log(4), 0.0, spaces.Discrete(4)) == pytest.approx(1.0)
    assert relative_entropy(math.log(6), 0.0, spaces.MultiDiscrete([2, 3])) == pytest.approx(1.0)
    assert relative_entropy(math.log(2), 0.0, spaces.MultiBinary(2)) == pytest.approx(0.5)
    assert relative_entropy(0.0, 0.0, spaces.Discrete(1)) == 1.0

    def gaussian(*std: float) -> float:
        normal = th.distributions.Normal(th.zeros(len(std)), th.tensor(std))
        return float(th.distributions.Independent(normal, 1).entropy())

    box = spaces.Box(-200.0, 200.0, (2,))
    assert relative_entropy(gaussian(0.5, 2.0), gaussian(2.0, 2.0), box) == pytest.approx(0.5)  # geometric mean 1, of 2
    assert relative_entropy(gaussian(1.0, 1.0), gaussian(1.0, 1.0), box) == pytest.approx(1.0)
    assert relative_entropy(1e9, 0.0, box) < math.inf

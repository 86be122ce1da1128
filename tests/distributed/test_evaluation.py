"""Evaluations of actors' runs: the numbers of the policy that was evaluated, its step and version, its file; and failures."""

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.asynchronous.envs import SleepingEnv
from sb3_gipo import GIPO
from sb3_gipo.distributed import AsyncEvalCallback, AsyncGIPO, published
from sb3_gipo.rollouts.normalization import Normalizer
from tests.small_envs import SpaceEnv

SMALL: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 32,
    "gradient_steps": 4,
    "replay_capacity": 256,
    "learning_rate": 1e-2,
    "seed": 3,
    "device": "cpu",
    "num_actors": 1,
}


def serial(env: Any = "CartPole-v1", **kwargs: Any) -> AsyncGIPO:
    return AsyncGIPO("MlpPolicy", env, **{**SMALL, "backend": "serial", **kwargs})


class Kept(KVWriter):
    """What is logged, with its step."""

    def __init__(self) -> None:
        self.written: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.written.append((step, dict(key_values)))

    def close(self) -> None:
        """Nothing is open."""


def test_it_changes_nothing(tmp_path: Path) -> None:
    """A run that is evaluated is the run that is not, bit for bit, best models saved on the way included."""
    plain = serial(normalize=True).learn(640)
    files = {"log_path": str(tmp_path), "best_model_save_path": str(tmp_path)}
    watched = serial(normalize=True).learn(640, callback=AsyncEvalCallback("CartPole-v1", eval_freq=100, verbose=0, **files))
    for one, other in zip(plain.policy.state_dict().values(), watched.policy.state_dict().values(), strict=True):
        assert th.equal(one, other)
    ours, theirs = watched.get_vec_normalize_env(), plain.get_vec_normalize_env()
    assert (ours.obs_rms.mean == theirs.obs_rms.mean).all()


def test_numbers_step_and_version_belong_to_the_policy(tmp_path: Path) -> None:
    """The file is SB3's; the best model gives the best returns again, on the same environments, normalised as they were."""
    kept = Kept()
    model = serial(normalize=True, env_kwargs={"sutton_barto_reward": False})
    model.set_logger(Logger(folder=None, output_formats=[kept]))
    files = {"log_path": str(tmp_path), "best_model_save_path": str(tmp_path)}
    model.learn(960, callback=AsyncEvalCallback("CartPole-v1", n_eval_episodes=4, eval_freq=160, seed=50, verbose=0, **files))
    with np.load(tmp_path / "evaluations.npz") as file:
        found = {name: file[name] for name in file.files}
    assert found["timesteps"].tolist() == [160, 320, 480, 640, 800, 960]
    assert found["policy_versions"].tolist() == [4, 9, 14, 19, 24, 29]  # the update after the step has not been made yet
    assert found["results"].shape == found["ep_lengths"].shape == (6, 4)
    assert (found["results"] == found["ep_lengths"]).all()  # the environment's own reward, 1 a step
    logged = {step: values for step, values in kept.written if "eval/mean_reward" in values}
    assert [logged[step]["eval/mean_reward"] for step in found["timesteps"]] == found["results"].mean(axis=1).tolist()
    assert [logged[step]["eval/policy_version"] for step in found["timesteps"]] == found["policy_versions"].tolist()
    assert all("train/loss" not in values for values in logged.values())  # which is of another step
    best = int(found["results"].mean(axis=1).argmax())
    env = VecNormalize(make_vec_env("CartPole-v1", 1, seed=50), training=False, norm_reward=False)
    again = GIPO.load(tmp_path / "best_model", env=env, custom_objects={"policy_class": type(model.policy)})
    for _ in range(best):  # as many episodes as there had been by then
        evaluate_policy(again, env, 4)
    assert evaluate_policy(again, env, 4, return_episode_rewards=True)[0] == found["results"][best].tolist()


def test_a_good_policy_ends_the_run() -> None:
    """The callbacks of an evaluation are SB3's, and may stop it."""
    stop = StopTrainingOnRewardThreshold(reward_threshold=5.0)
    callback = AsyncEvalCallback("CartPole-v1", callback_on_new_best=stop, eval_freq=64, verbose=0)
    model = serial().learn(10_000, callback=callback)
    assert model.num_timesteps == 64
    assert callback.best_mean_reward >= 5.0


def test_successes_are_counted(tmp_path: Path) -> None:
    """Where the environment tells of them, by SB3's name."""

    class Succeeds(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, info = self.env.step(action)
            return observation, reward, terminated, truncated, {**info, "is_success": True}

    callback = AsyncEvalCallback(lambda: Succeeds(SpaceEnv()), eval_freq=32, log_path=str(tmp_path), verbose=0)
    serial(SpaceEnv).learn(64, callback=callback)
    with np.load(tmp_path / "evaluations.npz") as file:
        assert file["successes"].tolist() == [[True] * 5] * 2


def test_a_run_that_goes_on_adds_to_the_file(tmp_path: Path) -> None:
    """What was evaluated before stays, and is what a new best must beat."""
    files = {"log_path": str(tmp_path)}
    model = serial().learn(320, callback=AsyncEvalCallback("CartPole-v1", eval_freq=160, verbose=0, **files))
    model.save(tmp_path / "model")
    again = AsyncGIPO.load(tmp_path / "model", env="CartPole-v1")
    callback = AsyncEvalCallback("CartPole-v1", eval_freq=160, verbose=0, **files)
    again.learn(160, callback=callback, reset_num_timesteps=False)
    with np.load(tmp_path / "evaluations.npz") as file:
        assert file["timesteps"].tolist() == [160, 320, 480]
        assert callback.best_mean_reward == file["results"].mean(axis=1).max()


def test_a_better_model_is_not_replaced(tmp_path: Path) -> None:
    """Also where no file of evaluations tells of it: beside the model is written what it is worth."""
    files = {"best_model_save_path": str(tmp_path), "verbose": 0}
    model = serial().learn(320, callback=AsyncEvalCallback("CartPole-v1", eval_freq=160, **files))
    told = json.loads((tmp_path / "best_model.json").read_text())
    assert told.keys() == {"mean_reward", "timesteps", "policy_version"}
    (tmp_path / "best_model.json").write_text(json.dumps({**told, "mean_reward": 501.0}))  # more than there is
    before = (tmp_path / "best_model.zip").read_bytes()
    callback = AsyncEvalCallback("CartPole-v1", eval_freq=160, **files)
    model.learn(160, callback=callback, reset_num_timesteps=False)
    assert (callback.best_mean_reward, (tmp_path / "best_model.zip").read_bytes()) == (501.0, before)
    (tmp_path / "best_model.json").write_text("[]")
    with pytest.raises(ValueError, match="does not tell what the best model there is worth"):
        model.learn(160, callback=AsyncEvalCallback("CartPole-v1", eval_freq=160, **files), reset_num_timesteps=False)


def test_another_number_of_episodes_does_not_go_on(tmp_path: Path) -> None:
    """In one file all evaluations have the same number."""
    model = serial().learn(64, callback=AsyncEvalCallback("CartPole-v1", eval_freq=32, log_path=str(tmp_path), verbose=0))
    callback = AsyncEvalCallback("CartPole-v1", n_eval_episodes=3, eval_freq=32, log_path=str(tmp_path), verbose=0)
    with pytest.raises(ValueError, match="have 5 episodes each"):
        model.learn(64, callback=callback, reset_num_timesteps=False)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04cut off"])
def test_a_file_that_is_none_of_ours(tmp_path: Path, content: bytes) -> None:
    """It is neither added to nor replaced."""
    (tmp_path / "evaluations.npz").write_bytes(content)
    model = serial().learn(64)
    evaluation = AsyncEvalCallback("CartPole-v1", eval_freq=32, log_path=str(tmp_path), verbose=0)
    with pytest.raises(ValueError, match="none of `EvalCallback`'s files"):
        model.learn(64, callback=evaluation, reset_num_timesteps=False)
    assert (tmp_path / "evaluations.npz").read_bytes() == content


def test_one_that_was_interrupted_does_not_hold_up_the_next_run() -> None:
    """The same callback may be used again."""
    callback = AsyncEvalCallback("CartPole-v1", eval_freq=32, verbose=0)
    model = serial().learn(64, callback=callback)
    callback._submitted = published.publish(model.policy, 0, Normalizer(model.env)), 0.0  # as Ctrl-C leaves it
    model.learn(64, callback=callback, reset_num_timesteps=False)
    assert (len(callback.evaluations), callback.skipped, callback.failures) == (4, 0, 0)


class Breaks(SpaceEnv):
    """Raises at its first step."""

    def step(self, action: Any) -> Any:
        raise RuntimeError("no such simulator")


def test_a_failure_stops_evaluations_not_training() -> None:
    """It is shown with its traceback; after three in a row there are no more."""
    callback = AsyncEvalCallback(Breaks, eval_freq=32, verbose=0)
    with pytest.warns(RuntimeWarning, match=r"An evaluation failed; training goes on(?s:.*)no such simulator") as told:
        model = serial(SpaceEnv).learn(320, callback=callback)
    assert (model.num_timesteps, callback.failures) == (320, 3)
    assert "no further evaluations" in str(told[-1].message)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"eval_env": make_vec_env("CartPole-v1", 1)}, "SB3's EvalCallback"),
        ({"eval_freq": 0}, "eval_freq"),
        ({"n_eval_episodes": 2.5}, "n_eval_episodes"),
        ({"patience_seconds": 0}, "patience_seconds"),
    ],
)
def test_bad_input(kwargs: dict[str, Any], said: str) -> None:
    """Is refused at once."""
    with pytest.raises(ValueError, match=said):
        AsyncEvalCallback(**{"eval_env": "CartPole-v1", **kwargs})


def test_without_actors() -> None:
    """GIPO itself has none."""
    model = GIPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32)
    with pytest.raises(ValueError, match=r"needs an AsyncGIPO(?s:.*)EvalCallback"):
        model.learn(32, callback=AsyncEvalCallback("CartPole-v1"))


def test_beside_the_training(tmp_path: Path) -> None:
    """In a process of its own: training does not wait for a slow one, what comes too soon is left out and counted."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    try:
        callback = AsyncEvalCallback(
            partial(SleepingEnv, 0.002), n_eval_episodes=3, eval_freq=32, log_path=str(tmp_path), verbose=0
        )
        model = AsyncGIPO("MlpPolicy", partial(SleepingEnv, 0.0), **SMALL)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            model.learn(2048, callback=callback)
        model.close()
    finally:
        ray.shutdown()
    with np.load(tmp_path / "evaluations.npz") as file:
        steps, versions, results = file["timesteps"], file["policy_versions"], file["results"]
    assert 1 <= len(steps) == 2048 // 32 - callback.skipped
    assert callback.skipped >= 1  # training came so far that the next one was due, while one was under way
    assert (steps % 32 == 0).all()
    assert (versions == steps // 32 - 1).all()
    assert results.shape == (len(steps), 3)

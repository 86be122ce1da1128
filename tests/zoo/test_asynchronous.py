"""``--algo async_gipo``: what RL Zoo asks of any algorithm, with the environments in actors."""

import argparse
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import rl_zoo3.exp_manager
import torch as th
import yaml
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_gipo import GIPO
from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.zoo import hyperparameters, main, register
from tests.zoo.conftest import ROOT, run

SERIAL = {"backend": "serial", "num_actors": 1}
SMALL = {"n_envs": 2, "n_steps": 50, "batch_size": 50, "gradient_steps": 4, "replay_capacity": 400}
Manager = Any


def manager(algorithm: str, env_id: str, folder: Path, n_timesteps: int, trained_agent: str = "", **params: Any) -> Manager:
    """The Zoo's, as ``train`` makes it: evaluations every 200 steps, settings of ``gipo.yml`` and what is given."""
    register()
    return rl_zoo3.exp_manager.ExperimentManager(
        argparse.Namespace(n_timesteps=n_timesteps),
        algorithm,
        env_id,
        str(folder),
        n_timesteps=n_timesteps,
        eval_freq=200,
        n_eval_episodes=1,
        hyperparams={**SMALL, **params},
        trained_agent=trained_agent,
        seed=3,
        log_interval=-1,
        verbose=0,
        device="cpu",
    )


def trained(*args: Any, **params: Any) -> tuple[GIPO, Path]:
    """The model and the folder that a training leaves."""
    experiment = manager(*args, **params)
    model, _ = experiment.setup_experiment()
    experiment.learn(model)
    experiment.save_trained_model(model)
    return model, Path(experiment.save_path)


@pytest.mark.slow
def test_train_and_enjoy(installed: Path, tmp_path: Path) -> None:
    """Two actors on Ray leave what any algorithm leaves, and ``enjoy`` shows it with its normaliser."""
    common = ["--algo", "async_gipo", "--env", "Pendulum-v1"]
    settings = ["-params", "n_envs:2", "n_steps:50", "batch_size:50", "gradient_steps:4", "normalize:True", "publish_every:2"]
    arguments = ["-n", "1200", "--eval-freq", "400", "--eval-episodes", "1", "--save-freq", "600", "--save-replay-buffer"]
    run(installed, tmp_path, "train", *common, "--seed", "1", *arguments, *settings)
    folder = tmp_path / "logs" / "async_gipo" / "Pendulum-v1_1"
    model = AsyncGIPO.load(folder / "Pendulum-v1.zip")
    assert (model.num_actors, model.envs_per_actor, model.publish_every) == (2, 2, 2)
    assert (model.num_timesteps, model.policy_version) == (1200, 12)
    with np.load(folder / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [400, 800, 1200]
    assert {"rl_model_600_steps.zip", "replay_buffer_600_steps.pkl", "replay_buffer.pkl", "best_model.zip"} <= {
        path.name for path in folder.iterdir()
    }
    episodes = load_results(str(folder))
    assert len(episodes) in range(2, 7)
    assert set(episodes["l"]) == {200}
    printed = run(installed, tmp_path, "enjoy", *common, "-f", "logs", "-n", "200", "--no-render")
    assert "Loading running average" in printed
    assert "1 Episodes" in printed


def test_going_on(tmp_path: Path) -> None:
    """``-i``: step counter, versions, replay and statistics; with other numbers of environments too."""
    model, folder = trained("async_gipo", "Pendulum-v1", tmp_path, 400, normalize=True, **SERIAL)
    model.save_replay_buffer(folder / "replay_buffer.pkl")
    more = {"trained_agent": str(folder / "Pendulum-v1.zip"), "normalize": True, "num_actors": 2, "backend": "serial"}
    second, _ = trained("async_gipo", "Pendulum-v1", tmp_path, 200, **more)
    assert (second.num_timesteps, second.policy_version, second.num_actors) == (600, 6, 2)
    assert [segment.newest_version for segment in second.replay_buffer.segments] == [2, 3, 4, 5]
    assert second.get_vec_normalize_env().obs_rms.count == pytest.approx(model.get_vec_normalize_env().obs_rms.count + 204)
    (folder / "replay_buffer.pkl").unlink()
    third, _ = trained("async_gipo", "Pendulum-v1", tmp_path, 300, **{**more, "envs_per_actor": 3})
    assert (third.num_timesteps, third.n_envs) == (700, 3)


@pytest.mark.parametrize(
    "wrappers",
    [
        {},
        {"normalize": True, "env_wrapper": [{"gymnasium.wrappers.RescaleAction": {"min_action": -1, "max_action": 1}}]},
        {"normalize": True, "frame_stack": 2, "vec_env_wrapper": "stable_baselines3.common.vec_env.VecCheckNan"},
    ],
)
@pytest.mark.filterwarnings("ignore:A wrapper around VecNormalize")
def test_with_one_actor_without_lag_it_is_gipo(wrappers: dict[str, Any], tmp_path: Path) -> None:
    """Settings, seeds and all wrappers of the Zoo arrive in the actors: same parameters, statistics, episodes, bit for bit."""
    model, folder = trained("gipo", "Pendulum-v1", tmp_path, 1000, **wrappers)
    twin, of_twin = trained("async_gipo", "Pendulum-v1", tmp_path, 1000, **SERIAL, **wrappers)
    for name, value in model.policy.state_dict().items():
        assert th.equal(value, twin.policy.state_dict()[name]), name
    episodes, theirs = [[tuple(row) for row in load_results(str(each))[["r", "l"]].to_numpy()] for each in (folder, of_twin)]
    assert sorted(episodes) == sorted(theirs)
    assert len(episodes) == 4
    if "normalize" in wrappers:
        assert (model.get_vec_normalize_env().obs_rms.mean == twin.get_vec_normalize_env().obs_rms.mean).all()
        assert (of_twin / "Pendulum-v1" / "vecnormalize.pkl").is_file()


def test_evaluations_see_the_statistics_of_the_actors(tmp_path: Path) -> None:
    """Those gathered until then, not those of an environment that nobody stepped."""
    experiment = manager("async_gipo", "Pendulum-v1", tmp_path, 400, normalize=True, **SERIAL)
    model, _ = experiment.setup_experiment()
    experiment.learn(model)
    evaluated = experiment.callbacks[0].eval_env
    assert evaluated.obs_rms.count == pytest.approx(402, abs=0.1)
    assert (evaluated.training, evaluated.norm_reward) == (False, False)


def test_success_on_meta_world_is_logged(tmp_path: Path) -> None:
    """The monitors in the actors note it, the run's file has it, and goals are those of training."""
    experiment = manager("async_gipo", "MetaWorld/reach-v3", tmp_path, 1000, **SERIAL)
    model, _ = experiment.setup_experiment()
    experiment.learn(model)
    assert len(model.ep_success_buffer) == 2
    assert "is_success" in load_results(experiment.save_path).columns
    with np.load(Path(experiment.save_path) / "evaluations.npz") as evaluations:
        assert evaluations["successes"].shape[1] == 1
    make = cloudpickle.loads(cloudpickle.dumps(model.get_env().unwrapped.make))  # as it travels
    env = make(0, 0)
    env.reset()
    tasks = [each.unwrapped for each in env.unwrapped.envs]
    assert [task.goal_split.split_of(task.goal) for task in tasks] == ["train", "train"]
    env.close()


def test_every_actor_has_episodes_of_its_own(tmp_path: Path) -> None:
    """Two actors, and one that is started again, begin differently; ``--vec-env subproc`` reaches each of them."""
    experiment = manager("async_gipo", "Pendulum-v1", tmp_path, 400, **SERIAL)
    model, _ = experiment.setup_experiment()
    make = model.get_env().unwrapped.make
    first = np.concatenate([make(index, times).reset() for index, times in ((0, 0), (1, 0), (0, 1))])
    assert len(np.unique(first, axis=0)) == 6
    experiment.vec_env_class = SubprocVecEnv
    assert experiment.create_envs(2).unwrapped.make.manager.vec_env_class is SubprocVecEnv


def test_settings_are_those_of_gipo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every actor has the environments that GIPO has; an entry of its own comes first."""
    entry = yaml.safe_load((ROOT / "rl_zoo_hyperparams" / "gipo.yml").read_text())["CartPole-v1"]
    register()
    experiment = rl_zoo3.exp_manager.ExperimentManager(
        argparse.Namespace(n_timesteps=-1), "async_gipo", "CartPole-v1", str(tmp_path), eval_freq=-1, verbose=0
    )
    model, saved = experiment.setup_experiment()
    assert (model.num_actors, model.envs_per_actor, model.n_envs) == (2, entry["n_envs"], entry["n_envs"])
    assert (model.n_steps, model.batch_size) == (entry["n_steps"], entry["batch_size"])
    assert dict(saved) == entry
    other, _ = manager("async_gipo", "CartPole-v1", tmp_path, 100, envs_per_actor=3, rollout_length=100).setup_experiment()
    assert (other.n_envs, other.n_steps) == (3, 100)
    for name, entries in (("gipo", "default: {}"), ("async_gipo", "Pendulum-v1: {}")):
        (tmp_path / f"{name}.yml").write_text(entries)
    monkeypatch.setattr(hyperparameters, "FOLDERS", (tmp_path,))
    assert hyperparameters.conf_file("async_gipo", "Pendulum-v1") == tmp_path / "async_gipo.yml"
    assert hyperparameters.conf_file("async_gipo", "CartPole-v1") == tmp_path / "gipo.yml"


def test_what_was_found_for_gipo_can_be_trained_with() -> None:
    """``--trial-id``: settings of a trial of GIPO."""
    register()
    converters = rl_zoo3.exp_manager.HYPERPARAMS_CONVERTER
    assert converters["async_gipo"] is converters["gipo"]


@pytest.mark.parametrize("arguments", [["train", "-optimize"], ["tune", "-n", "1000"]])
def test_no_search_with_actors(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is made, with what to do instead."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--algo", "async_gipo", "--env", "CartPole-v1"])
    said = f"{caught.value} {capsys.readouterr().err}"
    assert "not searched for with --algo async_gipo" in said
    assert "Search with --algo gipo" in said
    assert not list(tmp_path.iterdir())


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said before anything is made; in this process it can be done all the same."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "sb3_gipo.distributed.ray_backend", raising=False)
    with pytest.raises(SystemExit, match=r"pip install 'sb3-gipo\[ray\]'.*backend:\"'serial'\""):
        manager("async_gipo", "CartPole-v1", tmp_path, 100).setup_experiment()
    assert not list(tmp_path.iterdir())
    assert trained("async_gipo", "CartPole-v1", tmp_path, 100, **SERIAL)[0].num_timesteps == 100

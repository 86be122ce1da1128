"""RL Zoo knows GIPO, is otherwise as it was, and a Zoo that is built differently is met with words."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import rl_zoo3.exp_manager
import rl_zoo3.hyperparams_opt
import rl_zoo3.utils
from stable_baselines3 import PPO

from sb3_gipo import GIPO
from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.zoo import ZooChangedError, children, main, meta_world, register, space
from tests.zoo.conftest import environment, run


def test_gipo_is_where_the_zoo_looks() -> None:
    """The tables of all modules, however often it is registered; nothing else in them changes."""
    before = dict(rl_zoo3.utils.ALGOS)
    register()
    register()
    assert rl_zoo3.ALGOS["gipo"] is rl_zoo3.utils.ALGOS["gipo"] is rl_zoo3.exp_manager.ALGOS["gipo"] is GIPO
    assert (
        rl_zoo3.hyperparams_opt.HYPERPARAMS_SAMPLER["gipo"] is rl_zoo3.exp_manager.HYPERPARAMS_SAMPLER["gipo"] is space.sample
    )
    assert rl_zoo3.hyperparams_opt.HYPERPARAMS_CONVERTER["gipo"] is space.convert
    assert rl_zoo3.ALGOS["async_gipo"] is AsyncGIPO
    ours = ("gipo", "async_gipo")
    assert {name: algorithm for name, algorithm in rl_zoo3.utils.ALGOS.items() if name not in ours} == {
        name: algorithm for name, algorithm in before.items() if name not in ours
    }
    assert rl_zoo3.utils.ALGOS["ppo"] is PPO


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        ("rl_zoo3.utils", "ALGOS", "rl_zoo3.utils has no `ALGOS`"),
        ("rl_zoo3.hyperparams_opt", "HYPERPARAMS_SAMPLER", "rl_zoo3.hyperparams_opt has no `HYPERPARAMS_SAMPLER`"),
        ("rl_zoo3.hyperparams_opt", "HYPERPARAMS_CONVERTER", "rl_zoo3.hyperparams_opt has no `HYPERPARAMS_CONVERTER`"),
        ("rl_zoo3.exp_manager", "ExperimentManager", "rl_zoo3.exp_manager has no `ExperimentManager`"),
        ("rl_zoo3.utils", "create_test_env", "rl_zoo3.utils has no `create_test_env`"),
    ],
)
def test_what_has_moved_is_named(module: str, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which part, of which version, and what to install."""
    register()
    monkeypatch.delattr(sys.modules[module], name)
    with pytest.raises(ZooChangedError, match=said) as caught:
        register()
    assert f"rl_zoo3 {rl_zoo3.__version__}" in str(caught.value)
    assert "pip install 'rl_zoo3==2.9.2'" in str(caught.value)


def test_a_table_of_another_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list where a table was."""
    monkeypatch.setattr(rl_zoo3.utils, "ALGOS", ["ppo"])
    with pytest.raises(ZooChangedError, match="no longer a table"):
        register()


def test_a_manager_that_lost_a_method_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And one whose method takes other arguments; at the command line it is a message and an exit code."""

    class Other:
        def __init__(self, args: Any, algo: str, env_id: str, config: str) -> None: ...

        def create_envs(self, n_envs: int) -> None: ...

    monkeypatch.setattr(rl_zoo3.exp_manager, "ExperimentManager", Other)
    with pytest.raises(ZooChangedError, match="create_envs does not take eval_env, no_log"):
        register()
    del Other.create_envs
    with pytest.raises(ZooChangedError, match="no `create_envs`"):
        register()
    assert main(["train"]) == 2
    assert "not built as this version of sb3-gipo expects" in capsys.readouterr().err


def test_a_command_that_moved_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where only the command itself is not where it was."""
    import rl_zoo3.train

    monkeypatch.delattr(rl_zoo3.train, "train")
    assert main(["train"]) == 2
    assert "has no attribute 'train'" in capsys.readouterr().err


def test_without_the_zoo(installed: Path, tmp_path: Path) -> None:
    """What to install, no traceback."""
    code = "import sys; sys.modules['rl_zoo3'] = None; from sb3_gipo.zoo import main; sys.exit(main(['train']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(installed), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'sb3-gipo[zoo]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_ppo_gives_the_zoos_own_numbers(installed: Path, tmp_path: Path) -> None:
    """Same seed, the Zoo's entry point and ours: parameters, evaluations, normaliser and settings agree to the last bit."""
    arguments = ["train", "--algo", "ppo", "--env", "Pendulum-v1", "-n", "1000", "--eval-freq", "400", "--eval-episodes", "2"]
    arguments += ["--seed", "3", "-params", "n_steps:250", "n_envs:2", "normalize:True", "learning_rate:'lin_1e-3'"]
    script = "from rl_zoo3.cli import main; main()"
    theirs = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path, env=environment(installed), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert theirs.returncode == 0, theirs.stderr
    run(installed, tmp_path, *arguments)
    one, two = (tmp_path / "logs" / "ppo" / f"Pendulum-v1_{number}" for number in (1, 2))
    models = [PPO.load(folder / "Pendulum-v1.zip") for folder in (one, two)]
    for name, value in models[0].policy.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), models[1].policy.state_dict()[name].numpy(), err_msg=name)
    with np.load(one / "evaluations.npz") as first, np.load(two / "evaluations.npz") as second:
        assert first.files == second.files
        for name in first.files:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    for name in ("config.yml", "vecnormalize.pkl"):
        assert (one / "Pendulum-v1" / name).read_bytes() == (two / "Pendulum-v1" / name).read_bytes(), name


def test_ids_and_folders() -> None:
    """Only Meta-World's names are exchanged, also behind an equals sign."""
    arguments = ["--env", "MetaWorld-reach-v3", "--env=MetaWorld-push-v3", "-f", "logs-MetaWorld-x", "CartPole-v1"]
    ids = ["--env", "MetaWorld/reach-v3", "--env=MetaWorld/push-v3", "-f", "logs-MetaWorld-x", "CartPole-v1"]
    assert meta_world.as_ids(arguments) == ids
    assert meta_world.as_folders(ids) == arguments
    others = ["-f", "MetaWorld-logs", "-i", "MetaWorld-reach-v3_1/best_model.zip", "MetaWorld/logs"]
    assert meta_world.as_ids(others) == meta_world.as_folders(others) == others


def test_goals_of_evaluation() -> None:
    """Meta-World is evaluated on its own goals unless a split is asked for; other environments are left alone."""
    assert meta_world.evaluation_kwargs("MetaWorld/reach-v3", None) == {"split": "eval"}
    assert meta_world.evaluation_kwargs("MetaWorld/reach-v3", {"split": "train"}) == {"split": "train"}
    assert meta_world.evaluation_kwargs("CartPole-v1", {"a": 1}) == {"a": 1}


def test_agents_are_shown_on_goals_of_evaluation() -> None:
    """The environment of enjoy, record_video and push_to_hub, by keyword and by position; other environments take no split."""
    register()
    create = rl_zoo3.utils.create_test_env
    assert create is rl_zoo3.create_test_env
    for env, split in (
        (create("MetaWorld/reach-v3", hyperparams={}, should_render=False), "eval"),
        (create("MetaWorld/reach-v3", 1, None, 0, None, False, {}, {"split": "train"}), "train"),
    ):
        env.reset()
        task = env.unwrapped.envs[0].unwrapped
        assert task.goal_split.split_of(task.goal) == split
        env.close()
    create("CartPole-v1", hyperparams={}, should_render=False).close()


def test_rewards_of_a_trial_are_normalised_with_its_discount(tmp_path: Path) -> None:
    """As they are when its settings are trained from: the Zoo reads the discount before it is drawn."""
    register()
    arguments = argparse.Namespace(n_timesteps=-1)
    manager = rl_zoo3.exp_manager.ExperimentManager(
        arguments, "gipo", "MetaWorld/reach-v3", str(tmp_path), eval_freq=-1, verbose=0, optimize_hyperparameters=True
    )
    manager.setup_experiment()
    trial = optuna.create_study().ask()
    space.suggest(trial, 1)
    manager._at.trial = trial
    env = manager.create_envs(1, no_log=True)
    assert env.gamma == 1 - trial.params["one_minus_gamma"] != 0.99
    env.close()


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        (["python", "-m", "rl_zoo3.record_video", "--env", "x"], ["record_video", "--env", "x"]),
        (["python", "enjoy.py", "-n", "1"], ["enjoy", "-n", "1"]),
    ],
)
def test_commands_of_commands_go_through_us(command: list[str], ours: list[str]) -> None:
    """With the Python that runs now; other commands are left alone."""
    assert children.through_us(command) == [sys.executable, "-m", "sb3_gipo.zoo", *ours]
    assert children.through_us(["ffmpeg", "-i", "x"]) == ["ffmpeg", "-i", "x"]
    assert children.through_us("python -m rl_zoo3.enjoy") == "python -m rl_zoo3.enjoy"


def test_evaluation_in_training_has_goals_of_its_own(tmp_path: Path) -> None:
    """Every goal met in an evaluation environment is one of evaluation, every one in training one of training."""
    register()
    manager = rl_zoo3.exp_manager.ExperimentManager(
        argparse.Namespace(n_timesteps=-1),
        "gipo",
        "MetaWorld/reach-v3",
        str(tmp_path),
        eval_freq=-1,
        verbose=0,
        log_interval=-1,
    )
    manager.setup_experiment()[0].env.close()
    for eval_env, split in ((False, "train"), (True, "eval")):
        env = manager.create_envs(2, eval_env=eval_env, no_log=True)
        for _ in range(3):
            env.reset()
            for each in env.unwrapped.envs:
                task = each.unwrapped
                assert task.goal_split.split_of(task.goal) == split
        env.close()

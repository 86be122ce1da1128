"""Every command of RL Zoo, as users run it, and what it leaves on disk."""

import pickle
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import yaml
from stable_baselines3.common.monitor import load_results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_gipo import GIPO
from tests.zoo import hub as local_hub
from tests.zoo.conftest import ROOT, environment, run

pytestmark = pytest.mark.slow

TASK = "MetaWorld/reach-v3"
NAME = "MetaWorld-reach-v3"
# Settings of a training that is over in seconds.
SMALL = ["-params", "n_envs:2", "n_steps:250", "batch_size:125", "n_epochs:1", "gradient_steps:4"]


@pytest.fixture(scope="module")
def cartpole(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which GIPO was trained on CartPole with all that a training leaves behind."""
    folder = tmp_path_factory.mktemp("cartpole")
    arguments = ["-n", "1024", "--eval-freq", "512", "--eval-episodes", "2", "--save-freq", "512", "--save-replay-buffer"]
    run(installed, folder, "train", "--algo", "gipo", "--env", "CartPole-v1", "--seed", "1", "-tb", "tb", "-P", *arguments)
    return folder


@pytest.fixture(scope="module")
def reach(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on a task of Meta-World, episodes included."""
    folder = tmp_path_factory.mktemp("reach")
    arguments = ["-n", "2000", "--eval-freq", "1000", "--eval-episodes", "2", "--seed", "1", *SMALL]
    run(installed, folder, "train", "--algo", "gipo", "--env", TASK, "-tb", "tb", *arguments)
    return folder


def is_picture(file: Path) -> bool:
    """A picture with something on it."""
    return len(np.unique(iio.imread(file))) > 5


def is_video(file: Path, frames: int) -> bool:
    """A video of about so many frames that are not all of one colour."""
    video = iio.imread(file, plugin="FFMPEG")
    return abs(len(video) - frames) <= 3 and video.std() > 1


def test_train_leaves_model_evaluations_and_settings(cartpole: Path) -> None:
    """Everything the Zoo promises is there, and the settings are those of ``gipo.yml``, read without ``-conf``."""
    folder = cartpole / "logs" / "gipo" / "CartPole-v1_1"
    model = GIPO.load(folder / "CartPole-v1.zip")
    assert (model.num_timesteps, model.policy_version) == (1024, 4)
    model.load_replay_buffer(folder / "replay_buffer.pkl")
    assert len(model.replay_buffer) == 1024
    with np.load(folder / "evaluations.npz") as evaluations:
        assert evaluations["timesteps"].tolist() == [512, 1024]
        assert evaluations["results"].shape == (2, 2)
    entry = yaml.safe_load((ROOT / "rl_zoo_hyperparams" / "gipo.yml").read_text())["CartPole-v1"]
    assert dict(yaml.unsafe_load((folder / "CartPole-v1" / "config.yml").read_text())) == entry
    assert model.sigma(0.5) == pytest.approx(0.25, rel=0.01)  # lin_0.5, half way
    assert "sb3_gipo.zoo train" in (folder / "CartPole-v1" / "command.txt").read_text()
    assert (folder / "rl_model_512_steps.zip").is_file()
    assert (folder / "replay_buffer_512_steps.pkl").is_file()
    assert (folder / "best_model.zip").is_file()
    assert list((cartpole / "tb" / "CartPole-v1" / "GIPO_1").glob("events*"))


def test_meta_world_logs_success_in_a_folder_of_the_task(reach: Path) -> None:
    """Monitor files, evaluations and normaliser of a task have a folder of their own, and success in them."""
    folder = reach / "logs" / "gipo" / f"{NAME}_1"
    assert "is_success" in load_results(str(folder)).columns
    with np.load(folder / "evaluations.npz") as evaluations:
        assert evaluations["successes"].shape == (2, 2)
    assert (folder / NAME / "vecnormalize.pkl").is_file()
    log = EventAccumulator(str(reach / "tb" / NAME / "GIPO_1")).Reload()
    assert {"rollout/success_rate", "eval/success_rate"} <= set(log.Tags()["scalars"])


def test_enjoy_prints_success_on_goals_of_evaluation(installed: Path, reach: Path) -> None:
    """Episodes and success rate; the environment is told to take goals that are never trained on."""
    printed = run(
        installed, reach, "enjoy", "--algo", "gipo", "--env", TASK, "-f", "logs", "-n", "500", "--no-render",
        "--reward-log", "rewards",
    )  # fmt: skip
    assert "Success rate:" in printed
    assert "1 Episodes" in printed
    assert len(pd.read_csv(reach / "rewards" / "0.monitor.csv", skiprows=1)) == 1


def test_enjoy_shows_a_window(installed: Path, reach: Path) -> None:
    """Rendering for people works on Meta-World too (here for a display that is not there)."""
    run(installed, reach, "enjoy", "--algo", "gipo", "--env", NAME, "-f", "logs", "-n", "3", SDL_VIDEODRIVER="dummy")


def test_record_video(installed: Path, reach: Path) -> None:
    """A video of the arm."""
    run(installed, reach, "record_video", "--algo", "gipo", "--env", TASK, "-f", "logs", "-n", "5", "-o", "videos")
    (video,) = (reach / "videos").glob("*.mp4")
    assert is_video(video, 6)


def test_record_training(installed: Path, cartpole: Path) -> None:
    """Videos of all checkpoints, one of them together, and that as a GIF; without an ffmpeg of the system."""
    printed = run(
        installed, cartpole, "record_training", "--algo", "gipo", "--env", "CartPole-v1", "-f", "logs", "-n", "10", "--gif",
        PATH=str(Path(sys.executable).parent),
    )  # fmt: skip
    assert printed.count("Building video") == 4  # a replay beside a checkpoint is not taken for another one
    videos = cartpole / "logs" / "gipo" / "CartPole-v1_1" / "videos"
    # two checkpoints, the final and the best model
    assert len(list(videos.glob("*-gipo-CartPole-v1-*.mp4"))) == 4
    assert is_video(videos / "training.mp4", 4 * 10)
    assert (videos / "training.gif").stat().st_size > 1000


def test_benchmark(installed: Path, reach: Path) -> None:
    """A table of all trained agents, though the Zoo would run a script that only its repository has."""
    arguments = ["--log-dir", "logs", "--benchmark-dir", "bench", "--no-hub", "-n", "1000", "--num-threads", "1"]
    run(installed, reach, "benchmark", *arguments)
    row = next(line for line in (reach / "benchmark.md").read_text().splitlines() if NAME in line)
    algorithm, _, mean = [cell.strip() for cell in row.strip("|").split("|")][:3]
    assert algorithm == "gipo"
    returns = pd.read_csv(reach / "bench" / f"gipo-{NAME}" / "0.monitor.csv", skiprows=1)["r"]
    assert float(mean) == pytest.approx(returns.mean(), abs=0.01)


def test_plots(installed: Path, reach: Path) -> None:
    """Training curve, gathered evaluations, plot of what was gathered: pictures, though there is no display."""
    common = ["-e", TASK, "-f", "logs"]
    run(installed, reach, "plot_train", "-a", "gipo", *common, "-y", "success", "-w", "2")
    assert is_picture(reach / "plots" / "plot_train_Training_Success_Rate.png")
    arguments = ["-a", "gipo", *common, "-k", "successes", "--no-million", "-o", "gathered", "--pictures", "seen"]
    run(installed, reach, "all_plots", *arguments)
    assert is_picture(reach / "seen" / f"all_plots_Results_{NAME}.png")
    with (reach / "gathered.pkl").open("rb") as file:
        gathered = pickle.load(file)
    assert gathered[NAME]["GIPO-logs"]["timesteps"].tolist() == [1000, 2000]
    run(installed, reach, "plot_from_file", "-i", "gathered", "-o", "bars.svg")
    assert "<svg" in (reach / "bars.svg").read_text()
    assert is_picture(reach / "plots" / "plot_from_file_Sensitivity_plot.png")


def test_hub_there_and_back(installed: Path, cartpole: Path, tmp_path: Path) -> None:
    """An agent is pushed with a card and a video, fetched again, and acts as before; the card's commands know GIPO."""
    with local_hub.running() as hub:
        settings = {
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": "hf_test",
            "HF_HOME": str(tmp_path / "home"),
            "TRUST_REMOTE_CODE": "1",
        }
        common = ["--algo", "gipo", "--env", "CartPole-v1", "-orga", "somebody"]
        run(installed, cartpole, "push_to_hub", *common, "-f", "logs", "-n", "10", **settings)
        files = hub.repositories["somebody/gipo-CartPole-v1"]
        run(installed, tmp_path, "load_from_hub", *common, "-f", "fetched", **settings)
    card = files["README.md"].decode()
    assert "python -m sb3_gipo.zoo enjoy --algo gipo" in card
    assert "rl_zoo3.enjoy" not in card
    assert "name: GIPO" in card  # its entry among the Hub's results
    (tmp_path / "replay.mp4").write_bytes(files["replay.mp4"])
    assert is_video(tmp_path / "replay.mp4", 11)
    there = GIPO.load(cartpole / "logs" / "gipo" / "CartPole-v1_1" / "CartPole-v1.zip")
    back = GIPO.load(tmp_path / "fetched" / "gipo" / "CartPole-v1_1" / "CartPole-v1.zip")
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        there.predict(observations, deterministic=True)[0], back.predict(observations, deterministic=True)[0]
    )


def test_as_a_command_of_the_package(installed: Path, tmp_path: Path) -> None:
    """``sb3-gipo zoo ...`` is the same; without a command both list what there is."""
    script = "import sys; from sb3_gipo.cli import main; sys.exit(main())"
    printed = []
    for arguments in (["train", "--help"], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "zoo", *arguments],
            cwd=tmp_path, env=environment(installed), capture_output=True, text=True, check=True,
        )  # fmt: skip
        printed.append(done.stdout)
    assert "gipo" in printed[0]
    assert "record_training" in printed[1]


def test_unknown_command_and_environment(installed: Path, tmp_path: Path) -> None:
    """What is wrong and what there is, before anything is written."""
    assert "there is no command 'tarin'" in run(installed, tmp_path, "tarin", code=2)
    assert "maybe meant MetaWorld/reach-v3" in run(
        installed, tmp_path, "train", "--algo", "gipo", "--env", "MetaWorld/reac-v3", code=1
    )
    assert not list(tmp_path.iterdir())


def test_processes_for_environments(installed: Path, tmp_path: Path) -> None:
    """``--vec-env subproc``: workers find the ids of Meta-World."""
    arguments = [
        "-n",
        "500",
        "--eval-freq",
        "-1",
        "--vec-env",
        "subproc",
        "-params",
        "n_envs:2",
        "n_steps:250",
        "gradient_steps:1",
    ]
    run(installed, tmp_path, "train", "--algo", "gipo", "--env", TASK, *arguments)
    assert (tmp_path / "logs" / "gipo" / f"{NAME}_1" / f"{NAME}.zip").is_file()

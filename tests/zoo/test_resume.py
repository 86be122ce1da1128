"""``-i`` goes on where a training stopped, also where it was killed."""

import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_gipo import GIPO
from sb3_gipo.zoo import resume
from tests.zoo.conftest import command, environment, run

SETTINGS = (
    "CartPole-v1:\n  n_envs: 2\n  n_timesteps: 4000\n  policy: MlpPolicy\n  n_steps: 50\n  batch_size: 50\n  n_epochs: 1\n"
    "  normalize: true\n  sigma: lin_0.5\n  learning_rate: lin_1e-3\n  replay_capacity: 400\n"
)
TRAIN = ["train", "--algo", "gipo", "--env", "CartPole-v1", "-conf", "settings.yml", "--seed", "1"]
CHECKPOINTS = ["--save-freq", "100", "--save-replay-buffer", "--eval-freq", "500", "--eval-episodes", "1"]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest one that was saved with its replay."""
    models = sorted(folder.glob("rl_model_*_steps.zip"), key=lambda path: int(path.name.split("_")[2]))
    complete = [model for model in models if resume.replay_of(model) is not None]
    return complete[-1] if complete else None


def kill_after(site: Path, folder: Path, steps: int) -> Path:
    """Start a training and kill it once it has a checkpoint of so many steps; that checkpoint."""
    (folder / "settings.yml").write_text(SETTINGS)
    process = subprocess.Popen(
        command(*TRAIN, *CHECKPOINTS), cwd=folder, env=environment(site), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    run_folder = folder / "logs" / "gipo" / "CartPole-v1_1"
    while time.monotonic() < deadline:
        checkpoint = newest_checkpoint(run_folder)
        if checkpoint is not None and int(checkpoint.name.split("_")[2]) >= steps:
            break
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    checkpoint = newest_checkpoint(run_folder)
    assert checkpoint is not None
    assert not (run_folder / "CartPole-v1.zip").exists()
    return checkpoint


@pytest.mark.slow
def test_a_killed_training_goes_on(installed: Path, tmp_path: Path) -> None:
    """Step counter, replay, normaliser and schedules continue, and it ends where the first one would have ended."""
    checkpoint = kill_after(installed, tmp_path, 800)
    stopped = GIPO.load(checkpoint)
    printed = run(installed, tmp_path, *TRAIN, "--save-replay-buffer", "--eval-freq", "-1", "-tb", "tb", "-i", str(checkpoint))
    assert f"Going on at step {stopped.num_timesteps} for {4000 - stopped.num_timesteps} steps" in printed
    folder = tmp_path / "logs" / "gipo" / "CartPole-v1_2"
    model = GIPO.load(folder / "CartPole-v1.zip")
    assert model.num_timesteps == 4000
    assert model.policy_version == stopped.policy_version + (4000 - stopped.num_timesteps) // 100
    # the schedules are those of one training of 4,000 steps: at their end
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * (1 - 4000 / 4000), abs=1e-9)
    assert model._current_progress_remaining == pytest.approx(0.0)
    log = EventAccumulator(str(next((tmp_path / "tb" / "CartPole-v1").iterdir()))).Reload()
    for key, start in (("train/learning_rate", 1e-3), ("train/sigma", 0.5)):
        steps = {event.step: event.value for event in log.Scalars(key)}
        assert min(steps) == stopped.num_timesteps + 200  # what an update was made with is written after the next rollout
        for step, value in steps.items():
            assert value == pytest.approx(
                start * (1 - (step - 100) / 4000), abs=1e-6 if start < 0.1 else 1e-3
            )  # a width ends at 0.001
    model.load_replay_buffer(folder / "replay_buffer.pkl")
    versions = [segment.newest_version for segment in model.replay_buffer.segments]
    assert versions == list(range(model.policy_version - 4, model.policy_version))
    # the normaliser counts all steps of both trainings (and a reset of the two environments each)
    counts = [each._checkpoint["normalizer"]["obs_rms"].count for each in (stopped, model)]
    assert counts[1] - counts[0] == pytest.approx(4000 - stopped.num_timesteps, abs=2.1)


@pytest.mark.slow
def test_so_many_further_steps(installed: Path, tmp_path: Path) -> None:
    """``-n`` asks for so many further steps, and the replay that goes on is that of the checkpoint."""
    checkpoint = kill_after(installed, tmp_path, 2000)
    steps = GIPO.load(checkpoint).num_timesteps
    run(installed, tmp_path, *TRAIN, *CHECKPOINTS, "-n", "200", "-i", str(checkpoint))
    folder = tmp_path / "logs" / "gipo" / "CartPole-v1_2"
    after = GIPO.load(folder / f"rl_model_{steps + 200}_steps.zip")
    assert after.num_timesteps == steps + 200
    assert after._total_timesteps == steps + 200
    replay = resume.replay_of(folder / f"rl_model_{steps + 100}_steps.zip")
    assert replay is not None
    after.load_replay_buffer(replay)
    versions = [segment.newest_version for segment in after.replay_buffer.segments]
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert len(versions) == 4  # full at once: 400 transitions of 100 each, most of them from before


@pytest.mark.slow
def test_without_a_replay_it_says_so(installed: Path, tmp_path: Path) -> None:
    """A model saved without its replay, and the best model, go on with an empty one; the normaliser goes on all the same."""
    (tmp_path / "settings.yml").write_text(SETTINGS)
    run(installed, tmp_path, *TRAIN, "-n", "400", "--eval-freq", "200", "--eval-episodes", "1", "--save-replay-buffer")
    first = tmp_path / "logs" / "gipo" / "CartPole-v1_1"
    printed = run(installed, tmp_path, *TRAIN, "-n", "100", "--eval-freq", "-1", "-i", str(first / "best_model.zip"))
    assert "without a replay (the best model has none of its own)" in printed
    (first / "replay_buffer.pkl").unlink()
    printed = run(installed, tmp_path, *TRAIN, "-n", "100", "--eval-freq", "-1", "-i", str(first / "CartPole-v1.zip"))
    assert "without a replay: none was saved with it (--save-replay-buffer does" in printed
    model = GIPO.load(tmp_path / "logs" / "gipo" / "CartPole-v1_3" / "CartPole-v1.zip")
    assert model.num_timesteps == 500
    assert model._checkpoint["normalizer"]["obs_rms"].count == pytest.approx(500, abs=5)


@pytest.mark.slow
def test_a_replay_that_will_not_do_is_named(installed: Path, tmp_path: Path) -> None:
    """A damaged replay, a damaged model: the user's file, no traceback, and how to go on."""
    (tmp_path / "settings.yml").write_text(SETTINGS)
    run(installed, tmp_path, *TRAIN, "-n", "200", "--eval-freq", "-1", "--save-replay-buffer")
    folder = tmp_path / "logs" / "gipo" / "CartPole-v1_1"
    for name in ("replay_buffer.pkl", "CartPole-v1.zip"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        printed = run(installed, tmp_path, *TRAIN, "-i", "logs/gipo/CartPole-v1_1/CartPole-v1.zip", code=1)
        assert "Traceback" not in printed
        assert "Cannot go on from logs/gipo/CartPole-v1_1/CartPole-v1.zip" in printed
        assert "sb3_gipo_resume_" not in printed
        assert "To go on without the replay, move logs/gipo/CartPole-v1_1/replay_buffer.pkl away" in printed
        (folder / name).write_bytes(whole)


def test_which_replay_belongs_to_a_model(tmp_path: Path) -> None:
    """A checkpoint's own, the final model's, none for the best one."""
    names = ["rl_model_100_steps.zip", "replay_buffer_100_steps.pkl", "rl_model_200_steps.zip", "replay_buffer.pkl"]
    for name in [*names, "CartPole-v1.zip", "best_model.zip"]:
        (tmp_path / name).touch()
    found = {name: resume.replay_of(tmp_path / name) for name in (names[0], names[2], "CartPole-v1.zip", "best_model.zip")}
    assert found == {
        names[0]: tmp_path / names[1],
        names[2]: None,
        "CartPole-v1.zip": tmp_path / names[3],
        "best_model.zip": None,
    }


def test_steps_that_remain() -> None:
    """As asked; to the end of what was stopped; what is configured after an end that was reached."""
    model = GIPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1).learn(128)
    assert resume.remaining_steps(model, 50, 1000) == 50
    assert resume.remaining_steps(model, None, 1000) == 1000
    model._total_timesteps = 500
    assert resume.remaining_steps(model, None, 1000) == 500 - 128


def test_a_model_that_goes_on_is_saved_as_itself(tmp_path: Path) -> None:
    """What the Zoo is handed to learn with counts on, and leaves nothing in the model's file."""
    model = GIPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1, seed=0).learn(64)
    going_on = resume.GoesOn(model)
    assert going_on.env is model.env
    going_on.learn(64)
    assert model.num_timesteps == 128
    model.save(tmp_path / "model")
    assert np.isfinite(GIPO.load(tmp_path / "model").predict(np.zeros(4, dtype=np.float32))[0])

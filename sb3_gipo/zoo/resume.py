"""What ``-i`` needs so that GIPO goes on where it stopped: the right replay, the step counter, the end of its schedules."""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import CheckpointCallback

from sb3_gipo.replay_algorithm import ReplayOnPolicyAlgorithm

CHECKPOINT = re.compile(r"rl_model_(\d+)_steps\.zip")


class CheckpointsWithReplay(CheckpointCallback):
    """
    RL Zoo's checkpoints, each with the replay that belongs to it.

    Its name does not begin as that of a model: `record_training` takes every file that does for one.
    """

    def __init__(self, checkpoints: CheckpointCallback) -> None:
        """
        :param checkpoints: the Zoo's
        """
        super().__init__(
            checkpoints.save_freq,
            checkpoints.save_path,
            checkpoints.name_prefix,
            save_replay_buffer=True,
            verbose=checkpoints.verbose,
        )

    def _checkpoint_path(self, checkpoint_type: str = "", extension: str = "") -> str:
        if checkpoint_type != "replay_buffer_":
            return super()._checkpoint_path(checkpoint_type, extension)
        return os.path.join(self.save_path, f"{checkpoint_type}{self.num_timesteps}_steps.{extension}")


def replay_of(model: Path) -> Path | None:
    """
    :param model: file of a model as the Zoo leaves it
    :return: the replay that was saved with it; ``None``: none was
    """
    checkpoint = CHECKPOINT.fullmatch(model.name)
    if checkpoint is not None:
        replay = model.with_name(f"replay_buffer_{checkpoint[1]}_steps.pkl")
    elif model.name == "best_model.zip":  # the only replay beside it is of a later policy
        return None
    else:
        replay = model.with_name("replay_buffer.pkl")
    return replay if replay.is_file() else None


class Stage:
    """
    A folder that holds a model and its own replay under the names the Zoo looks for.

    In the folder of a run the Zoo would find the replay of its end and the normaliser of its best evaluation, whichever model
    is asked for; a model of GIPO has the statistics of its normaliser with it.
    """

    def __init__(self, model: Path) -> None:
        """
        :param model: file to go on from
        """
        self._folder = tempfile.TemporaryDirectory(prefix="sb3_gipo_resume_")
        self.model = Path(self._folder.name) / model.name
        replay = replay_of(model)
        _put(model, self.model)
        if replay is not None:
            _put(replay, self.model.with_name("replay_buffer.pkl"))
        self._original, self._replay = model, replay
        print(f"Going on from {model}, " + (f"replay {replay.name}" if replay else _why_no_replay(model)))

    def explain(self, error: Exception) -> str:
        """
        :param error: with which the model or its replay could not be loaded
        :return: what it is about, under the names of the files that the user knows
        """
        text = str(error)
        if self._replay is not None:
            text = text.replace(str(self.model.with_name("replay_buffer.pkl")), str(self._replay))
        text = text.replace(str(self.model), str(self._original))
        hint = f" To go on without the replay, move {self._replay} away." if self._replay is not None else ""
        return f"Cannot go on from {self._original}: {text}{hint}"


def _put(source: Path, target: Path) -> None:
    """A link: a replay may be large. A copy where links are not to be had."""
    try:
        os.symlink(source.resolve(), target)
    except OSError:
        shutil.copy(source, target)


def _why_no_replay(model: Path) -> str:
    if model.name == "best_model.zip":
        return "without a replay (the best model has none of its own)"
    return "without a replay: none was saved with it (--save-replay-buffer does, with --save-freq in checkpoints too)"


def remaining_steps(model: ReplayOnPolicyAlgorithm, asked: int | None, configured: int) -> int:
    """
    :param model: loaded
    :param asked: ``-n`` of the command line: so many further steps; ``None``: it was not given
    :param configured: number of steps of the settings
    :return: steps to go: as asked; else to the end of the training that was stopped; else, where it had reached its end,
        as many further ones as are configured
    """
    if asked is not None:
        return asked
    remaining = model._total_timesteps - model.num_timesteps
    return remaining if remaining > 0 else configured


class GoesOn:
    """A model whose ``learn`` goes on counting: the Zoo asks for nothing else than ``learn`` and its attributes."""

    def __init__(self, model: ReplayOnPolicyAlgorithm) -> None:
        """
        :param model: loaded
        """
        self._model = model

    def learn(self, total_timesteps: int, **kwargs: Any) -> None:
        """
        :param total_timesteps: further steps
        :param kwargs: further arguments of the model's ``learn``
        """
        self._model.learn(total_timesteps, reset_num_timesteps=False, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

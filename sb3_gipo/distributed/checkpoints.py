"""What a learner leaves behind every so often, so that another process can go on where it was killed."""

import errno
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from stable_baselines3.common.callbacks import BaseCallback

_FINISHED = re.compile(r"steps_(\d+)_version_(\d+)")
_MODEL, _REPLAY = "model.zip", "replay.pkl"
_NO_ROOM_OR_LOCKS = (errno.ENOSPC, errno.EDQUOT, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class Saveable(Protocol):
    """What of a model is looked at here."""

    num_timesteps: int
    policy_version: int

    def save(self, path: Path) -> None:
        """Parameters, optimizer, generators, normaliser."""

    def save_replay_buffer(self, path: Path) -> None:
        """The replay."""


class Checkpoints:
    """
    Checkpoints in one folder, each a folder of its own that has its name only when it is whole: a kill at any moment leaves
    the one before it or the new one.

    :param folder: for nothing else; made where it is missing
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def newest(self) -> Path | None:
        """
        :return: the latest whole checkpoint; ``None``: there is none
        """
        return max(self._finished(), key=_order, default=None)

    def to_resume(self) -> Path:
        """
        :return: as :meth:`newest`
        :raises FileNotFoundError: where there is none
        :raises ValueError: where a file of it is missing or cut off
        """
        there = self.newest()
        if there is None:
            raise FileNotFoundError(
                f"There is no checkpoint in {str(self.folder)!r}. A run that was made with this `checkpoint_path` leaves its "
                "first one after `checkpoint_seconds`, at its end, or on SIGTERM."
            )
        if not zipfile.is_zipfile(model_in(there)) or not replay_in(there).is_file():
            raise ValueError(
                f"The checkpoint {str(there)!r} is damaged: {_MODEL} or {_REPLAY} in it is missing or cut off. Each is "
                "written whole, so that something else has changed it. Restore it, or remove it and begin anew."
            )
        return there

    def say(self) -> str:
        """
        :return: where a run that has ended goes on
        """
        there = self.newest()
        if there is None:
            return "No checkpoint: nothing had arrived yet."
        return f"Checkpoint: {there}. `AsyncGIPO.resume({str(self.folder)!r}, env)` goes on from it."

    def refuse_others(self) -> None:
        """
        For a run that begins.

        :raises ValueError: where there is a checkpoint: of another run
        """
        there = self.newest()
        if there is not None:
            raise ValueError(
                f"`checkpoint_path` holds a checkpoint of another run ({there}), which the first one of this run would "
                f"replace. Go on with it by `AsyncGIPO.resume({str(self.folder)!r}, env)`, or give a folder of this run's own."
            )

    def write(self, model: Saveable) -> Path:
        """
        Write one, then remove those before it.

        :param model: between two iterations
        :return: the checkpoint
        :raises OSError: where it cannot be written; those before it are still there then
        """
        place = self.folder / f"steps_{model.num_timesteps}_version_{model.policy_version}"
        if not place.exists():
            unfinished = self.folder / f".{place.name}.{os.getpid()}.tmp"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            try:
                model.save(unfinished / _MODEL)
                model.save_replay_buffer(unfinished / _REPLAY)
                for path in (*unfinished.iterdir(), unfinished):
                    _to_disk(path)
                unfinished.rename(place)
                _to_disk(self.folder)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
        self._remove_all_but(place)
        return place

    def try_to_write(self, model: Saveable) -> bool:
        """
        As :meth:`write`; where that is not possible it is said, as a training is worth more than a checkpoint.

        :param model: between two iterations
        :return: whether there is one
        """
        try:
            self.write(model)
        except OSError as error:
            warnings.warn(
                f"No checkpoint could be written in {str(self.folder)!r} ({error}). The one before, where there was one, is "
                "still there; training goes on, and the next one is tried later. Make room, or see who may write there.",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        return True

    def _finished(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return [path for path in self.folder.iterdir() if _FINISHED.fullmatch(path.name) and path.is_dir()]

    def _remove_all_but(self, kept: Path) -> None:
        """With what was left half-written by processes that were killed."""
        for path in self.folder.iterdir():
            half_written = path.name.startswith(".steps_") and path.name.endswith(".tmp")
            if path != kept and (half_written or _FINISHED.fullmatch(path.name)):
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def claimed(folder: str | None) -> Iterator[None]:
    """
    One run at a time leaves checkpoints in a folder. The system lets go of it when the process ends, however it ends.

    :param folder: is made where there is none; ``None``: nothing is claimed
    :raises RuntimeError: where another run is at work there
    :raises ValueError: where that is no folder, or none to write in
    """
    if folder is None:
        yield
        return
    lock = FileLock(Path(folder, ".lock"))
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(
            f"Another run that is under way leaves its checkpoints in {folder!r}: each would remove those of the other. Wait "
            "for it or end it, or give this run a `checkpoint_path` of its own."
        ) from None
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_ROOM_OR_LOCKS:  # else training is worth more than a checkpoint, or a lock
            raise ValueError(
                f"`checkpoint_path` is {folder!r}, where no checkpoint can be written ({error}). Give a folder, which is made "
                "where there is none, in a place where this user may write; `None`: no checkpoints."
            ) from error
    try:
        yield
    finally:
        lock.release()


class AtTheEnd(BaseCallback):
    """
    The first of the callbacks: others may wait for something at the end, such as an evaluation.

    :param write: leaves a checkpoint
    """

    def __init__(self, write: Callable[[], None]) -> None:
        super().__init__()
        self._write = write

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._write()


def model_in(checkpoint: Path) -> Path:
    """
    :param checkpoint: of :class:`Checkpoints`
    :return: file of its model
    """
    return checkpoint / _MODEL


def replay_in(checkpoint: Path) -> Path:
    """
    :param checkpoint: of :class:`Checkpoints`
    :return: file of its replay
    """
    return checkpoint / _REPLAY


def _order(checkpoint: Path) -> tuple[int, int]:
    found = _FINISHED.fullmatch(checkpoint.name)
    assert found is not None
    return int(found[2]), int(found[1])  # steps may begin anew (`reset_num_timesteps`), versions never do


def _to_disk(path: Path) -> None:
    """So that the name is not there before the content after a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

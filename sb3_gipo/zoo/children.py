"""Commands of RL Zoo that run further commands: those go through this package too, with the Python that runs now."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from sb3_gipo.zoo import meta_world


def through_us(command: Any) -> Any:
    """
    :param command: as given to ``subprocess.call``
    :return: the same command of RL Zoo through this package; anything else as it is
    """
    if isinstance(command, str) or not isinstance(command, Sequence) or not command or command[0] != "python":
        return command
    if command[1:2] == ["-m"] and command[2].startswith("rl_zoo3."):
        name, arguments = command[2].removeprefix("rl_zoo3."), command[3:]
    elif command[1].endswith(".py"):  # enjoy.py, which only a checkout of the Zoo has
        name, arguments = Path(command[1]).stem, command[2:]
    else:
        return command
    return [sys.executable, "-m", "sb3_gipo.zoo", name, *arguments]


@contextmanager
def redirected() -> Iterator[None]:
    """For the duration, commands of the Zoo run through this package, names of tasks match its folders."""
    import rl_zoo3.utils

    call, trained = subprocess.call, rl_zoo3.utils.get_trained_models

    def call_through_us(command: Any, *args: Any, **kwargs: Any) -> int:
        return call(through_us(command), *args, **kwargs)

    def trained_models(log_folder: str) -> dict[str, tuple[str, str]]:
        # `benchmark` takes the id for the name of a folder
        found = trained(log_folder)
        return {name: (algorithm, meta_world.as_folders([env_id])[0]) for name, (algorithm, env_id) in found.items()}

    with (
        mock.patch.object(subprocess, "call", call_through_us),
        mock.patch.object(rl_zoo3.utils, "get_trained_models", trained_models),
    ):
        yield


@contextmanager
def ffmpeg_on_path() -> Iterator[None]:
    """`record_training` and `push_to_hub` call ``ffmpeg``: where the system has none, the one that imageio brings along."""
    if shutil.which("ffmpeg") is not None:
        yield
        return
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise SystemExit("ffmpeg is not installed: pip install imageio-ffmpeg, or install it with your system.") from error
    with tempfile.TemporaryDirectory(prefix="sb3_gipo_ffmpeg_") as folder:
        os.symlink(imageio_ffmpeg.get_ffmpeg_exe(), Path(folder) / "ffmpeg")
        with mock.patch.dict(os.environ, PATH=os.pathsep.join([folder, os.environ.get("PATH", "")])):
            yield

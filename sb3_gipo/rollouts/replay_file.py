"""
The replay on disk: a zip of plain arrays and one JSON text. It is never unpickled, so a file from a stranger cannot run code.
"""

import contextlib
import glob
import io
import json
import os
import pathlib
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from gymnasium import spaces

from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import STEP_DTYPES, Rollout, StoredTargets

FORMAT = "sb3-gipo-replay"
FORMAT_VERSION = 1
SUFFIX = "pkl"  # what SB3 and RL Zoo call the file; the content is not a pickle

_PLAIN_FIELDS = ("actions", *STEP_DTYPES)

Path = str | pathlib.Path | io.BufferedIOBase


def save_replay(path: Path, replay: RolloutReplayBuffer, facts: dict[str, Any]) -> None:
    """
    Write a replay. A path is replaced in one step, so that a kill leaves the old file or the new one.

    :param path: file to write (``.pkl`` is appended where it has no suffix, folders are made), or an open binary file
    :param replay: what to save
    :param facts: of the learner, that must match when it is loaded again; JSON types
    """
    segments = [replay.segment_rollout(segment) for segment in replay.segments]
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **_signature(replay),
        "facts": facts,
        "policy_version": replay.policy_version,
        "dropped": replay.dropped,
        "generator": replay.rng.bit_generator.state,
        "segments": [{"collected_at": rollout.collected_at, "actor_id": rollout.actor_id} for rollout, _ in segments],
    }
    arrays: dict[str, np.ndarray] = {"metadata": np.frombuffer(json.dumps(metadata).encode(), dtype=np.uint8)}
    for index, (rollout, draws) in enumerate(segments):
        named = {**_rollout_arrays(rollout), "draws": draws}
        arrays.update({f"{index}/{name}": array for name, array in named.items()})
    with writable(path, SUFFIX) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes `allow_pickle` for one of them


def load_replay(path: Path, replay: RolloutReplayBuffer, facts: dict[str, Any]) -> None:
    """
    Fill an empty replay from a file.

    :param path: file to read (``.pkl`` is appended where that is the one that exists), or an open binary file
    :param replay: empty store with the spaces and settings of the learner; its ``policy_version`` is the learner's
    :param facts: of the learner, compared with those in the file
    :raises FileNotFoundError: without such a file
    :raises ValueError: for a file that is not a whole replay, or that does not belong to this learner
    """
    with readable(path, SUFFIX) as file:
        try:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            with archive:
                metadata = _read_metadata(archive)
                _check_metadata(metadata, replay, facts)
                for index, segment in enumerate(metadata["segments"]):
                    _read_segment(archive, index, segment, replay)
                replay.dropped = int(metadata["dropped"])
                if replay.dropped < 0:
                    raise ValueError(f"`dropped` is {replay.dropped}")
                replay.rng.bit_generator.state = metadata["generator"]
        except _Mismatch as error:
            raise ValueError(f"The replay {_name(path)} does not fit this model: {error}") from None
        except Exception as error:  # a damaged file can raise almost anything: zip, compression, JSON, NumPy, memory
            raise ValueError(
                f"{_name(path)} is not a whole replay of sb3-gipo ({type(error).__name__}: {error}). It may be truncated, "
                "damaged, or the pickle of another algorithm, which is not opened. Nothing was loaded."
            ) from error


class _Mismatch(Exception):
    """A sound file that belongs to another learner."""


def _rollout_arrays(rollout: Rollout) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name in ("observations", "last_observations", "terminal_observations"):
        value = getattr(rollout, name)
        # numbered in the order of the sorted keys: a key may hold any character, and dictionaries have orders of their own
        parts = [value[key] for key in sorted(value)] if isinstance(value, dict) else [value]
        arrays.update({f"{name}.{number}": part for number, part in enumerate(parts)})
    for name in _PLAIN_FIELDS:
        arrays[name] = getattr(rollout, name)
    if rollout.dimension_log_probs is not None:
        arrays["dimension_log_probs"] = rollout.dimension_log_probs
    if rollout.stored_targets is not None:
        arrays.update(rollout.stored_targets._asdict())
    return arrays


def _read_segment(archive: Any, index: int, segment: dict[str, Any], replay: RolloutReplayBuffer) -> None:
    def read(name: str) -> np.ndarray:
        array: np.ndarray = archive[f"{index}/{name}"]
        return array

    def observation(name: str) -> Any:
        if isinstance(replay.observation_space, spaces.Dict):
            return {key: read(f"{name}.{number}") for number, key in enumerate(sorted(replay.observation_space.spaces))}
        return read(f"{name}.0")

    rollout = Rollout(
        observations=observation("observations"),
        last_observations=observation("last_observations"),
        terminal_observations=observation("terminal_observations"),
        dimension_log_probs=read("dimension_log_probs") if replay.n_dimensions is not None else None,
        stored_targets=StoredTargets(*map(read, StoredTargets._fields)) if replay.with_stored_targets else None,
        collected_at=float(segment["collected_at"]),
        actor_id=int(segment["actor_id"]),
        **{name: read(name) for name in _PLAIN_FIELDS},
    )
    if rollout.size > replay.capacity:
        raise _Mismatch(f"a rollout in it has {rollout.size} transitions, the model's `replay_capacity` is {replay.capacity}.")
    replay.add(rollout)
    replay.set_newest_draws(read("draws"))


def _read_metadata(archive: Any) -> dict[str, Any]:
    metadata = json.loads(archive["metadata"].tobytes().decode())
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}")
    if metadata["format_version"] != FORMAT_VERSION:
        raise _Mismatch(
            f"it has format version {metadata['format_version']}, this sb3-gipo reads version {FORMAT_VERSION}; use the "
            "version that wrote it."
        )
    return dict(metadata)


def _check_metadata(metadata: dict[str, Any], replay: RolloutReplayBuffer, facts: dict[str, Any]) -> None:
    for name, expected in {**_signature(replay), **facts}.items():
        found = metadata["facts"].get(name) if name in facts else metadata.get(name)
        if found != json.loads(json.dumps(expected)):
            raise _Mismatch(f"its {name.replace('_', ' ')} is {found}, the model's is {expected}.")
    if metadata["policy_version"] > replay.policy_version:
        raise _Mismatch(
            f"it was saved at policy version {metadata['policy_version']}, the model is at {replay.policy_version}. Load the "
            "model that was saved with it; to use data of another run, see `replay_buffer.add_rollout`."
        )


def _signature(replay: RolloutReplayBuffer) -> dict[str, Any]:
    return {
        "observation_space": _describe_space(replay.observation_space),
        "action_space": _describe_space(replay.action_space),
        "n_dimensions": replay.n_dimensions,
        "with_stored_targets": replay.with_stored_targets,
    }


def _describe_space(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: _describe_space(part) for key, part in space.spaces.items()}}
    described: dict[str, Any] = {"type": type(space).__name__, "shape": list(space.shape or ()), "dtype": str(space.dtype)}
    for name in ("n", "nvec"):
        if hasattr(space, name):
            described[name] = np.asarray(getattr(space, name)).tolist()
    return described


def _name(path: Path) -> str:
    return str(path) if isinstance(path, (str, pathlib.Path)) else "the file"


@contextlib.contextmanager
def writable(path: Path, suffix: str) -> Iterator[IO[bytes]]:
    """
    Open a file that appears at its path only when it was written to the end.

    :param path: where it shall be, with SB3's rules: the suffix is appended where there is none, missing folders are made, a
        path that is a folder gets ``_2``; an open binary file is used as it is
    :param suffix: without the dot
    :return: context manager that gives a binary file
    """
    if not isinstance(path, (str, pathlib.Path)):
        yield path  # type: ignore[misc]  # a BufferedIOBase is a binary file
        return
    target = pathlib.Path(path)
    if target.suffix == "":
        target = pathlib.Path(f"{target}.{suffix}")
    if target.is_dir():
        warnings.warn(f"Path '{target}' is a folder. Will save instead to {target}_2", stacklevel=3)
        target = pathlib.Path(f"{target}_2")
    target.parent.mkdir(parents=True, exist_ok=True)
    target = target.resolve()  # a link is followed, not replaced
    prefix = f".{target.name[:60]}."
    _remove_leftovers(target.parent, prefix)
    descriptor, temporary = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files
        os.chmod(temporary, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def readable(path: Path, suffix: str) -> Iterator[IO[bytes]]:
    """
    :param path: file to open, with or without its suffix, or an open binary file
    :param suffix: without the dot
    :return: context manager that gives a binary file
    :raises FileNotFoundError: when neither exists
    """
    if not isinstance(path, (str, pathlib.Path)):
        yield path  # type: ignore[misc]  # a BufferedIOBase is a binary file
        return
    target = pathlib.Path(path)
    if not target.is_file() and pathlib.Path(f"{target}.{suffix}").is_file():
        target = pathlib.Path(f"{target}.{suffix}")
    with target.open("rb") as file:
        yield file


def _remove_leftovers(folder: pathlib.Path, prefix: str) -> None:
    """Temporary files of writers that were killed: none writes for an hour."""
    for leftover in folder.glob(f"{glob.escape(prefix)}*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

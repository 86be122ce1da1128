"""
The process that is mistreated: it trains, and writes down what arrives.

``python -m benchmarks.asynchronous.driver FOLDER``: the folder has ``spec.json`` (:class:`Spec`), the environments' books in
``environments/``, and from this process ``journal`` (:data:`ENTRY` for each rollout that arrived), ``status.json`` once a
second, and ``end.json``. It stops when there is a file ``stop``, or after ``total`` steps.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.asynchronous.envs import BookkeepingEnv, arrived
from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.rollouts.types import Rollout

# generation of the driver, number of the environment, its first step of the rollout, steps, seconds since the epoch
ENTRY = np.dtype([(name, np.int64) for name in ("generation", "number", "first", "steps")] + [("time", np.float64)])


class Spec(NamedTuple):
    """What to train."""

    total: int
    troubles: dict[str, str]  # of BookkeepingEnv; JSON has strings for keys
    repeat: int
    at: int
    settings: dict[str, Any]  # of AsyncGIPO
    checkpoint_seconds: float | None = None  # with it, the run goes on where the latest checkpoint is
    width: int = 4  # numbers in an observation


class Journal:
    """
    What arrived, in a file: every entry is there when the process is killed after it.

    :param folder: of the run
    :param generation: how many drivers there were before
    """

    def __init__(self, folder: Path, generation: int) -> None:
        self._file = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._generation = generation

    def write(self, rollout: Rollout) -> None:
        observations = np.asarray(rollout.observations)
        for environment in range(rollout.n_envs):
            number, first = observations[0, environment, :2].astype(np.int64).tolist()
            entry = (self._generation, number, first, rollout.n_steps, time.time())
            os.write(self._file, np.array([entry], ENTRY).tobytes())


class Watched(AsyncGIPO):
    """AsyncGIPO that writes down what arrives."""

    journal: Journal | None = None

    def _store_rollout(self, rollout: Rollout) -> None:
        if Watched.journal is not None:
            Watched.journal.write(rollout)
        super()._store_rollout(rollout)


class Reporter(BaseCallback):
    """
    Writes once a second how the actors and the object store are; stops when it is told to.

    :param folder: of the run
    :param length: steps of a rollout: at the end of one it stops, so that all that arrived is counted
    """

    def __init__(self, folder: Path, length: int) -> None:
        super().__init__()
        self._folder, self._length, self._next = folder, length, 0.0

    def _on_step(self) -> bool:
        return not (self.num_timesteps % self._length == 0 and (self._folder / "stop").exists())

    def _on_rollout_end(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1.0
        assert isinstance(self.model, AsyncGIPO)
        replace(self._folder / "status.json", facts_of(self.model))


def facts_of(model: AsyncGIPO) -> dict[str, Any]:
    """:return: of actors, object store and training"""
    assert model._actors is not None
    there, free = (each.get("object_store_memory", 0.0) for each in (ray.cluster_resources(), ray.available_resources()))
    training = {"num_timesteps": model.num_timesteps, "policy_version": model.policy_version}
    return {**model._actors.facts()._asdict(), **training, "object_store_bytes": there - free}


def replace(path: Path, content: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(content))
    beside.replace(path)


def main(folder: Path) -> None:
    th.set_num_threads(1)
    spec = Spec(**json.loads((folder / "spec.json").read_text()))
    generation = sum(path.name.startswith("generation-") for path in folder.iterdir())
    troubles = {int(number): trouble for number, trouble in spec.troubles.items()}
    env = partial(BookkeepingEnv, folder / "environments", troubles, spec.repeat, spec.at, width=spec.width)
    Watched.journal = Journal(folder, generation)
    checkpoint = folder / "checkpoint"
    if spec.checkpoint_seconds is not None and generation > 0:
        model = Watched.resume(checkpoint, env=env)  # type: ignore[attr-defined,unused-ignore]
        steps, is_first = model.remaining_timesteps, False
    else:
        further = {} if spec.checkpoint_seconds is None else {"checkpoint_path": str(checkpoint)}
        if further:
            further["checkpoint_seconds"] = spec.checkpoint_seconds  # type: ignore[assignment]
        model = Watched("MlpPolicy", env, **spec.settings, **further)
        steps, is_first = spec.total, True
    replace(folder / f"generation-{generation}.json", {"num_timesteps": model.num_timesteps, "time": time.time()})
    model.learn(steps, callback=Reporter(folder, spec.settings["rollout_length"]), reset_num_timesteps=is_first)
    end = facts_of(model)
    model.close()
    replay = model.replay_buffer
    assert replay is not None
    observations = replay.gather("observations", np.arange(len(replay)))
    np.save(folder / "replay.npy", observations[:, :2].astype(np.int64))
    end["replay"] = {number: each._asdict() for number, each in arrived(observations).items()}
    replace(folder / "end.json", end)


if __name__ == "__main__":
    # by its own name: what is pickled of it is found by whoever loads it
    from benchmarks.asynchronous import driver

    driver.main(Path(sys.argv[1]))

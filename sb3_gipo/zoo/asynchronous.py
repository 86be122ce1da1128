"""
AsyncGIPO in RL Zoo: its actors make their environments with the Zoo's own method, in their processes.

What the Zoo makes here for training are its wrappers around what stands for the environments; statistics of ``VecNormalize``
that the actors gather arrive in them, so that evaluations, checkpoints and ``vecnormalize.pkl`` are as for any algorithm.
"""

import copy
import importlib
import importlib.util
import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo import settings
from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.distributed.stub import AbsentVecEnv

if TYPE_CHECKING:
    from sb3_gipo.zoo.experiment import GipoExperimentManager

NAME = "async_gipo"
COLLECTS_AS = "gipo"
NOT_SEARCHED = (
    f"Hyperparameters are not searched for with --algo {NAME}: each trial would start actors of its own beside those of the "
    f"others. Search with --algo {COLLECTS_AS}, whose settings {NAME} takes: `train --algo {NAME} -conf winner.yml` after "
    f"`tune`, `train --algo {NAME} --storage ... --study-name ... --trial-id ...` after `train -optimize`."
)
NO_RAY = (
    f"--algo {NAME} needs Ray for its actors: pip install 'sb3-gipo[ray]'. Without it there is -params backend:\"'serial'\", "
    f"which collects in this process, and --algo {COLLECTS_AS}."
)
# Of the Zoo's manager what making environments does not need, and what cannot travel to another process.
LEFT_BEHIND = ("args", "callbacks", "specified_callbacks", "custom_hyperparams", "_hyperparams", "_at", "_staged")
# Seeds of an actor that is started again are so many actors further on.
RESTARTED = 1000


def prepare(hyperparams: dict[str, Any]) -> None:
    """
    Put AsyncGIPO's own names for what every algorithm of the Zoo has in terms of the Zoo, and say who collects.

    :param hyperparams: of a settings file and the command line; changed in place
    :raises SystemExit: where actors need Ray, which is not installed
    """
    if hyperparams.get("backend", "ray") == "ray" and importlib.util.find_spec("ray") is None:
        raise SystemExit(NO_RAY)
    hyperparams["n_envs"] = hyperparams.pop("envs_per_actor", hyperparams.get("n_envs", 1))
    settings.check_at_least("envs_per_actor", hyperparams["n_envs"], 1, integer=True)
    if "rollout_length" in hyperparams:
        hyperparams["n_steps"] = hyperparams.pop("rollout_length")
    number = hyperparams.setdefault("num_actors", inspect.signature(AsyncGIPO).parameters["num_actors"].default)
    print(f"{number} actors, each with environments of its own: {hyperparams['n_envs']}")


@dataclass(frozen=True)
class EnvsOfActor:
    """
    How an actor makes its environments; travels to its process.

    :param manager: the Zoo's, with what making environments needs
    :param n_envs: environments of one actor
    :param packages: to import before, which register environments
    """

    manager: "GipoExperimentManager"
    n_envs: int
    packages: Sequence[str]

    def __call__(self, index: int, times_started: int) -> VecEnv:
        """
        :param index: number of the actor
        :param times_started: how often it was started before
        :return: its environments, with all wrappers
        """
        for package in self.packages:
            importlib.import_module(package)
        manager = copy.copy(self.manager)
        manager.seed += (index + RESTARTED * times_started) * self.n_envs
        return manager.create_envs(self.n_envs, no_log=True)


@contextmanager
def made_in_actors(manager: "GipoExperimentManager", n_envs: int) -> Iterator[None]:
    """
    For the duration, what the manager makes has no environments in it, but knows how an actor makes them.

    :param manager: the Zoo's
    :param n_envs: environments of one actor
    """
    travelling = copy.copy(manager)
    for name in LEFT_BEHIND:
        vars(travelling)[name] = None
    travelling.algo, travelling.verbose = COLLECTS_AS, 0
    make = EnvsOfActor(travelling, n_envs, tuple(getattr(manager.args, "gym_packages", None) or ()))

    def absent(functions: list[Callable[[], Any]], **_: Any) -> VecEnv:
        one = functions[0]()
        one.close()
        return AbsentVecEnv(len(functions), one.observation_space, one.action_space, make)

    with mock.patch.object(manager, "vec_env_class", absent):
        yield


@contextmanager
def training(manager: "GipoExperimentManager", model: Any) -> Iterator[None]:
    """
    What a training with actors needs around it: a monitor file, and an end of the actors.

    :param manager: the Zoo's
    :param model: that it trains
    """
    manager.callbacks.append(MonitorFile(manager.save_path, manager.env_name.gym_id, manager.monitor_kwargs))
    try:
        with warnings.catch_warnings():
            # what stands for environments is of another type than those of an evaluation; the wrappers are the same
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            yield
    finally:
        model.close()


class MonitorFile(BaseCallback):
    """
    Writes the episodes that ended in actors, in the order in which they arrive, to one monitor file: here, wherever the actors
    run and however often they are started again.
    """

    def __init__(self, folder: str, env_id: str, monitor_kwargs: dict[str, Any]) -> None:
        """
        :param folder: of the run
        :param env_id: of gymnasium
        :param monitor_kwargs: of the monitors in the actors: what they note beside return and length
        """
        super().__init__()
        self._start = time.time()
        extra = (*monitor_kwargs.get("reset_keywords", ()), *monitor_kwargs.get("info_keywords", ()))
        self._names = ("r", "l", *extra)
        self._writer = ResultsWriter(f"{folder}/0", {"t_start": self._start, "env_id": env_id}, extra)

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                row = {name: info["episode"][name] for name in self._names}
                self._writer.write_row({**row, "t": round(time.time() - self._start, 6)})
        return True

    def _on_training_end(self) -> None:
        self._writer.close()

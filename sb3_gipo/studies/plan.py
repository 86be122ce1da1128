"""What a study compares with what, on what and for how long, and the runs that it takes."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = 2  # of run.json and record.json
ONLY_REGIME = "default"


class Task(NamedTuple):
    """
    :param name: in the report
    :param id: of gymnasium
    :param kwargs: of the environments to learn from
    :param eval_kwargs: of those to be evaluated on
    :param bounds: returns that count as 0 and 1; ``None``: the lowest and the highest of this study
    :param steps: of the environment, for one run
    :param threshold: return, for the table of the steps to it; ``None``: no such table
    """

    name: str
    id: str
    kwargs: dict[str, Any]
    eval_kwargs: dict[str, Any]
    bounds: tuple[float, float] | None
    steps: int
    threshold: float | None = None


class Contestant(NamedTuple):
    """
    :param name: in the report
    :param algorithm: ``package.module:Class``
    :param policy: its first argument
    :param settings: further arguments, as they stand in the file
    :param arguments: all of the constructor with their defaults, which the settings replace
    :param constants: of this package that stand behind its ``None`` and ``"auto"``, by name; of another's algorithms none
    :param n_envs: environments that it learns from
    :param normalize: arguments of ``VecNormalize``; ``None``: not normalised
    :param in_regimes: whether a regime changes its settings
    """

    name: str
    algorithm: str
    policy: str
    settings: dict[str, Any]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    n_envs: int
    normalize: dict[str, Any] | None
    in_regimes: bool

    @property
    def label(self) -> str:
        """Name of the class."""
        return self.algorithm.rpartition(":")[2]


@dataclass(frozen=True)
class Decision:
    """
    :param at_least: times fewer steps for which switching is worth it, at least 1
    :param confidence: of all intervals
    :param steps_per_hour: of data collection
    :param money_per_hour: of data collection
    :param money_per_step: of data collection, in place of the one by the hour
    :param currency: of either
    """

    at_least: float = 1.3
    confidence: float = 0.95
    steps_per_hour: float | None = None
    money_per_hour: float | None = None
    money_per_step: float | None = None
    currency: str = "money units"


@dataclass(frozen=True)
class Statistics:
    """
    :param reps: of the bootstrap
    :param random_state: of the bootstrap
    :param last: evaluations whose mean is the final score
    :param target: part of the baseline's rise, from step 0 to its final score, that is to be reached; 1: all of it
    :param success: part of the episodes, for the table of the steps to it; ``None``: no such table
    :param tail_limit: a run whose ``lag/abs_log_rho_p95`` ends above this ran away
    :param kl_limit: a run whose ``train/approx_kl`` or ``train/kl_behaviour`` ends above this ran away
    """

    reps: int = 2000
    random_state: int = 0
    last: int = 2
    target: float = 0.95
    success: float | None = None
    tail_limit: float = 5.0
    kl_limit: float = 1.0


@dataclass(frozen=True)
class Evaluations:
    """
    :param number: of evaluations after the one at step 0
    :param episodes: of each
    :param seed: of their goals
    """

    number: int = 20
    episodes: int = 10
    seed: int = 12345


class Run(NamedTuple):
    """
    :param task: its name
    :param regime: its name
    :param contestant: its name; one that keeps its settings in every regime has the same run, and folder, in all of them
    :param seed: of the run
    :param configuration: everything that decides what the run does, as it stands in ``run.json``
    """

    task: str
    regime: str
    contestant: str
    seed: int
    configuration: dict[str, Any]

    @property
    def slug(self) -> str:
        """Name of its folder."""
        return "--".join(slug(part) for part in _parts(self.configuration))

    @property
    def title(self) -> str:
        """For people."""
        return title(self.configuration)


@dataclass(frozen=True)
class Study:
    """What a study file says. See ``docs/compare.md``."""

    path: Path
    seeds: tuple[int, ...]
    evaluations: Evaluations
    tasks: tuple[Task, ...]
    regimes: dict[str, dict[str, Any]]
    contestants: tuple[Contestant, ...]
    baseline: str
    candidate: str
    decision: Decision = field(default_factory=Decision)
    statistics: Statistics = field(default_factory=Statistics)

    def runs(self) -> list[Run]:
        """:return: all runs; those of the first seed first, so that an early report has something of everything"""
        return [
            self._run(task, regime, contestant, seed)
            for seed in self.seeds
            for regime in self.regimes
            for task in self.tasks
            for contestant in self.contestants
        ]

    def grid(self, task: Task) -> list[int]:
        """
        :param task: of the study
        :return: steps at which it is evaluated, without step 0
        """
        number = self.evaluations.number
        return [round(k * task.steps / number) for k in range(1, number + 1)]

    def _run(self, task: Task, regime: str, contestant: Contestant, seed: int) -> Run:
        changed = in_regime(contestant, self.regimes[regime])
        shared = len(self.regimes) > 1 and not contestant.in_regimes
        configuration = {
            "format": FORMAT,
            "task": {"name": task.name, "id": task.id, "kwargs": task.kwargs, "eval_kwargs": task.eval_kwargs},
            "regime": ONLY_REGIME if shared else regime,
            "algorithm": {
                "name": contestant.name,
                "class": contestant.algorithm,
                "policy": contestant.policy,
                "settings": changed.settings,
                # in full: a record made before a default changed is one of other settings
                "arguments": {**changed.arguments, **changed.settings},
                "defaults": changed.constants,
            },
            "n_envs": changed.n_envs,
            "normalize": changed.normalize,
            "seed": seed,
            "steps": task.steps,
            "evaluations": {"at": self.grid(task), "episodes": self.evaluations.episodes, "seed": self.evaluations.seed},
        }
        return Run(task.name, regime, contestant.name, seed, configuration)


def title(configuration: Mapping[str, Any]) -> str:
    """
    :param configuration: of a run
    :return: which one it is, for people
    """
    return ", ".join(_parts(configuration))


def _parts(configuration: Mapping[str, Any]) -> list[str]:
    task, regime, algorithm = configuration["task"]["name"], configuration["regime"], configuration["algorithm"]["name"]
    return [task, *([] if regime == ONLY_REGIME else [regime]), algorithm, f"seed {configuration['seed']}"]


def distinct(runs: Iterable[Run]) -> list[Run]:
    """
    :param runs: of a study
    :return: the first of those that share a folder: one run that counts in several regimes
    """
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.slug, run)
    return list(found.values())


def in_regime(contestant: Contestant, overrides: Mapping[str, Any]) -> Contestant:
    """
    :param contestant: as in the file
    :param overrides: of a regime
    :return: with the settings it has in that regime
    """
    if not contestant.in_regimes:
        return contestant
    n_envs = overrides.get("n_envs", contestant.n_envs)
    settings = {**contestant.settings, **{key: value for key, value in overrides.items() if key != "n_envs"}}
    normalize = contestant.normalize
    if normalize is not None and "gamma" in overrides:
        normalize = {**normalize, "gamma": overrides["gamma"]}
    return contestant._replace(settings=settings, n_envs=n_envs, normalize=normalize)


def fingerprint(configuration: dict[str, Any]) -> str:
    """
    :param configuration: of a run
    :return: the same text for the same configuration
    """
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


def slug(name: str) -> str:
    """
    :param name: of anything
    :return: of letters that every file system takes
    """
    return re.sub(r"[^a-zA-Z0-9.]+", "-", name).strip("-.").lower() or "x"

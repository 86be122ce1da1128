"""Contestants in processes of their own, which take turns."""

import statistics
import sys
import time
from typing import Any, NamedTuple

from benchmarks.speed.common import SEED, last_cores, take_turns
from benchmarks.speed.end_to_end import Worker, WorkerError, last_line

CORES = 2
TIMEOUT = 900.0  # seconds to wait for one answer
PAUSE = 3.0  # seconds before a turn: actors finish what they had begun, and wait


class Contestant(NamedTuple):
    """One that takes turns."""

    spec: dict[str, Any]
    lead: int  # see :class:`benchmarks.asynchronous.worker.Contestant`
    steps: int  # of a unit
    warm_up: int  # steps of a first turn that does not count
    python: str = sys.executable


def spec(algorithm: str, task: str, number: int, arguments: dict[str, Any], **further: Any) -> dict[str, Any]:
    """
    :param algorithm: ``"GIPO"``, ``"AsyncGIPO"`` or ``"RLlib APPO"``
    :param task: id of the environment, or ``"sleeping"``
    :param number: of actors, or of environments
    :param arguments: of the algorithm
    :param further: ``vec_env`` of GIPO
    :return: what :mod:`benchmarks.asynchronous.worker` builds
    """
    found = {"algorithm": algorithm, "task": task, "number": number, "arguments": arguments, **further}
    return {**found, "cores": last_cores(CORES), "threads": 1, "seed": SEED}


def measure(contestants: dict[str, Contestant], rounds: int) -> dict[str, Any]:
    """
    :param contestants: by name; one that fails is left out, and said so
    :param rounds: that count
    :return: the settings, the units of each, and who was left out why
    """
    workers: dict[str, Worker] = {}
    left_out: dict[str, str] = {}

    def leave_out(name: str, error: WorkerError) -> None:
        left_out[name] = last_line(error)
        print(f"{name} is left out: {error}", file=sys.stderr, flush=True)

    def ask(name: str, steps: int | None = None) -> dict[str, Any] | None:
        if name not in workers:
            return None
        time.sleep(PAUSE)
        one = contestants[name]
        try:
            return workers[name].ask({"lead": one.lead, "steps": steps or one.steps})
        except WorkerError as error:
            leave_out(name, error)
            workers.pop(name).close()
            return None

    def start(name: str, one: Contestant) -> None:
        try:
            workers[name] = Worker(one.python, one.spec, TIMEOUT, "benchmarks.asynchronous.worker")
        except WorkerError as error:
            leave_out(name, error)

    try:
        for name, one in contestants.items():
            start(name, one)
            ask(name, one.warm_up)
        versions = {name: worker.versions for name, worker in workers.items()}
        units = take_turns({name: (lambda name=name: ask(name)) for name in list(workers)}, rounds)
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "settings": {name: {**one.spec, "lead": one.lead, "steps_of_a_unit": one.steps} for name, one in contestants.items()},
        "versions_of": versions,
        "units": {name: each for name, each in units.items() if name not in left_out},
        "left_out": left_out,
    }


def rates(found: dict[str, Any], name: str) -> list[float]:
    """:return: environment steps a second of each unit of a contestant"""
    return [unit["steps"] / unit["seconds"] for unit in found["units"][name]]


def minibatches(found: dict[str, Any], name: str) -> str:
    """:return: of a contestant, for 512 environment steps"""
    return f"{statistics.median(512 * unit['minibatches'] / unit['steps'] for unit in found['units'][name]):.0f}"


def waits(found: dict[str, Any], name: str) -> str:
    """:return: shares of the time that learner and actors waited"""
    units = [unit for unit in found["units"][name] if "async/learner_wait" in unit]
    if not units:
        return ""
    shares = (statistics.median(unit.get(f"async/{who}_wait", 0.0) for unit in units) for who in ("learner", "actor"))
    return ", ".join(f"{share:.0%}" for share in shares)

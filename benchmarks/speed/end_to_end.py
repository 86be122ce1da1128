"""
Environment steps per second of ``learn()``: GIPO, SB3's PPO and SBX's PPO at the same settings.

Every contestant is a process that stays, on one core with one torch thread (``--cores``); one of them runs at a time.
"GIPO" and "GIPO compiled" have no replay and do PPO's number of minibatches; "GIPO, defaults" keeps and replays 8 rollouts and
takes four times as many minibatches. Seconds are wall-clock; those of the processor are stored too: where they differ,
something else was running.
"""

import argparse
import importlib.util
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

from benchmarks.speed.common import ROOT, SEED, Rows, last_cores, markdown, ratios, spread, store, take_turns
from benchmarks.speed.problems import NO_REPLAY, with_compiled

WARM_UP = 4  # units that do not count: imports, compilation, caches, a replay that is not full yet
PACKAGES = ("mujoco", "metaworld")


class Task(NamedTuple):
    """An environment and PPO's settings on it."""

    env: str
    n_envs: int
    arguments: dict[str, Any]
    timed: bool  # on CartPole the stopwatch would be a part of what is measured
    with_defaults: bool


PPO_SETTINGS: dict[str, Any] = {"n_steps": 2048, "batch_size": 64, "n_epochs": 10}
TASKS = {
    "cartpole": Task("CartPole-v1", 8, {**PPO_SETTINGS, "n_steps": 256}, False, False),
    "halfcheetah": Task("HalfCheetah-v5", 1, PPO_SETTINGS, True, False),
    "reach": Task("MetaWorld/reach-v3", 1, PPO_SETTINGS, True, True),
    "reach8": Task("MetaWorld/reach-v3", 8, {**PPO_SETTINGS, "n_steps": 256}, True, False),
}


class WorkerError(RuntimeError):
    """A contestant failed; ``is_missing`` where a package is not installed for it."""

    is_missing = False


class Worker:
    """
    A contestant in a process of its own.

    :param python: interpreter
    :param spec: what :mod:`benchmarks.speed.worker` builds
    :param timeout: seconds that it may take for an answer
    :param module: what it runs
    """

    def __init__(self, python: str, spec: dict[str, Any], timeout: float, module: str = "benchmarks.speed.worker") -> None:
        self.timeout = timeout
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        threads = str(spec.get("threads", len(spec["cores"])))
        self.process = subprocess.Popen(
            [python, "-m", module],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            bufsize=1,
        )
        try:
            self.versions = self.ask(spec)["versions"]
        except WorkerError:
            self.close()
            raise

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """
        :param message: one line to the worker
        :return: its answer
        :raises WorkerError: with its traceback, when it fails, dies or takes too long
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        # one line for each question: nothing can be waiting in the buffer of the text file
        if not select.select([self.process.stdout], [], [], self.timeout)[0]:
            self.process.kill()
            raise WorkerError(f"no answer within {self.timeout:.0f} seconds\n{self._last_words()}")
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            error = WorkerError(answer["error"])
            error.is_missing = answer["is_missing"]
            raise error
        return answer

    def _last_words(self) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        return f"exit code {code}\n" + self.errors.read().decode(errors="replace")[-4000:]

    def close(self) -> None:
        """End the process; its input ends, and so does it."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--cores", type=int, choices=(1, 2), default=1, help="of each contestant, and its torch threads")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--iterations", type=int, default=2, help="of learn() in one unit of work")
    parser.add_argument("--sbx-python", metavar="PATH", help="an interpreter with SBX; needed where this one has none")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds to wait for one answer of a contestant")


def run(args: argparse.Namespace) -> int:
    rows: Rows = []
    failed = False
    if args.sbx_python is None and importlib.util.find_spec("sbx") is None:
        print("SBX is not installed: left out (`--sbx-python PATH` names another interpreter).")
    for name in args.tasks:
        row, task_failed = measure(TASKS[name], args)
        failed |= task_failed
        rows.append({"task": name, "cores": args.cores, **row})
        print("\n" + table([rows[-1]]), flush=True)
        store("end-to-end", args, rows, ("task", "cores"), PACKAGES)
    return int(failed)


def contestants(task: Task, args: argparse.Namespace) -> dict[str, tuple[str, dict[str, Any]]]:
    """:return: interpreter and what to build there, by name"""
    cores = last_cores(args.cores)
    settings = {**task.arguments, "n_steps": 64, "n_epochs": 1} if args.quick else task.arguments
    found: dict[str, dict[str, Any]] = {"SB3 PPO": {}, "GIPO": NO_REPLAY}
    if task.with_defaults:
        found["GIPO, defaults"] = {}
    if with_compiled(args):
        found["GIPO compiled"] = {**NO_REPLAY, "compile": True}
        if task.with_defaults:
            found["GIPO, defaults, compiled"] = {"compile": True}
    if args.sbx_python is not None or importlib.util.find_spec("sbx") is not None:
        found["SBX PPO"] = {}
    return {
        name: (
            (args.sbx_python or sys.executable) if name == "SBX PPO" else sys.executable,
            {
                "algorithm": name,
                "task": task.env,
                "n_envs": task.n_envs,
                "timed": task.timed,
                "cores": cores,
                "seed": SEED,
                "arguments": {**settings, **options},
            },
        )
        for name, options in found.items()
    }


def measure(task: Task, args: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """
    :return: every unit of every contestant, and whether one failed for another reason than a missing package
    """
    workers: dict[str, Worker] = {}
    left_out: dict[str, WorkerError] = {}
    unit = {"iterations": 1 if args.quick else args.iterations}

    def start(name: str) -> None:
        try:
            workers[name] = Worker(*specs[name], args.timeout)
        except WorkerError as error:
            left_out[name] = error

    def ask(name: str) -> dict[str, Any] | None:
        try:
            return workers[name].ask(unit) if name in workers else None
        except WorkerError as error:
            left_out[name] = error
            workers.pop(name).close()
            return None

    specs = contestants(task, args)
    try:
        for name in specs:
            start(name)
        found_versions = {name: worker.versions for name, worker in workers.items()}
        calls = {name: (lambda name=name: ask(name)) for name in list(workers)}
        warm_up = take_turns(calls, 1 if args.quick else WARM_UP)
        units = take_turns(calls, 2 if args.quick else args.rounds)
    finally:
        for worker in workers.values():
            worker.close()
    for name, error in left_out.items():
        reason = last_line(error) if error.is_missing else error
        print(f"{task.env}: {name} is left out: {reason}", file=sys.stderr)
    row = {
        "env": task.env,
        "settings": {name: spec for name, (_, spec) in specs.items()},
        "versions": found_versions,
        "iterations_of_a_unit": unit["iterations"],
        "warm_up": {name: values for name, values in warm_up.items() if name not in left_out},
        "units": {name: values for name, values in units.items() if name not in left_out},
        "left_out": {name: last_line(error) for name, error in left_out.items()},
    }
    return row, any(not error.is_missing for error in left_out.values())


def last_line(error: WorkerError) -> str:
    """:return: of its traceback: the exception itself"""
    return str(error).strip().splitlines()[-1]


def column(row: dict[str, Any], name: str, entry: str) -> list[float]:
    """:return: an entry of every unit of a contestant"""
    return [unit[entry] for unit in row["units"][name]]


def title(row: dict[str, Any]) -> str:
    """:return: the environment and how many of them"""
    n_envs = row["settings"]["SB3 PPO"]["n_envs"]
    return f"{row['env']}, {n_envs} environment{'s' * (n_envs > 1)}"


def table(rows: Rows) -> str:
    """:return: one line for each task and contestant"""
    lines = []
    for row in rows:
        for name, units in row["units"].items():
            seconds = column(row, name, "seconds")
            cells = [
                spread(ratios(column(row, other, "seconds"), seconds)) if other in row["units"] and other != name else ""
                for other in ("SB3 PPO", "SBX PPO")
            ]
            inside = column(row, name, "environment_seconds")
            share = spread(ratios(inside, seconds), ".0%") if inside[0] is not None else ""
            rate = statistics.median(unit["steps"] / unit["seconds"] for unit in units)
            lines.append([title(row), name, f"{rate:,.0f}", *cells, share])
    return markdown(["", "", "steps/s", "beside SB3 PPO", "beside SBX PPO", "inside the environment"], lines)

"""Several commands side by side, each with its output in a file."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

POLL_SECONDS = 0.5
SECONDS_TO_END = 10.0  # from SIGTERM to SIGKILL


@dataclass(frozen=True)
class Job:
    """
    A command in a process of its own.

    :param command: program and arguments
    :param log: file for what it prints
    """

    command: Sequence[str]
    log: Path


def run_all(jobs: Sequence[Job], at_once: int, look: Callable[[], None], restarts: int = 0) -> list[int]:
    """
    Run commands, so many at a time. What ends the waiting (Ctrl-C, a termination) ends them too.

    :param jobs: to run, in this order
    :param at_once: how many at a time
    :param look: called twice a second
    :param restarts: how many of those that are killed are started again, in all
    :return: exit codes, as ``subprocess`` has them: below 0 where one was killed
    """
    before = signal.signal(signal.SIGTERM, _leave)
    codes: dict[int, int] = {}
    running: dict[int, subprocess.Popen[bytes]] = {}
    waiting = list(range(len(jobs)))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                index = waiting.pop(0)
                running[index] = _start(jobs[index])
            time.sleep(POLL_SECONDS)
            for index, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[index]
                if code < 0 and restarts > 0:
                    restarts -= 1
                    waiting.append(index)
                else:
                    codes[index] = code
            look()
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            _end(process)
        signal.signal(signal.SIGTERM, before)
    return [codes[index] for index in range(len(jobs))]


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:  # it does not listen to SIGTERM
        process.kill()
        process.wait()


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _start(job: Job) -> "subprocess.Popen[bytes]":
    job.log.parent.mkdir(parents=True, exist_ok=True)
    # one thread each: together they use the cores
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with job.log.open("ab") as log:
        return subprocess.Popen(
            job.command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us: RL Zoo would save what it has and call it a finished training
        )


def last_lines(log: Path, number: int = 15) -> str:
    """
    :param log: of a job
    :param number: of lines
    :return: its end
    """
    return "\n".join(log.read_text(errors="replace").splitlines()[-number:]) if log.is_file() else "(it printed nothing)"

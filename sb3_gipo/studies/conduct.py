"""Carries a study out: what is not finished yet, in parallel processes, with its progress on the screen."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sb3_gipo.studies import folder as room
from sb3_gipo.studies.plan import Run, distinct
from sb3_gipo.studies.probe import check_buildable
from sb3_gipo.studies.provenance import cores
from sb3_gipo.studies.wording import plural
from sb3_gipo.zoo.processes import Job, last_lines, run_all

# What a process does to itself; other signals come from outside.
CRASHES = frozenset(
    (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, *([signal.SIGBUS] if hasattr(signal, "SIGBUS") else []))
)


def conduct(folder: Path, runs: Sequence[Run], jobs: int | None, retry: bool, console: Console) -> list[Run]:
    """
    :param folder: of the study, locked by the caller
    :param runs: to be made, where they are not
    :param jobs: how many at once; ``None``: as many as there are cores
    :param retry: failed ones again, and those whose records are of other settings
    :param console: to tell on
    :return: the runs that were neither finished nor have failed: killed, with nothing left behind
    """
    runs = distinct(runs)
    waiting = room.waiting(folder, runs, retry=retry)
    console.print(_resumed(folder, runs, waiting), highlight=False)
    if not waiting:
        return []
    console.print("Building every contestant once ...", highlight=False)
    check_buildable(waiting)
    room.prepare(folder, waiting)
    places = [room.place(folder, run) for run in waiting]
    command = [sys.executable, "-m", "sb3_gipo.studies.run_one"]
    work = [Job([*command, str(here), "--parent", str(os.getpid())], here / room.LOG) for here in places]
    with Display(folder, waiting, console) as display:
        codes = run_all(work, jobs or cores(), display.look)
    killed = []
    for run, here, code in zip(waiting, places, codes, strict=True):
        if room.record_of(folder, run) is not None:
            continue
        if code < 0 and -code not in CRASHES:
            killed.append(run)
        elif room.failure_of(folder, run) is None:
            room.fail(here, run.configuration, _how_it_ended(code), last_lines(here / room.LOG, 30))
    return killed


def _resumed(folder: Path, runs: Sequence[Run], waiting: Sequence[Run]) -> str:
    finished = sum(room.record_of(folder, run) is not None for run in runs)
    failed = len(runs) - len(waiting) - finished
    said = f", {failed} failed before (--retry makes failed ones again)" if failed else ""
    return f"{plural(len(runs), 'run')}: {finished} finished before{said}, {len(waiting)} to do."


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"It crashed with signal {-code} ({signal.Signals(-code).name})"
    return f"It ended with exit code {code}" if code else "It ended without a result, with exit code 0"


class Display:
    """
    One bar for all runs and one for each that is running; where nobody watches (no terminal), a line for each that ends.

    :param folder: of the study
    :param runs: that are being made
    :param console: to tell on
    """

    def __init__(self, folder: Path, runs: Sequence[Run], console: Console) -> None:
        self._folder, self._console = folder, console
        self._waiting = list(runs)
        self._bars: dict[str, TaskID] = {}
        # names are texts, not markup: "GIPO [/new]" would be a tag that closes nothing
        title, note = (TextColumn(each, markup=False) for each in ("{task.description}", "{task.fields[note]}"))
        columns = (title, BarColumn(), MofNCompleteColumn(), note)
        self._progress = Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
        self._all = self._progress.add_task("all runs", total=len(runs), note="")
        self._number, self._ended, self._start = len(runs), 0, time.monotonic()

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        self._progress.stop()

    def look(self) -> None:
        """Called again and again."""
        for run in list(self._waiting):
            here = room.place(self._folder, run)
            failed = (here / room.FAILURE).exists()
            if failed or (here / room.RECORD).exists():
                self._waiting.remove(run)
                self._end(run, failed)
            elif (here / room.PROGRESS).exists():
                self._advance(run, room.read(here / room.PROGRESS) or {})

    def _advance(self, run: Run, progress: dict[str, Any]) -> None:
        if run.slug not in self._bars:
            steps = run.configuration["steps"]
            self._bars[run.slug] = self._progress.add_task(run.title, total=steps, note="")
        latest = progress.get("last_return")
        note = "" if latest is None else f"return {latest:.4g}"
        self._progress.update(self._bars[run.slug], completed=progress.get("steps", 0), note=note)

    def _end(self, run: Run, failed: bool) -> None:
        self._ended += 1
        if run.slug in self._bars:
            self._progress.remove_task(self._bars.pop(run.slug))
        self._progress.update(self._all, completed=self._ended)
        here = room.place(self._folder, run)
        if failed:
            how = f"failed: {(room.read(here / room.FAILURE) or {}).get('error')}. Its log: {here / room.LOG}"
        elif self._console.is_terminal:
            return
        else:
            record = room.read(here / room.RECORD) or {}
            returns = record["evaluations"][-1]["returns"]
            how = f"return {sum(returns) / len(returns):.4g} in {record['wall_seconds']:.0f} s"
        line = f"[{self._ended}/{self._number}, {time.monotonic() - self._start:.0f} s] {run.title}: {how}"
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

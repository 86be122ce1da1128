"""The folder of a study: one folder for each run, and what lies in it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TextIO

from sb3_gipo.pages import json_text, write_json, write_page
from sb3_gipo.studies.checking import StudyError, shown
from sb3_gipo.studies.plan import Run, fingerprint

RUNS = "runs"
CONFIGURATION = "run.json"
RECORD = "record.json"
REPLACED = "record.replaced-{}.json"
FAILURE = "failure.json"
PROGRESS = "progress.json"
LOG = "log.txt"
LOCK = "lock"
# What a report needs of a record, and of each of its evaluations.
RECORD_KEYS = ("task", "seed", "evaluations", "planned_evaluations", "traces", "versions", "hardware", "wall_seconds")
EVALUATION_KEYS = ("steps", "gradient_steps", "seconds", "returns", "successes")

ABSENT = object()  # what a configuration does not have at all

_locks: set[TextIO] = set()


def _let_go() -> None:
    while _locks:
        _locks.pop().close()


# A forked process (an environment's, say) has the same lock, and would keep it when it outlives the one that took it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """
    One process at a time in a folder. The system lets go of the lock when the process ends, however it ends.

    :param folder: is made where there is none
    :param wait: for the other to end; else refuse
    :raises StudyError: where another process has it, or the system has no such locks
    """
    try:
        import fcntl
    except ImportError:
        raise StudyError(
            "compare runs a study on POSIX systems only (Linux, macOS, WSL), where it can lock the study's folder. "
            "--report works everywhere: run the study on such a system, and copy its folder here."
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        _locks.add(file)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise StudyError(
                        f"Another sb3-gipo compare is at work in {str(folder)!r}. Wait for it or end it, or give another "
                        "--folder. --report shows how far it is."
                    ) from None
                print(f"Waiting for the process that holds {folder / LOCK} to end ...", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            _locks.discard(file)


def place(folder: Path, run: Run) -> Path:
    """
    :param folder: of the study
    :param run: of the study
    :return: folder of the run
    """
    return folder / RUNS / run.slug


def read(path: Path) -> dict[str, Any] | None:
    """
    :param path: of a file of ours
    :return: its content; ``None`` where there is no such file
    :raises StudyError: where it is not what we wrote
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StudyError(f"{str(path)!r} is damaged ({error}): delete its folder, and the run is made again.") from error
    if not isinstance(content, dict):
        raise StudyError(f"{str(path)!r} is damaged: delete its folder, and the run is made again.")
    return content


def record_of(folder: Path, run: Run) -> dict[str, Any] | None:
    """
    :param folder: of the study
    :param run: of the study
    :return: its record; ``None`` where it is not finished, or was made with other settings
    """
    path = place(folder, run) / RECORD
    record = read(path)
    if record is None or not _is_of(record, run):
        return None
    wrong = _lacking(record)
    if wrong:
        raise StudyError(f"{str(path)!r} is damaged (it has no {wrong}): delete its folder, and the run is made again.")
    return record


def _is_of(kept: dict[str, Any], run: Run) -> bool:
    """Whether a record or a failure is of these settings."""
    return bool(kept.get("fingerprint") == fingerprint(_as_known_to(kept, run.configuration)))


def _as_known_to(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """
    The new configuration as it would have read when the old one was made: without arguments that the algorithm has got since
    and that the study does not set. A new argument must leave things as they were by default; then records that took hours
    stay of use.
    """
    match old:
        case {"algorithm": {"arguments": dict(known)}}:
            algorithm = new["algorithm"]
            kept = {
                name: each for name, each in algorithm["arguments"].items() if name in known or name in algorithm["settings"]
            }
            return {**new, "algorithm": {**algorithm, "arguments": kept}}
    return new


def _lacking(record: dict[str, Any]) -> str:
    """What a report needs and the record does not have; nothing where it has it all."""
    evaluations = record.get("evaluations")
    if not isinstance(evaluations, list) or not evaluations:
        return "evaluations"
    lacking = [key for key in RECORD_KEYS if key not in record]
    lacking += [
        f"{key} in an evaluation"
        for each in evaluations
        for key in EVALUATION_KEYS
        if not isinstance(each, dict) or key not in each
    ]
    return lacking[0] if lacking else ""


def failure_of(folder: Path, run: Run) -> dict[str, Any] | None:
    """
    :param folder: of the study
    :param run: of the study
    :return: how it failed; ``None`` where it did not, or with other settings
    """
    failure = read(place(folder, run) / FAILURE)
    return failure if failure is not None and _is_of(failure, run) else None


def waiting(folder: Path, runs: list[Run], *, retry: bool) -> list[Run]:
    """
    :param folder: of the study
    :param runs: of the study
    :param retry: what failed is tried again, and what has a record of other settings is made again
    :return: the runs that are to be made; nothing is changed
    :raises StudyError: for records of other settings
    """
    others = [run for run in runs if (place(folder, run) / RECORD).exists() and record_of(folder, run) is None]
    if others and not retry:
        raise StudyError(_of_other_settings(folder, others))
    return [run for run in runs if record_of(folder, run) is None and (failure_of(folder, run) is None or retry)]


def prepare(folder: Path, runs: list[Run]) -> None:
    """
    Write the configurations of the runs that are to be made. A record of other settings took hours: it is set aside.

    :param folder: of the study
    :param runs: that are to be made
    """
    # all of them before anything is moved: where one cannot be written, everything lies where it lay
    texts = [json_text(run.configuration) for run in runs]
    for run, text in zip(runs, texts, strict=True):
        here = place(folder, run)
        here.mkdir(parents=True, exist_ok=True)
        # the record last: killed in between, the next call still sees that it is one of other settings
        for name in (PROGRESS, FAILURE, LOG):
            (here / name).unlink(missing_ok=True)
        for leftover in here.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        if (here / RECORD).exists():
            (here / RECORD).rename(_free(here))
        write_page(here / CONFIGURATION, text)


def _free(here: Path) -> Path:
    """A name that no earlier record has."""
    names = (here / REPLACED.format(number) for number in count(1))
    return next(name for name in names if not name.exists())


def fail(here: Path, configuration: dict[str, Any], error: str, lines: str) -> None:
    """
    :param here: folder of a run
    :param configuration: of it
    :param error: in a line
    :param lines: the last it printed
    """
    # no screen and no page can show half of a character
    error, lines = (each.encode("utf-8", "backslashreplace").decode("utf-8") for each in (error, lines))
    told = {"fingerprint": fingerprint(configuration), **configuration, "error": error, "last_lines": lines}
    write_json(here / FAILURE, told)


def _of_other_settings(folder: Path, others: list[Run]) -> str:
    here = place(folder, others[0])
    try:
        old = read(here / CONFIGURATION) or {}
    except StudyError:  # the record beside it is sound, and must not be deleted with it
        old = {}
    new = _as_known_to(old, others[0].configuration)
    # the settings given are among the arguments: each is told once
    lines = _differences(_without_settings(old), _without_settings(new)) or _differences(old, new) if old else []
    changed = ", ".join(lines) or f"its record has another configuration, its {CONFIGURATION} does not say which"
    return (
        f"{len(others)} finished run{'s were' if len(others) > 1 else ' was'} made with other settings than the study has "
        f"now, for example {here.name}: {changed}. Give a new --folder, or make them again with --retry, which sets the old "
        f"records aside ({REPLACED.format(1)})."
    )


def _without_settings(configuration: dict[str, Any]) -> dict[str, Any]:
    match configuration:
        case {"algorithm": dict(algorithm)}:
            return {**configuration, "algorithm": {key: value for key, value in algorithm.items() if key != "settings"}}
    return configuration


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        parts = [
            _differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{where}.{key}" if where else str(key)) for key in keys
        ]
        return [line for part in parts for line in part]
    was, now = ("not there" if each is ABSENT else shown(each) for each in (old, new))
    return [] if old == new else [f"{where} was {was} and is {now}"]

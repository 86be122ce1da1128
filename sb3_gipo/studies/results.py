"""What lies in the folder of a study: records, failures, what is missing."""

from pathlib import Path
from typing import Any, NamedTuple

from sb3_gipo.studies import folder as room
from sb3_gipo.studies.curves import Curves, curves_of
from sb3_gipo.studies.plan import Run, Study, Task

Record = dict[str, Any]


class Results(NamedTuple):
    """
    :param records: of finished runs, by regime, contestant and task
    :param failures: runs that failed, with the error
    :param missing: runs that are not made yet
    :param other: runs whose record is one of other settings
    """

    records: dict[tuple[str, str, str], list[Record]]
    failures: list[tuple[Run, str]]
    missing: list[Run]
    other: list[Run]

    def finished(self, regime: str, contestant: str) -> list[Record]:
        """
        :param regime: its name
        :param contestant: its name
        :return: records, of all tasks
        """
        return [each for key, found in self.records.items() if key[:2] == (regime, contestant) for each in found]

    def curves(self, study: Study, regime: str, contestant: str) -> dict[str, Curves]:
        """
        :param study: whose results these are
        :param regime: its name
        :param contestant: its name
        :return: of each task for which there is a record
        """
        return {
            task.name: curves_of(records, [0, *study.grid(task)])
            for task in study.tasks
            if (records := self.records.get((regime, contestant, task.name)))
        }


def load(study: Study, folder: Path) -> Results:
    """
    :param study: that was read
    :param folder: of it
    :return: what is there
    """
    results = Results({}, [], [], [])
    for run in study.runs():
        record = room.record_of(folder, run)
        failure = None if record else room.failure_of(folder, run)
        if record is not None:
            results.records.setdefault((run.regime, run.contestant, run.task), []).append(record)
        elif failure is not None:
            results.failures.append((run, failure["error"]))
        elif (room.place(folder, run) / room.RECORD).exists():
            results.other.append(run)
        else:
            results.missing.append(run)
    return results


def bounds_of(study: Study, task: Task, results: Results) -> tuple[float, float] | None:
    """
    :param study: whose results these are
    :param task: of it
    :param results: of all regimes and contestants
    :return: the returns that count as 0 and 1: the task's, or the lowest and highest mean return of an evaluation; ``None``:
        neither is known yet
    """
    if task.bounds is not None:
        return task.bounds
    grid = [0, *study.grid(task)]
    values = [curves_of(records, grid).returns for key, records in results.records.items() if key[2] == task.name]
    if not values:
        return None
    low, high = min(float(each.min()) for each in values), max(float(each.max()) for each in values)
    return (low, high) if high > low else (low, low + 1.0)

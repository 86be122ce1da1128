"""What ``sb3-gipo compare`` does."""

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from sb3_gipo.studies import checking
from sb3_gipo.studies import folder as room
from sb3_gipo.studies.checking import StudyError
from sb3_gipo.studies.conduct import conduct
from sb3_gipo.studies.plan import Run, Study, distinct
from sb3_gipo.studies.reading import read_study
from sb3_gipo.studies.report import Report, write_report
from sb3_gipo.studies.wording import plural

# some runs are missing
INCOMPLETE = 1


def compare(
    path: Path,
    folder: Path,
    *,
    jobs: int | None = None,
    retry: bool = False,
    report_only: bool = False,
    only: Sequence[str] = (),
    console: Console | None = None,
) -> int:
    """
    Make the runs of a study that are not made yet, and the report of those that are.

    :param path: of the study file
    :param folder: for records and report
    :param jobs: runs at once; ``None``: one for each core
    :param retry: try failed runs again, and make those again whose records are of other settings
    :param report_only: run nothing
    :param only: names of algorithms, tasks or regimes; empty: all
    :param console: to tell on
    :return: exit code: 0; 1 where runs are missing from the report
    :raises StudyError: for a study or a folder that will not do
    """
    # needed at the end only: better told now than after days of training
    if find_spec("rliable") is None:
        raise StudyError("compare needs rliable for its statistics: pip install 'sb3-gipo[compare]'")
    console = console or Console()
    study = read_study(path)
    runs = _chosen(study, only)
    killed: list[Run] = []
    if report_only and not folder.is_dir():
        raise StudyError(f"There is no folder {str(folder)!r} to report of: run the study first, or give its --folder.")
    if not report_only:
        with room.locked(folder):
            try:
                killed = conduct(folder, runs, jobs, retry, console)
            except KeyboardInterrupt:
                console.print(_interrupted(folder, distinct(runs)), highlight=False, soft_wrap=True)
                raise
    if killed:
        were, them = ("run was", "it") if len(killed) == 1 else ("runs were", "them")
        console.print(f"{len(killed)} {were} killed from outside; the same command makes {them} again.", highlight=False)
    report = write_report(study, folder, _command(path, folder))
    _tell(console, folder, report)
    results = report.results
    return INCOMPLETE if results.failures or results.missing or results.other else 0


def _interrupted(folder: Path, runs: Sequence[Run]) -> str:
    finished = sum(room.record_of(folder, run) is not None for run in runs)
    are = "is" if finished == 1 else "are"
    return (
        f"Interrupted. {finished} of {plural(len(runs), 'run')} {are} finished and kept; the same command makes the rest, "
        "--report shows what is there."
    )


def _command(path: Path, folder: Path) -> str:
    return shlex.join(["sb3-gipo", "compare", str(path), "--folder", str(folder)])


def _tell(console: Console, folder: Path, report: Report) -> None:
    """Where the report is, what is missing from it, and the decision last."""
    results = report.results
    for runs, what in (
        ([run for run, _ in results.failures], "failed (--retry tries them again)"),
        (results.missing, "not finished (the same command makes them)"),
        (results.other, "with records of other settings (--retry makes them again)"),
    ):
        number = len(distinct(runs))
        if number:
            console.print(f"Runs missing from the report: {number} {what}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"Report: {folder / 'report.html'} and {folder / 'report.md'}", markup=False, highlight=False, soft_wrap=True
    )
    for regime, found in report.verdicts.items():
        name = "" if len(report.verdicts) == 1 else f"In {regime}: "
        console.print()
        console.print(f"{name}{found.title}.", style="bold", markup=False, highlight=False, soft_wrap=True)
        console.print(found.text, markup=False, highlight=False, soft_wrap=True)


def _chosen(study: Study, only: Sequence[str]) -> list[Run]:
    """Those of the given algorithms, tasks and regimes: of several kinds, those that agree with all."""
    kinds = (
        ("contestant", [each.name for each in study.contestants]),
        ("task", [each.name for each in study.tasks]),
        ("regime", list(study.regimes)),
    )
    for name in only:
        checking.check_known("--only: the study", name, [each for _, names in kinds for each in names])
    runs = study.runs()
    for kind, names in kinds:
        asked = [name for name in only if name in names]
        runs = [run for run in runs if not asked or getattr(run, kind) in asked]
    return runs

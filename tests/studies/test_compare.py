"""The command: a study from its file to the report, killed and taken up again, with a contestant that fails."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from stable_baselines3 import PPO

from sb3_gipo import defaults
from sb3_gipo.cli import main
from sb3_gipo.studies import conduct
from sb3_gipo.studies import folder as room
from sb3_gipo.studies.checking import StudyError
from sb3_gipo.studies.command import compare
from sb3_gipo.studies.conduct import Display
from sb3_gipo.studies.plan import Run, Study, distinct, fingerprint
from sb3_gipo.studies.probe import check_buildable
from sb3_gipo.studies.reading import read_study
from sb3_gipo.studies.report import write_report
from sb3_gipo.studies.results import load
from sb3_gipo.studies.run_one import carry_out, make
from sb3_gipo.zoo.processes import Job
from tests.studies.synthetic import line, record, study, write

ROOT = Path(__file__).parents[2]
TINY = """
steps: 512
seeds: 1
n_envs: 2
evaluations: {number: 2, episodes: 2}
statistics: {reps: 100}
tasks: [CartPole-v1]
algorithms:
  GIPO: {algorithm: gipo, n_steps: 64, gradient_steps: 5}
  Broken: {algorithm: "tests.studies.broken:BrokenPPO", n_steps: 64}
  PPO: {algorithm: ppo, n_steps: 64, n_epochs: 2}
"""


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "sb3_gipo", "compare", "tiny.yaml", "--folder", str(folder), "--jobs", "1"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def without_times(summary: dict[str, Any]) -> dict[str, Any]:
    for analysis in summary["regimes"].values():
        for band in analysis["bands"].values():
            del band["seconds"]
        for tasks in analysis["curves"].values():
            for curves in tasks.values():
                del curves["seconds"]
        for numbers in analysis["aggregate"].values():
            del numbers["area_by_time"]
        for savings in analysis["savings"].values():
            for each in (savings, *savings["tasks"]):
                del each["ratio_by_time"]
        analysis["verdict"]["text"] = SECONDS.sub("?", analysis["verdict"]["text"])
    return summary


TIMES = (" area over equal time ", " of time ")
SECONDS = re.compile(r"[0-9.]+(?= times as many seconds of training)")


def without_times_in_it(report: str) -> list[str]:
    """Without the columns of the two tables that have one, and the sentence: seconds are never the same again."""
    said = []
    for block in report.split("\n\n"):
        rows = [line.split("|") for line in block.splitlines()]
        for column in [number for number, head in enumerate(rows[0]) if head in TIMES]:
            block = "\n".join("|".join(row[:column] + row[column + 1 :]) for row in rows)
        said.append(SECONDS.sub("?", block))
    return said


@pytest.mark.slow
def test_killed_and_taken_up_again(tmp_path: Path) -> None:
    """
    The parent is killed during the third run. That run ends by itself and leaves no record; the second call keeps what was
    finished and what failed, makes that run again, and reports what a study reports that nobody disturbed.
    """
    (tmp_path / "tiny.yaml").write_text(TINY)
    tiny = read_study(tmp_path / "tiny.yaml")
    gipo, broken, ppo = (tmp_path / "x" / room.RUNS / run.slug for run in tiny.runs())
    parent = subprocess.Popen(command(Path("x")), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    try:
        wait_for((ppo / room.LOCK).exists)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    with room.locked(ppo, wait=True):  # comes free when the orphan has gone
        finished = (gipo / room.RECORD).read_bytes(), (gipo / room.RECORD).stat().st_mtime_ns
        assert (broken / room.FAILURE).exists()
        assert not (ppo / room.RECORD).exists()

    done = subprocess.run(command(Path("x")), cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # one failed
    assert "3 runs: 1 finished before, 1 failed before (--retry makes failed ones again), 1 to do." in done.stdout
    assert "PPO, seed 1: return" in done.stdout
    assert "Runs missing from the report: 1 failed" in done.stdout
    assert "Too early to say whether to switch to GIPO (1 seed; at least 5 are needed).\n" in done.stdout
    assert ((gipo / room.RECORD).read_bytes(), (gipo / room.RECORD).stat().st_mtime_ns) == finished
    failure = json.loads((broken / room.FAILURE).read_text())
    assert failure["error"] == "RuntimeError: the gripper is on fire"
    assert "broken.py" in failure["last_lines"]

    for run in tiny.runs():  # the same, undisturbed
        here = room.place(tmp_path / "y", run)
        here.mkdir(parents=True)
        (here / room.CONFIGURATION).write_text(json.dumps(run.configuration))
        assert make(here) == (run.contestant == "Broken")
    write_report(tiny, tmp_path / "y", "sb3-gipo compare tiny.yaml --folder x")
    for kind in ("report.md", "summary.json"):
        mine, its = ((tmp_path / name / kind).read_text() for name in ("x", "y"))
        if kind == "summary.json":
            assert without_times(json.loads(mine)) == without_times(json.loads(its))
        else:
            assert without_times_in_it(mine) == without_times_in_it(its)


def known(tmp_path: Path) -> tuple[Path, Study]:
    path = tmp_path / "known.yaml"
    path.write_text(TINY)
    return path, read_study(path)


def test_report_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs nothing; without a folder there is nothing to report of."""
    path, of = known(tmp_path)
    assert main(["compare", str(path), "--folder", str(tmp_path / "x"), "--report"]) == 2
    assert "There is no folder" in capsys.readouterr().err
    write(tmp_path / "x", of, lambda run: line(run, 300) if run.contestant in ("GIPO", "PPO") else None)
    assert main(["compare", str(path), "--folder", str(tmp_path / "x"), "--report"]) == 1
    printed = capsys.readouterr().out
    assert "Runs missing from the report: 1 not finished" in printed
    assert "Too early to say whether to switch to GIPO (1 seed; at least 5 are needed).\n" in printed
    assert (tmp_path / "x" / "report.html").is_file()


def test_nothing_to_do(tmp_path: Path) -> None:
    """A finished study is only reported; a record stays as it is."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300))
    out = io.StringIO()
    assert compare(path, tmp_path / "x", console=Console(file=out, width=200)) == 0
    assert "3 runs: 3 finished before, 0 to do." in out.getvalue()


def test_records_of_other_settings(tmp_path: Path) -> None:
    """Are not mixed with new ones: the change is told, once; with --retry they are made again, and the old ones are kept."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300))
    path.write_text(TINY.replace("gradient_steps: 5", "gradient_steps: 6"))
    with pytest.raises(
        StudyError, match=r"1 finished run was made .*gradient_steps was 5 and is 6.*--folder.*--retry"
    ) as told:
        compare(path, tmp_path / "x")
    assert str(told.value).count("was 5") == 1
    for gradient_steps in (6, 7):
        path.write_text(TINY.replace("gradient_steps: 5", f"gradient_steps: {gradient_steps}"))
        waiting = room.waiting(tmp_path / "x", read_study(path).runs(), retry=True)
        assert [run.contestant for run in waiting] == ["GIPO"]
        here = room.place(tmp_path / "x", waiting[0])
        before = (here / room.RECORD).read_bytes()
        room.prepare(tmp_path / "x", waiting)
        assert not (here / room.RECORD).exists()
        assert (here / f"record.replaced-{gradient_steps - 5}.json").read_bytes() == before
        (here / room.RECORD).write_text(json.dumps(record(waiting[0], [0.0, 1.0, 2.0])))
    assert len(list(here.glob("record.*"))) == 3


def test_a_record_outlives_a_study_that_cannot_be_built(tmp_path: Path) -> None:
    """--retry with a mistake in the file: the mistake is told, and everything lies where it lay."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300))
    before = {each: each.read_bytes() for each in (tmp_path / "x" / room.RUNS).rglob("*.json")}
    path.write_text(TINY.replace("gradient_steps: 5", "gradient_steps: -5"))
    with pytest.raises(StudyError, match=r"(?s)Nothing was run.*gradient_steps"):
        compare(path, tmp_path / "x", retry=True)
    assert {each: each.read_bytes() for each in (tmp_path / "x" / room.RUNS).rglob("*.json")} == before


def test_a_record_of_other_defaults_is_one_of_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the same, but what it leaves unsaid has changed: an argument's default, or what stands behind ``None``."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300))
    with monkeypatch.context() as patch:
        patch.setattr(defaults, "REPLAY_KL_COEF", 0.25)
        with pytest.raises(StudyError, match=r"1 finished run was .*defaults.REPLAY_KL_COEF was 0.1 and is 0.25"):
            compare(path, tmp_path / "x")
    assert compare(path, tmp_path / "x", console=Console(file=io.StringIO())) == 0
    monkeypatch.setattr(PPO.__init__, "__defaults__", (5e-4, *PPO.__init__.__defaults__[1:]))
    with pytest.raises(StudyError, match=r"2 finished runs were .*arguments.learning_rate was 0.0003 and is 0.0005"):
        compare(path, tmp_path / "x")


def earlier(run: Run, **changes: Any) -> Run:
    """The run as a version of GIPO and PPO without ``stats_window_size`` would have made it; ``changes``: of its arguments."""
    algorithm = run.configuration["algorithm"]
    arguments = {name: each for name, each in algorithm["arguments"].items() if name != "stats_window_size"} | changes
    settings = {name: each for name, each in algorithm["settings"].items() if name != "stats_window_size"}
    changed = {**algorithm, "settings": settings, "arguments": arguments}
    return run._replace(configuration={**run.configuration, "algorithm": changed})


def keep(folder: Path, run: Run) -> None:
    """Its record."""
    here = room.place(folder, run)
    here.mkdir(parents=True, exist_ok=True)
    (here / room.CONFIGURATION).write_text(json.dumps(run.configuration))
    (here / room.RECORD).write_text(json.dumps(record(run, line(run, 300))))


def test_records_and_failures_from_before_an_argument_existed(tmp_path: Path) -> None:
    """They count while the study leaves the argument alone."""
    path, of = known(tmp_path)
    first, second, third = of.runs()
    keep(tmp_path / "x", earlier(first))
    keep(tmp_path / "x", earlier(third))
    room.place(tmp_path / "x", second).mkdir()
    room.fail(room.place(tmp_path / "x", second), earlier(second).configuration, "no", "")
    assert room.waiting(tmp_path / "x", of.runs(), retry=False) == []
    assert room.waiting(tmp_path / "x", of.runs(), retry=True) == [second]
    out = io.StringIO()
    assert compare(path, tmp_path / "x", console=Console(file=out, width=200)) == 1
    assert "Runs missing from the report: 1 failed" in out.getvalue()


@pytest.mark.parametrize(
    ("setting", "changes", "told"),
    [
        (", stats_window_size: 7", {}, "stats_window_size was not there and is 7"),
        (", stats_window_size: null", {}, "stats_window_size was not there and is None"),
        ("", {"gone": 1}, "gone was 1 and is not there"),
        ("", {"gone": None}, "gone was None and is not there"),
        ("", {"gamma": 0.5}, "gamma was 0.5 and is 0.99"),
    ],
)
def test_earlier_records_of_other_settings(tmp_path: Path, setting: str, changes: dict[str, Any], told: str) -> None:
    """What the study sets now, what is gone, and what has another value; the message has that and nothing else."""
    path = tmp_path / "s.yaml"
    path.write_text(TINY.replace("gradient_steps: 5", f"gradient_steps: 5{setting}"))
    run = read_study(path).runs()[0]
    keep(tmp_path / "x", earlier(run, **changes))
    with pytest.raises(StudyError, match=rf"1 finished run was .*seed-1: algorithm\.arguments\.{told}\. Give a new"):
        compare(path, tmp_path / "x")


def test_a_contestant_without_regimes_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its record counts in every regime, and its failure too, told once."""
    path = tmp_path / "s.yaml"
    path.write_text(
        TINY.replace("n_steps: 64, n_epochs: 2", "regimes: false") + "regimes: {a: {gamma: 0.9}, b: {gamma: 0.8}}\n"
    )
    of = read_study(path)
    assert sorted(run.slug for run in of.runs() if run.contestant == "PPO") == ["cartpole-v1--ppo--seed-1"] * 2
    assert len(distinct(of.runs())) == 5
    monkeypatch.setattr(conduct, "check_buildable", lambda runs: None)

    def end(jobs: list[Job], at_once: int, look: Callable[[], None]) -> list[int]:
        for run in distinct(of.runs()):
            if run.contestant != "Broken":
                (room.place(tmp_path / "x", run) / room.RECORD).write_text(json.dumps(record(run, [0.0, 1.0, 2.0])))
        return [0 if job.log.parent.joinpath(room.RECORD).exists() else 1 for job in jobs]

    monkeypatch.setattr(conduct, "run_all", end)
    out = io.StringIO()
    assert compare(path, tmp_path / "x", console=Console(file=out, width=200)) == 1
    assert "5 runs: 0 finished before, 5 to do." in out.getvalue()
    assert "Runs missing from the report: 2 failed" in out.getvalue()
    found = load(of, tmp_path / "x")
    assert found.records["a", "PPO", "CartPole-v1"] == found.records["b", "PPO", "CartPole-v1"] != []
    assert found.records["a", "GIPO", "CartPole-v1"] != found.records["b", "GIPO", "CartPole-v1"]
    assert (room.place(tmp_path / "x", of.runs()[0]) / room.RECORD).exists()


def test_failures_wait_for_retry(tmp_path: Path) -> None:
    """A failed run is not tried again by itself; one of other settings is forgotten."""
    _, of = known(tmp_path)
    runs = of.runs()
    for run in runs:
        room.place(tmp_path, run).mkdir(parents=True)
    room.fail(room.place(tmp_path, runs[0]), runs[0].configuration, "no", "")
    room.fail(room.place(tmp_path, runs[1]), {**runs[1].configuration, "seed": 9}, "no", "")
    assert room.waiting(tmp_path, runs, retry=False) == runs[1:]
    assert room.waiting(tmp_path, runs, retry=True) == runs


def test_one_at_a_time(tmp_path: Path) -> None:
    """A second call for the same folder is refused while the first is at work."""
    path, _ = known(tmp_path)
    with room.locked(tmp_path / "x"), pytest.raises(StudyError, match="Another sb3-gipo compare is at work"):
        compare(path, tmp_path / "x")


def test_damaged_records_are_told(tmp_path: Path) -> None:
    """With what to do."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300))
    (room.place(tmp_path / "x", of.runs()[0]) / room.RECORD).write_text("{")
    with pytest.raises(StudyError, match=r"is damaged .*: delete its folder"):
        compare(path, tmp_path / "x", report_only=True)


@pytest.mark.parametrize("left", [{}, {"evaluations": []}, {"evaluations": [{"steps": 0}]}])
def test_a_record_that_lacks_something_is_told(tmp_path: Path, left: dict[str, Any]) -> None:
    """It is JSON, and of these settings, but not all is there."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300))
    run = of.runs()[0]
    whole = json.loads((room.place(tmp_path / "x", run) / room.RECORD).read_text()) if left else {}
    (room.place(tmp_path / "x", run) / room.RECORD).write_text(
        json.dumps({**whole, "fingerprint": fingerprint(run.configuration), **left})
    )
    with pytest.raises(StudyError, match=r"is damaged \(it has no .*\): delete its folder"):
        compare(path, tmp_path / "x", report_only=True)


@pytest.mark.parametrize(
    ("damaged", "said"),
    [("{", "another configuration, its run.json does not say which"), ('{"algorithm": []}', r"algorithm was \[\] and is {")],
)
def test_a_damaged_configuration_beside_a_sound_record(tmp_path: Path, damaged: str, said: str) -> None:
    """The record took hours: --retry, which keeps it, is the advice, not to delete the folder."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300))
    (room.place(tmp_path / "x", of.runs()[0]) / room.CONFIGURATION).write_text(damaged)
    path.write_text(TINY.replace("gradient_steps: 5", "gradient_steps: 6"))
    with pytest.raises(StudyError, match=rf"{said}.*--retry") as told:
        compare(path, tmp_path / "x")
    assert "delete" not in str(told.value)
    assert [run.contestant for run in room.waiting(tmp_path / "x", read_study(path).runs(), retry=True)] == ["GIPO"]


def test_nothing_is_moved_where_a_configuration_cannot_be_written(tmp_path: Path) -> None:
    """The second of two: the record of the first lies where it lay."""
    _, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300))
    before = {each: each.read_bytes() for each in (tmp_path / "x").rglob("*.json")}
    first, second, _ = of.runs()
    second.configuration["steps"] = math.inf
    with pytest.raises(ValueError, match="not JSON compliant"):
        room.prepare(tmp_path / "x", [first, second])
    assert {each: each.read_bytes() for each in (tmp_path / "x").rglob("*.json")} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a POSIX matter")
def test_a_forked_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    """An environment's process that outlives its run: the next one need not wait for it."""
    (told, tell), (held, let_go) = os.pipe(), os.pipe()
    with room.locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(let_go)
            os.write(tell, b"x")
            os.read(held, 1)  # lives until the test has done its part
            os._exit(0)
        os.read(told, 1)  # it is there
    try:
        with room.locked(tmp_path):
            pass
    finally:
        os.close(let_go)
        os.waitpid(child, 0)
        for each in (told, tell, held):
            os.close(each)


def test_who_waits_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In its log, before it waits."""
    free = threading.Event()
    held = threading.Event()

    def hold() -> None:
        with room.locked(tmp_path):
            held.set()
            free.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    threading.Timer(0.2, free.set).start()
    with room.locked(tmp_path, wait=True):
        pass
    thread.join()
    assert f"Waiting for the process that holds {tmp_path / room.LOCK} to end ..." in capsys.readouterr().out


def test_only(tmp_path: Path) -> None:
    """Some algorithms or tasks; an unknown name is told."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300) if run.contestant == "PPO" else None)
    out = io.StringIO()
    compare(path, tmp_path / "x", only=["PPO", "CartPole-v1"], console=Console(file=out, width=200))
    assert "1 run: 1 finished before, 0 to do." in out.getvalue()
    with pytest.raises(StudyError, match=r"no 'PP0'.*Did you mean 'PPO'"):
        compare(path, tmp_path / "x", only=["PP0"])


def test_how_runs_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed is made again by the next call; one that ends without a word has failed, with what it printed."""
    path, of = known(tmp_path)
    gipo, broken, ppo = (room.place(tmp_path / "x", run) for run in of.runs())

    def end(jobs: list[Job], at_once: int, look: Callable[[], None]) -> list[int]:
        assert [job.log for job in jobs] == [here / room.LOG for here in (gipo, broken, ppo)]
        assert at_once == 3
        (broken / room.LOG).write_text("Segmentation fault")
        (ppo / room.RECORD).write_text(json.dumps(record(of.runs()[2], [0.0, 1.0, 2.0])))
        look()
        return [-9, 2, 0]

    monkeypatch.setattr(conduct, "run_all", end)
    monkeypatch.setattr(conduct, "check_buildable", lambda runs: None)
    out = io.StringIO()
    assert compare(path, tmp_path / "x", jobs=3, console=Console(file=out, width=200)) == 1
    assert "1 run was killed from outside; the same command makes it again." in out.getvalue()
    failure = json.loads((broken / room.FAILURE).read_text())
    assert (failure["error"], failure["last_lines"]) == ("It ended with exit code 2", "Segmentation fault")
    assert [run.contestant for run in room.waiting(tmp_path / "x", of.runs(), retry=False)] == ["GIPO"]


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C tells what is kept and how to go on; runs that failed are told apart from finished ones."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300) if run.contestant == "PPO" else None)
    broken = of.runs()[1]
    room.place(tmp_path / "x", broken).mkdir()
    room.fail(room.place(tmp_path / "x", broken), broken.configuration, "no", "")

    def interrupt(jobs: list[Job], at_once: int, look: Callable[[], None]) -> list[int]:
        raise KeyboardInterrupt

    monkeypatch.setattr(conduct, "run_all", interrupt)
    monkeypatch.setattr(conduct, "check_buildable", lambda runs: None)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["compare", str(path), "--folder", str(tmp_path / "x")]) == 130
    printed = capsys.readouterr().out
    assert "3 runs: 1 finished before, 1 failed before (--retry makes failed ones again), 1 to do." in printed
    kept = "Interrupted. 1 of 3 runs is finished and kept; the same command makes the rest, --report shows what is there."
    assert kept in printed
    with room.locked(tmp_path / "x"):  # it is free
        pass


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (0, "It ended without a result, with exit code 0"),
        (-signal.SIGSEGV, "It crashed with signal 11 (SIGSEGV)"),
        (-signal.SIGABRT, "It crashed with signal 6 (SIGABRT)"),
        (-signal.SIGTERM, None),
        (-signal.SIGKILL, None),
    ],
)
def test_what_counts_as_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: str | None) -> None:
    """What a process does to itself is a failure, which the next call does not repeat; the rest came from outside."""
    _, of = known(tmp_path)
    (run, *_) = of.runs()
    monkeypatch.setattr(conduct, "run_all", lambda jobs, at_once, look: [code])
    monkeypatch.setattr(conduct, "check_buildable", lambda runs: None)
    killed = conduct.conduct(tmp_path, [run], 1, False, Console(file=io.StringIO()))
    failure = room.failure_of(tmp_path, run)
    assert killed == ([run] if error is None else [])
    assert (failure and failure["error"]) == error


def test_an_error_with_half_of_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the name of a file may have it: shown with an escape, on a screen and in the report, also where it was kept raw."""
    path, of = known(tmp_path)
    failing, raw, _ = of.runs()
    monkeypatch.setattr(conduct, "check_buildable", lambda runs: None)

    def end(jobs: list[Job], at_once: int, look: Callable[[], None]) -> list[int]:
        room.fail(room.place(tmp_path, failing), failing.configuration, "no file '\udcff'", "\udcff")
        kept = {"fingerprint": fingerprint(raw.configuration), "error": "no file '\udcfe'", "last_lines": ""}
        (room.place(tmp_path, raw) / room.FAILURE).write_text(json.dumps(kept))
        return [1, 1, -9]

    monkeypatch.setattr(conduct, "run_all", end)
    # a screen that knows what UTF-8 knows; the raw one is of an earlier version, and only the report reads it
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(Display, "look", lambda self: None)
    assert compare(path, tmp_path, console=Console(file=out, width=200)) == 1
    said = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert r"no file '\udcff'" in said
    assert r"no file '\udcfe'" in said
    failure = room.failure_of(tmp_path, failing)
    assert failure is not None
    assert failure["error"] == r"no file '\udcff'"


def test_advice_for_what_an_algorithm_does_not_know() -> None:
    """A policy of another name; spaces that cannot be normalised."""
    algorithms = {"R": {"algorithm": "recurrentppo"}}
    with pytest.raises(StudyError, match=r"- R: RecurrentPPO has no policy 'MlpPolicy' .* Give it policy: MlpLstmPolicy, "):
        check_buildable(study(seeds=1, steps=10_000, algorithms=algorithms).runs())
    of = study(seeds=1, tasks=["FrozenLake-v1"], algorithms={"PPO": {"algorithm": "ppo", "n_steps": 16}})
    with pytest.raises(StudyError, match=r"- PPO: VecNormalize refuses: .* Give normalize: false, or"):
        check_buildable(of.runs())


def test_what_cannot_be_built_is_told_before_anything_runs() -> None:
    """By task and contestant, once for the same error."""
    wrong = study(
        seeds=1,
        algorithms={"SAC": {"algorithm": "sac"}, "PPO": {"algorithm": "ppo", "policy_kwargs": {"activation_fn": "Rleu"}}},
    )
    with pytest.raises(StudyError, match=r"(?s)Nothing was run.*- SAC: .*Discrete.*- PPO: .*Rleu") as told:
        check_buildable(wrong.runs())
    assert str(told.value).count("- SAC") == 1


@pytest.mark.parametrize(
    ("algorithm", "key", "least", "said"),
    [
        ("ppo", "n_steps", 128, r"n_steps \* n_envs = 128 \* 2 = 256 steps, and the run ends at 256"),
        ("gipo", "n_steps", 128, r"n_steps \* n_envs = 128 \* 2 = 256 steps, and the run ends at 256"),
        # in rollouts of 4 steps of 2 environments
        ("dqn", "learning_starts", 248, "learning_starts of 248 .* after step 256, and the run ends at 256"),
    ],
)
def test_who_would_never_learn_is_told_before_anything_runs(algorithm: str, key: str, least: int, said: str) -> None:
    """A run that ends where the first update would begin takes no gradient step; a little less, and it does."""
    for value in (least, least - 8):
        settings = {"algorithm": algorithm, "batch_size": 8, key: value}
        evaluations = {"number": 1, "episodes": 1}
        of = study(steps=256, seeds=1, n_envs=2, tasks=["CartPole-v1"], evaluations=evaluations, algorithms={"x": settings})
        (run,) = of.runs()
        never = carry_out(run.configuration)["evaluations"][-1]["gradient_steps"] == 0
        assert never is (value == least)
        if never:
            with pytest.raises(StudyError, match=rf"- x: it would never learn: .*{said}\. Give it"):
                check_buildable([run])
        else:
            check_buildable([run])


def test_an_environment_may_print_what_it_likes() -> None:
    """Also without an end of line: the error behind it is read all the same."""
    wrong = {"PPO": {"algorithm": "ppo", "policy_kwargs": {"activation_fn": "Rleu"}}}
    with pytest.raises(StudyError, match=r"(?s)Nothing was run, because these cannot be built:\n- PPO: .*Rleu"):
        check_buildable(study(seeds=1, tasks=["tests.studies.broken:Chatty-v0"], algorithms=wrong).runs())


def test_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said what is needed, not to install a module that there is not; a report needs no lock."""
    path, of = known(tmp_path)
    write(tmp_path / "x", of, lambda run: line(run, 300))
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert main(["compare", str(path), "--folder", str(tmp_path / "x")]) == 2
    said = capsys.readouterr().err
    assert "POSIX" in said
    assert "pip install" not in said
    assert main(["compare", str(path), "--folder", str(tmp_path / "x"), "--report"]) == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(tmp_path: Path, terminal: bool) -> None:
    """Bars on a terminal, lines elsewhere; failures are told on both."""
    path, _ = known(tmp_path)
    # no markup: a tag that closes nothing
    path.write_text(TINY.replace("  GIPO:", "  GIPO [/new]:"))
    runs = read_study(path).runs()
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=terminal)

    def finish(run: Run) -> None:
        (room.place(tmp_path, run) / room.RECORD).write_text(json.dumps(record(run, [0.0, 2.0, 7.0])))

    for run in runs:
        room.place(tmp_path, run).mkdir(parents=True)
    with Display(tmp_path, runs, console) as display:
        (room.place(tmp_path, runs[0]) / room.PROGRESS).write_text('{"steps": 256, "last_return": 12.3456}')
        display.look()
        finish(runs[0])
        room.fail(room.place(tmp_path, runs[1]), runs[1].configuration, "ValueError: no", "")
        display.look()
    printed = out.getvalue()
    assert "CartPole-v1, Broken, seed 1: failed: ValueError: no" in printed
    assert ("CartPole-v1, GIPO [/new], seed 1: return 7 in 1 s" in printed) is not terminal
    assert "CartPole-v1, GIPO [/new], seed 1" in printed


def test_what_is_missing_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """rliable, which is needed at the end; a place that can be written to."""
    path, _ = known(tmp_path)
    (tmp_path / "file").touch()
    assert main(["compare", str(path), "--folder", str(tmp_path / "file" / "x")]) == 2
    assert "cannot be written to" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rliable", None)
    assert main(["compare", str(path), "--folder", str(tmp_path / "x")]) == 2
    assert "compare needs rliable" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The command is listed and explains itself; a wrong number of jobs is refused."""
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert "--retry" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["compare", "x.yaml", "--jobs", "0"])
    assert main(["compare", "nowhere.yaml"]) == 2
    assert "cannot be read" in capsys.readouterr().err

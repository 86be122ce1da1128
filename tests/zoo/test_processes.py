"""Commands side by side: their exit codes in order, the killed started again, none left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sb3_gipo.zoo.processes import Job, last_lines, run_all


def python(code: str, log: Path) -> Job:
    return Job([sys.executable, "-c", code], log)


def test_codes_and_output_in_order(tmp_path: Path) -> None:
    """Whichever ends first; what each prints is in its own file; no more at once than asked for."""
    running = "import os, time, pathlib; here = pathlib.Path({0!r}); (here / str({1})).touch(); time.sleep(0.3); " + (
        "print(len(list(here.glob('[0-9]')))); (here / str({1})).unlink(); raise SystemExit({1})"
    )
    jobs = [python(running.format(str(tmp_path), number), tmp_path / f"{number}.txt") for number in range(4)]
    looks: list[float] = []
    assert run_all(jobs, 2, lambda: looks.append(time.monotonic())) == [0, 1, 2, 3]
    assert all(int(last_lines(job.log)) <= 2 for job in jobs)
    assert looks


def test_the_killed_are_started_again(tmp_path: Path) -> None:
    """As often as allowed; a command that fails by itself is not."""
    killed = python(
        "import os, signal; print('here', flush=True); os.kill(os.getpid(), signal.SIGKILL)", tmp_path / "killed.txt"
    )
    failing = python("print('here', flush=True); raise SystemExit(3)", tmp_path / "failing.txt")
    assert run_all([killed, failing], 2, lambda: None, restarts=2) == [-signal.SIGKILL, 3]
    assert last_lines(killed.log).count("here") == 3
    assert last_lines(failing.log).count("here") == 1


@pytest.mark.parametrize("deaf", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN); "])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_behind(tmp_path: Path, number: int, deaf: str) -> None:
    """Terminated or interrupted, the processes end with us, also one that does not listen to SIGTERM."""
    code = (
        "import pathlib, sys; from sb3_gipo.zoo import processes; from sb3_gipo.zoo.processes import Job, run_all\n"
        "processes.SECONDS_TO_END = 0.5\n"
        f"child = 'import os, signal, time; {deaf}print(os.getpid(), flush=True); time.sleep(60)'\n"
        f"run_all([Job([sys.executable, '-c', child], pathlib.Path({str(tmp_path / 'child.txt')!r}))], 1, lambda: None)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "child.txt").is_file() or not (tmp_path / "child.txt").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int((tmp_path / "child.txt").read_text())
    parent.send_signal(number)
    assert parent.wait(timeout=30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)

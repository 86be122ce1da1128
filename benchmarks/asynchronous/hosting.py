"""Starts the process that is mistreated, in a folder of its own, and ends it."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.asynchronous.driver import Spec, replace
from benchmarks.speed.common import ROOT


def prepare(folder: Path, spec: Spec) -> Path:
    """:return: the folder, with what a driver needs"""
    (folder / "environments").mkdir(parents=True)
    replace(folder / "spec.json", spec._asdict())
    return folder


def start(folder: Path) -> subprocess.Popen[bytes]:
    """:return: the driver of a folder"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.asynchronous.driver", str(folder)]
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)


def wait_for_steps(folder: Path, driver: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    """:raises RuntimeError: with its output, where the driver ends or nothing arrives"""
    deadline = time.monotonic() + seconds
    while not (folder / "status.json").exists():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The driver did not begin:\n{(folder / 'output').read_text()[-4000:]}")
        time.sleep(0.1)


def end(driver: subprocess.Popen[bytes]) -> None:
    """End it where it still runs; Ray's processes end with it."""
    if driver.poll() is None:
        driver.kill()
        driver.wait()

"""The package as users have it: built, installed, and run as commands in a folder that is not the repository."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# What the wheel is built of.
SOURCES = ("sb3_gipo", "rl_zoo_hyperparams", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
Zoo = Callable[..., str]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the installed package."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in SOURCES:  # a build writes beside what it builds
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    return site


def environment(site: Path, **more: str) -> dict[str, str]:
    """What a command of the installed package runs with: no display, one thread."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return {**kept, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", **more}


def command(*arguments: str) -> list[str]:
    """``python -m sb3_gipo.zoo ...``"""
    return [sys.executable, "-m", "sb3_gipo.zoo", *arguments]


def run(site: Path, folder: Path, *arguments: str, code: int = 0, **more: str) -> str:
    """Run a command of the installed package in a folder, return what it prints; another exit code than expected fails."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(site, **more),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr

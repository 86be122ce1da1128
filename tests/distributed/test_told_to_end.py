"""
SIGTERM to all processes, as schedulers send it. Where its object store has ended Ray ends a driver that has something there,
at once, with status 1 and without a word: it must not end before the driver has left its checkpoint.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.asynchronous.processes import Process, descendants
from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.distributed.checkpoints import Checkpoints
from sb3_gipo.distributed.signals import heard_by_what_begins, unheard_by_what_begins
from tests.distributed.test_ray import SMALL, SpaceEnv

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys, time
from stable_baselines3.common.callbacks import BaseCallback
from sb3_gipo.distributed import AsyncGIPO

class LongUpdate(BaseCallback):
    def _on_step(self):
        return True

    def _on_rollout_end(self):
        if self.num_timesteps >= 512:
            print("now", flush=True)
            end = time.monotonic() + 3
            while time.monotonic() < end:  # a signal cuts `sleep` short
                time.sleep(0.05)

small = {"n_steps": 128, "batch_size": 64, "gradient_steps": 1, "replay_capacity": 4096, "device": "cpu"}
checkpoint_path = sys.argv[1] if sys.argv[1:] else None
model = AsyncGIPO("MlpPolicy", "CartPole-v1", num_actors=1, checkpoint_path=checkpoint_path, **small)
model.learn(1_000_000, callback=LongUpdate())
"""


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [False, True], ids=["without checkpoints", "with checkpoints"])
def test_ctrl_c_ends_all(tmp_path: Path, keeps: bool) -> None:
    """In a terminal all processes get it; an update under way is finished only where there is to be a checkpoint."""
    pytest.importorskip("ray")
    folder = [str(tmp_path / "checkpoints")] if keeps else []
    with _begun(*folder) as driver:
        others = descendants(driver.pid)
        os.killpg(driver.pid, signal.SIGINT)
        said, errors = driver.communicate(timeout=60)
    assert driver.returncode == -signal.SIGINT, errors[-2000:]
    assert errors.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert ("Checkpoint: " in said) == keeps == (Checkpoints(tmp_path / "checkpoints").newest() is not None)
    assert _end(others)


@pytest.mark.slow
def test_a_checkpoint_is_left_where_all_are_told_to_end(tmp_path: Path) -> None:
    """Ray's processes first, the driver last, and an update under way that takes longer than they would to end."""
    pytest.importorskip("ray")
    with _begun(str(tmp_path / "checkpoints")) as driver:
        others = descendants(driver.pid)
        (raylet,) = (each.pid for each in others if each.title.split()[0].endswith("/raylet"))
        os.kill(raylet, signal.SIGTERM)
        time.sleep(0.3)  # enough for it to take its leave
        for process in descendants(driver.pid):
            os.kill(process.pid, signal.SIGTERM)
        driver.terminate()
        said, errors = driver.communicate(timeout=60)
    assert driver.returncode == 143, errors[-2000:]
    newest = Checkpoints(tmp_path / "checkpoints").newest()
    assert newest is not None
    assert f"Checkpoint: {newest}" in said
    assert _end(others)
    model = AsyncGIPO.resume(tmp_path / "checkpoints", "CartPole-v1")
    assert model.num_timesteps == len(model.replay_buffer) == model._pace.taken >= 512


@contextmanager
def _begun(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """:return: a driver in the middle of an update"""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", SCRIPT, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "now\n"
        yield driver


def _end(processes: list[Process]) -> bool:
    """Whether they do within seconds, but for Ray's agents, which may take a minute to see that they are alone."""
    assert len(processes) > 3
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{each.pid}").exists() for each in processes if "Agent" not in each.title):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


class WithASimulator(SpaceEnv):
    """Its simulator is a process of its own, which ends on SIGTERM."""

    def __init__(self) -> None:
        super().__init__()
        simulator = subprocess.Popen(["sleep", "1000"])
        simulator.terminate()
        try:
            simulator.wait(timeout=10)
        finally:
            simulator.kill()


def test_simulators_of_actors_hear_it(tmp_path: Path) -> None:
    """Also of actors whose run is not to be ended by it."""
    pytest.importorskip("ray")
    model = AsyncGIPO("MlpPolicy", WithASimulator, num_actors=1, checkpoint_path=tmp_path, **SMALL)
    model.learn(64)
    model.close()
    assert model.num_timesteps >= 64


def test_what_is_begun_hears_it_or_does_not() -> None:
    """The thread that begins it hears it again afterwards, as before."""
    look = ["grep", "SigBlk", "/proc/self/status"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def blocks_sigterm() -> bool:
        mask = int(subprocess.run(look, capture_output=True, text=True, check=True).stdout.split()[1], 16)
        return bool(mask >> (signal.SIGTERM - 1) & 1)

    assert not blocks_sigterm()
    with unheard_by_what_begins():
        assert blocks_sigterm()
        heard_by_what_begins()
        assert not blocks_sigterm()
    assert not blocks_sigterm()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before

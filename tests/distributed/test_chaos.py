"""Actors are killed, hang, raise and are slow: what had been finished arrives, and the counters say what happened."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.asynchronous.envs import Arrived, BookkeepingEnv, arrived, made
from sb3_gipo.distributed import AsyncGIPO, published
from sb3_gipo.distributed.accounts import BackendFacts
from sb3_gipo.distributed.faults import ActorFailedWarning
from sb3_gipo.rollouts.normalization import Normalizer

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.usefixtures("small_ray", "soon")

LENGTH = 16
SMALL: dict[str, Any] = {
    "n_steps": LENGTH,
    "batch_size": 16,
    "gradient_steps": 2,
    "replay_capacity": 16_384,
    "seed": 1,
    "device": "cpu",
}


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def in_replay(model: AsyncGIPO) -> dict[int, Arrived]:
    replay = model.replay_buffer
    return arrived(replay.gather("observations", np.arange(len(replay))))


class Killer(BaseCallback):
    """
    Kills, between two iterations, an actor that is well and in the middle of a rollout.

    :param folder: of the environments
    """

    victim: int | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        well = [each for each in made(self.folder).values() if each.trouble is None and each.steps > LENGTH]
        if self.victim is None and well:
            number, pid = well[0].number, well[0].pid
            os.kill(pid, signal.SIGSTOP)
            if 2 <= made(self.folder)[number].steps % LENGTH <= LENGTH - 2:
                os.kill(pid, signal.SIGKILL)
                self.victim = number
            else:
                os.kill(pid, signal.SIGCONT)


def test_counters_say_what_happened(tmp_path: Path) -> None:
    """One raises, one hangs, one is slow, one is killed; of what they finished nothing is missing."""
    troubles = {1: "raises", 2: "hangs", 3: "slow"}  # number 0 is asked for its spaces
    model = AsyncGIPO(
        "MlpPolicy",
        partial(BookkeepingEnv, tmp_path, troubles, at=2 * LENGTH + 8),
        num_actors=4,
        hang_seconds=2.0,
        max_failures=3,
        **SMALL,
    )
    killer = Killer(tmp_path)
    model.learn(LENGTH, callback=killer)
    while 3 not in in_replay(model) or model._actors.facts().restarts < 3:
        model.learn(LENGTH, callback=killer, reset_num_timesteps=False)
    facts = model._actors.facts()
    model.close()
    counted = facts._replace(alive=4, queue=0, object_store_mb=0.0)  # the latest of them may be starting still
    assert counted == BackendFacts(4, 0, restarts=3, lost_rollouts=3, raised=1, died=1, hung=1)
    environments, found = made(tmp_path), in_replay(model)
    assert all((each.twice, each.holes) == (0, 0) for each in found.values())
    assert sum(each.steps for each in found.values()) == model.num_timesteps
    assert [(environments[number].steps, found[number].steps) for number in (1, 2)] == [(40, 32)] * 2
    victim = environments[killer.victim].steps
    assert found[killer.victim].steps == victim - victim % LENGTH


@pytest.mark.parametrize("width", [4, 8192], ids=["small", "in shared memory"])
def test_what_was_finished_outlives_its_actor(tmp_path: Path, width: int) -> None:
    """It is taken when its process is gone already, nothing half-made is counted, and the counters wait until it is taken."""
    model = AsyncGIPO("MlpPolicy", partial(BookkeepingEnv, tmp_path, width=width), num_actors=1, **SMALL)
    model._setup_learn(1)
    backend = model._actors
    model._publish(backend)
    until(lambda: backend.drain(wait=False, at_most=0) or backend.facts().queue == 2)
    pid = made(tmp_path)[1].pid
    os.kill(pid, signal.SIGKILL)
    # until Ray knows: who is asked for a rollout before that counts as having begun it
    until(lambda: not Path(f"/proc/{pid}").exists() and ray.wait([backend._running[0].life], timeout=0)[0])
    assert backend.facts().died == 0
    taken = [collected for _ in range(2) for collected in backend.drain(wait=True, at_most=1)]
    steps = np.concatenate([collected.rollout.observations[:LENGTH, 0, 1] for collected in taken])
    assert steps.tolist() == list(range(2 * LENGTH))
    until(lambda: backend.drain(wait=False, at_most=1) or backend.facts().restarts == 1)
    facts = backend.facts()
    model.close()
    assert (facts.died, facts.lost_rollouts) == (1, 0)


def test_policies_do_not_pile_up_at_one_that_stands_still(tmp_path: Path) -> None:
    """It is offered one, and the newest when it goes on."""
    settings = {**SMALL, "policy_kwargs": {"net_arch": [256, 256]}}  # too large to be sent along with a call
    model = AsyncGIPO("MlpPolicy", partial(BookkeepingEnv, tmp_path), num_actors=1, pull="step", **settings).learn(LENGTH)
    backend = model._actors
    until(lambda: backend.drain(wait=False, at_most=0) or backend.facts().queue == 2)
    pid = made(tmp_path)[1].pid
    os.kill(pid, signal.SIGSTOP)
    references = []
    for version in range(100, 120):
        backend.publish(published.publish(model.policy, version, Normalizer(model.env)))
        references.append(backend._weights.hex().encode())
        backend.drain(wait=False, at_most=0)
    kept = ray._private.worker.global_worker.core_worker.get_all_reference_counts()
    assert sum(reference in kept for reference in references) == 2  # what it was offered, and the latest
    os.kill(pid, signal.SIGCONT)
    taken: list[int] = []

    def newest_arrives() -> bool:
        taken.extend(collected.version for collected in backend.drain(wait=True, at_most=1))
        return 119 in taken

    until(newest_arrives)
    model.close()
    assert set(taken) & set(range(101, 119)) == set()


class Holding(BookkeepingEnv):
    """Its third step holds the interpreter for ever: no other thread of its process runs."""

    def step(self, action: np.ndarray) -> Any:
        if self.number == 1 and self.steps == 3:
            ctypes.PyDLL(None).sleep(100_000)  # the lock is kept, as by an extension that does not know of threads
        return super().step(action)


def test_who_is_slow_is_left_alone(tmp_path: Path) -> None:
    """A rollout takes twice as long as an actor may be silent, a step does not."""
    slow = partial(BookkeepingEnv, tmp_path, seconds=2.0 / LENGTH)
    model = AsyncGIPO("MlpPolicy", slow, num_actors=1, hang_seconds=1.0, **SMALL).learn(3 * LENGTH)
    facts = model._actors.facts()
    model.close()
    assert (facts.hung, facts.restarts) == (0, 0)


def test_who_holds_the_interpreter_is_found(tmp_path: Path) -> None:
    """It answers nothing at all."""
    model = AsyncGIPO("MlpPolicy", partial(Holding, tmp_path), num_actors=1, hang_seconds=1.0, **SMALL)
    with pytest.warns(ActorFailedWarning, match=r"no step for \d+ s, more than `hang_seconds` \(1\)"):
        model.learn(LENGTH)
    facts = model._actors.facts()
    model.close()
    assert (facts.hung, facts.restarts) == (1, 1)
    until(lambda: not Path(f"/proc/{made(tmp_path)[1].pid}").exists())

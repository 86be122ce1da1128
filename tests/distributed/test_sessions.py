"""Who begins and ends Ray, and what becomes of actors that nobody has ended."""

import gc
import os
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.asynchronous.envs import BookkeepingEnv, made
from sb3_gipo.distributed import AsyncGIPO

ray = pytest.importorskip("ray")

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "gradient_steps": 1, "replay_capacity": 1024, "device": "cpu"}


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """No session before a test, and none after it."""
    assert not ray.is_initialized()
    yield
    ray.shutdown()


def trained() -> AsyncGIPO:
    return AsyncGIPO("MlpPolicy", "CartPole-v1", num_actors=1, **SMALL).learn(16)


def test_two_models_share_a_session() -> None:
    """The first has begun it and ends first; the other goes on."""
    first, second = trained(), trained()
    first.close()
    first.close()  # again is nothing
    second.learn(48, reset_num_timesteps=False)
    assert second.num_timesteps == 64
    second.close()
    assert not ray.is_initialized()


def test_a_session_that_was_ended_by_others() -> None:
    """Who had used it does not end the next one."""
    first = trained()
    ray.shutdown()
    second = trained()
    first.close()
    second.learn(48, reset_num_timesteps=False)
    second.close()
    assert not ray.is_initialized()


def test_a_session_that_was_ended_between_two_learns() -> None:
    """Its actors went with it: the next `learn` makes others."""
    model = trained()
    ray.shutdown()
    model.learn(48, reset_num_timesteps=False)
    assert model.num_timesteps == 64
    model.close()
    assert not ray.is_initialized()


def test_a_cluster_is_not_joined_beside_a_session_of_our_own() -> None:
    """A process has one session: the actors would not be where they were asked for."""
    first = trained()
    second = AsyncGIPO("MlpPolicy", "CartPole-v1", num_actors=1, ray_address="auto", **SMALL)
    with pytest.raises(ConnectionError, match="a process has one session"):
        second.learn(16)
    first.learn(16)
    first.close()


def test_a_session_that_somebody_else_has_begun_is_left_alone() -> None:
    """Also where it came after one of ours, which a model that is closed only now had used."""
    first = trained()
    ray.shutdown()
    ray.init("local", include_dashboard=False, log_to_driver=False)
    second = trained()
    first.close()
    second.close()
    assert ray.is_initialized()


def test_a_model_that_is_dropped_ends_its_actors(tmp_path: Path) -> None:
    """And Ray with them, as `close` does."""
    env = partial(BookkeepingEnv, tmp_path)
    model = AsyncGIPO("MlpPolicy", env, num_actors=2, **SMALL).learn(64)
    backend = weakref.ref(model._actors)
    actors = {each.pid for each in made(tmp_path).values()} - {os.getpid()}
    assert actors
    del model
    gc.collect()
    assert backend() is None
    assert not ray.is_initialized()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in actors):
        assert time.monotonic() < deadline, "they go on"
        time.sleep(0.1)

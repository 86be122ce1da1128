"""Actors in processes of Ray: they learn, they are started again, and they end."""

import os
import pickle
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.asynchronous.envs import SleepingEnv
from sb3_gipo.distributed import AsyncGIPO, published
from sb3_gipo.distributed.actor import ActorPlan
from sb3_gipo.distributed.faults import ActorsFailedError
from sb3_gipo.rollouts.normalization import Normalizer
from tests.small_envs import SpaceEnv

ray = pytest.importorskip("ray")
from sb3_gipo.distributed.ray_processes import RemoteActor  # noqa: E402

pytestmark = pytest.mark.usefixtures("small_ray", "soon")

SMALL: dict[str, Any] = {
    "n_steps": 16,
    "batch_size": 16,
    "gradient_steps": 2,
    "replay_capacity": 1024,
    "seed": 1,
    "device": "cpu",
    "max_failures": 3,
}


class Troubled(SpaceEnv):
    """
    The environments number themselves by files, in the order in which they are made, and write down the process they are in;
    each does what its number says.

    :param folder: for the files
    :param troubles: of a number, what happens at the tenth step; all others are well
    """

    def __init__(self, folder: Path, troubles: dict[int, str] | None = None) -> None:
        super().__init__()
        self.trouble = None
        for number in range(1000):
            try:
                with (folder / str(number)).open("x") as file:
                    file.write(str(os.getpid()))
            except FileExistsError:
                continue
            self.trouble = (troubles or {}).get(number)
            break
        self._steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        if self._steps == 10 and self.trouble is not None:
            if self.trouble == "dies":
                time.sleep(1)  # until the answer that the environments are made has gone out: that is by Ray, a moment later
                os._exit(7)
            if self.trouble == "hangs":
                time.sleep(1000)
            raise RuntimeError(f"the simulator {self.trouble}")
        return super().step(action)


def actors_end(folder: Path) -> bool:
    """Whether, within ten seconds, no process is left in which an environment was made."""
    processes = {int(path.read_text()) for path in folder.iterdir()} - {os.getpid()}
    assert processes
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{number}").exists() for number in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_two_actors_fill_one_replay(tmp_path: Path) -> None:
    """Both collect, every step counts once, and what they hold is never newer than what there is."""
    model = AsyncGIPO("MlpPolicy", lambda: Troubled(tmp_path), num_actors=2, normalize=True, **SMALL).learn(512)
    replay = model.replay_buffer
    assert (model.num_timesteps, len(replay), model.policy_version) == (512, 512, 32)
    while {segment.actor_id for segment in replay.segments} != {0, 1}:  # one may have been made before the other
        model.learn(16, reset_num_timesteps=False)  # with the same actors
    versions = replay.gather("policy_version", np.arange(len(replay)))
    assert versions.max() > 0  # the newest may be the first of an actor that was made late
    assert (versions < model.policy_version).all()
    seen = model.get_vec_normalize_env().obs_rms.count
    assert model.num_timesteps <= seen <= model.num_timesteps + 2 + 1e-3  # and the first observation of each actor
    model.close()
    assert actors_end(tmp_path)


def test_an_actor_that_may_not_work_ahead() -> None:
    """Has nothing to do until it is asked again, and begins then with what was learnt from its latest rollout."""
    model = AsyncGIPO("MlpPolicy", partial(SleepingEnv, 0.01), num_actors=1, max_queue=1, **SMALL)
    model.learn(160)
    model.close()
    assert model.num_timesteps == 160
    versions = model.replay_buffer.gather("policy_version", np.arange(160))
    assert (versions == np.repeat(np.arange(10), 16)).all()


def test_a_busy_learner_takes_all_that_waits() -> None:
    """With ``replay_ratio="max"``: what it left behind would be older for its next update."""

    class Slow(BaseCallback):
        def _on_training_start(self) -> None:
            self.taken: list[int] = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            self.taken.append(self.num_timesteps)
            time.sleep(1.5 if self.num_timesteps else 0.0)  # an update that takes long

    callback = Slow()
    model = AsyncGIPO("MlpPolicy", SpaceEnv, num_actors=1, max_queue=5, replay_ratio="max", **SMALL)
    model.learn(24 * 16, callback=callback)  # four updates at least, also where the first one finds all that may wait
    model.close()
    assert max(np.diff(callback.taken)) >= 4 * 16  # one is asked for after an update
    assert min(np.diff(callback.taken)[1:-1]) >= 3 * 16  # nor does it stand still meanwhile


def test_an_update_that_takes_long_is_no_silence_of_the_actors() -> None:
    """Who was asked for nothing meanwhile begins when it is asked."""
    env = partial(SleepingEnv, 0.05)  # 0.8 s a rollout
    model = AsyncGIPO("MlpPolicy", env, num_actors=1, max_queue=1, hang_seconds=1.0, **SMALL)
    model.learn(48, callback=SlowUpdates(1.2))
    facts = model._actors.facts()
    model.close()
    assert (model.num_timesteps, facts.restarts, facts.hung) == (48, 0, 0)


def test_weights_arrive_between_two_steps() -> None:
    """Where that is asked for, one rollout is by several policies."""
    model = AsyncGIPO("MlpPolicy", SpaceEnv, num_actors=1, pull="step", replay_ratio="max", **{**SMALL, "n_steps": 256})
    model.learn(1024)
    model.close()
    versions = model.replay_buffer.gather("policy_version", np.arange(1024)).reshape(4, 256)
    assert max(len(np.unique(of_rollout)) for of_rollout in versions) > 1
    assert all((np.diff(of_rollout) >= 0).all() for of_rollout in versions)


def test_who_raises_dies_or_hangs_is_started_again(tmp_path: Path) -> None:
    """The others go on, the run finishes, and the counters say what happened."""
    troubles = {1: "raises", 2: "dies", 3: "hangs"}  # number 0 is asked for its spaces
    model = AsyncGIPO(
        "MlpPolicy",
        lambda: Troubled(tmp_path, troubles),
        num_actors=3,
        hang_seconds=3.0,
        **{**SMALL, "replay_capacity": 65_536},  # all of it, however long that takes
    )
    model._setup_learn(1)
    backend = model._actors
    model.learn(48 * 16)
    made = 1 + 3 + 3  # for the spaces, at first, and again
    while len(list(tmp_path.iterdir())) < made:
        model.learn(16, reset_num_timesteps=False)
    supervisor = backend._supervisor
    model.close()
    assert (supervisor.restarts, supervisor.lost_rollouts) == (3, 3)
    assert len(list(tmp_path.iterdir())) == made
    assert model.num_timesteps == len(model.replay_buffer)


def test_arrays_are_not_pickled() -> None:
    """Of a rollout and of a policy: they lie beside what is, from where Ray puts them into shared memory as they are."""
    learner = AsyncGIPO("MultiInputPolicy", lambda: SpaceEnv("dict"), **{**SMALL, "n_steps": 512})
    weights = published.publish(learner.policy, 0, Normalizer(learner.env))
    collected = RemoteActor(learner._plan(), 0, 0, weights).collect()
    rollout = collected.rollout
    for thing, arrays in (
        (collected, [rollout.actions, rollout.rewards, *rollout.observations.values()]),
        (weights, weights.tensors),
    ):
        beside: list[pickle.PickleBuffer] = []
        pickled = ray.cloudpickle.dumps(thing, protocol=5, buffer_callback=beside.append)
        there = [buffer.raw().tobytes() for buffer in beside]
        for array in arrays:
            assert array.tobytes() in there
            assert array.size == 1 or array.tobytes() not in pickled


@pytest.mark.parametrize("is_made", [False, True])
def test_a_broken_actor_says_why_once(tmp_path: Path, is_made: bool) -> None:
    """What was asked for meanwhile is nothing, not a second error, which Ray would print."""

    def make(index: int, times_started: int) -> VecEnv:
        if not is_made:
            raise RuntimeError("the simulator breaks")
        return make_vec_env(partial(Troubled, tmp_path, {0: "breaks"}), 1)

    acting = {"n_steps": 16, "batch_size": 16, "replay_capacity": 16}
    learner = AsyncGIPO("MlpPolicy", SpaceEnv, **SMALL)
    weights = published.publish(learner.policy, 0, Normalizer(learner.env))
    actor = RemoteActor(ActorPlan(make, learner.policy_class, acting), 0, 0, weights)
    assert actor.ready() is is_made
    with pytest.raises(RuntimeError, match="the simulator breaks"):
        actor.collect()
    assert actor.collect() is None


def test_one_that_never_works_stops_the_run(tmp_path: Path) -> None:
    """With its own traceback; what there was is kept, and no process is left."""
    model = AsyncGIPO("MlpPolicy", lambda: Troubled(tmp_path, dict.fromkeys(range(1, 99), "is broken")), num_actors=1, **SMALL)
    with pytest.raises(ActorsFailedError, match=r"failed 3 times in a row(?s:.*)RuntimeError: the simulator is broken"):
        model.learn(512)
    assert actors_end(tmp_path)
    assert (model.policy_version, model._actors) == (0, None)


class SlowUpdates(BaseCallback):
    """
    Between what is taken and what is asked for next time passes.

    :param seconds: each time
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        time.sleep(self._seconds)


class Stop(BaseCallback):
    """As Ctrl-C in the middle of a run."""

    def _on_step(self) -> bool:
        if self.num_timesteps > 100:
            raise KeyboardInterrupt
        return True


def test_ctrl_c_ends_the_actors(tmp_path: Path) -> None:
    """In seconds."""
    model = AsyncGIPO("MlpPolicy", lambda: Troubled(tmp_path), num_actors=2, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        model.learn(10_000, callback=Stop())
    assert actors_end(tmp_path)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.delitem(sys.modules, "sb3_gipo.distributed.ray_backend", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    model = AsyncGIPO("MlpPolicy", gym.make("CartPole-v1").spec.id, **SMALL)
    with pytest.raises(ImportError, match=r"pip install 'sb3-gipo\[ray\]'"):
        model.learn(16)


def test_ray_keeps_nothing_of_what_was_asked_for() -> None:
    """Its task events would be some kilobytes for every rollout, until the end of the run."""

    @ray.remote(num_cpus=0)
    def seen() -> None:
        pass

    def names() -> set[str]:
        return {event["name"] for event in ray.timeline()}

    model = AsyncGIPO("MlpPolicy", SpaceEnv, **SMALL).learn(160)
    deadline = time.monotonic() + 20
    while not any("seen" in name for name in names()):  # so that events of that time are there
        assert time.monotonic() < deadline
        ray.get(seen.remote())
        time.sleep(0.5)
    assert not any("collect" in name for name in names()), names()
    model.close()

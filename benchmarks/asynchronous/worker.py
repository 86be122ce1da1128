"""
One contestant, told over its standard input to train and answering with its seconds.

Each line in and out is a JSON object. First in: what to build (:func:`benchmarks.asynchronous.turns.spec`); then ``{"lead": k,
"steps": n}`` for one unit of work. Ends with its input. Runs in any interpreter that has the algorithm.
"""

import json
import os
import sys
import time
import traceback
from typing import Any, Protocol

WAITS = ("async/learner_wait", "async/actor_wait")


class Contestant(Protocol):
    """Something that trains."""

    def unit(self, lead: int, steps: int) -> dict[str, float]:
        """
        :param lead: steps before the clock starts: what had been collected already while another one was measured
        :param steps: to train on with the clock running, about
        :return: ``steps``, ``seconds``, and what it says of itself
        """

    def close(self) -> None:
        """End its processes."""


class Ours:
    """
    GIPO or AsyncGIPO, as a user would write it.

    :param spec: what to build
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        import torch as th
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

        import sb3_gipo.envs  # noqa: F401  # registers the tasks
        from benchmarks.asynchronous.envs import SleepingEnv
        from sb3_gipo import GIPO
        from sb3_gipo.distributed import AsyncGIPO

        th.set_num_threads(1)
        env = SleepingEnv if spec["task"] == "sleeping" else spec["task"]
        further = {"device": "cpu", "seed": spec["seed"], **spec["arguments"]}
        if spec["algorithm"] == "AsyncGIPO":
            self._model: Any = AsyncGIPO("MlpPolicy", env, num_actors=spec["number"], **further)
        else:
            kind = {"DummyVecEnv": DummyVecEnv, "SubprocVecEnv": SubprocVecEnv}[spec["vec_env"]]
            self._model = GIPO("MlpPolicy", make_vec_env(env, spec["number"], vec_env_cls=kind), **further)

    def unit(self, lead: int, steps: int) -> dict[str, float]:
        from stable_baselines3.common.callbacks import BaseCallback

        class Clock(BaseCallback):
            start: tuple[float, int, int] | None = None

            def _on_step(self) -> bool:
                return True

            def _on_rollout_start(self) -> None:
                if self.start is None and self.num_timesteps >= lead + before:
                    self.start = time.perf_counter(), self.num_timesteps, self.model.n_gradient_steps
                    if hasattr(self.model, "_accounts"):
                        self.model._accounts.begin()
                elif self.start is not None:  # since then: nothing is written meanwhile
                    there = self.logger.name_to_value
                    waits.update({name: float(there[name]) for name in WAITS if name in there})

        model, clock = self._model, Clock()
        before = model.num_timesteps
        waits: dict[str, float] = {}
        never = 10**9  # the log is looked at instead of written
        model.learn(lead + steps, callback=clock, log_interval=never, reset_num_timesteps=before == 0)
        assert clock.start is not None
        started, first, minibatches = clock.start
        found = {"seconds": time.perf_counter() - started, "steps": model.num_timesteps - first}
        found["minibatches"] = model.n_gradient_steps - minibatches
        return found | waits

    def close(self) -> None:
        if hasattr(self._model, "close"):
            self._model.close()


def build(spec: dict[str, Any]) -> Contestant:
    """:return: the contestant"""
    if spec["algorithm"] == "RLlib APPO":
        from benchmarks.asynchronous.rllib import RLlib

        return RLlib(spec)
    if spec["algorithm"] == "Sample Factory APPO":
        from benchmarks.asynchronous.sample_factory import SampleFactory

        return SampleFactory(spec)
    return Ours(spec)


def main() -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not end up between the answers

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    contestant = None
    try:
        spec = json.loads(sys.stdin.readline())
        os.sched_setaffinity(0, spec["cores"])  # before torch and Ray count the cores
        contestant = build(spec)
        from benchmarks.speed.common import versions

        answer({"versions": versions("ray", "mujoco", "metaworld")})
        for line in sys.stdin:
            asked = json.loads(line)
            answer(contestant.unit(asked["lead"], asked["steps"]))
    except Exception as error:
        answer({"error": traceback.format_exc(), "is_missing": isinstance(error, ImportError)})
        return 1
    finally:
        if contestant is not None:
            contestant.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

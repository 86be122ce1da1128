"""
One contestant of the end-to-end comparison, told over its standard input to train and answering with its seconds.

Each line in and out is a JSON object. First in: what to build (:class:`benchmarks.speed.end_to_end.Spec`); then
``{"iterations": k}`` for one unit of work. Ends with its input. Runs in any interpreter that has the algorithm.
"""

import json
import os
import sys
import time
import traceback
from typing import Any


def build(spec: dict[str, Any]) -> Any:
    """:return: the model"""
    import gymnasium as gym
    import torch as th
    from stable_baselines3.common.env_util import make_vec_env

    from benchmarks.speed.common import refuse_fallback
    from benchmarks.speed.problems import TimedEnv

    th.set_num_threads(len(spec["cores"]))
    refuse_fallback()
    if spec["task"].startswith("MetaWorld/"):
        import sb3_gipo.envs  # noqa: F401  # registers the tasks

    def make() -> Any:
        env = gym.make(spec["task"])
        return TimedEnv(env) if spec["timed"] else env

    if spec["algorithm"] == "SBX PPO":
        from sbx import PPO as Algorithm
    elif spec["algorithm"] == "SB3 PPO":
        from stable_baselines3 import PPO as Algorithm
    else:
        from sb3_gipo import GIPO as Algorithm
    env = make_vec_env(make, n_envs=spec["n_envs"], seed=spec["seed"])
    device = {} if spec["algorithm"] == "SBX PPO" else {"device": "cpu"}
    return Algorithm("MlpPolicy", env, seed=spec["seed"], **device, **spec["arguments"])


def inside(model: Any) -> float | None:
    """:return: seconds spent inside the environments so far, where they are timed"""
    from benchmarks.speed.problems import TimedEnv

    envs = [env.env for env in model.env.envs]  # inside of Monitor
    return sum(env.seconds for env in envs) if isinstance(envs[0], TimedEnv) else None


def unit(model: Any, iterations: int) -> dict[str, Any]:
    """:return: seconds of ``learn`` over so many iterations, and of them those inside the environments"""
    before, steps = inside(model), model.num_timesteps
    start, processor = time.perf_counter(), time.process_time()
    model.learn(iterations * model.n_steps * model.n_envs, reset_num_timesteps=model.num_timesteps == 0)
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - processor,
        "environment_seconds": None if before is None else inside(model) - before,
        "steps": model.num_timesteps - steps,
    }


def main() -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed must not end up between the answers

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        spec = json.loads(sys.stdin.readline())
        os.sched_setaffinity(0, spec["cores"])  # before torch and JAX count the cores
        model = build(spec)
        from benchmarks.speed.common import versions

        answer({"versions": versions("jax", "sbx-rl", "mujoco", "metaworld")})
        for line in sys.stdin:
            answer(unit(model, json.loads(line)["iterations"]))
    except Exception as error:
        answer({"error": traceback.format_exc(), "is_missing": isinstance(error, ImportError)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""
Environment steps per second of 1, 4 and 16 actors on one machine, of an environment that sleeps 5 ms a step.

Target: 16 actors give 90 % of 16 times what one gives. Rollouts of 128 steps, the last 16 of them kept, and one minibatch for
every 512 steps, as many as in a rollout by default: the learner has little to do.

How much of a core an actor takes depends on the machine: who wakes up after 5 ms finds its caches full of what others do. So
what asking the policy costs is measured too, on arrays, as these actors do, and with torch; again and again and after a sleep.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from benchmarks.asynchronous.common import store
from benchmarks.asynchronous.envs import SleepingEnv
from benchmarks.asynchronous.turns import Contestant, measure, rates, spec, waits
from benchmarks.speed.common import markdown, ratios, spread
from sb3_gipo.distributed.array_acting import ArrayActing

TARGET = 0.9
NUMBERS = (1, 4, 16)
LENGTH = 128
ARGUMENTS: dict[str, Any] = {
    **{"rollout_length": LENGTH, "replay_capacity": 16 * LENGTH, "max_queue": 2},
    **{"gradient_steps": 1, "batch_size": LENGTH, "replay_ratio": LENGTH / 512},
}
STEPS_PER_SECOND = 200  # of one actor, at most


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a unit, about")
    parser.add_argument("--compile", action="store_true", help="compile the update: these actors act on arrays")


def run(args: argparse.Namespace) -> int:
    seconds, rounds = (2.0, 2) if args.quick else (args.seconds, args.rounds)
    arguments = {**ARGUMENTS, "compile": args.compile}
    asking = asking_the_policy()
    for how, took in asking.items():
        print(
            "Asking the policy {}: {again:.0f} µs of a core in a loop, {after_sleep:.0f} µs after a sleep.".format(how, **took)
        )
    contestants = {
        str(number): Contestant(
            spec("AsyncGIPO", "sleeping", number, arguments),
            lead=number * LENGTH * (ARGUMENTS["max_queue"] + 1),
            steps=int(number * STEPS_PER_SECOND * seconds),
            # the last actor may take a while to be made; it has given several rollouts by then
            warm_up=number * LENGTH * 8,
        )
        for number in NUMBERS
    }
    found = measure(contestants, rounds)
    print(table(found))
    store(
        "actors_compiled" if args.compile else "actors",
        args,
        {**found, "target": TARGET, "microseconds_of_asking_the_policy": asking},
    )
    return int(bool(found["left_out"]))


def asking_the_policy(times: int = 300) -> dict[str, dict[str, float]]:
    """:return: microseconds of a core: in a loop, and where each time there is a sleep before (its own part is taken off)"""
    th.set_num_threads(1)
    policy = ActorCriticPolicy(SleepingEnv.observation_space, SleepingEnv.action_space, lambda _: 3e-4).eval()
    seen = np.zeros((1, *SleepingEnv.observation_space.shape), np.float32)
    acting, observation = ArrayActing(policy), th.from_numpy(seen)

    def on_arrays() -> None:
        acting.act(seen)

    def with_torch() -> None:
        with th.no_grad():
            policy(observation)

    def sleep() -> None:
        time.sleep(0.005)

    def took(*calls: Callable[[], None]) -> float:
        seconds = []
        for _ in range(times):
            before = time.process_time()
            for call in calls:
                call()
            seconds.append(time.process_time() - before)
        return 1e6 * statistics.median(seconds)

    found = {}
    for how, ask in (("on arrays", on_arrays), ("with torch", with_torch)):
        ask()
        found[how] = {"again": took(ask), "after_sleep": took(sleep, ask) - took(sleep)}
    return found


def table(found: dict[str, Any]) -> str:
    """:return: one line for each number of actors"""
    lines = []
    for name in found["units"]:
        alone = [int(name) * rate for rate in rates(found, "1")] if "1" in found["units"] else []
        share = spread(ratios(rates(found, name), alone)) if alone else ""
        lines.append([name, spread(rates(found, name), ",.0f"), share, waits(found, name)])
    return markdown(["actors", "env steps/s", "of so many times one actor", "learner, actors wait"], lines)

"""
Lag of a busy learner's data: 16 actors beside 2, as in table 1 of the paper.

A replay of 50,000 transitions, a simulator of 20 ms a step, and a learner that never waits: it publishes its policy after
every so many minibatches, as many with 16 actors as with 2. Nor do the actors wait, whose queue is as long as the replay. 16
fill it within few policy versions (fresh), 2 within many (stale). Old is what is more than 4 versions behind. Expected: an old
fraction near 0 with 16 actors and near 0.9 with 2.
"""

import argparse
import statistics
import time
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.asynchronous.common import store
from benchmarks.asynchronous.envs import SleepingEnv
from benchmarks.speed.common import SEED, markdown
from sb3_gipo.distributed import AsyncGIPO

NUMBERS = (16, 2)
SECONDS = 0.02  # of a step: with less, the processes of 16 actors are short of cores before the simulators are
CAPACITY = 50_000
SETTINGS: dict[str, Any] = {"rollout_length": 128, "batch_size": 256, "replay_ratio": "max", "pull": "rollout", "seed": SEED}
LAST = 0.2  # the share of the environment steps that counts, as in the paper
LOGGED = ("lag/old_frac", "lag/version_gap_mean", "lag/version_gap_max", "lag/collected_mean", "async/steps_per_second")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minibatches", type=int, default=15_000, help="of an update, after which the policy is published")
    parser.add_argument("--capacity", type=int, default=CAPACITY, help="of the replay; a quarter more steps are made")


def run(args: argparse.Namespace) -> int:
    th.set_num_threads(1)
    minibatches, capacity = (50, 2_048) if args.quick else (args.minibatches, args.capacity)
    settings = {**SETTINGS, "gradient_steps": minibatches, "replay_capacity": capacity}
    settings["max_queue"] = capacity // SETTINGS["rollout_length"]
    found = {str(number): regime(number, settings, steps=capacity * 5 // 4) for number in NUMBERS}
    print(table(found))
    store("regimes", args, {"settings": settings, "seconds_of_a_step": SECONDS, "last": LAST, "updates": found})
    return 0


class Notes(BaseCallback):
    """Keeps what is logged of each update."""

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[dict[str, float]] = []
        self._began = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:  # what was logged of the update before is still there
        there = self.logger.name_to_value
        if "lag/old_frac" in there:
            numbers = {name: float(there[name]) for name in LOGGED if name in there}
            seconds = round(time.perf_counter() - self._began, 2)
            self.updates.append({"num_timesteps": self.num_timesteps, "seconds": seconds, **numbers})


def regime(number: int, settings: dict[str, Any], steps: int) -> list[dict[str, float]]:
    """:return: of each update, the lag of what it drew, and when it was over"""
    env = partial(SleepingEnv, SECONDS)
    model, notes = AsyncGIPO("MlpPolicy", env, num_actors=number, device="cpu", **settings), Notes()
    try:
        model.learn(steps, callback=notes, log_interval=10**9)  # the log is looked at instead of written
    finally:
        model.close()
    return notes.updates


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """:return: one line for each number of actors, means over the last updates"""
    lines = []
    for name, updates in found.items():
        last = [each for each in updates if each["num_timesteps"] >= (1 - LAST) * updates[-1]["num_timesteps"]]

        def mean(key: str, last: list[dict[str, float]] = last) -> float:
            return statistics.mean(each[key] for each in last if key in each)

        took = (updates[-1]["seconds"] - updates[0]["seconds"]) / max(len(updates) - 1, 1)
        numbers = [f"{mean('async/steps_per_second'):,.0f}", f"{took:.2f}", f"{mean('lag/old_frac'):.3f}"]
        gaps = [f"{mean(key):.1f}" for key in ("lag/version_gap_mean", "lag/version_gap_max", "lag/collected_mean")]
        lines.append([name, *numbers, *gaps])
    header = ["actors", "env steps/s", "seconds of an update", "old fraction", "version gap: mean", "largest", "at arrival"]
    return markdown(header, lines)

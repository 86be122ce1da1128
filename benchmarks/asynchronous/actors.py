"""
Environment steps per second of 1, 4 and 16 actors on one machine, of an environment that sleeps 5 ms a step.

Target: 16 actors give 90 % of 16 times what one gives. Rollouts of 128 steps, the last 16 of them kept, and one minibatch for
each: the learner has little to do.
"""

import argparse
from typing import Any

from benchmarks.asynchronous.common import store
from benchmarks.asynchronous.turns import Contestant, measure, rates, spec, waits
from benchmarks.speed.common import markdown, ratios, spread

TARGET = 0.9
NUMBERS = (1, 4, 16)
LENGTH = 128
ARGUMENTS: dict[str, Any] = {"rollout_length": LENGTH, "gradient_steps": 1, "replay_capacity": 16 * LENGTH, "max_queue": 2}
STEPS_PER_SECOND = 200  # of one actor, at most


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a unit, about")
    parser.add_argument("--compile", action="store_true", help="compile the policy that acts, and the update")


def run(args: argparse.Namespace) -> int:
    seconds, rounds = (2.0, 2) if args.quick else (args.seconds, args.rounds)
    arguments = {**ARGUMENTS, "compile": args.compile}
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
    store("actors_compiled" if args.compile else "actors", args, {**found, "target": TARGET})
    return int(bool(found["left_out"]))


def table(found: dict[str, Any]) -> str:
    """:return: one line for each number of actors"""
    lines = []
    for name in found["units"]:
        alone = [int(name) * rate for rate in rates(found, "1")] if "1" in found["units"] else []
        share = spread(ratios(rates(found, name), alone)) if alone else ""
        lines.append([name, spread(rates(found, name), ",.0f"), share, waits(found, name)])
    return markdown(["actors", "env steps/s", "of so many times one actor", "learner, actors wait"], lines)

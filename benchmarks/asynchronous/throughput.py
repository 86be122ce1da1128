"""
Environment steps per second on Meta-World's reach-v3: two actors beside GIPO with two environments, on two cores.

All with GIPO's defaults: rollouts of 512 steps, and for each of them 160 minibatches of 128. Target: 1.5 of GIPO's, with
``DummyVecEnv``, which is SB3's default, and with ``SubprocVecEnv``. What is possible follows from the seconds that GIPO spends
on collecting (c, with ``DummyVecEnv``) and updating (u): two cores that are never idle need (c + u) / 2.
"""

import argparse
from typing import Any

from benchmarks.asynchronous.common import store
from benchmarks.asynchronous.turns import Contestant, measure, minibatches, rates, spec, waits
from benchmarks.speed.common import markdown, ratios, spread

TARGET = 1.5
TASK = "sb3_gipo.envs:MetaWorld/reach-v3"  # known in every process
NUMBER = 2
LEAD = NUMBER * 512 * 3  # what waits when a unit begins, and the rollouts whose actors waited before them
OURS = "AsyncGIPO, 2 actors"
WARM_UP = 10_240  # the replay is full then, and as many minibatches are taken as ever will be


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8192, help="of a unit")


def run(args: argparse.Namespace) -> int:
    steps, rounds, warm_up = (1024, 2, 1024) if args.quick else (args.steps, args.rounds, WARM_UP)
    contestants = {
        f"GIPO, {kind}": Contestant(spec("GIPO", TASK, NUMBER, {}, vec_env=kind), 512, steps, warm_up)
        for kind in ("DummyVecEnv", "SubprocVecEnv")
    }
    contestants[OURS] = Contestant(spec("AsyncGIPO", TASK, NUMBER, {}), LEAD, steps, warm_up)
    found = measure(contestants, rounds)
    print(table(found))
    store("throughput", args, {**found, "target": TARGET})
    return int(bool(found["left_out"]))


def table(found: dict[str, Any]) -> str:
    """:return: one line for each contestant"""
    header = ["", "env steps/s", "minibatches for 512 steps", "AsyncGIPO beside it", "learner, actors wait"]
    lines = []
    for name in found["units"]:
        beside = spread(ratios(rates(found, OURS), rates(found, name))) if OURS in found["units"] and name != OURS else ""
        lines.append([name, spread(rates(found, name), ",.0f"), minibatches(found, name), beside, waits(found, name)])
    return markdown(header, lines)

"""
Environment steps per second on Meta-World's reach-v3 beside RLlib's and Sample Factory's APPO: two actors, two cores.

What learners do for a step differs: GIPO replays, APPO uses a sample once or twice. So AsyncGIPO is measured with its defaults
(160 minibatches of 128 for a rollout of 512) and with APPO's work, 4 minibatches of 128 for 512 steps. RLlib is measured with
fragments and training batches of 128, each used once, and with its own defaults; Sample Factory likewise. All have two hidden
layers of 64 with tanh, apart for policy and value. Each peer has an interpreter of its own (``--rllib-python``,
``--sample-factory-python``; how they are made is in ``benchmarks/asynchronous/README.md``); without it it is left out.
"""

import argparse
import statistics
from typing import Any

from benchmarks.asynchronous.common import store
from benchmarks.asynchronous.throughput import LEAD, NUMBER, TASK, WARM_UP
from benchmarks.asynchronous.turns import Contestant, measure, rates, spec
from benchmarks.speed.common import markdown, ratios, spread

BATCH = 128
ONCE, DEFAULTS = "AsyncGIPO, each sample once", "AsyncGIPO, defaults"
PEERS = {"RLlib APPO": "rllib_python", "Sample Factory APPO": "sample_factory_python"}


def add_interpreters(parser: argparse.ArgumentParser) -> None:
    """:param parser: of this part, or of one that includes it"""
    parser.add_argument("--rllib-python", metavar="PATH", help="an interpreter with ray[rllib]")
    parser.add_argument("--sample-factory-python", metavar="PATH", help="an interpreter with sample-factory")


def add_options(parser: argparse.ArgumentParser) -> None:
    add_interpreters(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8192, help="of a unit")


def run(args: argparse.Namespace) -> int:
    steps, rounds, warm_up = (1024, 2, 1024) if args.quick else (args.steps, args.rounds, WARM_UP)
    once = {"gradient_steps": 512 // BATCH, "batch_size": BATCH}
    contestants = {
        ONCE: Contestant(spec("AsyncGIPO", TASK, NUMBER, once), LEAD, steps, warm_up),
        DEFAULTS: Contestant(spec("AsyncGIPO", TASK, NUMBER, {}), LEAD, steps, warm_up),
    }
    for peer, option in PEERS.items():
        python = getattr(args, option)
        if python is None:
            print(f"{peer} is left out: `--{option.replace('_', '-')} PATH` names an interpreter that has it.")
            continue
        for name, arguments in {"each sample once": {"batch": BATCH}, "defaults": {"defaults": True}}.items():
            contestants[f"{peer}, {name}"] = Contestant(spec(peer, TASK, NUMBER, arguments), LEAD, steps, warm_up, python)
    found = measure(contestants, rounds)
    print(table(found))
    store("peers", args, found)
    return int(bool(found["left_out"]))


def used(unit: dict[str, Any]) -> float:
    """:return: how often a sample was used"""
    return (unit["trained"] if "trained" in unit else unit["minibatches"] * BATCH) / unit["steps"]


def table(found: dict[str, Any]) -> str:
    """:return: one line for each contestant"""
    lines = []
    for name, units in found["units"].items():
        ours = ONCE if name.endswith("once") else DEFAULTS
        beside = spread(ratios(rates(found, ours), rates(found, name))) if ours in found["units"] and name != ours else ""
        passes = statistics.median(used(unit) for unit in units)
        lines.append([name, spread(rates(found, name), ",.0f"), f"{passes:.1f}", beside])
    return markdown(["", "env steps/s", "uses of a sample", "AsyncGIPO of the same kind beside it"], lines)

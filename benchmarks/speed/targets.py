"""
What the recomputation of values, log-probabilities and V-trace costs over 10k to 1M stored transitions.

An MLP 256x256 on the spaces of HalfCheetah, one thread. Each call of ``train()`` computes the targets of the rollouts that it
draws from (its log key ``time/targets``) and takes 100 minibatches of 256 (``time/update``). The share of an iteration is
given twice: of these two alone, and with the collection of 1,000 steps of Meta-World reach-v3 (measured once,
``time/collect``) added. How the time grows is measured on all that is stored, which ``train()`` needs only where it draws
all of it.
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np
from gymnasium import spaces

from benchmarks.speed.common import SEED, Rows, in_own_process, markdown, ratios, spread, store, take_turns, use_cores
from benchmarks.speed.problems import STANDSTILL, NoiseEnv, collect, prepare, with_compiled

SIZES = (10_000, 50_000, 200_000, 1_000_000)
ROLLOUT = 1000  # transitions of each stored rollout, one environment
MINIBATCHES, BATCH_SIZE = 100, 256
OBSERVATIONS, ACTIONS = 17, 6  # of HalfCheetah
NET: dict[str, Any] = {"net_arch": [256, 256]}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="stored transitions, multiples of 1,000")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="torch threads, and cores of the process")
    parser.add_argument("--device", default="cpu")


def run(args: argparse.Namespace) -> int:
    sizes, rounds = ([ROLLOUT, 2 * ROLLOUT], 2) if args.quick else (args.sizes, args.rounds)
    collect_seconds = in_own_process(collection, rounds, args.threads)
    rows: Rows = []
    for size in sizes:
        row = in_own_process(measure, size, rounds, args.threads, args.device, with_compiled(args))
        rows.append({"size": size, "threads": args.threads, "device": args.device, "collect_seconds": collect_seconds, **row})
        store("targets", args, rows, ("size", "threads", "device"), ["metaworld", "mujoco"])
    print(table(rows))
    return 0


def collection(rounds: int, threads: int) -> list[float]:
    """:return: seconds of collecting 1,000 steps of reach-v3, each time"""
    use_cores(threads)
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_gipo import GIPO

    env = make_vec_env("MetaWorld/reach-v3", seed=SEED)
    model = GIPO("MlpPolicy", env, n_steps=ROLLOUT, batch_size=100, policy_kwargs=NET, seed=SEED, device="cpu")
    callback = prepare(model, 1)
    seconds = []
    for _ in range(rounds):
        collect(model, callback)
        seconds.append(model.logger.name_to_value["time/collect"])
    return seconds


def measure(size: int, rounds: int, threads: int, device: str, compiled: bool) -> dict[str, Any]:
    """:return: seconds of the targets and of the minibatches in every call of ``train()``, and of all targets, by variant"""
    use_cores(threads)
    models = {"eager": build(size, device)}
    if compiled:
        models["compiled"] = build(size, device, compile=True)

    def train(model: Any) -> dict[str, float]:
        model.train()
        logged = {name: model.logger.name_to_value[f"time/{name}"] for name in ("targets", "update")}
        start = time.perf_counter()
        model._compute_targets(model.replay_buffer)
        return {**logged, "everything": time.perf_counter() - start}

    calls = {name: (lambda model=model: train(model)) for name, model in models.items()}
    take_turns(calls, 2)  # first calls: compilation, caches
    measured = take_turns(calls, rounds)
    return {
        f"{part}_seconds": {name: [call[part] for call in measured[name]] for name in models}
        for part in ("targets", "update", "everything")
    }


def build(size: int, device: str, **options: Any) -> Any:
    """:return: a model with a full replay of that size"""
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.vec_env import DummyVecEnv

    from sb3_gipo import GIPO

    model = GIPO(
        "MlpPolicy",
        DummyVecEnv([lambda: NoiseEnv(spaces.Box(-np.inf, np.inf, (OBSERVATIONS,)), spaces.Box(-1, 1, (ACTIONS,)))]),
        learning_rate=STANDSTILL,
        n_steps=BATCH_SIZE,  # nothing is collected
        batch_size=BATCH_SIZE,
        replay_capacity=size,
        gradient_steps=MINIBATCHES,
        policy_kwargs=NET,
        seed=SEED,
        device=device,
        **options,
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    rng = np.random.default_rng(SEED)
    for _ in range(size // ROLLOUT):
        model.replay_buffer.add_rollout(**rollout(rng))
    assert len(model.replay_buffer) == size, f"{size} is no multiple of {ROLLOUT}"
    return model


def rollout(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """:return: an episode of noise, cut short by a time limit; actions as an untrained policy draws them"""
    actions = rng.standard_normal((ROLLOUT, 1, ACTIONS), dtype=np.float32)
    truncated = np.zeros((ROLLOUT, 1), dtype=bool)
    truncated[-1] = True
    return {
        "observations": rng.standard_normal((ROLLOUT, 1, OBSERVATIONS), dtype=np.float32),
        "actions": actions,
        "rewards": rng.standard_normal((ROLLOUT, 1), dtype=np.float32),
        "terminated": np.zeros_like(truncated),
        "truncated": truncated,
        "last_observations": np.zeros((1, OBSERVATIONS), dtype=np.float32),
        "terminal_observations": np.zeros((1, OBSERVATIONS), dtype=np.float32),
        "log_probs": -0.5 * (actions**2 + np.log(2 * np.pi)).sum(axis=2),
    }


def shares(row: dict[str, Any], name: str) -> tuple[list[float], list[float]]:
    """:return: of each call, the part of the targets in targets and update, and with the collection added"""
    targets, update = row["targets_seconds"][name], row["update_seconds"][name]
    alone = [of + rest for of, rest in zip(targets, update, strict=True)]
    collect = statistics.median(row["collect_seconds"])
    return ratios(targets, alone), ratios(targets, [seconds + collect for seconds in alone])


def table(rows: Rows) -> str:
    """:return: one line for each size and variant"""
    lines = []
    for row in rows:
        for name, targets in row["targets_seconds"].items():
            alone, with_collection = shares(row, name)
            lines.append(
                [
                    f"{row['size']:,}",
                    name,
                    spread([1e3 * seconds for seconds in targets], ".1f"),
                    f"{1e3 * statistics.median(row['update_seconds'][name]):.0f}",
                    spread(alone, ".1%"),
                    spread(with_collection, ".1%"),
                    f"{1e3 * statistics.median(row['everything_seconds'][name]):.0f}",
                    each(row, name),
                ]
            )
    header = ["stored", "update", "targets, ms", "100 minibatches, ms", "share of train()", "share with collection"]
    return markdown([*header, "of everything, ms", "µs each"], lines)


def each(row: dict[str, Any], name: str) -> str:
    """:return: microseconds for each stored transition, when the targets of all are computed"""
    return f"{1e6 * statistics.median(row['everything_seconds'][name]) / row['size']:.2f}"

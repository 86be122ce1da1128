"""
Resident memory over a long run of GIPO with replay: flat within 2 % over 200 iterations after a warm-up of 20.

A small run on CartPole-v1, in a process of its own; resident memory is read after every collection. The growth is that from
the median of the first 20 iterations after the warm-up to the median of the last 20. Linux only (``/proc/self/statm``).
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.speed.common import SEED, Rows, in_own_process, markdown, store, use_cores
from benchmarks.speed.problems import with_compiled

LIMIT = 0.02
WARM_UP, ITERATIONS, WINDOW = 20, 200, 20
SETTINGS: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "n_epochs": 5}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="after the warm-up")


def run(args: argparse.Namespace) -> int:
    iterations = 2 * WINDOW if args.quick else args.iterations
    variants: dict[str, dict[str, Any]] = {"GIPO": {}}
    if with_compiled(args):
        variants["GIPO compiled"] = {"compile": True}
    rows: Rows = []
    for name, options in variants.items():
        series = in_own_process(measure, options, WARM_UP + iterations)
        rows.append({"variant": name, "env": "CartPole-v1", "settings": {**SETTINGS, **options}, "rss_bytes": series})
        store("memory", args, rows, ("variant",))
    print(table(rows))
    return int(any(growth(row) > LIMIT for row in rows))


def measure(options: dict[str, Any], iterations: int) -> list[int]:
    """:return: resident bytes after the collection of each iteration"""
    use_cores(1)
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_gipo import GIPO

    series: list[int] = []

    class Scales(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            series.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    env = make_vec_env("CartPole-v1", n_envs=4, seed=SEED)
    model = GIPO("MlpPolicy", env, seed=SEED, device="cpu", **SETTINGS, **options)
    model.learn(iterations * model.n_steps * model.n_envs, callback=Scales())
    return series


def windows(row: dict[str, Any]) -> tuple[float, float]:
    """:return: median resident bytes of the first and of the last iterations after the warm-up"""
    series = row["rss_bytes"][WARM_UP:]
    return statistics.median(series[:WINDOW]), statistics.median(series[-WINDOW:])


def growth(row: dict[str, Any]) -> float:
    """:return: of the last window beside the first, relative"""
    first, last = windows(row)
    return last / first - 1


def table(rows: Rows) -> str:
    """:return: one line for each variant"""
    lines = []
    for row in rows:
        first, last = (f"{size / 2**20:.1f}" for size in windows(row))
        lines.append([row["variant"], str(len(row["rss_bytes"]) - WARM_UP), first, last, f"{growth(row):+.2%}"])
    return markdown(["", "iterations", f"first {WINDOW}, MB", f"last {WINDOW}, MB", "growth"], lines)

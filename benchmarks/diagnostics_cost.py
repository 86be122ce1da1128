"""
What the callbacks cost: the same training run with and without them, in turns, on Meta-World.

    python benchmarks/diagnostics_cost.py     # a quarter of an hour; prints a table, leaves results/diagnostics_cost.json

Every pair is one run without and one with callbacks, one right after the other, in an order that changes from pair to pair;
what counts is the median over pairs of the ratio of their times. Both runs of a pair do the same work: they agree bit for bit.
Environment and learner share one process and one thread; times are processor time of that process, the writer of TensorBoard
included, so that nothing is hidden in another one, and other load on the machine does not count.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_gipo import GIPO, HealthCallback, UtilizationCallback

LIMIT = 0.03
ALGORITHMS: dict[str, Any] = {"PPO": PPO, "GIPO": GIPO}
CALLBACKS: dict[str, list[type[BaseCallback]]] = {
    "UtilizationCallback()": [UtilizationCallback],
    "UtilizationCallback(), HealthCallback()": [UtilizationCallback, HealthCallback],
}


def run(algorithm: str, callbacks: list[BaseCallback], env_id: str, steps: int) -> tuple[float, th.Tensor]:
    """
    :return: processor seconds of training, logging to TensorBoard included, and the parameters it led to
    """
    env = VecNormalize(make_vec_env(env_id, n_envs=2, seed=0))
    model = ALGORITHMS[algorithm]("MlpPolicy", env, n_steps=500, batch_size=100, seed=0, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(configure(folder, ["tensorboard", "csv"]))
        start = time.process_time()
        model.learn(steps, callback=callbacks)
        seconds = time.process_time() - start
        model.logger.close()
    env.close()
    return seconds, th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


def measure(algorithm: str, kinds: list[type[BaseCallback]], args: argparse.Namespace) -> list[tuple[float, float]]:
    """:return: seconds without and with callbacks of each pair"""
    pairs = []
    for number in range(args.pairs):
        seconds: dict[bool, float] = {}
        parameters: dict[bool, th.Tensor] = {}
        for watched in (False, True) if number % 2 else (True, False):
            callbacks = [kind() for kind in kinds] if watched else []
            seconds[watched], parameters[watched] = run(algorithm, callbacks, args.env, args.steps)
        assert th.equal(parameters[False], parameters[True]), "a watched run must be the same run"
        pairs.append((round(seconds[False], 3), round(seconds[True], 3)))
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="MetaWorld/reach-v3")
    parser.add_argument(
        "--steps", type=int, default=41_000, help="environment steps of a run: 41 updates, 4 histograms, 1 picture"
    )
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "diagnostics_cost.json")
    args = parser.parse_args()
    th.set_num_threads(1)
    run("GIPO", [UtilizationCallback(figure_freq=1)], args.env, 4000)  # imports and first calls do not count
    # what was measured of other algorithms stays, so that these may be measured one by one
    before = json.loads(args.output.read_text())["rows"] if args.output.exists() else []
    rows: list[dict[str, Any]] = [row for row in before if row["algorithm"] not in args.algorithms]
    print("| algorithm | callbacks | seconds without | median cost | of the pairs |\n|---|---|---|---|---|")
    for algorithm in args.algorithms:
        for name, kinds in CALLBACKS.items():
            pairs = measure(algorithm, kinds, args)
            costs = [watched / alone - 1 for alone, watched in pairs]
            rows.append(
                {"algorithm": algorithm, "callbacks": name, "pairs_seconds": pairs, "median_cost": statistics.median(costs)}
            )
            listed = ", ".join(f"{cost:+.1%}" for cost in costs)
            alone = statistics.median(alone for alone, _ in pairs)
            print(f"| {algorithm} | {name} | {alone:.1f} | {rows[-1]['median_cost']:+.1%} | {listed} |", flush=True)
    facts = {"env": args.env, "steps": args.steps, "torch": th.__version__, "python": platform.python_version()}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    return int(max(row["median_cost"] for row in rows if row["callbacks"] == "UtilizationCallback()") > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())

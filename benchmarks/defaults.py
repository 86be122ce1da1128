"""
What GIPO's defaults are worth beside PPO's, on two cheap tasks: a check that they hold there.

    python benchmarks/defaults.py --seeds 0 1 2 --out benchmarks/results/defaults.json

Each configuration trains with PPO's arguments unchanged; the figure is the mean return of the last 100 training episodes.
Runs one after the other, each on one thread.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import PPO

from sb3_gipo import GIPO, defaults

TASKS: dict[str, tuple[int, dict[str, Any]]] = {
    "CartPole-v1": (30_000, {}),
    "Pendulum-v1": (60_000, {"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3}),
}
CONFIGURATIONS: dict[str, dict[str, Any] | None] = {
    "SB3 PPO": None,
    "GIPO, defaults": {},
    "GIPO, symmetric trust, no penalty": {"surrogate_kwargs": {}, "kl_coef": 0.0},
    "GIPO, as many samples drawn as by PPO": {"work": 1},
}


def train(task: str, options: dict[str, Any] | None, seed: int) -> float:
    """Mean return of the last 100 episodes; ``nan`` where training ended in numbers that are not finite."""
    steps, common = TASKS[task]
    if options is None:
        model: Any = PPO("MlpPolicy", task, seed=seed, **common)
    else:
        options = dict(options)
        if "work" in options:
            rollout = common.get("n_steps", defaults.REPLAY_ROLLOUT)
            options["gradient_steps"] = options.pop("work") * 10 * rollout // defaults.REPLAY_BATCH_SIZE
        model = GIPO("MlpPolicy", task, seed=seed, **common, **options)
    try:
        model.learn(steps)
    except ValueError as error:
        print(f"  {task} {options} seed {seed}: {error}")
        return float("nan")
    return float(np.mean([episode["r"] for episode in model.ep_info_buffer]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/defaults.json"))
    args = parser.parse_args()
    th.set_num_threads(1)
    packages = {name: version(name) for name in ("stable-baselines3", "torch", "gymnasium", "numpy")}
    results: dict[str, Any] = {"machine": platform.platform(), "versions": packages, "seeds": args.seeds, "returns": {}}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print("| | " + " | ".join(TASKS) + " |\n|---|" + "---|" * len(TASKS))
    for name, options in CONFIGURATIONS.items():
        returns = {task: [train(task, options, seed) for seed in args.seeds] for task in TASKS}
        results["returns"][name] = returns
        args.out.write_text(json.dumps(results, indent=1))
        cells = (f"{np.mean(values):.0f} ({', '.join(f'{value:.0f}' for value in values)})" for values in returns.values())
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

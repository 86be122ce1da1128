"""
See what PPO's clip does to stale data, and what GIPO does: the same replay-heavy run twice, with ``surrogate="ppo_clip"`` and
with ``surrogate="gipo"``.

    python examples/stale_replay.py                                                    # trains (5 min), then draws
    python examples/stale_replay.py --seeds 0 1 2 --workers 2                          # what the stored data come from
    python examples/stale_replay.py --from-data benchmarks/results/stale_replay.json   # only draws the stored data

Most of the replay is old here (40 rollouts are kept, a sample counts as old after 4), as in the stale regime of the paper.
Leaves ``stale_replay.png`` and ``stale_replay.json`` in the folder, and a TensorBoard log of every run.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch as th
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_gipo import GIPO
from sb3_gipo.callbacks import UtilizationCallback

SURROGATES = {"ppo_clip": "#c0392b", "gipo": "#1b6ca8"}
OLD_THRESHOLD = 4
SETTINGS = {
    "n_steps": 250,  # of each of two environments: 500 a rollout
    "replay_capacity": 20_000,
    "gradient_steps": 120,
    "learning_rate": 1e-3,
    "batch_size": 250,
    "old_threshold": OLD_THRESHOLD,
    # the paper's symmetric weight, and the same penalty and targets for both
    "surrogate_kwargs": {},
    "sigma": 0.5,
    "kl_coef": 0.1,
    "gae_lambda": 0.95,
    "policy_kwargs": {"net_arch": [256, 256]},
}
KEPT = {
    "steps": "time/total_timesteps",
    "dead_frac": "utilization/dead_frac",
    "suppressed_frac": "utilization/suppressed_frac",
    "old_share": "utilization/old_share",
    "old_frac": "lag/old_frac",
    "ess_eff_old": "utilization/ess_eff_old",
    "abs_log_rho_p95": "lag/abs_log_rho_p95",
    "episode_return": "rollout/ep_rew_mean",
    "success_rate": "rollout/success_rate",
}


def train(env_id: str, surrogate: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """
    :return: surrogate, seed, and for every name in ``KEPT`` its values over training, one for each iteration
    """
    th.set_num_threads(1)
    name = f"{surrogate}_seed{seed}"
    # SB3 gives environment i the seed ``seed + i``: 100 apart, no two runs share a goal
    env = VecNormalize(make_vec_env(env_id, n_envs=2, seed=100 * seed))
    model = GIPO("MlpPolicy", env, surrogate=surrogate, seed=seed, device="cpu", **SETTINGS)  # type: ignore[arg-type]  # as above
    model.set_logger(configure(str(folder / name), ["csv", "tensorboard"]))
    model.learn(steps, callback=UtilizationCallback())
    model.logger.close()
    log = pd.read_csv(folder / name / "progress.csv")
    nothing = pd.Series(np.nan, index=log.index)  # a run too short for old samples, an environment without success
    curves = {kept: _numbers(log.get(key, nothing)) for kept, key in KEPT.items()}
    print(f"{name}: done", flush=True)
    return {"surrogate": surrogate, "seed": seed, **curves}


def _numbers(column: "pd.Series[float]") -> list[float | None]:
    """Four digits are more than a picture shows; JSON has no NaN."""
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in column]


def draw(runs: list[dict[str, Any]], env_id: str, path: Path) -> None:
    """
    :param runs: of :func:`train`
    :param env_id: for the title
    :param path: of the picture
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = {
        "dead_frac": "dead fraction: samples with no gradient at all",
        "old_share": "old share: part of the gradient from old samples",
        "episode_return": "mean episode return (training)",
    }
    for axis, (name, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for surrogate, colour in SURROGATES.items():
            draw_curves(axis, [run for run in runs if run["surrogate"] == surrogate], name, colour, surrogate)
        if name == "old_share":
            steps, old = mean_curve([run for run in runs if run["surrogate"] == "gipo"], "old_frac")
            axis.plot(steps, old, color="0.4", linestyle=":", label="share of old samples drawn")
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("environment steps")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
        if name != "episode_return":
            axis.set_ylim(-0.02, 1.0)
    seeds = sorted({run["seed"] for run in runs})
    figure.suptitle(f"{env_id}: the same replay-heavy run with PPO's clip and with GIPO (seeds {seeds})")
    figure.savefig(path, dpi=130)


def draw_curves(axis: Axes, runs: list[dict[str, Any]], name: str, colour: str, label: str) -> None:
    """Every run thin, their mean thick."""
    for run in runs:
        axis.plot(*curve(run, name), color=colour, linewidth=0.7, alpha=0.4)
    axis.plot(*mean_curve(runs, name), color=colour, linewidth=2.2, label=label)


def curve(run: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one run, where there are any."""
    steps, values = (np.array(run[key], dtype=float) for key in ("steps", name))
    return steps[~np.isnan(values)], values[~np.isnan(values)]


def mean_curve(runs: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and mean over runs; all runs have the same steps."""
    values = np.array([run[name] for run in runs], dtype=float)
    known = ~np.isnan(values).any(axis=0)
    return np.array(runs[0]["steps"], dtype=float)[known], values[:, known].mean(axis=0)


def report(runs: list[dict[str, Any]]) -> None:
    """Means over the last 20 % of training, the paper's window, then over seeds."""
    print(f"{'last 20 % of training':<22}" + "".join(f"{name:>18}" for name in KEPT if name != "steps"))
    for surrogate in SURROGATES:
        cells = []
        for name in list(KEPT)[1:]:
            steps, values = mean_curve([run for run in runs if run["surrogate"] == surrogate], name)
            window = values[steps > 0.8 * steps[-1]] if len(steps) else values
            cells.append(f"{window.mean():18.3f}" if len(window) else f"{'-':>18}")
        print(f"{surrogate:<22}" + "".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="MetaWorld/door-open-v3", help="environment id")
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, one process each")
    parser.add_argument("--folder", type=Path, default=Path("demo/stale_replay"), help="where everything goes")
    parser.add_argument("--from-data", type=Path, default=None, metavar="JSON", help="draw stored data instead of training")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.from_data is None:
        print(f"Training {len(args.seeds) * len(SURROGATES)} runs of {args.steps} steps; each is logged in {args.folder} ...")
        with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
            jobs = [
                pool.submit(train, args.env, surrogate, seed, args.steps, args.folder)
                for seed, surrogate in product(args.seeds, SURROGATES)
            ]
            data = {"env": args.env, "settings": SETTINGS, "runs": [job.result() for job in jobs]}
        (args.folder / "stale_replay.json").write_text(json.dumps(data) + "\n")
    else:
        data = json.loads(args.from_data.read_text())
    draw(data["runs"], data["env"], args.folder / "stale_replay.png")
    report(data["runs"])
    print(f"The picture: {args.folder / 'stale_replay.png'}")


if __name__ == "__main__":
    main()

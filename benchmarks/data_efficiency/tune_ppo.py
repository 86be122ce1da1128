"""
The search by which SB3's PPO got its settings for study B: Optuna, on tasks that the study does not have.

    python -m benchmarks.data_efficiency.tune_ppo --trials 24

A trial is one run on each of two tasks, with 4 environments and both normalisations; its score is the mean return of its
evaluations over all of training, so that learning early counts as well as ending high. Every finished trial is a line of
``benchmarks/results/data_efficiency/ppo_trials.jsonl``; a search that was interrupted goes on from there.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize, sync_envs_normalization

from sb3_gipo.envs.meta_world import make_metaworld_env

RESULTS = Path(__file__).parents[1] / "results" / "data_efficiency" / "ppo_trials.jsonl"
TASKS = ("coffee-button-v3", "door-lock-v3")
N_ENVS, SEED, STEPS, EVALUATIONS, EPISODES = 4, 1, 80_000, 4, 4
SCORE_RANGE = 5000.0  # of a return on Meta-World


def space(trial: optuna.Trial) -> dict[str, Any]:
    """
    :param trial: to draw for
    :return: arguments of PPO, as RL Zoo's own space has them (narrower where its ends are known to be useless here)
    """
    width = trial.suggest_categorical("net_arch", [64, 256])
    return {
        "n_steps": trial.suggest_categorical("n_steps", [64, 128, 256, 512]),
        "batch_size": trial.suggest_categorical("batch_size", [64, 128, 256]),
        "n_epochs": trial.suggest_categorical("n_epochs", [5, 10, 20]),
        "gamma": trial.suggest_categorical("gamma", [0.95, 0.98, 0.99, 0.995]),
        "gae_lambda": trial.suggest_categorical("gae_lambda", [0.9, 0.95, 0.98, 0.99]),
        "learning_rate": LinearSchedule(trial.suggest_float("learning_rate", 5e-5, 1e-3, log=True), 0.0, 1.0),
        "clip_range": trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3]),
        "ent_coef": trial.suggest_float("ent_coef", 1e-6, 1e-2, log=True),
        "max_grad_norm": trial.suggest_categorical("max_grad_norm", [0.5, 1.0, 2.0]),
        "policy_kwargs": {
            "net_arch": [width, width],
            "activation_fn": {"tanh": th.nn.Tanh, "relu": th.nn.ReLU}[
                trial.suggest_categorical("activation_fn", ["tanh", "relu"])
            ],
            "log_std_init": trial.suggest_categorical("log_std_init", [0.0, -0.5]),
        },
    }


def environment(task: str, split: str, n_envs: int, gamma: float) -> VecNormalize:
    """
    :param task: of Meta-World
    :param split: ``"train"`` or ``"eval"``
    :param n_envs: how many
    :param gamma: by which rewards are normalised
    :return: normalised environments
    """
    seed = SEED if split == "train" else SEED + 77
    made = [
        lambda rank=rank: make_metaworld_env(task, seed=seed, rank=rank, split=split, stagger=split == "train")
        for rank in range(n_envs)
    ]
    return VecNormalize(VecMonitor(DummyVecEnv(made)), training=split == "train", norm_reward=split == "train", gamma=gamma)


class Evaluations(BaseCallback):
    """Mean returns at equal distances, always of the same goals."""

    def __init__(self, env: VecNormalize) -> None:
        super().__init__()
        self.env, self.returns = env, list[float]()

    def _on_step(self) -> bool:
        if self.num_timesteps % (STEPS // EVALUATIONS) < self.training_env.num_envs:
            sync_envs_normalization(self.training_env, self.env)
            self.env.seed(SEED + 77)
            mean, _ = evaluate_policy(self.model, self.env, EPISODES)
            self.returns.append(float(mean))
        return True


def train(task: str, arguments: dict[str, Any]) -> list[float]:
    """
    :param task: of Meta-World
    :param arguments: of PPO
    :return: mean returns of the evaluations
    """
    env = environment(task, "train", N_ENVS, arguments["gamma"])
    evaluations = Evaluations(environment(task, "eval", 1, arguments["gamma"]))
    PPO("MlpPolicy", env, seed=SEED, device="cpu", **arguments).learn(STEPS, callback=evaluations)
    return evaluations.returns


def objective(trial: optuna.Trial) -> float:
    """
    :param trial: to run
    :return: its score, and a line in the file of results
    """
    start, arguments = time.time(), space(trial)
    returns: dict[str, list[float]] = {}
    try:
        for task in TASKS:
            returns[task] = train(task, arguments)
    except ValueError as error:  # numbers that are not finite
        print(f"trial {trial.number}: {error}", flush=True)
    scores = [np.mean(returns[task]) / SCORE_RANGE if task in returns else 0.0 for task in TASKS]
    score = float(np.mean(scores))
    record = {"params": trial.params, "score": score, "returns": returns, "seconds": round(time.time() - start)}
    with RESULTS.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(f"trial {trial.number}: {score:.4f} {trial.params}", flush=True)
    return score


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
    th.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.is_file() else []
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=len(done), n_startup_trials=8))
    scout = optuna.create_study(direction="maximize")
    space(scout.ask())
    distributions = scout.trials[0].distributions
    for record in done:
        trial = optuna.trial.create_trial(params=record["params"], distributions=distributions, value=record["score"])
        study.add_trial(trial)
    if not done:
        # SB3's defaults with rollouts of 2,000 steps: the search starts where users do
        start = {"net_arch": 64, "n_steps": 512, "batch_size": 64, "n_epochs": 10, "gamma": 0.99, "gae_lambda": 0.95}
        start |= {"learning_rate": 3e-4, "clip_range": 0.2, "ent_coef": 1e-6, "max_grad_norm": 0.5}
        study.enqueue_trial(start | {"activation_fn": "tanh", "log_std_init": 0.0})
    study.optimize(objective, n_trials=max(arguments.trials - len(done), 0))
    print(f"best: {study.best_value:.4f} {study.best_params}")


if __name__ == "__main__":
    main()

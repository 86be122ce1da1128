"""
The searches by which SB3's PPO and GIPO got their settings for study B: Optuna, on tasks that the study does not have.

    python -m benchmarks.data_efficiency.tune ppo --trials 17    # and later --trials 74
    python -m benchmarks.data_efficiency.tune gipo --trials 17

A trial is one run on each of two tasks, side by side, with 4 environments and both normalisations; its score is the mean
return of its evaluations over all of training, so that learning early counts as well as ending high. Every finished trial is a
line of ``benchmarks/results/data_efficiency/<algorithm>_trials.jsonl``; a search that was interrupted goes on from there.
"""

import argparse
import json
import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize, sync_envs_normalization

from sb3_gipo import GIPO
from sb3_gipo.envs.goals import Split
from sb3_gipo.envs.meta_world import make_metaworld_env

RESULTS = Path(__file__).parents[1] / "results" / "data_efficiency"
TASKS = ("coffee-button-v3", "door-lock-v3")
N_ENVS, SEED, STEPS, EVALUATIONS, EPISODES = 4, 1, 80_000, 4, 4
SCORE_RANGE = 5000.0  # of a return on Meta-World

# Where GIPO's trust comes from: against the policy that chose the action, held by a penalty (paper) or by one-sided weights;
# or against the policy at the start of the iteration, with one-sided weights.
ONE_SIDED: dict[str, Any] = {"surrogate_kwargs": {"restoring": 3.0}}
TRUST: dict[str, dict[str, Any]] = {
    "behaviour": {"surrogate_kwargs": {}, "sigma": 0.5, "kl_coef": 0.1},
    "behaviour, one-sided": {**ONE_SIDED, "sigma": 0.3, "kl_coef": 0.0},
    "iteration, one-sided": {**ONE_SIDED, "trust_region": "iteration", "sigma": 0.2, "kl_coef": 0.0},
    "iteration, one-sided, penalty": {**ONE_SIDED, "trust_region": "iteration", "sigma": 0.2, "kl_coef": 0.03},
}


def gipo_space(trial: optuna.Trial) -> dict[str, Any]:
    """
    :param trial: to draw for
    :return: arguments of GIPO: those that it has beside PPO's, and those of PPO's that go with them
    """
    n_steps = trial.suggest_categorical("n_steps", [128, 256, 512])
    batch_size = trial.suggest_categorical("batch_size", [64, 128, 256])
    work = trial.suggest_categorical("work", [0.5, 1.0, 2.0, 4.0])
    rollouts = trial.suggest_categorical("replay", [2048, 4096, 8192, 16384])
    return {
        "n_steps": n_steps,
        "batch_size": batch_size,
        # as many passes over the rollout as PPO has, times this
        "gradient_steps": round(work * 10 * n_steps * N_ENVS / batch_size),
        "replay_capacity": max(rollouts, n_steps * N_ENVS),
        "gamma": 0.99,
        "gae_lambda": trial.suggest_categorical("gae_lambda", [0.95, 0.98, 0.99]),
        "max_grad_norm": trial.suggest_categorical("max_grad_norm", [0.5, 2.0]),
        # the defaults of the day on which the search ran
        "learning_rate": 3e-4,
        "critic_lr_factor": 1.0,
        **TRUST[trial.suggest_categorical("trust", list(TRUST))],
        "compile": True,
    }


def ppo_space(trial: optuna.Trial) -> dict[str, Any]:
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


def environment(task: str, split: Split, n_envs: int, gamma: float) -> VecNormalize:
    """
    :param task: of Meta-World
    :param split: ``"train"`` or ``"eval"``
    :param n_envs: how many
    :param gamma: by which rewards are normalised
    :return: normalised environments
    """
    seed = SEED if split == "train" else SEED + 77
    stagger = split == "train"
    made: list[Callable[[], gym.Env[Any, Any]]] = [
        partial(make_metaworld_env, task, seed=seed, rank=rank, split=split, stagger=stagger) for rank in range(n_envs)
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
            self.returns.append(float(np.mean(mean)))
        return True


def train(algorithm: str, task: str, arguments: dict[str, Any]) -> list[float]:
    """
    :param algorithm: ``"gipo"`` or ``"ppo"``
    :param task: of Meta-World
    :param arguments: of its class
    :return: mean returns of the evaluations, none when the numbers ran away
    """
    th.set_num_threads(1)
    warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
    env = environment(task, "train", N_ENVS, arguments["gamma"])
    evaluations = Evaluations(environment(task, "eval", 1, arguments["gamma"]))
    model = {"gipo": GIPO, "ppo": PPO}[algorithm]
    try:
        model("MlpPolicy", env, seed=SEED, device="cpu", **arguments).learn(STEPS, callback=evaluations)
    except ValueError as error:  # numbers that are not finite
        print(f"{task}: {error}", flush=True)
        return []
    return evaluations.returns


_PPO_START: dict[str, Any] = {
    # SB3's defaults with rollouts of 2,048 steps: the search starts where users do
    **{"net_arch": 64, "n_steps": 512, "batch_size": 64, "n_epochs": 10, "gamma": 0.99, "gae_lambda": 0.95},
    **{"learning_rate": 3e-4, "clip_range": 0.2, "ent_coef": 1e-6, "max_grad_norm": 0.5},
    **{"activation_fn": "tanh", "log_std_init": 0.0},
}
_GIPO_START: dict[str, Any] = {
    # with what PPO's search found for the arguments that both have
    **{"n_steps": 128, "batch_size": 128, "work": 4.0, "replay": 16384, "gae_lambda": 0.98, "max_grad_norm": 2.0},
    "trust": "behaviour",
}
_ITERATION = {**_GIPO_START, "trust": "iteration, one-sided", "batch_size": 64, "work": 1.0}
STARTS: dict[str, list[dict[str, Any]]] = {
    "ppo": [_PPO_START],
    "gipo": [
        {**_ITERATION, "replay": 4096},
        _GIPO_START,
        {**_ITERATION, "n_steps": 512, "batch_size": 256, "work": 4.0},
        {**_ITERATION, "n_steps": 256, "replay": 8192, "batch_size": 128, "work": 2.0},
        {**_GIPO_START, "trust": "behaviour, one-sided", "replay": 8192, "n_steps": 256},
    ],
}


class Search:
    """
    :param algorithm: ``"gipo"`` or ``"ppo"``
    """

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self.space: Callable[[optuna.Trial], dict[str, Any]] = {"gipo": gipo_space, "ppo": ppo_space}[algorithm]
        self.file = RESULTS / f"{algorithm}_trials.jsonl"

    def objective(self, trial: optuna.Trial) -> float:
        """
        :param trial: to run
        :return: its score, and a line in the file of results
        """
        start, arguments = time.time(), self.space(trial)
        with ProcessPoolExecutor(len(TASKS), mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting = {task: pool.submit(train, self.algorithm, task, arguments) for task in TASKS}
            returns = {task: each.result() for task, each in waiting.items()}
        score = float(np.mean([np.mean(each) / SCORE_RANGE if each else 0.0 for each in returns.values()]))
        record = {"params": trial.params, "score": score, "returns": returns, "seconds": round(time.time() - start)}
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(f"trial {trial.number}: {score:.4f} {trial.params}", flush=True)
        return score

    def run(self, trials: int) -> None:
        """
        :param trials: in all, those of the file among them
        """
        done = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.is_file() else []
        sampler = optuna.samplers.TPESampler(seed=len(done), n_startup_trials=8)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        scout = optuna.create_study(direction="maximize")
        self.space(scout.ask())
        distributions = scout.trials[0].distributions
        for record in done:
            trial = optuna.trial.create_trial(params=record["params"], distributions=distributions, value=record["score"])
            study.add_trial(trial)
        for start in STARTS[self.algorithm][len(done) :]:
            study.enqueue_trial(start)
        study.optimize(self.objective, n_trials=max(trials - len(done), 0))
        print(f"best: {study.best_value:.4f} {study.best_params}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=["gipo", "ppo"])
    parser.add_argument("--trials", type=int, default=17)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    RESULTS.mkdir(parents=True, exist_ok=True)
    Search(arguments.algorithm).run(arguments.trials)


if __name__ == "__main__":
    main()

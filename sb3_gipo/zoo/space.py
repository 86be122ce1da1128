"""
GIPO's search space for Optuna, in the two forms RL Zoo asks for.

Every trial draws the same parameters, each from a fixed range, so that TPE can model them together (a range that depends on
others, or a parameter drawn only sometimes, would be drawn at random). What is drawn are quantities that are valid in every
combination (rollouts kept, passes over the data); GIPO's own arguments follow from them.
"""

import math
from typing import Any

import optuna
from torch import nn

from sb3_gipo.zoo.study import as_python

NETWORKS: dict[str, dict[str, list[int]]] = {
    "small": {"pi": [64, 64], "vf": [64, 64]},
    "medium": {"pi": [256, 256], "vf": [256, 256]},
}
LONGEST_ROLLOUT_POW = 11
"""Of two: steps of each environment."""
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
KERNELS = ("gaussian", "laplacian", "cauchy")
TARGETS = ("vtrace", "gae")
SCHEDULES = ("constant", "linear")
# 1: the same width for both signs; 0.5: that of the authors' released script.
SIGMA_NEG_RATIOS = (0.5, 1.0)
KL_COEFS = (0.0, 0.03, 0.1, 0.3)
# Of V-trace: 1 is IMPALA's; larger ones correct more of the lag, at more variance.
BARS = (1.0, 2.0)


def suggest(trial: optuna.Trial, n_envs: int) -> dict[str, Any]:
    """
    :param trial: to draw for
    :param n_envs: number of environments of every trial, at least 1; stored with the others since the capacity depends on it
    :return: drawn parameters, as Optuna stores them
    """
    trial.suggest_int("n_envs", n_envs, n_envs)
    trial.suggest_int("n_steps_pow", 6, LONGEST_ROLLOUT_POW)
    trial.suggest_int("batch_size_pow", 5, 10)
    trial.suggest_int("replay_rollouts_pow", 0, 5)
    trial.suggest_float("reuse", 5.0, 40.0, log=True)
    trial.suggest_float("sigma", 0.2, 2.0, log=True)
    trial.suggest_categorical("sigma_schedule", SCHEDULES)
    trial.suggest_categorical("sigma_neg_ratio", SIGMA_NEG_RATIOS)
    trial.suggest_categorical("kernel", KERNELS)
    trial.suggest_categorical("kl_coef", KL_COEFS)
    trial.suggest_categorical("target", TARGETS)
    trial.suggest_categorical("vtrace_rho_bar", BARS)
    trial.suggest_categorical("vtrace_c_bar", BARS)
    trial.suggest_float("one_minus_gamma", 0.0001, 0.03, log=True)
    trial.suggest_float("one_minus_gae_lambda", 0.0001, 0.1, log=True)
    trial.suggest_float("learning_rate", 3e-5, 1e-3, log=True)
    trial.suggest_categorical("lr_schedule", SCHEDULES)
    trial.suggest_float("ent_coef", 1e-8, 0.01, log=True)
    trial.suggest_float("max_grad_norm", 0.3, 2.0)
    trial.suggest_categorical("net_arch", tuple(NETWORKS))
    trial.suggest_categorical("activation_fn", tuple(ACTIVATIONS))
    return dict(trial.params)


def convert(params: dict[str, Any]) -> dict[str, Any]:
    """
    :param params: of a trial, as Optuna stores them
    :return: settings that can be written to ``gipo.yml`` as they are, ``n_envs`` included; numbers, texts and ``None`` only
    """
    n_steps, batch_size = 2 ** params["n_steps_pow"], 2 ** params["batch_size_pow"]
    rollout = n_steps * params["n_envs"]
    sigma = params["sigma"]
    settings = {
        "n_envs": params["n_envs"],
        "n_steps": n_steps,
        "batch_size": batch_size,
        # at least one minibatch must fit
        "replay_capacity": max(2 ** params["replay_rollouts_pow"] * rollout, batch_size),
        "gradient_steps": max(1, math.ceil(params["reuse"] * rollout / batch_size)),
        "sigma": _scheduled(sigma, params["sigma_schedule"]),
        "sigma_neg": _scheduled(sigma * params["sigma_neg_ratio"], params["sigma_schedule"]),
        "kernel": params["kernel"],
        "kl_coef": params["kl_coef"],
        "target": params["target"],
        "gamma": 1 - params["one_minus_gamma"],
        "gae_lambda": 1 - params["one_minus_gae_lambda"],
        "learning_rate": _scheduled(params["learning_rate"], params["lr_schedule"]),
        "ent_coef": params["ent_coef"],
        "max_grad_norm": params["max_grad_norm"],
        "policy_kwargs": as_python(
            {"net_arch": NETWORKS[params["net_arch"]], "activation_fn": ACTIVATIONS[params["activation_fn"]]}
        ),
    }
    if params["target"] == "vtrace":
        settings["vtrace_rho_bar"] = params["vtrace_rho_bar"]
        # a trace is cut at the truncation of the difference it carries, or earlier
        settings["vtrace_c_bar"] = min(params["vtrace_c_bar"], params["vtrace_rho_bar"])
    return settings


def sample(trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
    """
    RL Zoo's sampler of ``gipo``.

    :param trial: to draw for
    :param n_actions: dimensions of the action; not used
    :param n_envs: number of environments of the trial
    :param additional_args: for other algorithms; not used
    :return: arguments of GIPO
    """
    settings = convert(suggest(trial, n_envs))
    for name in ("n_steps", "batch_size", "replay_capacity", "gradient_steps", "gamma", "gae_lambda", "sigma_neg"):
        trial.set_user_attr(name, settings[name])  # what is shown beside what was drawn
    return as_arguments(settings)


def as_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """
    :param settings: of :func:`convert`
    :return: what the Zoo makes of them before it constructs the algorithm
    """
    from rl_zoo3.exp_manager import ExperimentManager

    arguments = ExperimentManager._preprocess_schedules(dict(settings))
    arguments.pop("n_envs")
    arguments["policy_kwargs"] = eval(arguments["policy_kwargs"], {"nn": nn, "dict": dict})  # as the Zoo does
    return arguments


def _scheduled(value: float, schedule: str) -> float | str:
    return f"lin_{value!r}" if schedule == "linear" else value

"""Evaluations that the training does not notice: same goals every time, generators put back, statistics not updated."""

import copy
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize


class Evaluation(NamedTuple):
    """
    Episodes in the order of the environments, so that the same place is the same goal in every evaluation.

    :param returns: of the episodes, as the environment gives them (not normalised)
    :param successes: whether each succeeded; ``None`` where the environment does not say
    :param lengths: in steps
    """

    returns: list[float]
    successes: list[bool] | None
    lengths: list[int]


class NonFiniteEvaluationError(ValueError):
    """An episode of an evaluation had a return or a success that is no finite number."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """The global random generators stand afterwards where they stood before."""
    python, numpy, torch = random.getstate(), np.random.get_state(), th.get_rng_state()  # noqa: NPY002 (SB3 draws from it)
    cuda = th.cuda.get_rng_state_all() if th.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        th.set_rng_state(torch)
        if cuda is not None:
            th.cuda.set_rng_state_all(cuda)


def evaluate(model: BaseAlgorithm, env: VecEnv, episodes: int, seed: int, where: str = "The evaluation") -> Evaluation:
    """
    Evaluate the deterministic policy. Nothing of the training changes.

    :param model: that is training
    :param env: of the evaluation, normalised if that of the training is
    :param episodes: how many
    :param seed: of the environments, the same for every evaluation of a study
    :param where: which evaluation this is, as an error says it
    :return: how the episodes went
    :raises NonFiniteEvaluationError: for a return or a success that is not a finite number
    """
    seen: list[tuple[int, dict[str, Any]]] = []

    def look(local: dict[str, Any], _: dict[str, Any]) -> None:
        # with SB3's Monitor, which says when an episode is really over (an Atari life is not one)
        if local["done"] and "episode" in local["info"]:
            seen.append((local["i"], local["info"]))

    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and isinstance(env, VecNormalize) and normalizer.norm_obs:
        env.obs_rms = copy.deepcopy(normalizer.obs_rms)
    was_training = model.policy.training
    with undisturbed(), th.no_grad():
        env.seed(seed)
        _evaluator(model)(model, env, n_eval_episodes=episodes, deterministic=True, callback=look)
    model.policy.set_training_mode(was_training)
    seen.sort(key=lambda each: each[0])  # keeps the order of an environment's own episodes
    infos = [info for _, info in seen]
    says = bool(infos) and all("is_success" in info for info in infos)
    returns = [float(info["episode"]["r"]) for info in infos]
    _check_finite(where, "return", returns)
    if says:
        _check_finite(where, "success", [float(info["is_success"]) for info in infos])
    return Evaluation(
        returns,
        [bool(info["is_success"]) for info in infos] if says else None,
        [int(info["episode"]["l"]) for info in infos],
    )


def _check_finite(where: str, what: str, values: list[float]) -> None:
    wrong = [number for number, value in enumerate(values, 1) if not math.isfinite(value)]
    if wrong:
        of = "the reward" if what == "return" else 'info["is_success"]'
        raise NonFiniteEvaluationError(
            f"{where}: the {what} of episode {wrong[0]} of {len(values)} is {values[wrong[0] - 1]} ({len(wrong)} of them are "
            f"not finite); it must be a finite number. Look at {of} that the environment gives (eval_kwargs of the task) "
            "and at the actions that it gets: where they are not finite, the training ran away before (lower learning_rate)."
        )


def _evaluator(model: BaseAlgorithm) -> Any:
    """SB3's, or sb3-contrib's where invalid actions are masked."""
    if any(each.__name__ == "MaskablePPO" for each in type(model).__mro__):
        from sb3_contrib.common.maskable.evaluation import evaluate_policy as masked

        return masked
    return evaluate_policy

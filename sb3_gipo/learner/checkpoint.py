"""What a model file keeps beyond SB3's, so that training goes on as if it had never stopped."""

import random
import warnings
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo.rollouts.normalization import Normalizer


def capture(env: VecEnv | None) -> dict[str, Any]:
    """
    :param env: training environment
    :return: states of all global random generators and of the normaliser, without references to anything alive
    """
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in th.cuda.get_rng_state_all()] if th.cuda.is_available() else [],
        "normalizer": Normalizer(env).state(),
    }


def forget_generators(state: dict[str, Any]) -> None:
    """
    :param state: what :func:`capture` gave; a new seed takes the place of its generators
    """
    state["python"] = None


def restore_generators(state: dict[str, Any]) -> None:
    """
    :param state: what :func:`capture` gave
    """
    if state["python"] is None:
        return
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(th.from_numpy(state["torch"]))
    if state["cuda"] and th.cuda.is_available() and th.cuda.device_count() == len(state["cuda"]):
        th.cuda.set_rng_state_all([th.from_numpy(part) for part in state["cuda"]])


def restore_normalizer(state: dict[str, Any], env: VecEnv) -> None:
    """
    Give a ``VecNormalize`` that has seen nothing yet the statistics the policy was trained with; one that was loaded from its
    own file, or is in use, is left alone.

    :param state: what :func:`capture` gave
    :param env: environment the model is loaded with
    """
    saved = state["normalizer"]
    normalizer = Normalizer(env)
    if saved is None:
        return
    if normalizer.vec_normalize is None:
        warnings.warn(
            "This model was trained with VecNormalize, but the environment it is loaded with has none: the policy will see "
            "observations on another scale than it learnt from. Wrap the environment in VecNormalize; its statistics are "
            "restored from the model file.",
            UserWarning,
            stacklevel=3,
        )
    elif normalizer.is_unused():
        normalizer.restore(saved)

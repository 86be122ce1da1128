"""What a model file keeps beyond SB3's, so that training goes on as if it had never stopped."""

import random
import warnings
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage, is_vecenv_wrapped

from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.types import Observation, map_observation


def capture(env: VecEnv | None, pending: dict[str, Any] | None) -> dict[str, Any]:
    """
    :param env: training environment
    :param pending: what a loaded model has not taken up yet: kept as it is
    :return: ``generators``: states of all global random generators; ``normalizer``: of ``VecNormalize``, or ``None``
    """
    now = {"generators": generators(), "normalizer": Normalizer(env).state()}
    return now | {name: state for name, state in (pending or {}).items() if state is not None}


def generators() -> dict[str, Any]:
    """:return: states of all global random generators"""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in th.cuda.get_rng_state_all()] if th.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def restore_generators(state: dict[str, Any]) -> None:
    """
    :param state: of :func:`generators`
    """
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(th.from_numpy(state["torch"]))
    for index, cuda in enumerate(state["cuda"][: th.cuda.device_count()]):
        th.cuda.set_rng_state(th.from_numpy(cuda), index)


def restore_normalizer(saved: dict[str, Any] | None, env: VecEnv) -> bool:
    """
    Give a ``VecNormalize`` that has seen nothing yet the statistics the policy was trained with; one that has others is left
    alone.

    :param saved: ``normalizer`` of :func:`capture`
    :param env: environment the model is loaded with
    :return: false while there is no ``VecNormalize`` to take them
    """
    normalizer = Normalizer(env)
    if saved is None:
        return True
    if normalizer.vec_normalize is None:
        warnings.warn(
            "This model was trained with VecNormalize, but the environment it is loaded with has none: the policy will see "
            "observations on another scale than it learnt from. Wrap the environment in VecNormalize; its statistics are "
            "restored from the model file.",
            UserWarning,
            stacklevel=3,
        )
        return False
    normalizer.take_over(saved)
    return True


def restore_layout(observation: Observation, env: VecEnv) -> Observation:
    """
    Lay out loaded images as ``VecTransposeImage`` gives them. The order of their bytes is lost in a file, the numbers are not;
    but a convolution adds up in another order, and a run that goes on would differ from one that never stopped.

    :param observation: of the latest step [N, *obs]
    :param env: environment the model is loaded with
    :return: the same numbers
    """

    def lay_out(part: np.ndarray) -> np.ndarray:
        if part.ndim != 4 or part.dtype != np.uint8:
            return part
        return part.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)  # a copy, since NumPy calls a single channel contiguous

    laid_out: Observation = map_observation(lay_out, observation) if is_vecenv_wrapped(env, VecTransposeImage) else observation
    return laid_out

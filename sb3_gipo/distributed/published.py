"""What the learner gives its actors: the policy as arrays, its version, and the statistics to normalise with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo.learner.lagged import tensors_of
from sb3_gipo.rollouts.normalization import Normalizer


class Published(NamedTuple):
    """One policy. Arrays only: they go through shared memory as they are."""

    version: int
    tensors: list[np.ndarray]  # parameters, then buffers, in the policy's own order
    statistics: dict[str, Any] | None  # running mean and variance of VecNormalize; ``None`` without it


def publish(policy: ActorCriticPolicy, version: int, normalizer: Normalizer) -> Published:
    """
    :param policy: of the learner
    :param version: its number
    :param normalizer: of the learner's environment
    :return: a copy that later updates leave alone
    """
    tensors = [tensor.detach().cpu().numpy().copy() for tensor in tensors_of(policy)]
    return Published(version, tensors, normalizer.statistics())


def take(policy: ActorCriticPolicy, published: Published) -> None:
    """
    :param policy: of an actor, built as the learner's
    :param published: what it is to be
    :raises ValueError: where it is of other spaces
    """
    tensors = tensors_of(policy)
    shapes = [tuple(tensor.shape) for tensor in tensors], [array.shape for array in published.tensors]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The learner's policy does not fit these environments, whose observations are {policy.observation_space} and "
            f"whose actions are {policy.action_space}: they must have the spaces of the training. Its parameters have the "
            f"shapes {shapes[1]}, here they would have {shapes[0]}."
        )
    with th.no_grad():
        for tensor, array in zip(tensors, published.tensors, strict=True):
            tensor.copy_(th.from_numpy(array))


@contextmanager
def lent(policy: ActorCriticPolicy, normalizer: Normalizer, published: Published) -> Iterator[None]:
    """
    A context in which the learner is what it once published: to save it as it was then.

    :param policy: of the learner
    :param normalizer: of its environment
    :param published: what it is to be meanwhile
    """
    present = publish(policy, published.version, normalizer)
    try:
        take(policy, published)
        normalizer.restore(published.statistics)
        yield
    finally:
        take(policy, present)
        normalizer.restore(present.statistics)

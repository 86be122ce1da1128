"""Adam as a function of arrays, for a step that is compiled as a whole."""

from collections.abc import Sequence
from typing import NamedTuple

import torch as th


class AdamSettings(NamedTuple):
    """What does not change from step to step; see ``torch.optim.Adam``."""

    beta1: float
    beta2: float
    eps: float


class AdamState(NamedTuple):
    """Parameters with their moments, each [P], and the number of steps so far, a scalar."""

    values: th.Tensor
    exp_avg: th.Tensor
    exp_avg_sq: th.Tensor
    steps: th.Tensor


def clip_gradient(
    gradient: th.Tensor, stretches: Sequence[tuple[int, slice]], max_norm: th.Tensor | float
) -> tuple[th.Tensor, th.Tensor]:
    """
    Scale the gradient of each part down to a norm, as ``torch.nn.utils.clip_grad_norm_``.

    :param gradient: of the loss [P]
    :param stretches: of it, one after the other, with the number of the part that each belongs to (0, 1, ...)
    :param max_norm: of each part
    :return: the gradient [P], and its norm before, over all parts
    """
    n_parts = 1 + max(part for part, _ in stretches)
    norms = [
        th.linalg.vector_norm(th.cat([gradient[piece] for part, piece in stretches if part == number]))
        for number in range(n_parts)
    ]
    scales = [th.clamp(max_norm / (norm + 1e-6), max=1.0) for norm in norms]
    clipped = th.cat([gradient[piece] * scales[part] for part, piece in stretches])
    return clipped, norms[0] if n_parts == 1 else th.linalg.vector_norm(th.stack(norms))


def adam(state: AdamState, gradient: th.Tensor, learning_rate: th.Tensor, how: AdamSettings) -> AdamState:
    """
    One step of Adam (arXiv 1412.6980).

    The same numbers as ``torch.optim.Adam`` up to rounding; every part may live on the device, the number of steps too, so
    that nothing of it is read.

    :param state: before the step
    :param gradient: of the loss [P]
    :param learning_rate: of type ``float64``, a scalar or one for each parameter [P]
    :param how: the rest
    :return: after the step
    """
    steps = state.steps + 1
    exp_avg = state.exp_avg + (gradient - state.exp_avg) * (1 - how.beta1)
    exp_avg_sq = state.exp_avg_sq * how.beta2 + gradient * gradient * (1 - how.beta2)
    # in float64: 1 - 0.999 ** steps loses five digits otherwise
    step_size = learning_rate / (1 - how.beta1 ** steps.double())
    if step_size.dim() > 0:  # a scalar leaves the type of the parameters alone
        step_size = step_size.to(state.values.dtype)
    correction = (1 - how.beta2 ** steps.double()).sqrt()
    values = state.values - step_size * (exp_avg / (exp_avg_sq.sqrt() / correction + how.eps))
    return AdamState(values, exp_avg, exp_avg_sq, steps)

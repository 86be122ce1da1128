"""Environment wrappers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces


class DiscretizeActions(
    gym.ActionWrapper[Any, npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]], gym.utils.RecordConstructorArgs
):
    """
    Replace a bounded continuous action by one categorical choice per dimension.

    Dimension ``i`` has ``bins`` values, evenly spaced over ``[low_i, high_i]`` with both ends included:
    bin ``k`` stands for ``low_i + k * (high_i - low_i) / (bins - 1)``. The action space becomes ``MultiDiscrete([bins] * d)``
    with ``d`` the number of elements of the original action, in C order. An action with no bin of its own, such as 0
    in [-1, 1] with an even number of bins, is at most half a bin width from its nearest bin.

    With ``GIPO(..., ratio_level="dimension")`` every dimension gets its own importance ratio.

    :param env: The environment, with a floating-point, bounded ``Box`` action space of any shape.
    :param bins: Number of values per dimension, at least 2.
    """

    def __init__(self, env: gym.Env[Any, npt.NDArray[np.floating[Any]]], bins: int = 256) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, bins=bins)
        gym.ActionWrapper.__init__(self, env)
        box = env.action_space
        if not isinstance(box, spaces.Box) or not np.issubdtype(box.dtype, np.floating):
            raise ValueError(f"DiscretizeActions needs a floating-point Box action space, got {box}: leave the wrapper out")
        if not box.is_bounded():
            raise ValueError(f"DiscretizeActions needs finite bounds, got {box}: use gymnasium's RescaleAction or clip first")
        if isinstance(bins, bool) or not isinstance(bins, (int, np.integer)) or bins < 2:
            raise ValueError(f"bins must be an integer of at least 2 (both ends of the range), got {bins!r}")
        low, high = box.low.ravel().astype(np.float64), box.high.ravel().astype(np.float64)
        self._box = box
        self._values = np.linspace(low, high, int(bins)).astype(box.dtype)  # [bins, d]
        self._dims = np.arange(low.size)
        self.action_space = spaces.MultiDiscrete(np.full(low.size, bins, dtype=np.int64))

    def action(self, action: npt.NDArray[np.int64]) -> npt.NDArray[np.floating[Any]]:
        """
        Translate bins into the environment's own action.

        :param action: One bin per dimension, ``[d]``, each in ``0 .. bins - 1``.
        :return: The values, with the shape and dtype of the original action space.
        """
        action = np.asarray(action)
        is_index = action.shape == self._dims.shape and action.dtype.kind in "iu"
        if not is_index or action.min() < 0 or action.max() >= len(self._values):
            raise ValueError(f"Expected {self._dims.size} integers from 0 to {len(self._values) - 1}, got {action}")
        values: npt.NDArray[np.floating[Any]] = self._values[action, self._dims].reshape(self._box.shape)
        return values

    def discretize(self, action: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """
        Find the nearest bins of a continuous action, for example of a demonstration; the inverse of :meth:`action`.

        :param action: A continuous action with the shape of the original space; values outside the bounds go to the end bins.
        :return: One bin per dimension, ``[d]``.
        """
        flat = np.asarray(action, dtype=np.float64).reshape(self._box.shape).ravel()
        low, high = self._values[0].astype(np.float64), self._values[-1].astype(np.float64)
        span = np.where(high > low, high - low, 1.0)
        position = np.clip((flat - low) / span, 0.0, 1.0) * (len(self._values) - 1)
        bins: npt.NDArray[np.int64] = np.rint(position).astype(np.int64)
        return bins

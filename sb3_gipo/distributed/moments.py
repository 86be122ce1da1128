"""Running statistics of many actors put together: what each has seen is counted once (Chan et al. 1979)."""

import copy
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_gipo.rollouts.normalization import Normalizer


def add(normalizer: Normalizer, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
    """
    :param normalizer: of the learner, which takes over what an actor saw during one rollout
    :param before: the actor's statistics when its rollout began; ``None``: it has none
    :param after: the actor's when it ended
    """
    present = normalizer.statistics()
    if present is not None and before is not None and after is not None:
        normalizer.restore(merge(present, before, after))


def merge(present: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """
    Add to statistics what an actor saw during one rollout.

    :param present: the learner's, by name; a ``RunningMeanStd``, or one for each key of a ``Dict`` observation
    :param before: the actor's when its rollout began
    :param after: the actor's when it ended
    :return: the learner's with it. Where the learner has what the actor began with, bit for bit what the actor ended with
    """
    return {name: _merge(present[name], before[name], after[name]) for name in present}


def _merge(present: Any, before: Any, after: Any) -> Any:
    if isinstance(present, dict):
        return {key: _merge(present[key], before[key], after[key]) for key in present}
    if _same(present, before):
        return copy.deepcopy(after)
    merged = copy.deepcopy(present)
    mean, variance, count = difference(after, before)
    if count > 0:
        merged.update_from_moments(mean, variance, count)
    return merged


def difference(after: RunningMeanStd, before: RunningMeanStd) -> tuple[np.ndarray, np.ndarray, float]:
    """
    :param after: statistics
    :param before: the same statistics some data earlier
    :return: mean, variance and number of those data alone; the variance, a difference of nearly equal numbers, at least 0
    """
    count = float(after.count - before.count)
    if count <= 0:
        return np.zeros_like(after.mean), np.zeros_like(after.var), 0.0
    mean = before.mean + (after.mean - before.mean) * (after.count / count)
    squares = after.var * after.count - before.var * before.count
    between = (mean - before.mean) ** 2 * (before.count * count / after.count)
    return mean, np.maximum(squares - between, 0.0) / count, count


def _same(one: RunningMeanStd, other: RunningMeanStd) -> bool:
    return bool(one.count == other.count and np.array_equal(one.mean, other.mean) and np.array_equal(one.var, other.var))

"""Learning curves as arrays: the last axis is the evaluations, in front of it whatever there is several of."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

NEVER = float("inf")
# Of the size of the numbers: two means of the same values in another order may differ by their rounding.
ROUNDING = 1e-12


class Curves(NamedTuple):
    """
    The runs of one contestant on one task, at the planned steps of the evaluations.

    :param seeds: of the runs
    :param grid: steps of the environment, ``[E]``, the first is 0
    :param returns: mean over the episodes, ``[runs, E]``
    :param successes: part of the episodes, ``[runs, E]``; ``None`` where the environment does not say
    :param gradient_steps: so far, ``[runs, E]``, not a number where they are not known
    :param seconds: of training so far, without the evaluations, ``[runs, E]``
    """

    seeds: tuple[int, ...]
    grid: Floats
    returns: Floats
    successes: Floats | None
    gradient_steps: Floats
    seconds: Floats

    def of(self, seeds: Sequence[int]) -> "Curves":
        """
        :param seeds: of some of the runs
        :return: these runs
        """
        rows = [self.seeds.index(seed) for seed in seeds]
        successes = None if self.successes is None else self.successes[rows]
        return Curves(tuple(seeds), self.grid, self.returns[rows], successes, self.gradient_steps[rows], self.seconds[rows])


def curves_of(records: Sequence[Mapping[str, Any]], grid: Sequence[float]) -> Curves:
    """
    :param records: of the runs of one contestant on one task, at least one
    :param grid: planned steps, with step 0
    :return: their curves
    """
    evaluations = [record["evaluations"] for record in records]
    says = all(each["successes"] is not None for run in evaluations for each in run)

    def along(key: str) -> Floats:
        rows = []
        for run in evaluations:
            values = [np.nan if each[key] is None else float(np.mean(each[key])) for each in run]
            rows.append(on_grid([each["steps"] for each in run], values, grid))
        return np.array(rows)

    return Curves(
        seeds=tuple(record["seed"] for record in records),
        grid=np.array(grid, dtype=float),
        returns=along("returns"),
        successes=along("successes") if says else None,
        gradient_steps=along("gradient_steps"),
        seconds=along("seconds"),
    )


def on_grid(steps: Sequence[float], values: Sequence[float], grid: Sequence[float]) -> Floats:
    """
    Linear between two evaluations; not a number beyond the first and the last: nothing is made up.

    :param steps: of the evaluations, increasing, ``[n]``
    :param values: there, ``[n]``
    :param grid: steps, ``[E]``
    :return: values on the grid, ``[E]``
    """
    return np.asarray(np.interp(np.array(grid, dtype=float), steps, values, left=np.nan, right=np.nan), dtype=float)


def normalise(returns: Floats, bounds: tuple[float, float]) -> Floats:
    """
    :param returns: of any shape
    :param bounds: the return that counts as 0, and the one that counts as 1
    :return: scores
    """
    low, high = bounds
    return (returns - low) / (high - low)


def final(values: Floats, last: int) -> Floats:
    """
    :param values: ``[..., E]``, the first is of step 0, where nothing is learnt yet: it never counts
    :param last: how many evaluations, at most
    :return: mean of the last evaluations, ``[...]``
    """
    return np.asarray(values[..., 1:][..., -last:].mean(axis=-1), dtype=float)


def halfway(values: Floats, last: int) -> Floats | None:
    """
    :param values: ``[..., E]``, the first is of step 0, which never counts
    :param last: how many evaluations, at most
    :return: mean of the last evaluations in the first half of the budget, ``[...]``; ``None`` where there is none
    """
    end = (values.shape[-1] - 1) // 2 + 1
    return final(values[..., :end], last) if end > 1 else None


def area(grid: Floats, values: Floats) -> Floats:
    """
    :param grid: steps, ``[E]``
    :param values: ``[..., E]``
    :return: area under the curve (trapezoids) by the length of the grid: a mean height, ``[...]``
    """
    return np.asarray(np.trapezoid(values, grid, axis=-1) / (grid[-1] - grid[0]), dtype=float)


def area_to(x: Floats, values: Floats, end: float) -> float:
    """
    :param x: what the curve is drawn against, such as gradient steps, not decreasing, ``[E]``
    :param values: ``[E]``
    :param end: between the first and the last of them
    :return: area under the curve up to the end by the length of that part: a mean height
    """
    before = x < end
    points = np.append(x[before], end)
    return float(area(points, np.append(values[before], np.interp(end, x, values))))


def at_steps(grid: Floats, values: Floats, steps: Floats) -> Floats:
    """
    :param grid: steps, ``[E]``
    :param values: curves, ``[runs, E]``
    :param steps: on the grid, one for each curve, ``[runs]``; may be ``inf``
    :return: values there, on the line between two evaluations, ``[runs]``; ``inf`` where the steps are
    """
    there = np.array([np.interp(at, grid, curve) for at, curve in zip(steps, values, strict=True)])
    return np.where(np.isinf(steps), NEVER, there)


def steps_to(grid: Floats, values: Floats, target: float | Floats) -> Floats:
    """
    First crossing: where the curve is at the target for the first time, on the line between the evaluation before and the
    first one that is at or above it, up to the rounding of the numbers. Whether the curve falls below it again later is not
    asked: that is :func:`steps_to_stay`.

    :param grid: steps, ``[E]``
    :param values: ``[..., E]``
    :param target: ``[...]`` or a number
    :return: steps, ``[...]``; ``inf``: never
    """
    reached = _reached(values, target)
    return np.where(reached.any(axis=-1), _crossing(grid, values, target, reached.argmax(axis=-1)), NEVER)


def steps_to_stay(grid: Floats, values: Floats, target: float | Floats) -> Floats:
    """
    Last crossing: from where on no evaluation is below the target any more, as :func:`steps_to` otherwise.

    :param grid: steps, ``[E]``
    :param values: ``[..., E]``
    :param target: ``[...]`` or a number
    :return: steps, ``[...]``; ``inf``: the last evaluation is below
    """
    reached = _reached(values, target)
    stays = np.logical_and.accumulate(reached[..., ::-1], axis=-1)[..., ::-1]
    return np.where(reached[..., -1], _crossing(grid, values, target, stays.argmax(axis=-1)), NEVER)


def _reached(values: Floats, target: float | Floats) -> npt.NDArray[np.bool_]:
    target = np.asarray(target, dtype=float)
    size = np.maximum(np.fmax.reduce(np.abs(values), axis=-1), np.abs(target))
    return np.asarray(values >= (target - ROUNDING * size)[..., None])


def _crossing(grid: Floats, values: Floats, target: float | Floats, first: npt.NDArray[np.intp]) -> Floats:
    """On the line from the evaluation before the given one to it; at the beginning where that is the first of all."""
    before = np.maximum(first - 1, 0)
    low = np.take_along_axis(values, before[..., None], -1)[..., 0]
    high = np.take_along_axis(values, first[..., None], -1)[..., 0]
    rise = np.where(high > low, high - low, 1.0)
    part = np.where(first > 0, np.clip((target - low) / rise, 0.0, 1.0), 0.0)
    return np.asarray(grid[before] + part * (grid[first] - grid[before]))

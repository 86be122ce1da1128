"""
Training and evaluation goals that never coincide, whatever the seeds.

Meta-World describes one episode by a vector: the start position of the object, the position of the goal, or both. Two random
streams with different seeds only avoid each other by luck; here the *space* is divided, so that membership is a property
of the vector itself and can be read back from it.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Split = Literal["train", "eval"]
SPLITS: tuple[Split, ...] = get_args(Split)

N_CELLS = 100
"""Cells into which the range of a split coordinate is divided."""
PERIOD = 10
"""One cell in this many belongs to evaluation."""
EVAL_RESIDUE = 5
"""Evaluation has the cells ``EVAL_RESIDUE + k * PERIOD``: never the first or the last, so that it never extrapolates."""
GUARD = 0.05
"""Share of a cell left empty on either side, so that rounding to float32 cannot carry a goal into the next cell."""
MIN_RANGE = 0.01
"""A coordinate with a smaller range (metres) is not split: Meta-World uses such ranges for what should be constants."""

_EVAL_CELLS = np.arange(EVAL_RESIDUE, N_CELLS, PERIOD)
_CELLS: dict[Split, npt.NDArray[np.int64]] = {"eval": _EVAL_CELLS, "train": np.setdiff1d(np.arange(N_CELLS), _EVAL_CELLS)}


class GoalSplit:
    """
    A partition of a box of goals into training and evaluation goals, with exact sampling from either part.

    The box is that of a Meta-World task: one position of three coordinates, or two (object, goal). The widest coordinate of
    each position is cut into ``N_CELLS`` equal cells, of which every tenth belongs to evaluation. An evaluation vector has
    *all* its split coordinates in evaluation cells, a training vector has *none* there. Hence, for every pair of seeds:

    - no object position and no goal position is seen in both splits (also where a task ignores one of the two);
    - the cells have ``2 * GUARD`` of a cell between them, far more than float32 resolves;
    - evaluation goals spread over the whole range (a strip in every tenth of it) with training goals on both sides of each;
    - training goals leave out 10 % of a split coordinate, in strips of 1.1 % of its range (2 mm of 20 cm).

    Vectors are constructed inside their cells, not rejected until they fall there, so a draw takes constant time.

    :param low: Lower bounds of the vectors, ``[d]``, with ``d`` a multiple of 3, in metres.
    :param high: Upper bounds of the vectors, ``[d]``, in metres; equal to ``low`` where a coordinate is constant.
    """

    def __init__(self, low: npt.NDArray[Any], high: npt.NDArray[Any]) -> None:
        self.low = np.asarray(low, dtype=np.float64)
        self.span = np.asarray(high, dtype=np.float64) - self.low
        if self.low.ndim != 1 or self.low.size % 3 or self.low.shape != self.span.shape or np.any(self.span < 0):
            raise ValueError(f"Bounds of positions [3 * k] with low <= high are needed, got low={low} and high={high}")
        positions = self.span.reshape(-1, 3)
        self.axes = np.flatnonzero(positions.max(axis=1) >= MIN_RANGE) * 3
        """Indices of the split coordinates, ``[k]``: the widest one of every position that varies."""
        self.axes += positions.argmax(axis=1)[self.axes // 3]
        if not self.axes.size:
            raise ValueError(f"No coordinate varies by {MIN_RANGE} m or more, nothing to split: low={low}, high={high}")

    def sample(self, rng: np.random.Generator, split: Split) -> npt.NDArray[np.float64]:
        """
        Draw one vector, uniform on the part of the box that belongs to ``split``.

        :param rng: The generator to draw from.
        :param split: ``"train"`` or ``"eval"``.
        :return: A new vector, ``[d]``, in metres.
        """
        unit = rng.random(self.low.size)
        cells = _CELLS[split]
        cell = cells[rng.integers(cells.size, size=self.axes.size)]
        unit[self.axes] = (cell + GUARD + (1.0 - 2.0 * GUARD) * unit[self.axes]) / N_CELLS
        return self.low + unit * self.span

    def split_of(self, vector: npt.NDArray[Any]) -> Split | None:
        """
        Read back to which split a vector belongs.

        :param vector: Object and goal position as drawn, ``[d]``, in metres; float32 is precise enough.
        :return: ``"train"``, ``"eval"``, or None for a vector that neither split contains (mixed coordinates).
        """
        unit = (np.asarray(vector, dtype=np.float64)[self.axes] - self.low[self.axes]) / self.span[self.axes]
        held_out = np.floor(unit * N_CELLS).astype(np.int64) % PERIOD == EVAL_RESIDUE
        if held_out.all():
            return "eval"
        return None if held_out.any() else "train"

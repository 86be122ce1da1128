"""How much data collection switching saves: steps to the baseline's target, the baseline's by the others', with intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sb3_gipo.studies.curves import ROUNDING, Curves, Floats, final, steps_to
from sb3_gipo.studies.statistics import Estimate, Sampling, estimate, iqm, resampled


class TaskSavings(NamedTuple):
    """
    :param task: its name
    :param rise: of the baseline, from step 0 to its final result
    :param target: the return to be reached: the baseline's final result, or a part of its rise to it
    :param baseline_steps: that the baseline needs to it
    :param steps: that the contestant needs to it, ``inf``: never
    :param ratio: the first by the second; 0: never
    :param difference: of the final results, contestant - baseline, in units of the return
    """

    task: str
    rise: Estimate
    target: float
    baseline_steps: Estimate
    steps: Estimate
    ratio: Estimate
    difference: Estimate

    @property
    def counts(self) -> bool:
        """
        Whether the baseline clearly rises: even the lower end of the interval is above 0. Where it does not, its target lies
        where it began, or in the noise around it, and who crosses that first says nothing of who learns.
        """
        return self.rise.low > 0


class Savings(NamedTuple):
    """
    :param tasks: one by one
    :param ratio: interquartile mean over the tasks that count; ``None``: none does
    :param saved_steps: in all tasks that count together, to the targets
    :param baseline_steps: in all tasks that count together
    :param never: tasks that count on which the contestant does not reach the target; they have the ratio 0, and the
        whole budget in ``saved_steps``
    :param flat: tasks that do not count, because the baseline does not clearly rise there
    """

    tasks: tuple[TaskSavings, ...]
    ratio: Estimate | None
    saved_steps: Estimate
    baseline_steps: Estimate
    never: tuple[str, ...]
    flat: tuple[str, ...]

    @property
    def counted(self) -> tuple[TaskSavings, ...]:
        """Those of the tasks on which the baseline clearly rises."""
        return tuple(each for each in self.tasks if each.counts)


class _Samples(NamedTuple):
    """Of one task: row 0 is of the runs themselves, the others of the bootstrap, ``[1 + reps]`` each."""

    rise: Floats
    target: Floats
    baseline: Floats
    steps: Floats
    ratio: Floats
    saved: Floats
    difference: Floats


def savings(
    baseline: Mapping[str, Curves],
    contestant: Mapping[str, Curves],
    tasks: Sequence[str],
    last: int,
    sampling: Sampling,
    part: float,
) -> Savings:
    """
    The target of a task is a part of the way from the baseline's mean at step 0 to its final result (interquartile means over
    its seeds); a contestant reaches it where the interquartile mean of its curves crosses it first. The bootstrap draws the
    seeds of each contestant on each task and does all of this again: the target, the crossings, their ratio and the mean over
    the tasks. Tasks on which the baseline does not clearly rise have no such target: they stand apart.

    :param baseline: its runs on each task
    :param contestant: its runs on each task
    :param tasks: to count
    :param last: evaluations whose mean is the final result
    :param sampling: of the bootstrap
    :param part: of the baseline's rise that is the target; 1: its final result
    :return: what switching from the baseline to the contestant saves
    """
    generator = sampling.generator()
    all_samples = {task: _sample(baseline[task], contestant[task], last, part, sampling, generator) for task in tasks}

    def told(samples: Floats) -> Estimate:
        return estimate(samples[0], samples[1:], sampling.confidence)

    parts = tuple(
        TaskSavings(
            task,
            told(each.rise),
            float(each.target[0]),
            told(each.baseline),
            told(each.steps),
            told(each.ratio),
            told(each.difference),
        )
        for task, each in all_samples.items()
    )
    together = [all_samples[part.task] for part in parts if part.counts]
    none = np.zeros(1 + sampling.reps)
    return Savings(
        tasks=parts,
        ratio=told(iqm(np.array([each.ratio for each in together]))) if together else None,
        saved_steps=told(sum((each.saved for each in together), none)),
        baseline_steps=told(sum((each.baseline for each in together), none)),
        never=tuple(part.task for part in parts if part.counts and np.isinf(part.steps.point)),
        flat=tuple(part.task for part in parts if not part.counts),
    )


def _sample(
    baseline: Curves, contestant: Curves, last: int, part: float, sampling: Sampling, generator: np.random.Generator
) -> _Samples:
    grid = baseline.grid
    curves = []
    finals = []
    for each in (baseline, contestant):
        drawn = resampled(each.returns, sampling, generator)
        curves.append(np.concatenate([iqm(each.returns)[None], iqm(drawn, axis=1)]))
        finals.append(np.concatenate([iqm(final(each.returns, last))[None], iqm(final(drawn, last), axis=1)]))
    start, budget = curves[0][:, 0], grid[-1]
    rise = finals[0] - start
    # means of the same numbers may differ by their rounding: that is no rise
    rise = np.where(np.abs(rise) > ROUNDING * np.maximum(np.abs(start), np.abs(finals[0])), rise, 0.0)
    target = finals[0] if part == 1 else start + part * rise
    # Crossings inside the first interval cannot be told from luck, and would make any ratio: the first evaluation counts.
    baseline_steps = np.clip(steps_to(grid, curves[0], target), grid[1], budget)
    steps = np.maximum(steps_to(grid, curves[1], target), grid[1])
    ratio = np.where(np.isinf(steps), 0.0, baseline_steps / steps)
    saved = baseline_steps - np.minimum(steps, budget)
    return _Samples(rise, target, baseline_steps, steps, ratio, saved, finals[1] - finals[0])

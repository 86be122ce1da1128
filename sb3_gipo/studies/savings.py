"""How much data collection switching saves: steps to the baseline's target, the baseline's by the others', with intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sb3_gipo.studies.curves import ROUNDING, Curves, Floats, at_steps, final, steps_to, steps_to_stay
from sb3_gipo.studies.statistics import Estimate, Sampling, estimate, iqm, iqm_samples, resampled


class TaskSavings(NamedTuple):
    """
    :param task: its name
    :param rise: of the baseline, from step 0 to its final result
    :param target: the return to be reached: the baseline's final result, or a part of its rise to it
    :param baseline_steps: that the baseline needs to it
    :param steps: that the contestant needs to it, ``inf``: never
    :param ratio: the first by the second; 0: never
    :param difference: of the final results, contestant - baseline, in units of the return
    :param ratio_to_stay: as the ratio, of the steps from which on either is never below the target again; 0: the contestant is
        below it at the end
    :param ratio_by_work: as the ratio, of the gradient steps until both are there first; ``None`` where not known, or one of
        both has none
    :param ratio_by_time: as the ratio, of the seconds of training until both are there first; ``None`` as there
    """

    task: str
    rise: Estimate
    target: float
    baseline_steps: Estimate
    steps: Estimate
    ratio: Estimate
    difference: Estimate
    ratio_to_stay: Estimate
    ratio_by_work: Estimate | None
    ratio_by_time: Estimate | None

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
    :param ratio_to_stay: as the ratio, of the steps to reach the targets and stay there; ``None`` as there
    :param ratio_by_work: as the ratio, of gradient steps; ``None`` where they are not known on all tasks that count
    :param ratio_by_time: as the ratio, of seconds of training; ``None`` where they are not known on all tasks that count
    """

    tasks: tuple[TaskSavings, ...]
    ratio: Estimate | None
    saved_steps: Estimate
    baseline_steps: Estimate
    never: tuple[str, ...]
    flat: tuple[str, ...]
    ratio_to_stay: Estimate | None
    ratio_by_work: Estimate | None
    ratio_by_time: Estimate | None

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
    ratio_to_stay: Floats
    ratio_by_work: Floats | None
    ratio_by_time: Floats | None


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
    its seeds); a contestant reaches it where the interquartile mean of its curves crosses it first, and stays there from where
    that crosses it last. The bootstrap draws the seeds of each contestant on each task and does all of this again: the target,
    the crossings, their ratio and the mean over the tasks. Tasks on which the baseline does not clearly rise have no such
    target: they stand apart.

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

    def known(samples: Floats | None) -> Estimate | None:
        return None if samples is None else told(samples)

    def over_tasks(ratios: list[Floats | None]) -> Estimate | None:
        there = [each for each in ratios if each is not None]
        return told(iqm(np.array(there))) if there and len(there) == len(ratios) else None

    parts = tuple(
        TaskSavings(
            task,
            told(each.rise),
            float(each.target[0]),
            told(each.baseline),
            told(each.steps),
            told(each.ratio),
            told(each.difference),
            told(each.ratio_to_stay),
            known(each.ratio_by_work),
            known(each.ratio_by_time),
        )
        for task, each in all_samples.items()
    )
    together = [all_samples[part.task] for part in parts if part.counts]
    none = np.zeros(1 + sampling.reps)
    return Savings(
        tasks=parts,
        ratio=over_tasks([each.ratio for each in together]),
        saved_steps=told(sum((each.saved for each in together), none)),
        baseline_steps=told(sum((each.baseline for each in together), none)),
        never=tuple(part.task for part in parts if part.counts and np.isinf(part.steps.point)),
        flat=tuple(part.task for part in parts if not part.counts),
        ratio_to_stay=over_tasks([each.ratio_to_stay for each in together]),
        ratio_by_work=over_tasks([each.ratio_by_work for each in together]),
        ratio_by_time=over_tasks([each.ratio_by_time for each in together]),
    )


def _sample(
    baseline: Curves, contestant: Curves, last: int, part: float, sampling: Sampling, generator: np.random.Generator
) -> _Samples:
    grid = baseline.grid
    middles: list[Floats] = []
    finals: list[Floats] = []
    for each in (baseline, contestant):
        runs = np.stack([each.returns, each.gradient_steps, each.seconds], axis=1)
        drawn = resampled(runs, sampling, generator)
        middles.append(iqm_samples(runs, drawn))
        finals.append(iqm_samples(final(each.returns, last), final(drawn[:, :, 0], last)))
    curves, work, seconds = ([each[:, which] for each in middles] for which in range(3))
    start, budget = curves[0][:, 0], grid[-1]
    rise = finals[0] - start
    # means of the same numbers may differ by their rounding: that is no rise
    rise = np.where(np.abs(rise) > ROUNDING * np.maximum(np.abs(start), np.abs(finals[0])), rise, 0.0)
    target = finals[0] if part == 1 else start + part * rise

    def needed(crossing: Callable[[Floats, Floats, Floats], Floats]) -> tuple[Floats, Floats]:
        # Crossings inside the first interval cannot be told from luck, and would make any ratio: the first evaluation counts.
        one, other = (np.maximum(crossing(grid, curve, target), grid[1]) for curve in curves)
        return np.minimum(one, budget), other

    def ratio_of(one: Floats, other: Floats) -> Floats:
        return np.where(np.isinf(other), 0.0, one / other)

    baseline_steps, steps = needed(steps_to)

    def ratio_by(spent: list[Floats]) -> Floats | None:
        if any(np.isnan(each).any() for each in spent):
            return None
        one, other = (at_steps(grid, each, at) for each, at in zip(spent, (baseline_steps, steps), strict=True))
        return ratio_of(one, other) if (one > 0).all() and (other > 0).all() else None

    return _Samples(
        rise=rise,
        target=target,
        baseline=baseline_steps,
        steps=steps,
        ratio=ratio_of(baseline_steps, steps),
        saved=baseline_steps - np.minimum(steps, budget),
        difference=finals[1] - finals[0],
        ratio_to_stay=ratio_of(*needed(steps_to_stay)),
        ratio_by_work=ratio_by(work),
        ratio_by_time=ratio_by(seconds),
    )

"""What it takes to get to a return or a rate of success that the study asks for, whoever the baseline is."""

from typing import NamedTuple

import numpy as np

from sb3_gipo.studies.curves import Curves, Floats, at_steps, steps_to
from sb3_gipo.studies.plan import Study, Task
from sb3_gipo.studies.statistics import Estimate, Sampling, estimate, iqm_samples, resampled


class Reach(NamedTuple):
    """
    When a contestant gets to a threshold on a task for the first time; ``inf``: never.

    :param of: ``"return"`` or ``"success"``
    :param threshold: of it
    :param steps: of the environment
    :param gradient_steps: until then; ``None`` where they are not known
    :param seconds: of training until then; ``None`` where they are not known
    """

    of: str
    threshold: float
    steps: Estimate
    gradient_steps: Estimate | None
    seconds: Estimate | None


def reaches(study: Study, task: Task, curves: Curves, sampling: Sampling) -> list[Reach]:
    """
    :param study: that was read
    :param task: of it
    :param curves: of a contestant on it
    :param sampling: of the bootstrap
    :return: for each threshold of the task
    """
    found = []
    if task.threshold is not None:
        found.append(_reach("return", task.threshold, curves.returns, curves, sampling))
    if study.statistics.success is not None and curves.successes is not None:
        found.append(_reach("success", study.statistics.success, curves.successes, curves, sampling))
    return found


def _reach(of: str, threshold: float, values: Floats, curves: Curves, sampling: Sampling) -> Reach:
    """The first crossing of the interquartile mean of the curves, with the mean gradient steps and seconds of that moment."""
    runs = np.stack([values, curves.gradient_steps, curves.seconds], axis=-1)
    drawn = resampled(runs, sampling, sampling.generator())
    height, *spent = np.moveaxis(iqm_samples(runs, drawn), -1, 0)
    steps = steps_to(curves.grid, height, threshold)

    def until(each: Floats) -> Estimate | None:
        if np.isnan(each).any():
            return None
        return _told(at_steps(curves.grid, each, steps), sampling)

    return Reach(of, threshold, _told(steps, sampling), until(spent[0]), until(spent[1]))


def _told(samples: Floats, sampling: Sampling) -> Estimate:
    return estimate(samples[0], samples[1:], sampling.confidence)

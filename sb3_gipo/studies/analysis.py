"""From records to numbers: everything that the report says and ``summary.json`` holds."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sb3_gipo.studies import statistics
from sb3_gipo.studies.curves import Curves, Floats, area, area_to, final, halfway, normalise
from sb3_gipo.studies.plan import Run, Study
from sb3_gipo.studies.results import Results, bounds_of
from sb3_gipo.studies.savings import Savings, savings
from sb3_gipo.studies.stability import Stability, last_intervals, stability
from sb3_gipo.studies.statistics import Estimate, Sampling, iqm_estimate
from sb3_gipo.studies.thresholds import Reach, reaches

# What the table of lag and utilization shows, where it was logged.
LOGGED = (
    *("lag/old_frac", "lag/version_gap_mean", "lag/abs_log_rho_p95", "train/approx_kl"),
    *("utilization/near_zero_frac", "utilization/dead_frac", "utilization/suppressed_frac"),
    *("utilization/trust_mean", "utilization/ess_eff_old", "utilization/old_share"),
)
LEVELS = np.linspace(0.0, 1.0, 51)


class Numbers(NamedTuple):
    """
    Of one contestant, on one task (returns in the task's units) or on all that count (scores).

    :param seeds: of its runs
    :param final: result at the end
    :param area: mean height of the curve
    :param success: part of the episodes at the end; ``None`` where the environment does not say
    :param area_by_work: mean height up to the gradient steps that all runs have; only of scores, ``None`` where not known
    :param area_by_time: mean height up to the seconds of training that all runs have; only of scores, ``None`` where not known
    """

    seeds: tuple[int, ...]
    final: Estimate
    area: Estimate
    success: Estimate | None
    area_by_work: Estimate | None = None
    area_by_time: Estimate | None = None


class Success(NamedTuple):
    """
    Part of the episodes with success on a task, at one time.

    :param candidate: its
    :param baseline: its
    :param difference: candidate - baseline
    """

    candidate: Estimate
    baseline: Estimate
    difference: Estimate


class Band(NamedTuple):
    """
    The curve of one contestant over the tasks that count, at each evaluation, ``[E]`` each.

    :param share: of the budget
    :param steps: of the environment, median over runs
    :param gradient_steps: median over runs
    :param seconds: of training, median over runs
    :param score: interquartile mean over tasks and seeds
    :param low: end of its interval
    :param high: end of its interval
    """

    share: Floats
    steps: Floats
    gradient_steps: Floats
    seconds: Floats
    score: Floats
    low: Floats
    high: Floats


@dataclass
class RegimeAnalysis:
    """
    :param regime: its name
    :param counted: tasks that count in what is over tasks
    :param notes: what is left out, in sentences
    :param curves: by contestant and task
    :param tasks: by task and contestant
    :param aggregate: by contestant
    :param bands: by contestant
    :param profiles: by contestant: the profile and its interval at ``LEVELS``
    :param improvement: by other contestant: how often the candidate is better at the end and in the area
    :param differences: by other contestant: score of the candidate - its, at the end and in the area
    :param success: of candidate and baseline, by task ``"halfway"`` and at the ``"end"`` of the budget, where it is told
    :param savings: by contestant other than the baseline, over the seeds that it and the baseline have on all tasks
    :param thresholds: by task and contestant, where the study asks for any
    :param stability: by contestant
    :param logged: by contestant: means over its runs
    """

    regime: str
    counted: tuple[str, ...]
    notes: list[str]
    curves: dict[str, dict[str, Curves]]
    tasks: dict[str, dict[str, Numbers]]
    aggregate: dict[str, Numbers]
    bands: dict[str, Band]
    profiles: dict[str, tuple[Floats, Floats, Floats]]
    improvement: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    success: dict[str, dict[str, Success]]
    savings: dict[str, Savings]
    thresholds: dict[str, dict[str, list[Reach]]]
    stability: dict[str, Stability]
    logged: dict[str, dict[str, float]]


def sampling_of(study: Study) -> Sampling:
    """
    :param study: that was read
    :return: its bootstrap
    """
    return Sampling(study.statistics.reps, study.decision.confidence, study.statistics.random_state)


def analyse(study: Study, results: Results, regime: str) -> RegimeAnalysis:
    """
    :param study: that was read
    :param results: of it
    :param regime: its name
    :return: the numbers of that regime
    """
    sampling, last = sampling_of(study), study.statistics.last
    curves = {each.name: results.curves(study, regime, each.name) for each in study.contestants}
    counted = tuple(
        task.name for task in study.tasks if all(task.name in curves[name] for name in (study.baseline, study.candidate))
    )
    notes = [] if len(counted) == len(study.tasks) else [_not_counted(study, counted)]
    matched = _matched(curves, counted, notes)
    bounds = {task.name: its for task in study.tasks if (its := bounds_of(study, task, results)) is not None}
    scored = {name: [normalise(its[task].returns, bounds[task]) for task in counted] for name, its in matched.items()}
    matrices = _matrices(matched, scored, counted, last)
    return RegimeAnalysis(
        regime=regime,
        counted=counted,
        notes=notes,
        curves=curves,
        tasks={
            task.name: {name: _numbers(its[task.name], last, sampling) for name, its in curves.items() if task.name in its}
            for task in study.tasks
        },
        aggregate=_aggregate(matched, matrices, sampling),
        bands={name: _band(list(matched[name].values()), scored[name], sampling) for name in matched},
        profiles=statistics.profiles(matrices["final"], LEVELS, sampling) if matched else {},
        improvement=_beside(statistics.improvement, study.candidate, matrices, sampling),
        differences=_beside(statistics.differences, study.candidate, matrices, sampling),
        success={task: found for task in counted if (found := _success(study, curves, task, sampling))},
        savings={
            name: savings(matched[study.baseline], its, counted, last, sampling, study.statistics.target)
            for name, its in matched.items()
            if study.baseline in matched and name != study.baseline
        },
        thresholds=_thresholds(study, curves, sampling),
        stability={each.name: _stability(study, results, regime, each.name) for each in study.contestants},
        logged={each.name: _logged(results.finished(regime, each.name)) for each in study.contestants},
    )


def _not_counted(study: Study, counted: tuple[str, ...]) -> str:
    left = ", ".join(task.name for task in study.tasks if task.name not in counted)
    return f"Not in the numbers over tasks, because {study.baseline} or {study.candidate} has no finished run there: {left}."


def _matched(curves: dict[str, dict[str, Curves]], counted: tuple[str, ...], notes: list[str]) -> dict[str, dict[str, Curves]]:
    """Of each contestant, the seeds that it has on all tasks that count; the others are noted."""
    matched = {}
    for name, its in curves.items():
        if not counted or not its:
            continue
        own = [set(its[task].seeds) if task in its else set() for task in counted]
        seeds, some = sorted(set.intersection(*own)), sorted(set.union(*own))
        left = [seed for seed in some if seed not in seeds]
        if left:
            notes.append(
                f"{name}: seed{'s' if len(left) > 1 else ''} {', '.join(map(str, left))} not in the numbers over tasks "
                "(not on all of them)."
            )
        if seeds:
            matched[name] = {task: its[task].of(seeds) for task in counted}
    return matched


def _matrices(
    matched: dict[str, dict[str, Curves]], scored: dict[str, list[Floats]], counted: tuple[str, ...], last: int
) -> dict[str, dict[str, Floats]]:
    """``[runs, tasks]`` of each contestant: final scores, areas, and successes on the tasks that tell of them."""
    found: dict[str, dict[str, Floats]] = {"final": {}, "area": {}, "success": {}}
    found["area_by_work"] = _areas(scored, {name: [its[t].gradient_steps for t in counted] for name, its in matched.items()})
    found["area_by_time"] = _areas(scored, {name: [its[t].seconds for t in counted] for name, its in matched.items()})
    for name, its in matched.items():
        found["final"][name] = np.stack([final(each, last) for each in scored[name]], axis=1)
        found["area"][name] = np.stack(
            [area(its[task].grid, each) for task, each in zip(counted, scored[name], strict=True)], axis=1
        )
        successes = [final(each.successes, last) for each in its.values() if each.successes is not None]
        if successes:
            found["success"][name] = np.stack(successes, axis=1)
    return found


def _areas(scored: dict[str, list[Floats]], spent: dict[str, list[Floats]]) -> dict[str, Floats]:
    """``[runs, tasks]`` of each contestant: mean scores up to what all runs on the task have spent, where that is known."""
    known = {
        name: its for name, its in spent.items() if all(np.isfinite(each).all() and each[:, -1].min() > 0 for each in its)
    }
    ends = [min(float(each[:, -1].min()) for each in same) for same in zip(*known.values(), strict=True)]
    return {
        name: np.stack(
            [
                np.array([area_to(x, y, end) for x, y in zip(task, scores, strict=True)])
                for task, scores, end in zip(its, scored[name], ends, strict=True)
            ],
            axis=1,
        )
        for name, its in known.items()
    }


def _aggregate(
    matched: dict[str, dict[str, Curves]], matrices: dict[str, dict[str, Floats]], sampling: Sampling
) -> dict[str, Numbers]:
    estimates = {key: statistics.aggregated(scores, sampling) for key, scores in matrices.items()}
    return {
        name: Numbers(
            next(iter(its.values())).seeds,
            estimates["final"][name],
            estimates["area"][name],
            estimates["success"].get(name),
            estimates["area_by_work"].get(name),
            estimates["area_by_time"].get(name),
        )
        for name, its in matched.items()
    }


def _beside(
    statistic: Callable[[Floats, Mapping[str, Floats], Sampling], dict[str, Estimate]],
    candidate: str,
    matrices: dict[str, dict[str, Floats]],
    sampling: Sampling,
) -> dict[str, dict[str, Estimate]]:
    """Of the candidate and each other contestant, at the end and in the area."""
    found: dict[str, dict[str, Estimate]] = {}
    for key in ("final", "area"):
        scores = matrices[key]
        if candidate in scores:
            others = {name: each for name, each in scores.items() if name != candidate}
            for name, each in statistic(scores[candidate], others, sampling).items():
                found.setdefault(name, {})[key] = each
    return found


def _numbers(curves: Curves, last: int, sampling: Sampling) -> Numbers:
    return Numbers(
        curves.seeds,
        iqm_estimate(final(curves.returns, last), sampling),
        iqm_estimate(area(curves.grid, curves.returns), sampling),
        None if curves.successes is None else iqm_estimate(final(curves.successes, last), sampling),
    )


def _success(study: Study, curves: dict[str, dict[str, Curves]], task: str, sampling: Sampling) -> dict[str, Success]:
    found = {}
    values, others = (curves[name][task].successes for name in (study.candidate, study.baseline))
    if values is not None and others is not None and study.candidate != study.baseline:
        for when, take in (("halfway", halfway), ("end", final)):
            one, other = (take(each, study.statistics.last) for each in (values, others))
            if one is None or other is None:
                continue
            found[when] = Success(
                iqm_estimate(one, sampling),
                iqm_estimate(other, sampling),
                statistics.difference_estimate(one, other, sampling),
            )
    return found


def _thresholds(study: Study, curves: dict[str, dict[str, Curves]], sampling: Sampling) -> dict[str, dict[str, list[Reach]]]:
    found = {}
    for task in study.tasks:
        its = {name: reaches(study, task, each[task.name], sampling) for name, each in curves.items() if task.name in each}
        asked = {name: each for name, each in its.items() if each}
        if asked:
            found[task.name] = asked
    return found


def _band(curves: list[Curves], scores: list[Floats], sampling: Sampling) -> Band:
    def median(values: list[Floats]) -> Floats:
        return np.asarray(np.median(np.concatenate(values), axis=0), dtype=float)

    score, low, high = statistics.iqm_band(scores, sampling)
    return Band(
        share=curves[0].grid / curves[0].grid[-1],
        steps=median([each.grid[None] for each in curves]),
        gradient_steps=median([each.gradient_steps for each in curves]),
        seconds=median([each.seconds for each in curves]),
        score=score,
        low=low,
        high=high,
    )


def _stability(study: Study, results: Results, regime: str, contestant: str) -> Stability:
    def of_it(runs: Iterable[Run]) -> int:
        return sum(run.regime == regime and run.contestant == contestant for run in runs)

    failed, missing = of_it(run for run, _ in results.failures), of_it([*results.missing, *results.other])
    return stability(results.finished(regime, contestant), failed, missing, study.statistics)


def _logged(records: list[dict[str, Any]]) -> dict[str, float]:
    """Mean over runs of the mean over the last fifth of each (as in the paper) of what was logged."""
    found = {}
    for key in LOGGED:
        runs = [[each["mean"][key] for each in last_intervals(record) if key in each["mean"]] for record in records]
        means = [float(np.mean(values)) for values in runs if values]
        if means:
            found[key] = float(np.mean(means))
    return found

"""From records to numbers: everything that the report says and ``summary.json`` holds."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sb3_gipo.studies import statistics
from sb3_gipo.studies.curves import Curves, Floats, area, final, halfway, normalise
from sb3_gipo.studies.plan import Study
from sb3_gipo.studies.results import Results, bounds_of
from sb3_gipo.studies.savings import Savings, savings
from sb3_gipo.studies.stability import ran_away
from sb3_gipo.studies.statistics import Estimate, Sampling, iqm_estimate

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
    """

    seeds: tuple[int, ...]
    final: Estimate
    area: Estimate
    success: Estimate | None


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


class Stability(NamedTuple):
    """
    :param finished: runs
    :param failed: runs
    :param ran_away: of the finished ones, each with how
    """

    finished: int
    failed: int
    ran_away: tuple[str, ...]


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
    :param success: of candidate and baseline, by task ``"halfway"`` and at the ``"end"`` of the budget, where it is told
    :param savings: by contestant other than the baseline
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
    success: dict[str, dict[str, Success]]
    savings: dict[str, Savings]
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
    bounds = {task.name: bounds_of(study, task, results) for task in study.tasks}
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
        improvement=_improvement(study.candidate, matrices, sampling),
        success={task: found for task in counted if (found := _success(study, curves, task, sampling))},
        savings={
            name: savings(curves[study.baseline], its, counted, last, sampling, study.statistics.target)
            for name, its in curves.items()
            if counted and name != study.baseline and all(task in its for task in counted)
        },
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
    for name, its in matched.items():
        found["final"][name] = np.stack([final(each, last) for each in scored[name]], axis=1)
        found["area"][name] = np.stack(
            [area(its[task].grid, each) for task, each in zip(counted, scored[name], strict=True)], axis=1
        )
        successes = [final(each.successes, last) for each in its.values() if each.successes is not None]
        if successes:
            found["success"][name] = np.stack(successes, axis=1)
    return found


def _aggregate(
    matched: dict[str, dict[str, Curves]], matrices: dict[str, dict[str, Floats]], sampling: Sampling
) -> dict[str, Numbers]:
    estimates = {key: statistics.aggregated(scores, sampling) for key, scores in matrices.items()}
    return {
        name: Numbers(
            next(iter(its.values())).seeds, estimates["final"][name], estimates["area"][name], estimates["success"].get(name)
        )
        for name, its in matched.items()
    }


def _improvement(candidate: str, matrices: dict[str, dict[str, Floats]], sampling: Sampling) -> dict[str, dict[str, Estimate]]:
    found: dict[str, dict[str, Estimate]] = {}
    for key in ("final", "area"):
        scores = matrices[key]
        if candidate in scores:
            others = {name: each for name, each in scores.items() if name != candidate}
            for name, each in statistics.improvement(scores[candidate], others, sampling).items():
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
            found[when] = Success(
                iqm_estimate(one, sampling),
                iqm_estimate(other, sampling),
                statistics.difference_estimate(one, other, sampling),
            )
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
    records = results.finished(regime, contestant)
    failed = sum(run.regime == regime and run.contestant == contestant for run, _ in results.failures)
    away = tuple(
        f"{record['task']['name']}, seed {record['seed']}: {how}"
        for record in records
        if (how := ran_away(record, study.statistics)) is not None
    )
    return Stability(len(records), failed, away)


def _logged(records: list[dict[str, Any]]) -> dict[str, float]:
    """Mean over runs of the mean over the second half of each, when its replay is full, of what was logged."""
    found = {}
    for key in LOGGED:
        runs = [
            [each["mean"][key] for each in record["traces"] if key in each["mean"] and each["until"] > record["steps"] / 2]
            for record in records
        ]
        means = [float(np.mean(values)) for values in runs if values]
        if means:
            found[key] = float(np.mean(means))
    return found

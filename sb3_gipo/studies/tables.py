"""The tables of a report."""

import json
from collections.abc import Iterator

from sb3_gipo.studies.analysis import LOGGED, RegimeAnalysis
from sb3_gipo.studies.blocks import Block, Bullets, Table
from sb3_gipo.studies.plan import ONLY_REGIME, Study
from sb3_gipo.studies.results import Results
from sb3_gipo.studies.statistics import Estimate

NOTHING = "-"


def settings_table(study: Study) -> Table:
    """
    :param study: that was read
    :return: its contestants with their settings, and what each regime changes
    """
    rows = []
    for contestant in study.contestants:
        role = {study.candidate: "candidate", study.baseline: "baseline"}.get(contestant.name, "")
        settings = ", ".join(f"{key}={_json(value)}" for key, value in contestant.settings.items()) or "defaults"
        normalize = "no" if contestant.normalize is None else _normalized(contestant.normalize)
        rows.append([contestant.name, role, contestant.label, settings, str(contestant.n_envs), normalize])
    for regime, overrides in study.regimes.items():
        if regime != ONLY_REGIME or overrides:
            who = [each.name for each in study.contestants if each.in_regimes]
            changed = ", ".join(f"{key}={_json(value)}" for key, value in overrides.items()) or "nothing changed"
            rows.append([f"in {regime}", "", ", ".join(who), changed, "", ""])
    return Table(["", "role", "class", "settings", "environments", "VecNormalize"], rows, wordy=True)


def made_with(results: Results) -> Iterator[Block]:
    """
    :param results: of the study
    :return: versions and hardware of the records; all of them, where they differ
    """
    found: dict[str, set[str]] = {}
    for records in results.records.values():
        for record in records:
            hardware = record["hardware"]
            on = f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} thread a run, {hardware['platform']}"
            for key, value in {**record["versions"], "hardware": on}.items():
                found.setdefault(key, set()).add(value)
    mixed = [key for key, values in found.items() if len(values) > 1]
    lines = [f"{key}: {' and '.join(sorted(values))}" for key, values in found.items()]
    if mixed:
        lines.insert(0, f"Not all runs were made with the same {', '.join(mixed)}.")
    if lines:
        yield Bullets(lines)


def aggregate_table(analysis: RegimeAnalysis) -> Table:
    """
    :param analysis: of a regime
    :return: scores over the tasks that count
    """
    rows = [
        [
            name,
            str(len(its.seeds)),
            _with_interval(its.final, 3),
            _with_interval(its.area, 3),
            NOTHING if its.success is None else _with_interval(its.success, 2),
        ]
        for name, its in analysis.aggregate.items()
    ]
    return Table(["", "seeds", "score at the end", "area under the curve", "success at the end"], rows)


def improvement_table(study: Study, analysis: RegimeAnalysis) -> Table:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: how often a run of the candidate beats one of each other contestant
    """
    rows = [[name, *(_with_interval(its[key], 2) for key in ("final", "area"))] for name, its in analysis.improvement.items()]
    return Table([f"{study.candidate} is better than", "at the end", "in the area"], rows)


def savings_table(study: Study, analysis: RegimeAnalysis) -> Table:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: steps to the baseline's result, task by task and together
    """
    rows: list[list[str]] = []
    for name, found in analysis.savings.items():
        rows += [
            [
                name,
                each.task,
                f"{each.target:.4g}",
                _steps(each.baseline_steps.point),
                f"{_steps(each.steps.point)} ({_steps(each.steps.low)} to {_steps(each.steps.high)})",
                _with_interval(each.ratio, 2),
            ]
            for each in found.tasks
        ]
        low, high = _steps(found.saved_steps.low), _steps(found.saved_steps.high)
        saved = f"saved: {_steps(found.saved_steps.point)} ({low} to {high})"
        rows.append([name, "all (IQM, sum)", "", _steps(found.baseline_steps.point), saved, _with_interval(found.ratio, 2)])
    return Table(["", "task", "target", f"steps of {study.baseline}", "its own steps", "ratio"], rows)


def success_table(study: Study, analysis: RegimeAnalysis) -> Table:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: success of candidate and baseline, half way and at the end
    """
    rows = [
        [task, when, *(_with_interval(each, 2) for each in its[when])]
        for when in ("halfway", "end")
        for task, its in analysis.success.items()
    ]
    return Table(["", "when", study.candidate, study.baseline, "difference"], rows)


def task_table(study: Study, analysis: RegimeAnalysis, task: str) -> Table:
    """
    :param study: that was read
    :param analysis: of a regime
    :param task: its name
    :return: results of the contestants on it
    """
    needed: dict[str, float] = {}
    for name, found in analysis.savings.items():
        for each in found.tasks:
            if each.task == task:
                needed |= {name: each.steps.point, study.baseline: each.baseline_steps.point}
    rows = [
        [
            name,
            str(len(its.seeds)),
            _with_interval(its.final, 1),
            _with_interval(its.area, 1),
            NOTHING if its.success is None else _with_interval(its.success, 2),
            _steps(needed[name]) if name in needed else NOTHING,
        ]
        for name, its in analysis.tasks[task].items()
    ]
    to = f"steps to {study.baseline}'s result"
    return Table(["", "seeds", "return at the end", "mean return of the run", "success at the end", to], rows)


def logged_table(analysis: RegimeAnalysis) -> Table:
    """
    :param analysis: of a regime
    :return: lag and utilization, where they are logged
    """
    names = [name for name, its in analysis.logged.items() if its]
    rows = [
        [key, *(f"{analysis.logged[name][key]:.3g}" if key in analysis.logged[name] else NOTHING for name in names)]
        for key in LOGGED
        if any(key in analysis.logged[name] for name in names)
    ]
    return Table(["", *names], rows)


def stability_table(analysis: RegimeAnalysis) -> Table:
    """
    :param analysis: of a regime
    :return: how many runs ran away or failed
    """
    rows = [[name, str(its.finished), str(len(its.ran_away)), str(its.failed)] for name, its in analysis.stability.items()]
    return Table(["", "finished", "ran away", "failed"], rows)


def _with_interval(estimate: Estimate, digits: int) -> str:
    point, low, high = (f"{each:,.{digits}f}" for each in estimate)
    return f"{point} ({low} to {high})"


def _steps(steps: float) -> str:
    return "never" if steps == float("inf") else f"{steps:,.0f}"


def _json(value: object) -> str:
    return json.dumps(value).replace('"', "")


def _normalized(arguments: dict[str, object]) -> str:
    parts = [name for key, name in (("norm_obs", "observations"), ("norm_reward", "reward")) if arguments.get(key)]
    return " and ".join(parts) or "no"

"""The tables of a report."""

import json
from collections.abc import Callable, Iterator

from sb3_gipo.studies.analysis import LOGGED, RegimeAnalysis
from sb3_gipo.studies.blocks import Block, Bullets, Table
from sb3_gipo.studies.plan import ONLY_REGIME, Study
from sb3_gipo.studies.results import Results
from sb3_gipo.studies.savings import Savings, TaskSavings
from sb3_gipo.studies.statistics import Estimate
from sb3_gipo.studies.wording import count, percent, span, target_words

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
            _with_interval(its.area_by_work, 3),
            _with_interval(its.area_by_time, 3),
            _with_interval(its.success, 2),
        ]
        for name, its in analysis.aggregate.items()
    ]
    areas = ("area under the curve", "area over equal gradient steps", "area over equal time")
    return Table(["", "seeds", "score at the end", *areas, "success at the end"], rows)


def improvement_table(study: Study, analysis: RegimeAnalysis) -> Table:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: how often a run of the candidate beats one of each other contestant
    """

    def said(part: float) -> str:
        return f"{100 * part:.0f} %"

    rows = [
        [
            name,
            *(f"{said(its[key].point)}{span(its[key], said)}" for key in ("final", "area")),
            *(_with_interval(analysis.differences[name][key], 3) for key in ("final", "area")),
        ]
        for name, its in analysis.improvement.items()
    ]
    head = f"share of pairs of runs in which {study.candidate} is better (50 %: no difference) than that of"
    return Table([head, "at the end", "in the area", "its score at the end higher by", "its area larger by"], rows)


def savings_table(study: Study, analysis: RegimeAnalysis) -> Table:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: steps to the target, task by task and together
    """
    rows: list[list[str]] = []
    for name, found in analysis.savings.items():
        rows += [
            [
                name,
                each.task,
                f"{each.target:.4g}",
                _steps(each.baseline_steps.point),
                _steps_with_interval(each.steps),
                *_ratios(each),
            ]
            if each.counts
            else [name, each.task, f"no clear rise of {study.baseline}", *[NOTHING] * 6]
            for each in found.tasks
        ]
        if found.ratio is not None:
            saved = f"saved: {_steps_with_interval(found.saved_steps)}"
            rows.append([name, "all (IQM, sum)", "", _steps(found.baseline_steps.point), saved, *_ratios(found)])
    ratio_heads = ("ratio", "to stay there", "of gradient steps", "of time")
    return Table(["", "task", "target", f"steps of {study.baseline}", "its own steps", *ratio_heads], rows)


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
        if when in its
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
        for each in found.counted:
            if each.task == task:
                needed |= {name: each.steps.point, study.baseline: each.baseline_steps.point}
    rows = [
        [
            name,
            str(len(its.seeds)),
            _with_interval(its.final, 1),
            _with_interval(its.area, 1),
            _with_interval(its.success, 2),
            _steps(needed[name]) if name in needed else NOTHING,
        ]
        for name, its in analysis.tasks[task].items()
    ]
    to = f"steps to {target_words(study)}"
    return Table(["", "seeds", "return at the end", "mean return of the run", "success at the end", to], rows)


def threshold_table(analysis: RegimeAnalysis) -> Table:
    """
    :param analysis: of a regime
    :return: what it takes to get to the thresholds of the study, task by task
    """
    rows = [
        [
            task,
            f"return {each.threshold:,g}" if each.of == "return" else f"success {percent(each.threshold)}",
            name,
            *(NOTHING if spent is None else _steps_with_interval(spent, count) for spent in each[2:]),
        ]
        for task, its in analysis.thresholds.items()
        for which in range(max(map(len, its.values())))
        for name, reached in its.items()
        for each in reached[which : which + 1]
    ]
    return Table(["task", "threshold", "", "environment steps", "gradient steps", "seconds of training"], rows)


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

    def number(found: tuple[str, ...] | None) -> str:
        return NOTHING if found is None else str(len(found))

    rows = [
        [name, str(its.finished), number(its.ran_away), number(its.exceeded), str(its.failed)]
        for name, its in analysis.stability.items()
    ]
    return Table(["", "finished", "ran away: at the end", "at some time", "failed"], rows)


def _ratios(found: TaskSavings | Savings) -> list[str]:
    ratios = (found.ratio, found.ratio_to_stay, found.ratio_by_work, found.ratio_by_time)
    return [_with_interval(ratio, 2) for ratio in ratios]


def _with_interval(estimate: Estimate | None, digits: int) -> str:
    if estimate is None:
        return NOTHING
    said = f"{{:,.{digits}f}}".format
    return f"{said(estimate.point)}{span(estimate, said)}"


def _steps(steps: float) -> str:
    return "never" if steps == float("inf") else f"{steps:,.0f}"


def _steps_with_interval(steps: Estimate, said: Callable[[float], str] = _steps) -> str:
    return f"{said(steps.point)}{span(steps, said)}"


def _json(value: object) -> str:
    return json.dumps(value).replace('"', "")


def _normalized(arguments: dict[str, object]) -> str:
    parts = [name for key, name in (("norm_obs", "observations"), ("norm_reward", "reward")) if arguments.get(key)]
    return " and ".join(parts) or "no"

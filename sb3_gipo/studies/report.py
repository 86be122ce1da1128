"""The report of a study: ``report.md``, ``report.html``, ``summary.json`` and the plots."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sb3_gipo.pages import write_json, write_page
from sb3_gipo.studies import blocks, plots
from sb3_gipo.studies.analysis import RegimeAnalysis, analyse
from sb3_gipo.studies.blocks import Banner, Block, Bullets, Code, Heading, Paragraph
from sb3_gipo.studies.plan import ONLY_REGIME, Study, distinct
from sb3_gipo.studies.results import Results, bounds_of, load
from sb3_gipo.studies.tables import (
    aggregate_table,
    improvement_table,
    logged_table,
    made_with,
    savings_table,
    settings_table,
    stability_table,
    success_table,
    task_table,
    threshold_table,
)
from sb3_gipo.studies.verdict import Verdict, verdict
from sb3_gipo.studies.wording import percent, plural, target_words

PLOTS = "plots"


class Report(NamedTuple):
    """
    :param results: that it is of
    :param analyses: of each regime
    :param verdicts: of each regime
    """

    results: Results
    analyses: dict[str, RegimeAnalysis]
    verdicts: dict[str, Verdict]


def write_report(study: Study, folder: Path, command: str) -> Report:
    """
    :param study: that was read
    :param folder: of it
    :param command: that repeats it
    :return: what was written
    """
    results = load(study, folder)
    analyses = {regime: analyse(study, results, regime) for regime in study.regimes}
    report = Report(results, analyses, {regime: verdict(study, each) for regime, each in analyses.items()})
    content = list(_blocks(study, report, command))
    (folder / PLOTS).mkdir(exist_ok=True)
    for block in content:
        if isinstance(block, plots.Picture):
            write_page(folder / PLOTS / f"{block.name}.svg", block.svg)
    write_page(folder / "report.md", blocks.markdown(content, PLOTS))
    write_page(folder / "report.html", blocks.page(f"Comparison: {study.path.stem}", content))
    write_json(folder / "summary.json", summary(study, report))
    return report


def _blocks(study: Study, report: Report, command: str) -> Iterator[Block]:
    many = len(study.regimes) > 1
    yield Heading(1, f"Comparison: {study.path.stem}")
    for regime, found in report.verdicts.items():
        yield Banner(found.outcome, f"{f'In {regime}: ' if many else ''}{found.title}", found.short)
    yield from _gaps(report.results)
    yield from _compared(study, report.results)
    for regime, analysis in report.analyses.items():
        if many or regime != ONLY_REGIME:
            yield Heading(2, f"Regime: {regime}")
        yield from _regime(study, analysis)
    yield Heading(2, "What is missing")
    yield from _missing(report)
    yield Heading(2, "How to repeat it")
    yield Code(command)
    yield Paragraph("Records of single runs are in runs/, all numbers of this report in summary.json.", "soft")
    yield Heading(2, "Decision")
    for regime, found in report.verdicts.items():
        yield Banner(found.outcome, f"{f'In {regime}: ' if many else ''}{found.title}", found.text)


def _gaps(results: Results) -> Iterator[Block]:
    gaps = {
        "failed": distinct(run for run, _ in results.failures),
        "not finished": distinct(results.missing),
        "of other settings": distinct(results.other),
    }
    if any(gaps.values()):
        said = ", ".join(f"{len(runs)} {what}" for what, runs in gaps.items() if runs)
        yield Paragraph(f"This report is not of all runs: {said}. They are listed below.")


def _compared(study: Study, results: Results) -> Iterator[Block]:
    rule, sampling = study.decision, study.statistics
    yield Heading(2, "What was compared")
    yield settings_table(study)
    bounds = []
    for task in study.tasks:
        known = bounds_of(study, task, results)
        how = "" if task.bounds else ", the lowest and highest of this study"
        score = "" if known is None else f"; score 0 is a return of {known[0]:g}, 1 of {known[1]:g}{how}"
        name = task.name if task.name == task.id else f"{task.name} ({task.id})"
        bounds.append(f"{name}: {task.steps:,} environment steps{score}")
    yield Bullets(bounds)
    last = "that of the last evaluation" if sampling.last == 1 else f"the mean of the last {sampling.last} evaluations"
    evaluations = f"{plural(study.evaluations.number, 'evaluation')} of {plural(study.evaluations.episodes, 'episode')}"
    yield Paragraph(
        f"{plural(len(study.seeds), 'seed')} ({', '.join(map(str, study.seeds))}). {evaluations}, and one at step 0, with the "
        f"deterministic policy, in every run and evaluation with the same seed ({study.evaluations.seed}), so from the same "
        f"start states and to the same goals; Meta-World's goals are never trained on. A final result is {last}. Means over "
        f"seeds and tasks are interquartile means (IQM). Intervals: {percent(rule.confidence)}, stratified bootstrap over "
        f"seeds within each task, {sampling.reps:,} times; one without width, as of a single seed, is left out."
    )
    yield from made_with(results)


def _regime(study: Study, analysis: RegimeAnalysis) -> Iterator[Block]:
    if analysis.notes:
        yield Bullets(analysis.notes)
    if not any(analysis.curves.values()):
        yield Paragraph("No run is finished.")
        return
    yield from _together(study, analysis)
    yield from _task_by_task(study, analysis)
    if any(analysis.logged.values()):
        yield Heading(3, "Lag and utilization")
        yield logged_table(analysis)
        yield Paragraph(
            "Means over runs and over the last fifth of each, where it is logged. docs/metrics.md explains the keys.", "soft"
        )
    yield Heading(3, "Stability")
    yield stability_table(analysis)
    limits = study.statistics
    yield Paragraph(
        f"A run ran away if lag/abs_log_rho_p95 is above {limits.tail_limit:g}, or train/approx_kl or train/kl_behaviour "
        f"above {limits.kl_limit:g}, over the last fifth of its steps, or if one of them was not finite at any time. At some "
        "time: in any update, also where it came back (in a record without the largest numbers, in any mean between two "
        "evaluations). -: nothing of it is logged.",
        "soft",
    )
    away = [f"{name}: {each}" for name, its in analysis.stability.items() for each in its.ran_away or ()]
    away += [
        f"{name}: {each}: never took a gradient step" for name, its in analysis.stability.items() for each in its.untrained
    ]
    if away:
        yield Bullets(away)


def _together(study: Study, analysis: RegimeAnalysis) -> Iterator[Block]:
    if not analysis.aggregate:
        return
    yield Heading(3, "All tasks together")
    yield aggregate_table(analysis)
    yield Paragraph(
        "Score: 0 is the low and 1 the high return of a task. Area: mean score over the whole run, or up to the gradient "
        "steps or the seconds of training that all runs on a task have.",
        "soft",
    )
    for draw in (plots.draw_aggregate, plots.draw_profiles, plots.draw_improvement):
        picture = draw(study, analysis)
        if picture is not None:
            yield picture
    if analysis.improvement:
        yield improvement_table(study, analysis)
        yield Paragraph(
            f"Higher and larger by: IQM over seeds and tasks of {study.candidate} - that of the other. An interval with 0 in "
            "it shows no difference.",
            "soft",
        )
    if analysis.savings:
        yield Heading(3, f"Steps to {target_words(study)}")
        yield savings_table(study, analysis)
        yield Paragraph(
            f"Target: {target_words(study)}; a rise is from step 0 to the final result (IQM over seeds). Steps: first "
            f"crossing of the IQM curve. Ratio: steps of {study.baseline} by steps of the other; never counts as 0. To stay "
            "there: the same of the last crossing, after which the curve is never below the target. Beside it the ratio of "
            "gradient steps and of seconds of training (IQM) until the first. Nothing counts as faster than the first "
            "evaluation. A task without a clear rise of the baseline (the lower end of its interval is not above 0) has no "
            "target and does not count.",
            "soft",
        )


def _task_by_task(study: Study, analysis: RegimeAnalysis) -> Iterator[Block]:
    if analysis.thresholds:
        yield Heading(3, "Steps to a threshold")
        yield threshold_table(analysis)
        yield Paragraph(
            "First crossing of the IQM curve over seeds, and the gradient steps and seconds of training (IQM) at that time.",
            "soft",
        )
    if analysis.success:
        yield Heading(3, "Success")
        yield success_table(study, analysis)
        yield Paragraph("Part of the episodes, IQM over seeds. Halfway: at the end of the first half of the budget.", "soft")
    yield Heading(3, "Task by task")
    for task in study.tasks:
        picture = plots.draw_task(study, analysis, task.name)
        if picture is not None:
            yield picture
            yield task_table(study, analysis, task.name)


def _missing(report: Report) -> Iterator[Block]:
    results = report.results
    errors = {run.slug: error for run, error in results.failures}
    lines = [f"{slug} failed: {error}" for slug, error in errors.items()]
    lines += [f"{run.slug} is not finished" for run in distinct(results.missing)]
    lines += [f"{run.slug} was made with other settings than the study has now" for run in distinct(results.other)]
    yield Bullets(lines) if lines else Paragraph("Nothing: all runs are finished.")


def summary(study: Study, report: Report) -> dict[str, Any]:
    """
    :param study: that was read
    :param report: of it
    :return: all numbers, as ``summary.json`` has them
    """
    results = report.results
    return {
        "format": 1,
        "study": study.path.stem,
        "baseline": study.baseline,
        "candidate": study.candidate,
        "seeds": list(study.seeds),
        "decision_rule": vars(study.decision),
        "statistics": vars(study.statistics),
        "bounds": {task.name: plain(bounds_of(study, task, results)) for task in study.tasks},
        "runs": {
            "finished": len({each["fingerprint"] for found in results.records.values() for each in found}),
            "failed": {run.slug: error for run, error in results.failures},
            "missing": [run.slug for run in distinct(results.missing)],
            "of other settings": [run.slug for run in distinct(results.other)],
        },
        "regimes": {
            regime: {
                "verdict": plain(report.verdicts[regime]),
                **plain({k: v for k, v in vars(each).items() if k != "regime"}),
            }
            for regime, each in report.analyses.items()
        },
    }


def plain(value: Any) -> Any:
    """
    :param value: of tuples with names, arrays, mappings and numbers
    :return: as JSON knows it: ``"never"`` for infinity, ``None`` for what is not a number
    """
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return None if np.isnan(number) else ("never" if np.isinf(number) else number)
    return value

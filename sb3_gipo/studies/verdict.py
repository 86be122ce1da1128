"""The decision in words, under the user's rule."""

import math
from typing import NamedTuple

from sb3_gipo.studies.analysis import RegimeAnalysis
from sb3_gipo.studies.plan import Decision, Study
from sb3_gipo.studies.savings import Savings
from sb3_gipo.studies.statistics import Estimate

SWITCH, STAY, EARLY, UNKNOWN = "switch", "do not switch", "too early to say", "cannot tell"
FEW_SEEDS = 3


class Verdict(NamedTuple):
    """
    :param outcome: one of the four
    :param short: a sentence
    :param text: a paragraph
    :param worse: tasks on which the candidate's result is below the baseline's by its interval
    :param better: tasks on which it is above
    """

    outcome: str
    short: str
    text: str
    worse: tuple[str, ...]
    better: tuple[str, ...]


def decide(ratio: Estimate, rule: Decision) -> str:
    """
    :param ratio: steps the baseline needs by steps the candidate needs
    :param rule: of the user
    :return: the outcome
    """
    if ratio.low >= rule.at_least:
        return SWITCH
    return STAY if ratio.high < 1 else EARLY


def verdict(study: Study, analysis: RegimeAnalysis) -> Verdict:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: what to do, and why
    """
    candidate, baseline, rule = study.candidate, study.baseline, study.decision
    found = analysis.savings.get(candidate)
    if found is None:
        why = f"There is no task on which both {candidate} and {baseline} have a finished run."
        if candidate == baseline:
            why = "The study has a single contestant: there is nothing to decide."
        return Verdict(UNKNOWN, f"Cannot tell. {why}", why, (), ())
    pair = (candidate, baseline)
    seeds = min(len(analysis.curves[name][task].seeds) for name in pair for task in analysis.counted)
    # a single run is its own interval: it proves nothing
    outcome = decide(found.ratio, rule) if seeds > 1 else EARLY
    worse = tuple(each.task for each in found.tasks if each.difference.high < 0 and seeds > 1)
    better = tuple(each.task for each in found.tasks if each.difference.low > 0 and seeds > 1)
    times = f"{found.ratio.point:.2f} times ({rule.confidence:.0%} interval {_range(found.ratio)})"
    short = {
        SWITCH: f"Switch to {candidate}: {baseline} needs {times} as many environment steps for its own result.",
        STAY: f"Do not switch to {candidate}: {baseline} needs {times} as many environment steps, for its own result.",
        EARLY: f"Too early to say whether to switch to {candidate}, more seeds are needed: {baseline} needs {times} as many "
        "environment steps for its own result.",
    }[outcome]
    apart = _apart(candidate, baseline, worse, better) if seeds > 1 else []
    text = " ".join((short, *_reasons(study, found, seeds), *apart))
    return Verdict(outcome, short, text, worse, better)


def _reasons(study: Study, found: Savings, seeds: int) -> list[str]:
    rule, number, saved = study.decision, len(found.tasks), found.saved_steps
    on = f"the {number} tasks together" if number > 1 else f"{found.tasks[0].task}"
    said = [
        f"The rule: switch where even the lower end of the interval is at least {rule.at_least:g}, do not where the upper end "
        f"is below 1; the interval is {_range(found.ratio)}.",
        f"{study.baseline} takes {_count(found.baseline_steps.point)} steps on {on} to {_target(study)}the result that it "
        f"has at the end of its budget; with {study.candidate} it is {_count(abs(saved.point))} steps "
        f"{'fewer' if saved.point >= 0 else 'more'} (saved: {_amount(saved, 1, 'steps')}).",
        *_costs(rule, saved),
    ]
    if found.never:
        said.append(
            f"{study.candidate} never reaches {study.baseline}'s result on {', '.join(found.never)}: that counts as a ratio "
            "of 0, and in the steps as if it had taken the whole budget, although it would take more."
        )
    if seeds == 1:
        said.append("With one seed there are no intervals, and nothing can be decided: take at least 5.")
    elif seeds < FEW_SEEDS:
        said.append(f"With {seeds} seeds the intervals mean little: take at least 5.")
    if len(found.tasks) < len(study.tasks):
        said.append(f"This is of {len(found.tasks)} of the {len(study.tasks)} tasks.")
    return said


def _costs(rule: Decision, saved: Estimate) -> list[str]:
    """Of the collection, where the study says what it costs."""
    if rule.steps_per_hour is None:
        return []
    hours = f"At {rule.steps_per_hour:,.0f} steps an hour that saves {_amount(saved, 1 / rule.steps_per_hour, 'hours')}"
    if rule.money_per_hour is None:
        return [f"{hours} of collection."]
    money = _amount(saved, rule.money_per_hour / rule.steps_per_hour, rule.currency)
    return [f"{hours} of collection, at {rule.money_per_hour:g} {rule.currency} an hour {money}."]


def _apart(candidate: str, baseline: str, worse: tuple[str, ...], better: tuple[str, ...]) -> list[str]:
    said = []
    if worse:
        said.append(f"At the end {candidate} is clearly worse than {baseline} on {', '.join(worse)}.")
    if better:
        said.append(f"At the end {candidate} is clearly better than {baseline} on {', '.join(better)}.")
    return said or [f"At the end of the budget no task tells the results of {candidate} and {baseline} apart."]


def _target(study: Study) -> str:
    return "" if study.statistics.target == 1 else f"{study.statistics.target:.0%} of "


def _range(estimate: Estimate) -> str:
    return f"{estimate.low:.2f} to {estimate.high:.2f}"


def _amount(steps: Estimate, by: float, unit: str) -> str:
    point, low, high = (_count(each * by) for each in steps)
    return f"{point} {unit} ({low} to {high})"


def _count(number: float) -> str:
    if not math.isfinite(number):
        return "never"
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.2g}"

"""The decision in words, under the user's rule."""

from typing import NamedTuple

from sb3_gipo.studies.analysis import RegimeAnalysis
from sb3_gipo.studies.plan import Decision, Study
from sb3_gipo.studies.savings import Savings
from sb3_gipo.studies.statistics import Estimate
from sb3_gipo.studies.wording import count, listed, percent, runs, target_words

SWITCH, STAY, MIXED = "switch", "do not switch", "it depends on the task"
EARLY, UNKNOWN = "too early to say", "cannot tell"
# The 95 % interval of fewer holds the true number far too seldom: 50, 75 and 90 times in a hundred with 2, 3 and 5.
FEW_SEEDS = 5


class Verdict(NamedTuple):
    """
    :param outcome: one of the five
    :param short: a sentence
    :param text: a paragraph
    :param worse: tasks on which the candidate's result is below the baseline's by its interval; none with few seeds
    :param better: tasks on which it is above
    """

    outcome: str
    short: str
    text: str
    worse: tuple[str, ...]
    better: tuple[str, ...]


def decide(ratio: Estimate | None, rule: Decision) -> str:
    """
    :param ratio: steps the baseline needs by steps the candidate needs; ``None``: there is no task to tell it on
    :param rule: of the user
    :return: the outcome
    """
    if ratio is None:
        return UNKNOWN
    if ratio.low >= rule.at_least:
        return SWITCH
    return STAY if ratio.high < 1 else EARLY


def verdict(study: Study, analysis: RegimeAnalysis) -> Verdict:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: what to do, and why
    """
    candidate, baseline = study.candidate, study.baseline
    found = analysis.savings.get(candidate)
    if found is None:
        why = _why_not(study, analysis)
        return Verdict(UNKNOWN, f"Cannot tell. {why}", " ".join((why, *_gaps(study, analysis))), (), ())
    # of the runs that count in the ratio: those of seeds that are there on all tasks
    seeds = min(len(analysis.aggregate[name].seeds) for name in (candidate, baseline))
    # also on the tasks that do not count in the ratio: there the results at the end are all that there is
    clear = seeds >= FEW_SEEDS
    worse = tuple(each.task for each in found.tasks if each.difference.high < 0 and clear)
    better = tuple(each.task for each in found.tasks if each.difference.low > 0 and clear)
    apart = _apart(candidate, baseline, worse, better) if clear else []
    failed = _failed(study, analysis)
    outcome = decide(found.ratio, study.decision)
    if found.ratio is None:
        short = f"Cannot tell whether to switch to {candidate}: {_flat(study, found)}."
        return Verdict(outcome, short, " ".join((short, *apart, *_few(seeds), *_gaps(study, analysis))), worse, better)
    if seeds == 1 or failed:  # a single run is its own interval: it proves nothing
        outcome = EARLY
    elif (outcome == SWITCH and (found.never or worse)) or (outcome == STAY and better):
        outcome = MIXED
    times = f"{found.ratio.point:.2f} times ({percent(study.decision.confidence)} interval {_range(found.ratio)})"
    needs = f"{baseline} needs {times} as many environment steps to {target_words(study)}"
    short = {
        SWITCH: f"Switch to {candidate}: {needs}.",
        STAY: f"Do not switch to {candidate}: {needs}.",
        MIXED: f"It depends on the task whether to switch to {candidate}: over all tasks {needs}, but "
        f"{candidate} {_but(found, found.ratio, worse, better)}.",
        EARLY: f"Too early to say whether to switch to {candidate}, {failed or 'more seeds are needed'}: {needs}.",
    }[outcome]
    reasons = (*_reasons(study, found, found.ratio), *_few(seeds))
    text = " ".join((short, *reasons, *apart, *_gaps(study, analysis)))
    return Verdict(outcome, short, text, worse, better)


def _why_not(study: Study, analysis: RegimeAnalysis) -> str:
    candidate, baseline = study.candidate, study.baseline
    if candidate == baseline:
        return "The study has a single contestant: there is nothing to decide."
    if not analysis.counted:
        return f"There is no task on which both {candidate} and {baseline} have a finished run."
    lacking = [name for name in (candidate, baseline) if name not in analysis.aggregate]
    return f"No seed is finished on every task by {listed(lacking)}."


def _but(found: Savings, ratio: Estimate, worse: tuple[str, ...], better: tuple[str, ...]) -> str:
    """What speaks against what the ratio says."""
    if ratio.high < 1:
        return f"is clearly better at the end on {', '.join(better)}"
    said = [f"never gets there on {listed(found.never)}"] if found.never else []
    return " and ".join((*said, *([f"is clearly worse at the end on {listed(worse)}"] if worse else [])))


def _flat(study: Study, found: Savings) -> str:
    said = "; ".join(f"{each.task}: {_signed(each.rise)}" for each in found.tasks if not each.counts)
    return (
        f"{study.baseline} does not clearly rise from step 0 to the end on {listed(found.flat)} (by its interval: {said}), so "
        "there is no target whose steps could be compared"
    )


def _few(seeds: int) -> list[str]:
    if seeds == 1:
        return [f"With one seed there are no intervals, and nothing can be decided: take at least {FEW_SEEDS}."]
    if seeds < FEW_SEEDS:
        return [
            f"With {seeds} seeds the intervals are too narrow, and no task counts as clearly better or worse: take at least "
            f"{FEW_SEEDS}."
        ]
    return []


def _failed(study: Study, analysis: RegimeAnalysis) -> str:
    counts = {name: analysis.stability[name].failed for name in (study.candidate, study.baseline)}
    said = [f"{runs(number)} of {name}" for name, number in counts.items() if number]
    return f"{listed(said)} failed" if said else ""


def _gaps(study: Study, analysis: RegimeAnalysis) -> list[str]:
    """Runs of the two that are not in the numbers, and those that are but learnt nothing, or ran away."""
    said = []
    failed = _failed(study, analysis)
    if failed:
        said.append(f"{failed}: nothing is decided without them, --retry tries them again.")
    for name in dict.fromkeys((study.candidate, study.baseline)):
        missing = analysis.stability[name].missing
        if missing:
            said.append(f"{runs(missing)} of {name} {'is' if missing == 1 else 'are'} missing.")
        untrained = analysis.stability[name].untrained
        if untrained:
            said.append(f"{runs(len(untrained))} of {name} never took a gradient step: {'; '.join(untrained)}.")
    away = analysis.stability[study.candidate].ran_away
    if away:
        said.append(f"{runs(len(away))} of {study.candidate} ran away: {'; '.join(away)}.")
    return said


def _reasons(study: Study, found: Savings, ratio: Estimate) -> list[str]:
    rule, number, saved, goal = study.decision, len(found.counted), found.saved_steps, target_words(study)
    on = f"the {number} tasks together" if number > 1 else f"{found.counted[0].task}"
    said = [
        f"The rule: switch where even the lower end of the interval is at least {rule.at_least:g}, and {study.candidate} gets "
        "there on every task and is clearly worse on none; do not where the upper end is below 1 and it is clearly better on "
        f"none; the interval is {_range(ratio)}.",
        f"{study.baseline} takes {count(found.baseline_steps.point)} steps on {on} to {goal}; with {study.candidate} it is "
        f"{_amount(saved, 1, 'steps', ' fewer')}.",
        *_costs(rule, saved),
    ]
    if found.never:
        said.append(
            f"{study.candidate} never reaches {goal} on {', '.join(found.never)}: that counts as a ratio of 0, and in the "
            "steps as if it had taken the whole budget, although it would take more."
        )
    if found.flat:
        said.append(f"Not in these numbers: {_flat(study, found)}.")
    if number < len(study.tasks):
        said.append(f"This is of {number} of the {len(study.tasks)} tasks.")
    return said


def _costs(rule: Decision, saved: Estimate) -> list[str]:
    """Of the collection, where the study says what it costs."""
    said = []
    if rule.steps_per_hour is not None:
        hours = _change(saved, 1 / rule.steps_per_hour, "hours")
        money = ""
        if rule.money_per_hour is not None:
            by = rule.money_per_hour / rule.steps_per_hour
            money = f", at {rule.money_per_hour:g} {rule.currency} an hour {_amount(saved, by, rule.currency)}"
        said.append(f"At {rule.steps_per_hour:,.0f} steps an hour that {hours} of collection{money}.")
    if rule.money_per_step is not None:
        money = _change(saved, rule.money_per_step, rule.currency)
        said.append(f"At {rule.money_per_step:g} {rule.currency} a step that {money}.")
    return said


def _apart(candidate: str, baseline: str, worse: tuple[str, ...], better: tuple[str, ...]) -> list[str]:
    said = []
    if worse:
        said.append(f"At the end {candidate} is clearly worse than {baseline} on {', '.join(worse)}.")
    if better:
        said.append(f"At the end {candidate} is clearly better than {baseline} on {', '.join(better)}.")
    return said or [f"At the end of the budget no task tells the results of {candidate} and {baseline} apart."]


def _signed(estimate: Estimate) -> str:
    return f"{estimate.low:+.4g} to {estimate.high:+.4g}"


def _range(estimate: Estimate) -> str:
    return f"{estimate.low:.2f} to {estimate.high:.2f}"


def _change(saved: Estimate, by: float, unit: str) -> str:
    return f"{'saves' if saved.point >= 0 else 'costs'} {_amount(saved, by, unit)}"


def _amount(saved: Estimate, by: float, unit: str, fewer: str = "") -> str:
    """What is saved, or where that is negative, what it takes more: then the interval is of that too."""
    word, (point, low, high) = fewer, saved
    if saved.point < 0:
        word, point, low, high = " more", -saved.point, -saved.high, -saved.low
    return f"{count(point * by)} {unit}{word} ({count(low * by)} to {count(high * by)})"

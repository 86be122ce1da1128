"""The decision in words, under the user's rule."""

from typing import NamedTuple

from sb3_gipo.studies.analysis import RegimeAnalysis
from sb3_gipo.studies.costs import Price, amount, cost_sentences, short_cost, whole
from sb3_gipo.studies.plan import Decision, Study
from sb3_gipo.studies.savings import Savings
from sb3_gipo.studies.statistics import Estimate
from sb3_gipo.studies.wording import listed, percent, plural, runs, span, target_words

SWITCH, STAY, POOR, MIXED = "switch", "do not switch", "not worth it", "it depends on the task"
EARLY, UNKNOWN = "too early to say", "cannot tell"
# The 95 % interval of fewer holds the true number far too seldom: 50, 75 and 90 times in a hundred with 2, 3 and 5.
FEW_SEEDS = 5


class Verdict(NamedTuple):
    """
    :param outcome: one of the six
    :param title: the same for this candidate
    :param short: a sentence or two, to stand below the title
    :param text: a paragraph, in place of the short one
    :param worse: tasks on which the candidate's result is below the baseline's by its interval; none with few seeds
    :param better: tasks on which it is above
    """

    outcome: str
    title: str
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
    if ratio.high < 1:
        return STAY
    # more seeds make the interval narrower, but seldom move its end up
    return POOR if ratio.high < rule.at_least else EARLY


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
        return Verdict(UNKNOWN, _title(study, UNKNOWN), why, " ".join((why, *_gaps(study, analysis))), (), ())
    # of the runs that count in the ratio: those of seeds that are there on all tasks
    seeds = min(len(analysis.aggregate[name].seeds) for name in (candidate, baseline))
    # also on the tasks that do not count in the ratio: there the results at the end are all that there is
    clear = seeds >= FEW_SEEDS
    worse = tuple(each.task for each in found.tasks if each.difference.high < 0 and clear)
    better = tuple(each.task for each in found.tasks if each.difference.low > 0 and clear)
    apart = _apart(candidate, baseline, worse, better) if clear else []
    if found.ratio is None:
        outcome, title, short = UNKNOWN, _title(study, UNKNOWN), f"{_flat(study, found)}."
        reasons = [short]
    else:
        looks = decide(found.ratio, study.decision)
        if (looks == SWITCH and (found.never or worse)) or (looks in (STAY, POOR) and better):
            looks = MIXED
        if seeds == 1:  # a single run is its own interval: it proves nothing
            looks = EARLY
        failed = _failed(study, analysis)
        outcome = looks if clear and not failed else EARLY
        title = _title(study, outcome, *_doubts(seeds, failed, looks))
        main = _main(study, found, found.ratio, looks, worse, better)
        short = " ".join((main, *short_cost(study, found)))
        reasons = [main, *_reasons(study, found, found.ratio)]
    text = " ".join((*reasons, *_few(seeds), *apart, *_gaps(study, analysis)))
    return Verdict(outcome, title, short, text, worse, better)


def _title(study: Study, outcome: str, doubts: str = "", hint: str = "") -> str:
    whether = "" if study.candidate == study.baseline else f" whether to switch to {study.candidate}"
    said = {
        SWITCH: f"Switch to {study.candidate}",
        STAY: f"Do not switch to {study.candidate}",
        POOR: f"Switching to {study.candidate} is not worth it by your rule",
        MIXED: f"It depends on the task{whether}",
        EARLY: f"Too early to say{whether}",
        UNKNOWN: f"Cannot tell{whether}",
    }[outcome]
    return f"{said}{doubts}{hint}"


def _doubts(seeds: int, failed: str, looks: str) -> tuple[str, str]:
    """Why nothing is decided, in brackets, and where only seeds are lacking what it looks like."""
    few = [f"{plural(seeds, 'seed')}; at least {FEW_SEEDS} are needed"] if seeds < FEW_SEEDS else []
    doubts = "; ".join((*few, *([failed] if failed else [])))
    hint = f"; so far it looks like: {looks}" if few and not failed and looks != EARLY else ""
    return f" ({doubts})" if doubts else "", hint


def _main(study: Study, found: Savings, ratio: Estimate, looks: str, worse: tuple[str, ...], better: tuple[str, ...]) -> str:
    needs = _needs(study, found, ratio)
    asked = f"even the upper end of the interval, {ratio.high:.2f}, is below the {study.decision.at_least:g} that you ask for"
    return {
        MIXED: f"Over all tasks {needs}, but {study.candidate} {_but(study, found, ratio, worse, better)}.",
        POOR: f"{needs}: {asked}.",
        EARLY: f"{needs}. More seeds are needed.",
    }.get(looks, f"{needs}.")


def _needs(study: Study, found: Savings, ratio: Estimate) -> str:
    candidate, baseline, part = study.candidate, study.baseline, study.statistics.target
    interval = "" if ratio.low == ratio.high else f"{percent(study.decision.confidence)} interval {_range(ratio)}"
    if ratio.point == 0:
        goal = f"to {baseline}'s final result"
        if part < 1:
            goal = f"{percent(part)} of the way from {baseline}'s start {goal}"
        where = f" on {listed(found.never)}" if len(found.tasks) > 1 else ""
        return f"{candidate} does not get {goal} within the budget{where}" + (f" (ratio 0, {interval})" if interval else "")
    times = f"{ratio.point:.2f} times as many environment steps as {candidate}{f' ({interval})' if interval else ''}"
    return f"{baseline} needs {times} to get {_way(study)}"


def _way(study: Study) -> str:
    """To the target, as the baseline goes it."""
    part = study.statistics.target
    return "to its own final result" if part == 1 else f"{percent(part)} of the way from its start to its own final result"


def _why_not(study: Study, analysis: RegimeAnalysis) -> str:
    candidate, baseline = study.candidate, study.baseline
    if candidate == baseline:
        return "The study has a single contestant: there is nothing to decide."
    if not analysis.counted:
        return f"There is no task on which both {candidate} and {baseline} have a finished run."
    lacking = [name for name in (candidate, baseline) if name not in analysis.aggregate]
    return f"No seed is finished on every task by {listed(lacking)}."


def _but(study: Study, found: Savings, ratio: Estimate, worse: tuple[str, ...], better: tuple[str, ...]) -> str:
    """What speaks against what the ratio says."""
    if ratio.high < study.decision.at_least:
        return f"is clearly better at the end on {', '.join(better)}"
    said = [f"never gets there on {listed(found.never)}"] if found.never else []
    return " and ".join((*said, *([f"is clearly worse at the end on {listed(worse)}"] if worse else [])))


def _flat(study: Study, found: Savings) -> str:
    rises = {each.task: each.rise for each in found.tasks if not each.counts}
    said = "; ".join(f"{task}: {rise.point:+.4g}{span(rise, '{:+.4g}'.format)}" for task, rise in rises.items())
    return (
        f"{study.baseline} does not clearly rise from step 0 to the end on {listed(found.flat)} ({said}), so "
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
    rule, number, saved = study.decision, len(found.counted), found.saved_steps
    where = f"each of the {number} tasks" if number > 1 else found.counted[0].task
    interval = f"; the interval is {_range(ratio)}" if ratio.low < ratio.high else ""
    said = [
        f"The rule: switch where even the lower end of the interval is at least {rule.at_least:g}, and {study.candidate} gets "
        f"there on every task and is clearly worse on none; do not where the upper end is below {rule.at_least:g} and it is "
        f"clearly better on none; decide nothing with less than {FEW_SEEDS} seeds{interval}.",
        f"In one training run on {where} {study.baseline} takes {whole(found.baseline_steps.point)} steps to get "
        f"there; with {study.candidate} it is {amount(saved, Price('', 1, 'steps'))} "
        f"{'more' if saved.point < 0 else 'fewer'}.",
        *cost_sentences(study, found),
        *_staying(study, found),
        *_learner(study, found),
    ]
    if found.never:
        said.append(
            f"{study.candidate} never reaches {target_words(study)} on {', '.join(found.never)}: that counts as a ratio of 0, "
            "and in the steps as if it had taken the whole budget, although it would take more."
        )
    if found.flat:
        said.append(f"Not in these numbers: {_flat(study, found)}.")
    if number < len(study.tasks):
        said.append(f"This is of {number} of the {len(study.tasks)} tasks.")
    return said


def _staying(study: Study, found: Savings) -> list[str]:
    """Who wavers around the target is there early, and not yet for good."""
    ratio = found.ratio_to_stay
    if ratio is None or found.never:
        return []
    leaves = [each.task for each in found.counted if each.ratio_to_stay.point == 0]
    if ratio.point == 0:
        return [f"{study.candidate} gets there and does not stay: at the end it is below the target on {listed(leaves)}."]
    times = f"{ratio.point:.2f} times as many steps{span(ratio, '{:.2f}'.format)} as {study.candidate}"
    but = f"; on {listed(leaves)} {study.candidate} is below it at the end, which counts as 0" if leaves else ""
    return [f"To get there and stay, without an evaluation below it again, {study.baseline} needs {times}{but}."]


def _learner(study: Study, found: Savings) -> list[str]:
    """The same ratio of what the learner does, which is paid in another coin; not where a ratio of 0 is among it."""
    counted = ((found.ratio_by_work, "gradient steps"), (found.ratio_by_time, "seconds of training"))
    said = [
        f"{ratio.point:.2f} times as many {what}{span(ratio, '{:.2f}'.format)}"
        for ratio, what in counted
        if ratio is not None and not found.never
    ]
    return [f"To get there {study.baseline} takes {listed(said)} as {study.candidate}."] if said else []


def _apart(candidate: str, baseline: str, worse: tuple[str, ...], better: tuple[str, ...]) -> list[str]:
    said = []
    if worse:
        said.append(f"At the end {candidate} is clearly worse than {baseline} on {', '.join(worse)}.")
    if better:
        said.append(f"At the end {candidate} is clearly better than {baseline} on {', '.join(better)}.")
    return said or [f"At the end of the budget no task tells the results of {candidate} and {baseline} apart."]


def _range(estimate: Estimate) -> str:
    return f"{estimate.low:.2f} to {estimate.high:.2f}"

"""The three questions of a practitioner who decides whether to switch, answered from the facts of a run."""

from typing import Literal, NamedTuple

from sb3_gipo.diagnosis.facts import Facts, Number

# More than half of the time: collecting is what the run waits for, and more work per step costs less than more steps.
DOMINATES = 0.5
# A million steps take more than half an hour: simulators with contact or images, and everything real.
SLOW_FPS = 500.0
# A million steps take less than ten minutes: to run longer is simpler than any change of algorithm.
FAST_FPS = 2000.0
# Between the paper's regimes on a log scale: 0.095 fresh, 1.46 stale (paper, table 1), sqrt(0.095 * 1.46) = 0.37.
STALE_DRIFT = 0.37
PAPER_DRIFT = {"fresh": 0.095, "stale": 1.46}
# Below half of their number's share old samples are being turned away; from nine tenths they count like fresh ones.
TURNED_AWAY, FULL_PART = 0.5, 0.9
# With fewer old samples than this their part of the contributions is noise.
ENOUGH_OLD = 0.05
# One sample in five without a gradient: the update sees a smaller and, by the clip's choice, a different batch.
MUCH = 0.2
MATTERS = f"It matters from {100 * MUCH:.0f} % on."
# Of the ratios beyond the clip range at least half are on the side where the gradient vanishes: half if ratios moved without
# regard to the advantage, more since the update moves them along it.
DEAD_OF_CLIPPED = 0.5

Word = Literal["yes", "no", "cannot tell", "does not apply"]


class Answer(NamedTuple):
    """
    :param question: as it is asked
    :param word: the answer
    :param why: one or two sentences
    :param numbers: that the answer rests on
    """

    question: str
    word: Word
    why: str
    numbers: tuple[Number, ...]


class Answers(NamedTuple):
    """The three answers in the order in which they matter."""

    scarce: Answer
    stale: Answer
    clipping: Answer


def answer(facts: Facts) -> Answers:
    """
    :param facts: of a run
    :return: the answers to the three questions
    """
    return Answers(is_data_scarce(facts), is_replay_stale(facts), does_clipping_cost(facts))


def is_data_scarce(facts: Facts) -> Answer:
    """
    Scarce where steps are expensive and the run still gained from them at its end.

    :param facts: of a run
    :return: the answer
    """
    word: Word
    expensive, cost = _cost_of_steps(facts)
    direction = facts.trend.direction if facts.trend else None
    if expensive is False:
        word, end = "no", ""
    elif direction in ("flat", "falling"):
        word, end = "no", f"The learning curve is {direction} at the end: more steps were not what it lacked."
    elif direction is None:
        word, end = "cannot tell", "The learning curve has too few values at the end to say whether it still rises."
    elif expensive is None:
        word, end = "cannot tell", "The learning curve still rises, so it matters what a step costs."
    else:
        word, end = "yes", "The learning curve still rises at the end: every step more is worth something."
    return Answer("Is interaction data scarce?", word, f"{cost} {end}".strip(), _given(*_scarcity_numbers(facts)))


def is_replay_stale(facts: Facts) -> Answer:
    """
    Stale where the 95th percentile of the absolute log-ratio is nearer to the paper's stale regime than to its fresh one.

    :param facts: of a run
    :return: the answer
    """
    question = "Is replay stale?"
    if facts.algorithm == "off-policy":
        return Answer(question, "does not apply", "An off-policy algorithm replays without importance ratios.", ())
    if facts.algorithm == "unknown":
        return Answer(question, "cannot tell", "The log has none of the train/ keys that name an algorithm.", ())
    numbers = _given(facts.drift, facts.old_frac, facts.old_share)
    if not facts.replays:
        return Answer(question, "no", _cost_without_replay(facts), _given(facts.drift, facts.uses))
    if facts.drift is None:
        return Answer(question, "cannot tell", "lag/abs_log_rho_p95 is not logged at the end of the run.", numbers)
    stale = facts.drift.value >= STALE_DRIFT
    paper = ", ".join(f"{drift} {regime}" for regime, drift in PAPER_DRIFT.items())
    tail = f"The 95th percentile of |log ratio| is {facts.drift.text}; stale from {STALE_DRIFT} on (paper: {paper})."
    return Answer(question, "yes" if stale else "no", f"{tail} {_part_of_old(facts)}".strip(), numbers)


def does_clipping_cost(facts: Facts) -> Answer:
    """
    Much where at least ``MUCH`` of the samples have no policy gradient, or next to none.

    :param facts: of a run
    :return: the answer
    """
    what = "clipping" if facts.sigma is None else "the trust weight"
    question = f"Does {what} zero out much of the gradient?"
    if facts.dead is not None:
        lost = facts.dead.value + (facts.suppressed.value if facts.suppressed else 0.0)
        less = "none or next to none" if facts.suppressed else "none"
        much = lost >= MUCH
        why = f"{100 * lost:.1f} % of the samples give {less} of the policy gradient. {MATTERS}"
        beside = facts.if_clipped if facts.algorithm == "GIPO" else None  # of PPO it is the dead fraction itself
        return Answer(question, "yes" if much else "no", why, _given(facts.dead, facts.suppressed, beside))
    if facts.clip_fraction is not None:
        return _from_clip_fraction(question, facts.clip_fraction)
    if facts.algorithm in ("off-policy", "on-policy"):
        return Answer(question, "does not apply", "This algorithm clips no importance ratio.", ())
    return Answer(question, "cannot tell", "Neither utilization/dead_frac nor train/clip_fraction is logged.", ())


def part_of_old(facts: Facts) -> float | None:
    """
    :param facts: of a run
    :return: what old samples contribute, relative to their number: 0 nothing, 1 their full part; ``None`` where there are
        too few to say
    """
    if facts.old_frac is None or facts.old_share is None or facts.old_frac.value < ENOUGH_OLD:
        return None
    return facts.old_share.value / facts.old_frac.value


def _cost_of_steps(facts: Facts) -> tuple[bool | None, str]:
    """Whether steps are expensive (``None``: the log does not say), and the sentence."""
    speed = facts.fps.value if facts.fps else None
    pace = f"{facts.fps.text} steps per second" if facts.fps else "an unknown number of steps per second"
    if speed is not None and speed >= FAST_FPS:
        return False, f"Steps are cheap: {pace}. A longer run is the simpler remedy."
    if facts.collect_share is not None:
        part = f"{facts.collect_share.text} of the time of an iteration goes into collection, at {pace}"
        if facts.collect_share.value < DOMINATES:
            return False, f"{part}: the run waits for the update, not for data."
        return True, f"{part}."
    if speed is not None and speed <= SLOW_FPS:
        return True, f"Steps are slow: {pace}."
    return (
        None,
        f"At {pace} the time could go either way; it is not logged." if facts.fps else "Neither time nor speed is logged.",
    )


def _scarcity_numbers(facts: Facts) -> tuple[Number | None, ...]:
    trend = None
    if facts.trend is not None:
        trend = Number("change at the end, part of the curve's range", facts.trend.change, facts.trend.key, share=True)
    return facts.collect_share, facts.fps, trend, facts.uses


def _cost_without_replay(facts: Facts) -> str:
    uses = f" ({facts.uses.value:.3g} {'pass' if facts.uses.value == 1 else 'passes'})" if facts.uses else ""
    fresh = (
        f"No replay: data are never older than one update. The price: each step is used in one update{uses}, then thrown away."
    )
    if facts.drift is None:
        return fresh
    return f"{fresh} Within an update the policy drifts by {facts.drift.text} (95th percentile of |log ratio|)."


def _part_of_old(facts: Facts) -> str:
    part = part_of_old(facts)
    if part is None:
        few = facts.old_frac is not None and facts.old_frac.value < ENOUGH_OLD
        return "Hardly any sample is old: the drift is of the update itself." if few else ""
    if part < TURNED_AWAY:
        return f"Old samples give {part:.2f} of what their number would: much of the replay is turned away."
    if part < FULL_PART:
        return f"Old samples give {part:.2f} of what their number would."
    return f"Old samples give their full part ({part:.2f} of what their number would)."


def _from_clip_fraction(question: str, clipped: Number) -> Answer:
    """``|ratio - 1| > clip_range`` counts both signs of the advantage, so that it bounds the dead fraction from above."""
    bound = clipped._replace(label="samples without a policy gradient", kind="at most")
    if bound.value < MUCH:
        why = f"{bound.text.capitalize()} of the samples are without a policy gradient. {MATTERS}"
        return Answer(question, "no", why, (bound,))
    least = DEAD_OF_CLIPPED * bound.value
    if least >= MUCH:
        why = (
            f"{bound.text.capitalize()} of the samples, by estimate no less than {100 * least:.0f} %, are without a gradient."
        )
        return Answer(question, "yes", why, (bound,))
    why = (
        f"{bound.text.capitalize()} of the samples are without a gradient; clip_fraction does not tell which side was clipped."
    )
    return Answer(question, "cannot tell", f"{why} UtilizationCallback() logs the exact share.", (bound,))


def _given(*numbers: Number | None) -> tuple[Number, ...]:
    return tuple(number for number in numbers if number is not None)

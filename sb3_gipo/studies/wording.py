"""Words and numbers that the decision, the tables and the drawings of a report share."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from sb3_gipo.studies.plan import Study
from sb3_gipo.studies.statistics import Estimate


def target_words(study: Study) -> str:
    """
    :param study: that was read
    :return: what is to be reached, to stand after "to" or "reaches"
    """
    if study.statistics.target == 1:
        return f"the result that {study.baseline} has at the end of its budget"
    return f"{percent(study.statistics.target)} of {study.baseline}'s rise"


def percent(part: float) -> str:
    """
    :param part: of 1
    :return: in percent, with as many digits as it has: 0.999 is not all
    """
    return f"{100 * part:.6g} %"


def count(number: float) -> str:
    """
    :param number: of steps, hours or money
    :return: whole from 100 on, else with two digits
    """
    if not math.isfinite(number):
        return "never"
    # beginning where two digits would round up to 100
    if abs(number) >= 99.5:
        return f"{number:,.0f}"
    return np.format_float_positional(float(f"{number:.2g}") + 0.0, trim="-")


def span(estimate: Estimate, said: Callable[[float], str]) -> str:
    """
    :param estimate: of anything
    :param said: how a number of it is written
    :return: its interval in brackets; nothing where it has no width: that is of a single run, or of runs that are all the same
    """
    return "" if estimate.low == estimate.high else f" ({said(estimate.low)} to {said(estimate.high)})"


def plural(number: int, thing: str) -> str:
    """
    :param number: of things
    :param thing: the word for one of them, which takes an s
    :return: number and word
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def runs(number: int) -> str:
    """
    :param number: of runs
    :return: in words
    """
    return plural(number, "run")


def listed(items: Sequence[str]) -> str:
    """
    :param items: at least one
    :return: with an "and" before the last
    """
    return " and ".join((", ".join(items[:-1]), items[-1])) if len(items) > 1 else items[0]

"""Words and numbers that the decision, the tables and the drawings of a report share."""

import math
from collections.abc import Sequence

import numpy as np

from sb3_gipo.studies.plan import Study


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


def runs(number: int) -> str:
    """
    :param number: of runs
    :return: in words
    """
    return f"{number} run{'' if number == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """
    :param items: at least one
    :return: with an "and" before the last
    """
    return " and ".join((", ".join(items[:-1]), items[-1])) if len(items) > 1 else items[0]

"""What the steps to the target cost, where the study says what collecting them costs."""

from typing import NamedTuple

from sb3_gipo.studies.plan import Decision, Study
from sb3_gipo.studies.savings import Savings
from sb3_gipo.studies.statistics import Estimate
from sb3_gipo.studies.wording import count, span


class Price(NamedTuple):
    """
    :param rate: as the study gives it, in words
    :param step: what one step costs
    :param unit: of that
    :param of: what it is spent on, to stand after a number of units
    """

    rate: str
    step: float
    unit: str
    of: str = ""


def cost_sentences(study: Study, found: Savings) -> list[str]:
    """
    :param study: that was read
    :param found: by the candidate
    :return: for hours and for money, where the study gives their price, what switching saves or costs
    """
    return [f"At {each.rate} that {_change(study, found, each)}." for each in prices(study.decision)]


def short_cost(study: Study, found: Savings) -> list[str]:
    """
    :param study: that was read
    :param found: by the candidate
    :return: the same of money, or else of hours; nothing without a price, or where the candidate does not get to the target
        everywhere: then nobody knows what it would cost
    """
    one = "one training run of each task" if len(found.counted) > 1 else "one training run"
    told = [] if found.never else prices(study.decision)[-1:]
    return [f"For {one} {study.candidate} {_change(study, found, each)}." for each in told]


def amount(saved: Estimate, price: Price) -> str:
    """
    :param saved: steps
    :param price: of a step
    :return: what they come to, without a sign: where they are not saved, the interval too is of what it takes more
    """
    point, low, high = saved if saved.point >= 0 else (-saved.point, -saved.high, -saved.low)
    said = whole if price.unit == "steps" else count
    inside = Estimate(point * price.step, low * price.step, high * price.step)
    return f"{said(inside.point)} {price.unit}{span(inside, said)}"


def prices(rule: Decision) -> list[Price]:
    """
    :param rule: of the user
    :return: hours first, then money
    """
    found = []
    if rule.steps_per_hour is not None:
        found.append(Price(f"{rule.steps_per_hour:,.0f} steps an hour", 1 / rule.steps_per_hour, "hours", " of collection"))
        if rule.money_per_hour is not None:
            rate = f"{rule.money_per_hour:g} {rule.currency} an hour"
            found.append(Price(rate, rule.money_per_hour / rule.steps_per_hour, rule.currency))
    if rule.money_per_step is not None:
        found.append(Price(f"{rule.money_per_step:g} {rule.currency} a step", rule.money_per_step, rule.currency))
    return found


def whole(steps: float) -> str:
    """
    :param steps: finite
    :return: there are no parts of a step, and no step less than none
    """
    return f"{round(steps):,}"


def _change(study: Study, found: Savings, price: Price) -> str:
    change = amount(found.saved_steps, price)
    total = f"{study.baseline}'s {count(found.baseline_steps.point * price.step)} {price.unit}{price.of}"
    return f"saves {change} of {total}" if found.saved_steps.point >= 0 else f"costs {change} more than {total}"

"""Runs that ran away: whose policy moved further from its data than an update can make use of, or that failed."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sb3_gipo.studies.plan import Statistics
from sb3_gipo.studies.traces import DIVERGENCES, TAIL, WATCHED
from sb3_gipo.studies.wording import percent

# The end of a run: the last fifth of its steps.
END = 0.2


class Stability(NamedTuple):
    """
    Of the runs of one contestant.

    :param finished: runs
    :param failed: runs
    :param missing: runs that are neither, or whose record is one of other settings
    :param ran_away: of the finished ones, each with how: at the end, or not finite; ``None`` where nothing of it was logged
    :param exceeded: of the finished ones, each with how: beyond a limit at some time; ``None`` where nothing of it was logged
    :param untrained: of the finished ones, those that never took a gradient step
    """

    finished: int
    failed: int
    missing: int
    ran_away: tuple[str, ...] | None
    exceeded: tuple[str, ...] | None
    untrained: tuple[str, ...]


def stability(records: Sequence[Mapping[str, Any]], failed: int, missing: int, limits: Statistics) -> Stability:
    """
    :param records: of the finished runs of one contestant
    :param failed: runs
    :param missing: runs
    :param limits: what is too much
    :return: how its runs went
    """
    watched = any(
        key in interval[kind]
        for each in records
        for interval in each["traces"]
        for kind in ("mean", "not_finite")
        for key in WATCHED
    )

    def those(how: Any) -> tuple[str, ...] | None:
        found = ((each, how(each, limits)) for each in records)
        named = tuple(f"{_which(each)}: {said}" for each, said in found if said is not None)
        return named if watched else None

    # where nobody counted them there is no number
    untrained = tuple(_which(each) for each in records if each["evaluations"][-1]["gradient_steps"] == 0)
    return Stability(len(records), failed, missing, those(ran_away), those(exceeded), untrained)


def _which(record: Mapping[str, Any]) -> str:
    return f"{record['task']['name']}, seed {record['seed']}"


def ran_away(record: Mapping[str, Any], limits: Statistics) -> str | None:
    """
    :param record: of a finished run
    :param limits: what is too much
    :return: in what way it ran away; ``None``: it did not
    """
    for interval in record["traces"]:
        wrong = [key for key in WATCHED if interval["not_finite"].get(key)]
        if wrong:
            return f"{wrong[0]} was not finite by step {interval['until']}"
    for key, limit in _limited(limits):
        values = [interval["mean"][key] for interval in last_intervals(record) if key in interval["mean"]]
        if values and float(np.mean(values)) > limit:
            return f"{key} was {np.mean(values):.3g} over the last {percent(END)} of the steps (above {limit:g})"
    return None


def exceeded(record: Mapping[str, Any], limits: Statistics) -> str | None:
    """
    :param record: of a finished run
    :param limits: what is too much
    :return: in what way it was beyond a limit at some time, at the end or before; ``None``: it never was
    """
    # the means tell it where a record is older than its largest numbers
    return _beyond(record, limits, "max") or ran_away(record, limits) or _beyond(record, limits, "mean")


def _beyond(record: Mapping[str, Any], limits: Statistics, kind: str) -> str | None:
    for interval in record["traces"]:
        for key, limit in _limited(limits):
            value = interval[kind].get(key, 0.0)
            if value > limit:
                return f"{key} was {value:.3g} by step {interval['until']} (above {limit:g})"
    return None


def _limited(limits: Statistics) -> list[tuple[str, float]]:
    return [(TAIL, limits.tail_limit), *((key, limits.kl_limit) for key in DIVERGENCES)]


def last_intervals(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """
    An interval belongs to the last fifth by the evaluation that was planned for its end: where the environments take several
    steps at once, the evaluation itself, and with it the end of an interval before the last fifth, is a little later.

    :param record: of a finished run
    :return: the intervals of its traces that end in the last fifth of its steps
    """
    planned = record["planned_evaluations"]["at"]  # at equal distances
    return [each for each in record["traces"] if bisect_right(planned, each["until"]) > (1 - END) * len(planned)]

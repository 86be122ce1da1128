"""What a run logs, between one evaluation and the next."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter

PREFIXES = ("lag/", "utilization/", "replay/", "train/", "rollout/")
TAIL = "lag/abs_log_rho_p95"
# From the start of the update, and from the policies that chose the actions: of data that are used again and again only the
# second one sees how far away they are by now.
DIVERGENCES = ("train/approx_kl", "train/kl_behaviour")
# Of these the largest is kept too: what runs away does it between two means.
WATCHED = (TAIL, *DIVERGENCES)


class Traces(KVWriter):
    """An output of SB3's logger: collects numbers, and gives their means when an interval is over."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._intervals: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """
        :param key_values: what is logged
        :param key_excluded: not looked at
        :param step: not looked at
        """
        for key, value in key_values.items():
            if key.startswith(PREFIXES) and isinstance(value, (int, float, np.number)):
                self._values[key].append(float(value))

    def close(self) -> None:
        """Nothing is open."""

    def end_interval(self, step: int) -> None:
        """:param step: of the environment, at the evaluation that ends the interval"""
        interval: dict[str, Any] = {"until": step, "mean": {}, "max": {}, "not_finite": {}}
        for key, values in sorted(self._values.items()):
            finite = [value for value in values if math.isfinite(value)]
            # explained variance and the mean return are undefined now and then: kept apart, JSON has no such numbers
            if len(finite) < len(values):
                interval["not_finite"][key] = len(values) - len(finite)
            if finite:
                interval["mean"][key] = float(np.mean(finite))
                if key in WATCHED:
                    interval["max"][key] = max(finite)
        self._intervals.append(interval)
        self._values.clear()

    def intervals(self) -> list[dict[str, Any]]:
        """:return: of each interval: its end, means, maxima, and how many numbers were not finite"""
        return self._intervals

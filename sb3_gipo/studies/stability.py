"""Runs that ran away: whose policy moved further from its data than an update can make use of, or that failed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_gipo.studies.plan import Statistics

TAIL, KL = "lag/abs_log_rho_p95", "train/approx_kl"
# The end of a run: the last fifth of its steps.
END = 0.2


def ran_away(record: Mapping[str, Any], limits: Statistics) -> str | None:
    """
    :param record: of a finished run
    :param limits: what is too much
    :return: in what way it ran away; ``None``: it did not
    """
    traces = record["traces"]
    for interval in traces:
        wrong = [key for key in (TAIL, KL) if interval["not_finite"].get(key)]
        if wrong:
            return f"{wrong[0]} was not finite by step {interval['until']}"
    start = (1 - END) * record["steps"]
    for key, limit in ((TAIL, limits.tail_limit), (KL, limits.kl_limit)):
        # an interval that ends after the start; one that ends there belongs to what was before
        values = [interval["mean"][key] for interval in traces if interval["until"] > start and key in interval["mean"]]
        if values and float(np.mean(values)) > limit:
            return f"{key} was {np.mean(values):.3g} over the last {END:.0%} of the steps (above {limit:g})"
    return None

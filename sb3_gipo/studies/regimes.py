"""
The paper's regimes of staleness (its table 1) without asynchrony: the same replay, the same sampling and the same learner work
for every policy version; only how much is collected for a version differs, as if 16 or 2 actors had collected meanwhile.
"""

import re
from typing import Any

REPLAY_CAPACITY = 50_000  # transitions, both regimes (paper, table 1)
STEPS_OF_AN_ACTOR = 500  # for each policy version: one episode of Meta-World
ACTORS = {"fresh": 16, "stale": 2}
# What the learner does for each version, whoever collects how much (the paper does not say how much it does).
GRADIENT_STEPS, BATCH_SIZE = 100, 256
# A replay of 50,000 holds 6 versions of 16 actors: of the fresh regime nothing is old, of the stale one 44 of 50 versions are.
OLD_THRESHOLD = 5
_LAG = re.compile(r"lag_(\d+)")
REGIMES = (*ACTORS, "lag_<k>")


def regime_settings(name: str) -> dict[str, Any]:
    """
    :param name: ``"fresh"`` or ``"stale"`` (paper, table 1), or ``"lag_4"``: the policy that acts is 4 versions old
    :return: arguments of GIPO that make it, and ``n_envs``
    :raises ValueError: for another name
    """
    lag = _LAG.fullmatch(name)
    if lag is not None:
        return {"acting_lag": int(lag[1])}
    if name not in ACTORS:  # "lag_<k>" stands for many names and is none itself
        raise ValueError(f"`regime` is {name!r}; it must be one of {', '.join(map(repr, REGIMES))}, with a number for <k>.")
    return {
        "n_envs": ACTORS[name],
        "n_steps": STEPS_OF_AN_ACTOR,
        "gradient_steps": GRADIENT_STEPS,
        "batch_size": BATCH_SIZE,
        "replay_capacity": REPLAY_CAPACITY,
        "old_threshold": OLD_THRESHOLD,
    }

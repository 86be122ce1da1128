"""Weights that do not arrive: an actor that falls further and further behind what is published, found and told in words."""

from collections import defaultdict, deque

import numpy as np

STRETCHES = 4


class LagGrowsWarning(RuntimeWarning):
    """What an actor acts with falls behind what is published, further and further."""


class LagWatch:
    """
    A lag that stays, however large, is what asynchrony is; one that only grows means that an actor no longer gets what is
    published, or gets it ever later. It grows where, of several stretches of rollouts, each has a larger smallest lag than the
    one before, and none that is smaller than the largest of the one before. While the queues fill at the start of a run every
    lag grows, but not for longer than a stretch.

    :param stretch: rollouts of an actor
    """

    def __init__(self, stretch: int) -> None:
        self._latest: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=STRETCHES * stretch))
        self._told: set[int] = set()

    def arrived(self, actor: int, held: int, published: int) -> str | None:
        """
        :param actor: of a rollout that arrived
        :param held: version of the policy that the actor held at its end
        :param published: latest version that was published
        :return: what is wrong, once for each actor; ``None``: nothing that was not said already
        """
        latest = self._latest[actor]
        latest.append(published - held)
        if actor in self._told or len(latest) < (latest.maxlen or 0) or not _grows(np.array(latest).reshape(STRETCHES, -1)):
            return None
        self._told.add(actor)
        return (
            f"Actor {actor} acts with policy version {held} while {published} is published, and fell behind further all "
            f"through its last {len(latest)} rollouts: new weights do not reach it, or ever later. What it collects counts "
            "for less and less. Where the learner makes far more updates than the actors make rollouts (`replay_ratio`), "
            "lower that or shorten `rollout_length`; `max_policy_lag` leaves out what is too old."
        )


def _grows(lags: np.ndarray) -> bool:
    """:param lags: [stretches, rollouts]"""
    lowest, highest = lags.min(axis=1), lags.max(axis=1)
    return bool((np.diff(lowest) > 0).all() and (lowest[1:] >= highest[:-1]).all())

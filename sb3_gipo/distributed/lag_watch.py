"""Weights that do not arrive: an actor that falls further and further behind what is published, found and told in words."""

import dataclasses


class LagGrowsWarning(RuntimeWarning):
    """What an actor acts with falls behind what is published, further and further."""


@dataclasses.dataclass
class _Gap:
    latest: int
    grown: int = 0  # times since it was last smaller than before


class LagWatch:
    """
    A lag that stays, however large, is what asynchrony is; one that only grows means that an actor no longer gets what is
    published, or gets it ever later. While the queues fill at the start of a run every lag grows, but not for longer than
    there are rollouts in a queue.

    :param patience: how often the lag of an actor grows, without ever becoming smaller, before it is said
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._gaps: dict[int, _Gap] = {}
        self._told: set[int] = set()

    def arrived(self, actor: int, held: int, published: int) -> str | None:
        """
        :param actor: of a rollout that arrived
        :param held: version of the policy that the actor held at its end
        :param published: latest version that was published
        :return: what is wrong, once for each actor; ``None``: nothing that was not said already
        """
        gap = published - held
        known = self._gaps.setdefault(actor, _Gap(gap))
        if gap != known.latest:
            known.grown = known.grown + 1 if gap > known.latest else 0
        known.latest = gap
        if known.grown < self._patience or actor in self._told:
            return None
        self._told.add(actor)
        return (
            f"Actor {actor} acts with policy version {held} while {published} is published, and fell behind further "
            f"{known.grown} times in a row: new weights do not reach it, or ever later. What it collects counts for less and "
            "less. Where the learner makes far more updates than the actors make rollouts (`replay_ratio`), lower that or "
            "shorten `rollout_length`; `max_policy_lag` leaves out what is too old."
        )

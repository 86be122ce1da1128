"""How much is learnt from what is collected: when an update is due, and when collecting has to wait for one."""

import dataclasses
from typing import Literal

ReplayRatio = float | Literal["max"] | None


@dataclasses.dataclass
class Pace:
    """
    :param ratio: transitions drawn for each one collected; ``None``: an update a rollout, ``"max"``: as fast as possible
    :param drawn: transitions, since the ratio is what it is
    :param taken: transitions that have arrived, since then
    """

    ratio: ReplayRatio
    drawn: int = 0
    taken: int = 0

    def at(self, ratio: ReplayRatio) -> "Pace":
        """
        :param ratio: from now on
        :return: the same; where the ratio is another one, one that counts from now on
        """
        return self if ratio == self.ratio else Pace(ratio)

    def update_is_due(self, transitions: int, new: bool) -> bool:
        """
        :param transitions: that the next update draws
        :param new: whether a rollout has arrived since the latest one
        :return: whether it may be made
        """
        if self.ratio is None:
            return new
        return self.ratio == "max" or self.drawn + transitions <= self.ratio * self.taken

    def takes_at_most(self, owed: bool, actors: int, ahead: int) -> int:
        """
        :param owed: whether an update is due
        :param actors: how many there are
        :param ahead: rollouts of each that may be there
        :return: how many of them to take, before it is asked again whether an update is due
        """
        if self.ratio is None:
            return 1
        if self.ratio == "max":  # there is an update after it in any case: what is left behind would be older for the next one
            return actors * ahead
        return 0 if owed else actors  # the actors wait with what they have, else they would run away from the ratio

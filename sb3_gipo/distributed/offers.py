"""Which actor is to be offered a policy: an offer costs more than a step, and most would be replaced before they are taken."""

from typing import Literal

# Part of its latest rollout after which an actor is about to begin the next one.
ABOUT_TO_BEGIN = 0.9


class Offers:
    """
    An actor that takes a policy before its next rollout is offered what is there when one of its rollouts arrives, and
    everything that is published when it has been at work for most of the time that its latest rollout took; one that is idle
    begins with what is published then. With many actors that is a fraction of what is published, and what it begins with is no
    older; where rollouts take very unequal time, one rollout older at most. Times are seconds of any clock that goes forward.

    :param num_actors: how many there are
    :param pull: when they take what they are offered; before the next ``"step"``: they are offered everything
    """

    def __init__(self, num_actors: int, pull: Literal["rollout", "step"]) -> None:
        self._everything = pull == "step"
        self._offered = [-1] * num_actors  # version
        self._due = [0.0] * num_actors  # from when on everything is offered

    def started(self, actor: int, version: int) -> None:
        """
        :param actor: that was started again
        :param version: that it was given
        """
        self._offered[actor], self._due[actor] = version, 0.0

    def arrived(self, actor: int, now: float, seconds: float) -> None:
        """
        :param actor: whose rollout has arrived
        :param now: the time
        :param seconds: that it took
        """
        self._due[actor] = now + ABOUT_TO_BEGIN * seconds

    def is_due(self, actor: int, now: float) -> bool:
        """
        :param actor: that may be offered something
        :param now: the time
        :return: whether it may need what is published now
        """
        return self._everything or now >= self._due[actor]

    def take_note(self, actor: int, version: int) -> bool:
        """
        :param actor: that is to be offered a policy
        :param version: of it
        :return: whether it has not been offered already
        """
        new = version != self._offered[actor]
        self._offered[actor] = version
        return new

"""What the learner knows of its actors, wherever they run."""

from typing import Protocol

from sb3_gipo.distributed.accounts import BackendFacts
from sb3_gipo.distributed.actor import Collected
from sb3_gipo.distributed.evaluation import EvaluationPlan, EvaluationSource
from sb3_gipo.distributed.published import Published


class Backend(Protocol):
    """Actors that collect."""

    def publish(self, weights: Published) -> None:
        """
        :param weights: for the actors to take
        """

    def drain(self, wait: bool, at_most: int) -> list[Collected]:
        """
        :param wait: for a rollout where none is finished, but for no longer than a moment, so that its caller stays awake
        :param at_most: how many to take; the others stay for the next time
        :return: the finished rollouts, in the order in which they were finished
        """

    def facts(self) -> BackendFacts:
        """
        :return: how the actors are
        """

    def evaluator(self, plan: EvaluationPlan) -> EvaluationSource:
        """
        :param plan: how to build it
        :return: who evaluates policies; ends with the actors
        """

    def goes_on(self) -> bool:
        """
        :return: false where they have been ended by somebody else meanwhile
        """

    def close(self) -> None:
        """End the actors."""

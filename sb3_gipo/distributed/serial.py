"""Actors in this process, one after another: deterministic, with a lag that is set. The twin of what runs asynchronously."""

import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from sb3_gipo.distributed.accounts import BackendFacts
from sb3_gipo.distributed.actor import Actor, ActorPlan, Collected
from sb3_gipo.distributed.evaluation import Evaluation, EvaluationFailedError, EvaluationPlan, Evaluator
from sb3_gipo.distributed.published import Published
from sb3_gipo.learner import checkpoint


class SerialBackend:
    """
    :param plan: how to build an actor
    :param num_actors: how many there are
    :param lag: how many published policies old the one is that acts; as many as there are at the start of training
    """

    def __init__(self, plan: ActorPlan, num_actors: int, lag: int = 0) -> None:
        with _generators_kept():  # building a policy draws numbers, which the learner would miss
            self._actors = [Actor(plan, index) for index in range(num_actors)]
        self._past: deque[Published] = deque(maxlen=lag + 1)
        self._next = 0

    def publish(self, weights: Published) -> None:
        """
        :param weights: for the actors to take
        """
        self._past.append(weights)

    def drain(self, wait: bool, at_most: int) -> list[Collected]:
        """
        :param wait: whether to collect: nothing happens here meanwhile
        :param at_most: not looked at
        :return: one rollout, of the actor whose turn it is, or nothing
        """
        if not wait:
            return []
        actor = self._actors[self._next]
        self._next = (self._next + 1) % len(self._actors)
        actor.offer(self._past[0])
        return [actor.collect()]

    def facts(self) -> BackendFacts:
        """
        :return: how the actors are: nothing waits here
        """
        return BackendFacts(alive=len(self._actors), queue=0)

    def evaluator(self, plan: EvaluationPlan) -> "SerialEvaluator":
        """
        :param plan: how to build it
        :return: one that evaluates as soon as it is given a policy, while everything else waits
        """
        return SerialEvaluator(plan)

    def goes_on(self) -> bool:
        """
        :return: always
        """
        return True

    def close(self) -> None:
        """Close the environments."""
        for actor in self._actors:
            actor.close()


class SerialEvaluator:
    """
    :param plan: how to build it
    """

    def __init__(self, plan: EvaluationPlan) -> None:
        self._plan = plan
        self._evaluator: Evaluator | None = None
        self._found: Evaluation | Exception | None = None

    def submit(self, weights: Published, step: int) -> None:
        """
        :param weights: to be evaluated
        :param step: of all environments
        """
        with _generators_kept():
            try:
                if self._evaluator is None:
                    self._evaluator = Evaluator(self._plan)
                self._found = self._evaluator.evaluate(weights, step)
            except Exception as error:
                self._found, self._evaluator = error, None

    def has_place(self) -> bool:
        """
        :return: always
        """
        return True

    def take(self, seconds: float) -> Evaluation | None:
        """
        :param seconds: not looked at: it is there at once
        :return: the result of the latest policy
        :raises EvaluationFailedError: where there is none
        """
        found, self._found = self._found, None
        if isinstance(found, Exception):
            raise EvaluationFailedError("".join(traceback.format_exception(found))) from found
        return found

    def close(self) -> None:
        """Close the environments."""
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Afterwards all global generators are where they were."""
    before = checkpoint.generators()
    try:
        yield
    finally:
        checkpoint.restore_generators(before)

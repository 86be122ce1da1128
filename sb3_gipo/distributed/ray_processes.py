"""What runs in processes of Ray: an actor or an evaluator, and the calls that reach it there."""

import contextlib
import gc
import math
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
import torch as th
from ray.exceptions import RayError
from stable_baselines3.common.utils import set_random_seed

from sb3_gipo.distributed.actor import Actor, ActorPlan, Collected
from sb3_gipo.distributed.environments import seed_of
from sb3_gipo.distributed.evaluation import Evaluation, EvaluationFailedError, EvaluationPlan, Evaluator
from sb3_gipo.distributed.placement import Places
from sb3_gipo.distributed.published import Published
from sb3_gipo.distributed.ray_cluster import resources_of_nodes
from sb3_gipo.distributed.signals import heard_by_what_begins

# Groups of calls, each with a thread of its own.
COLLECT, OFFER, LIVE = "collect", "offer", "live"
GROUPS = {COLLECT: 1, OFFER: 1, LIVE: 1}


class RemoteActor:
    """
    An actor in a process of its own: one thread makes it and collects, another takes what is offered meanwhile.

    :param plan: how to build it
    :param index: its number
    :param times_started: how often it was started before
    :param weights: to begin with
    """

    def __init__(self, plan: ActorPlan, index: int, times_started: int, weights: Published) -> None:
        self._plan, self._index, self._times_started = plan, index, times_started
        self._weights, self._lock = weights, threading.Lock()
        self._actor: Actor | None = None
        self._failure: Exception | None = None  # to make it
        self._is_broken = False

    @ray.method(concurrency_group=OFFER)
    def placed(self) -> bool:
        """There is a process; making its environments may take longer."""
        return True

    @ray.method(concurrency_group=COLLECT)
    def ready(self) -> bool:
        """:return: whether its environments are made; why not says the first rollout, which is an error that somebody reads"""
        try:
            self._made()
        except Exception as error:
            self._failure = error
        return self._failure is None

    @ray.method(concurrency_group=COLLECT)
    def collect(self, weights: Published | None = None) -> Collected | None:
        """
        :param weights: to begin with; ``None``: those it was offered
        :return: the next rollout; ``None`` where one before it was an error: what was asked for already is not done by
            environments that are broken
        """
        if self._is_broken:
            return None
        try:
            if self._failure is not None:
                raise self._failure
            if weights is not None and weights.version > self._weights.version:
                self._take_note(weights)
            return self._made().collect()
        except Exception:
            self._is_broken = True
            raise

    @ray.method(concurrency_group=OFFER)
    def offer(self, weights: Published) -> None:
        """
        :param weights: to act with from the next rollout or step on
        """
        self._take_note(weights)

    @ray.method(concurrency_group=OFFER)
    def silent(self) -> float:
        """:return: seconds since its latest step"""
        return 0.0 if self._actor is None else self._actor.silent()

    @ray.method(concurrency_group=LIVE)
    def live(self) -> None:
        """As long as the process does."""
        threading.Event().wait()

    def _take_note(self, weights: Published) -> None:
        with self._lock:
            self._weights = weights
            if self._actor is not None:
                self._actor.offer(weights)

    def _made(self) -> Actor:
        if self._actor is None:
            plan = self._plan
            heard_by_what_begins()  # in this thread, where the environments are made
            th.set_num_threads(1)  # as many processes as there are cores
            # a step in twenty; what is not finite the recorder sees
            th.distributions.Distribution.set_default_validate_args(False)
            if plan.seed is not None:  # its own exploration, another one each time it is started
                set_random_seed(seed_of(plan.seed, plan.life, self._index, self._times_started))
            actor = Actor(plan, self._index, self._times_started)
            gc.freeze()  # what is there now stays: no collection need look at it again, with its caches cold each time
            with self._lock:
                actor.offer(self._weights)
                self._actor = actor
        return self._actor


def end(handle: Any) -> None:
    """
    :param handle: of an actor, whose process ends at once; that of a session that is over has ended with it
    """
    if ray.is_initialized():
        with contextlib.suppress(RayError, ValueError):  # of an earlier session
            ray.kill(handle)


def is_there(reference: Any) -> bool:
    """
    :param reference: to what was asked for
    :return: at once, whether there is a result or an error
    """
    return bool(those_there([reference]))


def those_there(references: list[Any]) -> list[Any]:
    """
    :param references: to what was asked for
    :return: at once, those with a result or an error
    """
    found: list[Any] = ray.wait(references, num_returns=len(references), timeout=0)[0] if references else []
    return found


class RemoteEvaluator:
    """
    An evaluator in a process of its own.

    :param plan: how to build it
    """

    def __init__(self, plan: EvaluationPlan) -> None:
        self._plan = plan
        self._evaluator: Evaluator | None = None

    def placed(self) -> bool:
        """There is a process; making its environments may take longer."""
        return True

    def evaluate(self, weights: Published, step: int) -> Evaluation:
        """
        :param weights: to be evaluated
        :param step: of all environments
        :return: what they are worth
        """
        if self._evaluator is None:
            heard_by_what_begins()
            th.set_num_threads(1)
            if self._plan.seed is not None:
                set_random_seed(self._plan.seed)
            self._evaluator = Evaluator(self._plan)
        return self._evaluator.evaluate(weights, step)


class RayEvaluator:
    """
    The learner's end of it.

    :param remote: :class:`RemoteEvaluator` with its resources
    :param plan: how to build it
    :param asked: what it asks for, by name of the resource
    """

    def __init__(self, remote: Any, plan: EvaluationPlan, asked: Mapping[str, float]) -> None:
        self._remote, self._plan, self._asked = remote, plan, asked
        self._handle: Any = None
        self._under_way: Any = None  # a reference
        self._placing: Any = None  # a reference that is there when it has a process; ``None`` when that is known

    @property
    def is_open(self) -> bool:
        """Whether it has a process, or has asked for one."""
        return self._handle is not None

    def submit(self, weights: Published, step: int) -> None:
        """
        :param weights: to be evaluated
        :param step: of all environments
        """
        if self._handle is None:  # not before: it would take a place that an actor needs
            self._handle = self._remote.remote(self._plan)
            self._placing = self._handle.placed.remote()
            self._places = Places(self._asked, 1, math.inf, time.monotonic(), "evaluators")
        self._under_way = self._handle.evaluate.remote(weights, step)

    def take(self, seconds: float) -> Evaluation | None:
        """
        :param seconds: to wait for it, at most
        :return: the result, where there is one
        :raises EvaluationFailedError: where there will be none; the next policy goes to a new process
        """
        if self._under_way is None:
            return None
        if not ray.wait([self._under_way], timeout=seconds)[0]:
            self._look_for_a_place()
            return None
        try:
            found: Evaluation = ray.get(self._under_way)
        except RayError as error:
            self.close()
            raise EvaluationFailedError(str(error)) from error
        self._under_way = None
        return found

    def close(self) -> None:
        """End its process."""
        if self._handle is not None:
            end(self._handle)
        self._handle = self._under_way = self._placing = None

    def has_place(self) -> bool:
        """
        :return: whether it runs; false as long as no machine has room for it
        """
        if self._placing is not None and is_there(self._placing):
            self._placing = None
        return self._placing is None

    def _look_for_a_place(self) -> None:
        if not self.has_place():
            self._places.look(1, time.monotonic(), resources_of_nodes)

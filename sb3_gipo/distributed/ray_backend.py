"""Actors in processes of Ray, on this machine or a cluster. The one file that knows of Ray."""

import logging
import threading
import time
from typing import Any, NamedTuple

import ray
import torch as th
from ray.exceptions import RayActorError, RayError, RayTaskError
from stable_baselines3.common.utils import set_random_seed

from sb3_gipo.distributed.accounts import BackendFacts
from sb3_gipo.distributed.actor import Actor, ActorPlan, Collected
from sb3_gipo.distributed.environments import seed_of
from sb3_gipo.distributed.evaluation import Evaluation, EvaluationFailedError, EvaluationPlan, Evaluator
from sb3_gipo.distributed.faults import Reason, Supervisor
from sb3_gipo.distributed.published import Published

POLL_SECONDS = 0.5
_COLLECT, _OFFER, _LIVE = "collect", "offer", "live"
_STORE = "object_store_memory"


class _RemoteActor:
    """An actor in a process of its own: one thread collects, another takes what is offered meanwhile."""

    _failed = False

    def __init__(self, plan: ActorPlan, index: int, times_started: int, weights: Published) -> None:
        th.set_num_threads(1)  # as many processes as there are cores
        if plan.seed is not None:  # its own exploration, another one each time it is started
            set_random_seed(seed_of(plan.seed, plan.life, index, times_started))
        self._actor = Actor(plan, index, times_started)
        self._actor.offer(weights)

    @ray.method(concurrency_group=_COLLECT)
    def ready(self) -> bool:
        return True

    @ray.method(concurrency_group=_COLLECT)
    def collect(self) -> Collected:
        if self._failed:  # those that were asked for already are not made by an environment that is broken
            raise RuntimeError("This actor has failed before.")
        self._failed = True
        collected = self._actor.collect()
        self._failed = False
        return collected

    @ray.method(concurrency_group=_OFFER)
    def offer(self, weights: Published) -> None:
        self._actor.offer(weights)

    @ray.method(concurrency_group=_LIVE)
    def live(self) -> None:
        """As long as the process does."""
        threading.Event().wait()


class _RemoteEvaluator:
    """An evaluator in a process of its own."""

    def __init__(self, plan: EvaluationPlan) -> None:
        th.set_num_threads(1)
        if plan.seed is not None:
            set_random_seed(plan.seed)
        self._evaluator = Evaluator(plan)

    def evaluate(self, weights: Published, step: int) -> Evaluation:
        return self._evaluator.evaluate(weights, step)


class RayEvaluator:
    """
    :param remote: class of the process
    :param plan: how to build it
    """

    def __init__(self, remote: Any, plan: EvaluationPlan) -> None:
        self._remote, self._plan = remote, plan
        self._handle: Any = None
        self._under_way: Any = None  # a reference

    @property
    def busy(self) -> bool:
        """Whether it was given a policy whose result has not been taken."""
        return self._under_way is not None

    def submit(self, weights: Published, step: int) -> None:
        """
        :param weights: to be evaluated
        :param step: of all environments
        """
        if self._handle is None:
            self._handle = self._remote.remote(self._plan)
        self._under_way = self._handle.evaluate.remote(weights, step)

    def take(self, seconds: float) -> Evaluation | None:
        """
        :param seconds: to wait for it, at most
        :return: the result, where there is one
        :raises EvaluationFailedError: where there will be none; the next policy goes to a new process
        """
        if self._under_way is None or not ray.wait([self._under_way], timeout=seconds)[0]:
            return None
        try:
            found: Evaluation = ray.get(self._under_way)
        except (RayActorError, RayTaskError) as error:
            self.close()
            raise EvaluationFailedError(str(error)) from error
        self._under_way = None
        return found

    def close(self) -> None:
        """End its process."""
        if self._handle is not None:
            ray.kill(self._handle)
        self._handle = self._under_way = None


class _Running(NamedTuple):
    handle: Any
    ready: Any  # a reference that is there when its environments are made
    life: Any  # a reference that is there, an error, when its process has ended
    rollouts: list[Any]  # references of those under way or waiting to be taken, oldest first


class RayBackend:
    """
    Every actor works ahead by a few rollouts, which wait in the object store until they are taken: an actor whose rollouts
    are not taken waits.

    :param plan: how to build an actor
    :param num_actors: how many there are
    :param ahead: rollouts of one actor that are under way or wait, at most
    :param supervisor: who is started again, and when
    :param address: of a running cluster, ``"auto"`` to find it; ``None``: one for this process
    :param resources: what an actor needs, arguments of ``ray.remote``
    """

    def __init__(
        self,
        plan: ActorPlan,
        num_actors: int,
        ahead: int,
        supervisor: Supervisor,
        address: str | None = None,
        resources: dict[str, Any] | None = None,
    ) -> None:
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        # On one machine the number of actors is the user's business: more of them than cores is fine with slow simulators.
        self._resources = {"num_cpus": 0 if address is None else 1, **(resources or {})}
        self._remote = self._make(_RemoteActor, concurrency_groups={_COLLECT: 1, _OFFER: 1, _LIVE: 1})
        self._evaluators: list[RayEvaluator] = []
        self._plan, self._ahead, self._supervisor = plan, ahead, supervisor
        self._running: list[_Running | None] = [None] * num_actors
        self._times_started = [0] * num_actors
        self._turns = list(range(num_actors))  # whose rollout is taken first; who had one goes to the end
        self._weights: Any = None

    def publish(self, weights: Published) -> None:
        """
        :param weights: for the actors to take; one object for all of them
        """
        self._weights = ray.put(weights)
        for running in self._running:
            if running is not None:
                running.handle.offer.remote(self._weights)

    def drain(self, wait: bool, at_most: int) -> list[Collected]:
        """
        :param wait: for a rollout where none is finished, but for no longer than a moment
        :param at_most: how many to take
        :return: the finished rollouts
        :raises ActorsFailedError: when an actor failed too often
        """
        self._keep_busy()
        found = self._take_finished(at_most, POLL_SECONDS if wait else 0.0)
        self._end_those_that_hang()
        return found

    def evaluator(self, plan: EvaluationPlan) -> "RayEvaluator":
        """
        :param plan: how to build it
        :return: who evaluates policies, in a process of its own; ends with the actors
        """
        evaluator = RayEvaluator(self._make(_RemoteEvaluator), plan)
        self._evaluators.append(evaluator)
        return evaluator

    def facts(self) -> BackendFacts:
        """
        :return: how the actors are
        """
        running = [each for each in self._running if each is not None]
        references = [reference for each in running for reference in each.rollouts]
        queue = len(ray.wait(references, num_returns=len(references), timeout=0)[0]) if references else 0
        size, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
        store_mb = (size.get(_STORE, 0.0) - free.get(_STORE, 0.0)) / 1e6
        watch = self._supervisor
        return BackendFacts(
            len(running), queue, watch.restarts, watch.lost_rollouts, **watch.failures, object_store_mb=store_mb
        )

    def close(self) -> None:
        """End the actors, and Ray where it was started here."""
        for index in range(len(self._running)):
            self._end(index)
        for evaluator in self._evaluators:
            evaluator.close()
        self._weights = None
        if self._ours:
            ray.shutdown()

    def _make(self, what: type, **more: Any) -> Any:
        remote: Any = ray.remote  # its types do not know of groups
        return remote(**self._resources, max_restarts=0, **more)(what)

    def _keep_busy(self) -> None:
        self._supervisor.check()
        now = time.monotonic()
        for index, running in enumerate(self._running):
            if running is None and self._supervisor.may_start(index, now):
                handle = self._remote.remote(self._plan, index, self._times_started[index], self._weights)
                self._running[index] = running = _Running(handle, handle.ready.remote(), handle.live.remote(), [])
                self._times_started[index] += 1
                self._supervisor.started(index, now)
            # who has died is asked for nothing: what it did not begin is not lost
            while running is not None and len(running.rollouts) < self._ahead and not _is_there(running.life):
                running.rollouts.append(running.handle.collect.remote())

    def _take_finished(self, at_most: int, seconds: float) -> list[Collected]:
        in_turn = [(index, self._running[index]) for index in self._turns]
        owners = {running.rollouts[0]: index for index, running in in_turn if running is not None and running.rollouts}
        if not owners:
            time.sleep(seconds)
            return []
        finished, _ = ray.wait(list(owners), num_returns=1, timeout=seconds)
        if finished:  # whoever has finished meanwhile
            finished, _ = ray.wait(list(owners), num_returns=len(owners), timeout=0)
        found = []
        for reference in finished[:at_most]:
            collected = self._fetch(owners[reference], reference)
            if collected is not None:
                found.append(collected)
        return found

    def _fetch(self, index: int, reference: Any) -> Collected | None:
        now = time.monotonic()
        try:
            collected: Collected = ray.get(reference)
        except (RayActorError, RayTaskError) as error:
            self._fail(index, now, error)
            return None
        running = self._running[index]
        assert running is not None
        running.rollouts.pop(0)
        self._turns.remove(index)
        self._turns.append(index)
        self._supervisor.finished_rollout(index, now)
        return collected

    def _end_those_that_hang(self) -> None:
        now = time.monotonic()
        for index, running in enumerate(self._running):
            if running is None:
                continue
            if not running.rollouts:
                self._fetch(index, running.life)  # died with nothing to do
                continue
            if _is_there(running.ready):
                self._supervisor.is_ready(index, now)
            if _is_there(running.rollouts[0]):
                self._supervisor.waits(index, now)  # for us
            elif self._supervisor.hangs(index, now):
                self._fail(index, now, None)

    def _fail(self, index: int, now: float, error: RayActorError | RayTaskError | None) -> None:
        """:param error: what its rollout is instead; ``None``: it is silent"""
        running = self._running[index]
        assert running is not None
        reason: Reason = "hung"
        if error is not None:
            reason = "raised" if isinstance(error, RayTaskError) or error.actor_init_failed else "died"
        why = f"Actor {index} gave no rollout for too long and was ended." if error is None else str(error)
        lost_rollout = bool(running.rollouts) and _succeeded(running.ready)
        self._end(index)
        self._supervisor.failed(index, now, why, reason, lost_rollout)

    def _end(self, index: int) -> None:
        running, self._running[index] = self._running[index], None
        if running is not None:
            ray.kill(running.handle)


def _is_there(reference: Any) -> bool:
    """:return: at once, whether there is a result or an error"""
    return bool(ray.wait([reference], timeout=0)[0])


def _succeeded(reference: Any) -> bool:
    """:return: at once, whether there is a result"""
    try:
        ray.get(reference, timeout=0)
    except RayError:
        return False
    return True

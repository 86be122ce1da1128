"""Actors in processes of Ray, on this machine or a cluster. Only this file and its two neighbours, ``ray_*``, know of Ray."""

import dataclasses
import math
import time
import weakref
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from sb3_gipo.distributed.accounts import BackendFacts
from sb3_gipo.distributed.actor import ActorPlan, Collected
from sb3_gipo.distributed.evaluation import EvaluationPlan
from sb3_gipo.distributed.faults import Reason, Supervisor
from sb3_gipo.distributed.offers import Offers
from sb3_gipo.distributed.placement import Places, demand
from sb3_gipo.distributed.published import Published
from sb3_gipo.distributed.ray_cluster import Session, connect, leave, resources_of_nodes, store_megabytes
from sb3_gipo.distributed.ray_processes import GROUPS, RayEvaluator, RemoteActor, RemoteEvaluator, end, is_there, those_there

POLL_SECONDS = 0.5
STORE_SECONDS = 1.0  # between two questions of how much shared memory is in use: they take the cluster some milliseconds


@dataclasses.dataclass
class _Running:
    handle: Any
    placing: Any  # a reference that is there when it has a process; ``None`` when that is known
    ready: Any  # a reference that is there when its environments are made, or cannot be
    life: Any  # a reference that is there, an error, when its process has ended
    rollouts: list[Any]  # references of those under way or waiting to be taken, oldest first
    silent: Any = None  # a reference that is there when it has answered how long it has been silent; ``None``: not asked
    offer: Any = None  # a reference that is there when it has taken note of the latest policy it was offered
    behind: bool = False  # whether another one waits for that


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
    :raises ConnectionError: where no cluster is to be reached there
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
        # On one machine the number of actors is the user's business: more of them than cores is fine with slow simulators.
        # Task events: of every rollout that was ever asked for Ray would keep 4 kB, up to 400 MB.
        self._resources = {"num_cpus": 0 if address is None else 1, "enable_task_events": False, **(resources or {})}
        self._remote = self._make(RemoteActor, concurrency_groups=GROUPS)
        self._session = connect(address)
        self._asked = demand(self._resources)
        self._places = Places(self._asked, num_actors, supervisor.making_takes, time.monotonic())
        self._plan, self._ahead, self._supervisor = plan, ahead, supervisor
        self._evaluators: list[RayEvaluator] = []
        self._running: list[_Running | None] = [None] * num_actors
        # Also where nobody calls `close`: an actor whose handle is dropped goes on with what it was asked for, for ever.
        self._ending = weakref.finalize(self, _end_all, self._running, self._evaluators, self._session)
        self._ending.atexit = False  # the end of this process is that of all
        self._times_started = [0] * num_actors
        self._turns = list(range(num_actors))  # whose rollout is taken first; who had one goes to the end
        self._offers = Offers(num_actors, plan.pull)
        self._weights: Any = None  # what is published, by reference, and its version
        self._version = -1
        self._store, self._store_known_until = 0.0, -math.inf  # megabytes in use

    def publish(self, weights: Published) -> None:
        """
        :param weights: for the actors to take; one object for all of them
        """
        self._weights, self._version = ray.put(weights), weights.version
        now = time.monotonic()
        for index in range(len(self._running)):
            if self._offers.is_due(index, now):
                self._offer(index)

    def drain(self, wait: bool, at_most: int) -> list[Collected]:
        """
        :param wait: for a rollout where none is finished, but for no longer than a moment
        :param at_most: how many to take
        :return: the finished rollouts
        :raises ActorsFailedError: when an actor failed too often, or none finds a place
        """
        self._keep_busy()
        found = self._take_finished(at_most, POLL_SECONDS if wait else 0.0)
        # So that nobody stands still during an update; the last one is for the policy after it.
        self._ask_for(self._ahead - 1)
        self._look_for_places()  # first: who had none until now does not hang, however long we were away
        self._end_those_that_hang()
        return found

    def evaluator(self, plan: EvaluationPlan) -> RayEvaluator:
        """
        :param plan: how to build it
        :return: who evaluates policies, in a process of its own; ends with the actors
        """
        evaluator = RayEvaluator(self._make(RemoteEvaluator), plan, self._asked)
        self._evaluators[:] = [*(each for each in self._evaluators if each.is_open), evaluator]
        return evaluator

    def facts(self) -> BackendFacts:
        """
        :return: how the actors are
        """
        running = [each for each in self._running if each is not None and each.placing is None]
        references = [reference for each in running for reference in each.rollouts]
        queue = len(those_there(references))
        watch, now = self._supervisor, time.monotonic()
        if now >= self._store_known_until:
            self._store, self._store_known_until = store_megabytes(), now + STORE_SECONDS
        counts = len(running), queue, watch.restarts, watch.lost_rollouts
        return BackendFacts(*counts, **watch.failures, object_store_mb=self._store)

    def goes_on(self) -> bool:
        """
        :return: false where somebody has ended Ray meanwhile (``ray.shutdown()``), and the actors with it
        """
        return self._session.goes_on()

    def close(self) -> None:
        """End the actors, and with the last of them in this process Ray, or leave the cluster, where that was begun here."""
        self._ending()
        self._weights = None

    def _make(self, what: type, **more: Any) -> Any:
        remote: Any = ray.remote  # its types do not know of groups
        return remote(**self._resources, max_restarts=0, **more)(what)

    def _offer(self, index: int) -> None:
        running = self._running[index]
        if running is None or running.placing is not None:  # else every policy would be kept until it has a place
            return
        running.behind = running.offer is not None and not is_there(running.offer)
        # An offer keeps its policy in memory until it is taken note of: one for each actor, however long that does not run.
        if not running.behind and self._offers.take_note(index, self._version):
            running.offer = running.handle.offer.remote(self._weights)

    def _keep_busy(self) -> None:
        self._supervisor.check()
        now = time.monotonic()
        for index, running in enumerate(self._running):
            if running is not None and running.behind:
                self._offer(index)
            if running is None and self._supervisor.may_start(index, now):
                handle = self._remote.remote(self._plan, index, self._times_started[index], self._weights)
                asked = handle.placed.remote(), handle.ready.remote(), handle.live.remote()
                self._running[index] = running = _Running(handle, *asked, [])
                self._times_started[index] += 1
                self._offers.started(index, self._version)
                self._supervisor.started(index, now)
        self._ask_for(self._ahead)

    def _ask_for(self, rollouts: int) -> None:
        """:param rollouts: of each actor, under way or waiting to be taken"""
        now = time.monotonic()
        for index, running in enumerate(self._running):
            if running is None or len(running.rollouts) >= rollouts or is_there(running.life):
                continue  # who has died is asked for nothing: what it did not begin is not lost
            if not running.rollouts:
                self._supervisor.waits(index, now)  # until now, for us, however long an update took
            while len(running.rollouts) < rollouts:
                running.rollouts.append(running.handle.collect.remote(self._for_one_that_is_idle(index, running)))

    def _for_one_that_is_idle(self, index: int, running: _Running) -> Any:
        """:return: what is published, where it begins now and has something older; else what it is offered will be newer"""
        is_idle = running.placing is None and not (running.rollouts and not is_there(running.rollouts[-1]))
        return self._weights if is_idle and self._offers.take_note(index, self._version) else None

    def _take_finished(self, at_most: int, seconds: float) -> list[Collected]:
        found: list[Collected] = []
        while len(found) < at_most:  # ends: meanwhile nobody is asked for more
            latest = self._take_the_first_of_each(at_most - len(found), 0.0 if found else seconds)
            if not latest:
                break
            found += latest
        return found

    def _take_the_first_of_each(self, at_most: int, seconds: float) -> list[Collected]:
        in_turn = [(index, self._running[index]) for index in self._turns]
        owners = {running.rollouts[0]: index for index, running in in_turn if running is not None and running.rollouts}
        if not owners:
            time.sleep(seconds)
            return []
        finished, _ = ray.wait(list(owners), num_returns=1, timeout=seconds)
        if finished:  # whoever has finished meanwhile
            finished = those_there(list(owners))
        found = (self._fetch(owners[reference], reference) for reference in finished[:at_most])
        return [collected for collected in found if collected is not None]

    def _fetch(self, index: int, reference: Any) -> Collected | None:
        now = time.monotonic()
        try:
            collected: Collected = ray.get(reference)
        except RayError as error:  # it raised or died, or its node is lost, with what was finished there
            self._fail(index, now, error)
            return None
        running = self._running[index]
        assert running is not None
        running.rollouts.pop(0)
        self._turns.remove(index)
        self._turns.append(index)
        self._supervisor.finished_rollout(index, now)
        self._offers.arrived(index, now, collected.seconds)
        self._offer(index)
        return collected

    def _look_for_places(self) -> None:
        """An actor without a place waits, as long as others work; but that is said."""
        now, waiting = time.monotonic(), 0
        for index, running in enumerate(self._running):
            if running is None or running.placing is None:
                continue
            self._supervisor.waits(index, now)
            if is_there(running.placing):
                running.placing = None
                self._offer(index)  # what was published meanwhile
            else:
                waiting += 1
        self._places.look(waiting, now, resources_of_nodes)

    def _end_those_that_hang(self) -> None:
        now = time.monotonic()
        busy = [running for running in self._running if running is not None and running.rollouts]
        there = set(those_there([reference for running in busy for reference in (running.ready, running.rollouts[0])]))
        for index, running in enumerate(self._running):
            if running is None:
                continue
            if not running.rollouts:
                if is_there(running.life):
                    self._fetch(index, running.life)  # died with nothing to do
                continue
            if running.ready in there:
                self._supervisor.is_ready(index, now)
            if running.rollouts[0] in there:
                self._supervisor.waits(index, now)  # for us
            elif self._is_silent(index, running, now):
                self._fail(index, now, None)

    def _is_silent(self, index: int, running: _Running, now: float) -> bool:
        """Who has not finished a rollout for long is asked: its environment may be slow."""
        if self._supervisor.is_to_be_asked(index, now):
            running.silent = running.handle.silent.remote()
        elif running.silent is not None and _succeeded(running.silent):  # where it is an error its rollout will be one
            answer, running.silent = ray.get(running.silent), None
            return self._supervisor.answered(index, answer)
        return self._supervisor.hangs(index, now)

    def _fail(self, index: int, now: float, error: RayError | None) -> None:
        """:param error: what its rollout is instead; ``None``: it is silent"""
        running = self._running[index]
        assert running is not None
        reason: Reason = "hung" if error is None else "raised" if _raised(error) else "died"
        why = self._supervisor.say_hangs(index, now) if error is None else str(error)
        # Who dies within a moment of being made may not have said that it was: its few steps are then no rollout.
        half_made = bool(running.rollouts) and _succeeded(running.ready) and ray.get(running.ready)
        lost = min(sum(map(_is_lost, those_there(running.rollouts))) + half_made, len(running.rollouts))
        self._end(index)
        self._supervisor.failed(index, now, why, reason, lost)

    def _end(self, index: int) -> None:
        running, self._running[index] = self._running[index], None
        if running is not None:
            end(running.handle)


def _end_all(running: list[_Running | None], evaluators: list[RayEvaluator], session: Session) -> None:
    """Apart from the backend, which may be no more."""
    for index, each in enumerate(running):
        if each is not None:
            end(each.handle)
            running[index] = None
    for evaluator in evaluators:
        evaluator.close()
    leave(session)


def _succeeded(reference: Any) -> bool:
    """:return: at once, whether there is a result"""
    try:
        ray.get(reference, timeout=0)
    except RayError:
        return False
    return True


def _is_lost(reference: Any) -> bool:
    """Whether it was finished, and then lost with the node that kept it."""
    try:
        ray.get(reference)
    except ObjectLostError:
        return True
    except RayError:
        pass
    return False


def _raised(error: RayError) -> bool:
    """Whether that is an exception of the environment or ours, not the end of a process."""
    return isinstance(error, RayTaskError) or (isinstance(error, RayActorError) and error.actor_init_failed)

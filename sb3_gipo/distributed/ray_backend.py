"""Actors in processes of Ray, on this machine or a cluster. The one file that knows of Ray."""

import dataclasses
import logging
import os
import pathlib
import socket
import threading
import time
from typing import Any

import numpy as np
import ray
import torch as th
from ray.exceptions import ObjectLostError, RayError
from stable_baselines3.common.utils import set_random_seed

from sb3_gipo.distributed.accounts import BackendFacts
from sb3_gipo.distributed.actor import Actor, ActorPlan, Collected
from sb3_gipo.distributed.faults import Supervisor
from sb3_gipo.distributed.placement import Places, demand
from sb3_gipo.distributed.published import Published

POLL_SECONDS = 0.5
REACH_SECONDS = 10.0  # to try whether there is anybody at an address
_COLLECT, _OFFER = "collect", "offer"


class _RemoteActor:
    """An actor in a process of its own: one thread collects, another takes what is offered meanwhile."""

    def __init__(self, plan: ActorPlan, index: int, times_started: int, weights: Published) -> None:
        self._plan, self._index, self._times_started = plan, index, times_started
        self._weights, self._lock = weights, threading.Lock()
        self._actor: Actor | None = None

    @ray.method(concurrency_group=_OFFER)
    def placed(self) -> bool:
        return True  # there is a process; making its environments may take longer

    @ray.method(concurrency_group=_COLLECT)
    def ready(self) -> bool:
        self._made()
        return True

    @ray.method(concurrency_group=_COLLECT)
    def collect(self) -> Collected:
        return self._made().collect()

    @ray.method(concurrency_group=_OFFER)
    def offer(self, weights: Published) -> None:
        with self._lock:
            self._weights = weights
            if self._actor is not None:
                self._actor.offer(weights)

    def _made(self) -> Actor:
        if self._actor is None:
            plan = self._plan
            th.set_num_threads(1)  # as many processes as there are cores
            if plan.seed is not None:  # its own exploration, another one each time it is started
                seeds = np.random.SeedSequence([plan.seed, self._index, self._times_started])
                set_random_seed(int(seeds.generate_state(1)[0]))
            actor = Actor(plan, self._index, self._times_started)
            with self._lock:
                actor.offer(self._weights)
                self._actor = actor
        return self._actor


@dataclasses.dataclass
class _Running:
    handle: Any
    placing: Any  # a reference that is there when it has a process; ``None`` when that is known
    ready: Any  # a reference that is there when its environments are made
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
        resources = {"num_cpus": 0 if address is None else 1, **(resources or {})}
        groups = {_COLLECT: 1, _OFFER: 1}
        make: Any = ray.remote  # its types do not know of groups
        self._remote = make(**resources, concurrency_groups=groups, max_restarts=0)(_RemoteActor)
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(address)
        self._places = Places(demand(resources), num_actors, supervisor.making_takes, time.monotonic())
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
            if running is not None and running.placing is None:  # else every policy would be kept until it has a place
                running.handle.offer.remote(self._weights)

    def drain(self, wait: bool, at_most: int) -> list[Collected]:
        """
        :param wait: for a rollout where none is finished
        :param at_most: how many to take
        :return: the finished rollouts
        :raises ActorsFailedError: when an actor failed too often, or none finds a place
        """
        while True:
            self._keep_busy()
            found = self._take_finished(at_most, POLL_SECONDS if wait else 0.0)
            self._end_those_that_hang()
            self._look_for_places()
            if found or not wait:
                return found

    def facts(self) -> BackendFacts:
        """
        :return: how the actors are
        """
        running = [each for each in self._running if each is not None and each.placing is None]
        references = [reference for each in running for reference in each.rollouts]
        queue = len(ray.wait(references, num_returns=len(references), timeout=0)[0]) if references else 0
        return BackendFacts(len(running), queue, self._supervisor.restarts, self._supervisor.lost_rollouts)

    def close(self) -> None:
        """End the actors; end Ray where it was started here, leave a cluster that was joined here."""
        for index in range(len(self._running)):
            self._end(index)
        self._weights = None
        if self._ours:
            ray.shutdown()

    def _keep_busy(self) -> None:
        now = time.monotonic()
        for index, running in enumerate(self._running):
            if running is None and self._supervisor.may_start(index, now):
                handle = self._remote.remote(self._plan, index, self._times_started[index], self._weights)
                self._running[index] = running = _Running(handle, handle.placed.remote(), handle.ready.remote(), [])
                self._times_started[index] += 1
                self._supervisor.started(index, now)
            while running is not None and len(running.rollouts) < self._ahead:
                running.rollouts.append(running.handle.collect.remote())

    def _take_finished(self, at_most: int, seconds: float) -> list[Collected]:
        in_turn = [(index, self._running[index]) for index in self._turns]
        owners = {running.rollouts[0]: index for index, running in in_turn if running is not None}
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
        except RayError as error:  # it raised or died, or its node is lost, with what was finished there
            lost = self._lost(index)
            self._end(index)
            self._supervisor.failed(index, now, str(error), lost)
            return None
        running = self._running[index]
        assert running is not None
        running.rollouts.pop(0)
        self._turns.remove(index)
        self._turns.append(index)
        self._supervisor.finished_rollout(index, now)
        return collected

    def _lost(self, index: int) -> int:
        """Rollouts that go with an actor: the half-made one, and finished ones that were kept on its node."""
        running = self._running[index]
        assert running is not None
        references = running.rollouts
        ready = ray.wait(references, num_returns=len(references), timeout=0)[0]
        return min(sum(map(_is_lost, ready)) + 1, len(references))

    def _look_for_places(self) -> None:
        """An actor without a place waits, as long as others work; but that is said."""
        now, waiting = time.monotonic(), 0
        for index, running in enumerate(self._running):
            if running is None or running.placing is None:
                continue
            if ray.wait([running.placing], timeout=0)[0]:
                running.placing = None
                running.handle.offer.remote(self._weights)  # what was published meanwhile
            else:
                self._supervisor.waits(index, now)
                waiting += 1
        nodes: Any = ray.nodes  # without types
        self._places.look(waiting, now, lambda: [node["Resources"] for node in nodes() if node["Alive"]])

    def _end_those_that_hang(self) -> None:
        now = time.monotonic()
        for index, running in enumerate(self._running):
            if running is None:
                continue
            if ray.wait([running.ready], timeout=0)[0]:
                self._supervisor.is_ready(index, now)
            if ray.wait(running.rollouts[:1], timeout=0)[0]:
                self._supervisor.waits(index, now)  # for us
            elif self._supervisor.hangs(index, now):
                self._end(index)
                self._supervisor.failed(index, now, f"Actor {index} gave no rollout for too long and was ended.")

    def _end(self, index: int) -> None:
        running, self._running[index] = self._running[index], None
        if running is not None:
            ray.kill(running.handle)


def _is_lost(reference: Any) -> bool:
    """Whether it was finished, and then lost with the node that kept it."""
    try:
        ray.get(reference)
    except ObjectLostError:
        return True
    except RayError:
        pass
    return False


def _connect(address: str | None) -> None:
    """
    :param address: as of :class:`RayBackend`
    :raises ConnectionError: in words
    """
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:  # of our own, even where a cluster runs on this machine
        ray.init("local", **quiet)
        return
    try:
        _reach(address)
        ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ConnectionError(
            f'No Ray cluster could be joined at `ray_address="{address}"`: {error}\n"auto" and "host:port", as `ray start '
            "--head` printed it (port 6379), are for a machine that `ray start` has made a node of the cluster; "
            '"ray://host:10001" is for any other (pip install "ray[client]"). Without `ray_address` the actors run on this '
            "machine. `ray status` says what runs; the versions of Ray and Python, and the token of a guarded cluster "
            "(`RAY_AUTH_MODE=token`), must be the same on all machines."
        ) from error


def _reach(address: str) -> None:
    """:raises OSError: where nobody answers; without a try Ray goes on trying for a quarter of an hour"""
    if address == "auto":  # what Ray will take it for, see the documentation of `ray.init`
        latest = pathlib.Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
        address = os.environ.get("RAY_ADDRESS") or (latest.read_text().strip() if latest.exists() else "auto")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") and not (host and port.isdigit()):
        raise ValueError("it has no port.")
    if host and port.isdigit():  # what else is no address Ray says itself, and soon
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()

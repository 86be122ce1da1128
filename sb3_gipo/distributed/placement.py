"""Actors that no machine has room for: says so in words. Knows resources by name and number, nothing that runs."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sb3_gipo.distributed.faults import ActorsFailedError

SAID_AFTER = 30.0  # seconds: until then processes may just be starting
GIGABYTE = 1e9


class PlacementWarning(UserWarning):
    """Actors wait for a place."""


class Places:
    """
    Times are seconds of any clock that only goes forward.

    :param asked: for one actor, by name of the resource
    :param num_actors: how many there are
    :param patience: seconds without a place for any of them at which training stops
    :param now: the time
    :param who: they are
    """

    def __init__(self, asked: Mapping[str, float], num_actors: int, patience: float, now: float, who: str = "actors") -> None:
        self._asked, self._num_actors, self._patience, self._who = asked, num_actors, patience, who
        self._all_had_one = self._one_had_one = now  # the latest time at which
        self._said = False

    def look(self, waiting: int, now: float, nodes: Callable[[], Sequence[Mapping[str, float]]]) -> None:
        """
        :param waiting: actors that have been asked for and have no place yet
        :param now: the time
        :param nodes: gives what each machine has, in all; asked only where something is to be said
        :raises ActorsFailedError: when none has had a place for too long
        """
        if waiting < self._num_actors:
            self._one_had_one = now
        if waiting == 0:
            self._all_had_one, self._said = now, False
        if now - self._one_had_one > self._patience:
            raise ActorsFailedError(
                f"Training ends after {now - self._one_had_one:.0f} s without a place for any actor (a greater `hang_seconds` "
                f"would wait longer).\n{self._missing(waiting, nodes)}"
            )
        if now - self._all_had_one > SAID_AFTER and not self._said:
            self._said = True
            warnings.warn(self._missing(waiting, nodes), PlacementWarning, stacklevel=2)

    def _missing(self, waiting: int, nodes: Callable[[], Sequence[Mapping[str, float]]]) -> str:
        return missing(self._asked, waiting, self._num_actors, nodes(), self._who)


def demand(options: Mapping[str, Any]) -> dict[str, float]:
    """
    :param options: of an actor, arguments of ``ray.remote``
    :return: what it asks for, by name of the resource
    """
    found = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    return {name: amount for name, amount in {**found, **(options.get("resources") or {})}.items() if amount}


def missing(
    asked: Mapping[str, float], waiting: int, num_actors: int, nodes: Sequence[Mapping[str, float]], who: str = "actors"
) -> str:
    """
    :param asked: for one actor
    :param waiting: actors without a place
    :param num_actors: of all
    :param nodes: what each machine has, in all
    :param who: they are
    :return: what was asked for, what there is, what to do
    """
    if nodes and not asked:  # there is always room
        return (
            f"{waiting} of {num_actors} {who} have no process yet. They ask for no resources, so none are missing: processes "
            "start slowly, or a `scheduling_strategy` forbids it. They wait."
        )
    room = sum(_room(asked, node) for node in nodes)
    has = "; ".join(_words({name: amount for name, amount in node.items() if _told(name, asked)}) for node in nodes)
    start = (
        f"{waiting} of {num_actors} {who} wait for a place. Each asks for {_words(asked)}; the nodes have {has or 'gone'}. "
    )
    if room == 0:
        absent = sorted(name for name in asked if not any(node.get(name, 0) >= asked[name] for node in nodes))
        which = f" (no node has {' and '.join(f'{asked[name]:g} {name}' for name in absent)})" if absent else ""
        return start + (
            f"None of them could hold one{which}. Change `actor_resources`, or start a node that has it: `ray start "
            "--address=... --num-cpus=... --resources='{\"name\": number}'`. Until then they wait."
        )
    if room < num_actors:
        return start + (
            f"That is room for {room:g}, if nothing else runs there. Lower `num_actors`, ask for less in `actor_resources` "
            '(`{"num_cpus": 0.5}` is allowed), or start further nodes. Until then they wait.'
        )
    return start + (
        f"That is room for {room:g}: others hold it (`ray status` says what is in use), a `scheduling_strategy` forbids it, "
        "or processes start slowly. They wait."
    )


def _room(asked: Mapping[str, float], node: Mapping[str, float]) -> float:
    """How many a machine can hold."""
    return min(node.get(name, 0) // amount for name, amount in asked.items())


def _told(name: str, asked: Mapping[str, float]) -> bool:
    return name in asked or not (name == "memory" or name == "object_store_memory" or name.startswith("node:"))


def _words(resources: Mapping[str, float]) -> str:
    def one(name: str, amount: float) -> str:
        return f"{amount / GIGABYTE:.1f} GB memory" if name == "memory" else f"{amount:g} {name}"

    return ", ".join(one(name, amount) for name, amount in sorted(resources.items())) or "nothing"

"""Where the time of learner and actors goes, and one sentence that says what holds up the run."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sb3_gipo.distributed.actor import Collected

WAITS_MUCH = 0.2  # share of its time


class BackendFacts(NamedTuple):
    """Of the actors, at one moment."""

    alive: int
    queue: int  # finished rollouts that wait to be taken
    restarts: int = 0
    lost_rollouts: int = 0  # half-made when their actor failed
    raised: int = 0  # actors that failed with an exception,
    died: int = 0  # whose process ended,
    hung: int = 0  # that were silent for too long
    object_store_mb: float = 0.0  # shared memory in use: rollouts on their way, weights


class Accounts:
    """
    Adds up from one report to the next.

    :param clock: seconds, only forward
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._waited = 0.0
        self._arrived: list[tuple[Collected, int]] = []
        self._updates = 0

    def waited(self, seconds: float) -> None:
        """
        :param seconds: that the learner had nothing to do
        """
        self._waited += seconds

    def arrived(self, collected: Collected, version: int) -> None:
        """
        :param collected: taken over now
        :param version: of the learner's policy
        """
        self._arrived.append((collected, version))

    def updated(self) -> None:
        """An update is over."""
        self._updates += 1

    def report(self, facts: BackendFacts) -> dict[str, float]:
        """
        Begin anew.

        :param facts: of the actors
        :return: what is logged, by key
        """
        now = self._clock()
        seconds = max(now - self._since, 1e-9)
        found: dict[str, float] = {f"async/{name}": value for name, value in facts._asdict().items()}
        found["time/wait"] = self._waited
        found["async/learner_wait"] = self._waited / seconds
        found["async/updates_per_second"] = self._updates / seconds
        if self._arrived:
            rollouts = [collected.rollout for collected, _ in self._arrived]
            found["async/steps_per_second"] = sum(rollout.size for rollout in rollouts) / seconds
            idle = sum(collected.idle for collected, _ in self._arrived)
            found["async/actor_wait"] = idle / max(idle + sum(collected.seconds for collected, _ in self._arrived), 1e-9)
            gaps = np.concatenate([(version - each.rollout.policy_version).ravel() for each, version in self._arrived])
            found["lag/collected_mean"], found["lag/collected_max"] = float(gaps.mean()), float(gaps.max())
        self._since, self._waited, self._arrived, self._updates = now, 0.0, [], 0
        return found


def describe(
    backend: str, num_actors: int, envs_per_actor: int, n_steps: int, publish_every: int, replay_ratio: float | str | None
) -> str:
    """
    :param backend: argument of ``AsyncGIPO``, as all others
    :param num_actors: how many collect
    :param envs_per_actor: environments of each
    :param n_steps: of each environment in a rollout
    :param publish_every: updates between two publications of the policy
    :param replay_ratio: transitions drawn for each one collected
    :return: what is going to happen, for the start of a run
    """
    where = 'in this process (`backend="serial"`)' if backend == "serial" else "in processes of Ray"
    if replay_ratio is None:
        update = "for every rollout"
    elif replay_ratio == "max":
        update = "as fast as possible"
    else:
        update = f"whenever {replay_ratio} transitions may be drawn for each one collected"
    size = n_steps * envs_per_actor
    return (
        f"Actors: {num_actors}, {where}, with {envs_per_actor} environments each; rollouts of {size} steps, an update "
        f"{update}, a policy published every {publish_every} updates."
    )


def bottleneck(learner_wait: float, actor_wait: float) -> str:
    """
    :param learner_wait: share of its time that the learner waits for data
    :param actor_wait: share of their time that actors wait for the learner to take their rollouts
    :return: a sentence
    """
    learner, actors = f"{100 * learner_wait:.0f} %", f"{100 * actor_wait:.0f} %"
    if actor_wait > WAITS_MUCH and actor_wait >= learner_wait:
        return (
            f"The learner is the bottleneck: the actors wait {actors} of their time. Fewer minibatches (`gradient_steps`, "
            "`replay_ratio`), `compile=True`, a GPU for a large network, or fewer actors."
        )
    if learner_wait > WAITS_MUCH:
        return (
            f"The actors are the bottleneck: the learner waits {learner} of its time. More actors, or more minibatches for "
            "what they give (`replay_ratio`)."
        )
    return f"Learner and actors keep each other busy: they wait {learner} and {actors} of their time."

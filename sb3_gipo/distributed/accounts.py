"""Where the time of learner and actors goes, and one sentence that says what holds up the run."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sb3_gipo.distributed.actor import Collected
from sb3_gipo.rollouts.replay import RolloutReplayBuffer

if TYPE_CHECKING:
    from sb3_gipo.distributed.async_gipo import AsyncGIPO

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


class _Arrived(NamedTuple):
    """Of a rollout, which itself is not kept here."""

    size: int
    seconds: float
    idle: float
    gap_mean: float
    gap_max: float


class Accounts:
    """
    Adds up from one report to the next.

    :param clock: seconds, only forward
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._waited = 0.0
        self._arrived: list[_Arrived] = []
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
        gaps = version - collected.rollout.policy_version
        numbers = float(gaps.mean()), float(gaps.max())
        self._arrived.append(_Arrived(collected.rollout.size, collected.seconds, collected.idle, *numbers))

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
            sizes = np.array([each.size for each in self._arrived])
            found["async/steps_per_second"] = float(sizes.sum()) / seconds
            idle = sum(each.idle for each in self._arrived)
            found["async/actor_wait"] = idle / max(idle + sum(each.seconds for each in self._arrived), 1e-9)
            found["lag/collected_mean"] = float(np.average([each.gap_mean for each in self._arrived], weights=sizes))
            found["lag/collected_max"] = max(each.gap_max for each in self._arrived)
        self._since, self._waited, self._arrived, self._updates = now, 0.0, [], 0
        return found


def stored_lag(replay: RolloutReplayBuffer) -> dict[str, float]:
    """
    :param replay: of the learner
    :return: version gap of what is stored, mean and largest, as they are logged; nothing where nothing is
    """
    if len(replay) == 0:
        return {}
    gaps = replay.policy_version - replay.gather("policy_version", np.arange(len(replay)))
    return {"replay/version_gap_mean": float(gaps.mean()), "replay/version_gap_max": int(gaps.max())}


def describe(model: "AsyncGIPO") -> str:
    """
    :param model: that is about to learn
    :return: what is going to happen
    """
    where = 'in this process (`backend="serial"`)' if model.backend == "serial" else "in processes of Ray"
    if model.replay_ratio is None:
        update = "for every rollout"
    elif model.replay_ratio == "max":
        update = "as fast as possible"
    else:
        update = f"whenever {model.replay_ratio} transitions may be drawn for each one collected"
    size = model.n_steps * model.envs_per_actor
    return (
        f"Actors: {model.num_actors}, {where}, with {model.envs_per_actor} environments each; rollouts of {size} steps, an "
        f"update {update}, a policy published every {model.publish_every} updates."
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

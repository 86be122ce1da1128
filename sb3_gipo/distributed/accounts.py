"""Where the time of learner and actors goes, and one sentence that says what holds up the run."""

import dataclasses
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


@dataclasses.dataclass
class _Sums:
    """Over a stretch of time."""

    since: float
    waited: float = 0.0  # seconds that the learner had nothing to do
    idle: float = 0.0  # seconds that actors had nothing to do before what arrived
    busy: float = 0.0  # and that it took them
    updates: int = 0
    steps: int = 0
    gaps: float = 0.0  # of all steps together
    largest_gap: float = 0.0

    def learner_wait(self, now: float) -> float:
        return self.waited / max(now - self.since, 1e-9)

    def actor_wait(self) -> float:
        return self.idle / max(self.idle + self.busy, 1e-9)


class Accounts:
    """
    Adds up since the log was written last, and, for what holds up the run, since the first rollout.

    :param clock: seconds, only forward
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._made = clock, clock()
        self._period = _Sums(self._made)
        self._whole: _Sums | None = None  # until something has arrived, processes are being started
        self.reports = 0

    def waited(self, seconds: float) -> None:
        """
        :param seconds: that the learner had nothing to do
        """
        for sums in self._both():
            sums.waited += seconds

    def arrived(self, collected: Collected, version: int) -> None:
        """
        :param collected: taken over now
        :param version: of the learner's policy
        """
        now = self._clock()
        if self._whole is None:
            self._whole = _Sums(now)
        gaps = version - collected.rollout.policy_version
        idle = min(collected.idle, now - self._made)  # not the pause before this `learn`
        for sums in self._both():
            sums.idle += idle
            sums.busy += collected.seconds
            sums.steps += collected.rollout.size
            sums.gaps += float(gaps.sum())
            sums.largest_gap = max(sums.largest_gap, float(gaps.max()))

    def updated(self) -> None:
        """An update is over."""
        for sums in self._both():
            sums.updates += 1

    def report(self, facts: BackendFacts) -> dict[str, float]:
        """
        :param facts: of the actors
        :return: what is logged, by key: since :meth:`begin`
        """
        self.reports += 1
        now, sums = self._clock(), self._period
        seconds = max(now - sums.since, 1e-9)
        found: dict[str, float] = {f"async/{name}": value for name, value in facts._asdict().items()}
        found["time/wait"] = sums.waited
        found["async/learner_wait"] = sums.learner_wait(now)
        found["async/updates_per_second"] = sums.updates / seconds
        found["async/steps_per_second"] = sums.steps / seconds
        if sums.steps:
            found["async/actor_wait"] = sums.actor_wait()
            found["lag/collected_mean"] = sums.gaps / sums.steps
            found["lag/collected_max"] = sums.largest_gap
        return found

    def begin(self) -> None:
        """What was reported is written: from now on anew."""
        self._period = _Sums(self._clock())

    def waits(self) -> tuple[float, float]:
        """
        :return: shares of their time that the learner and the actors waited, since the first rollout arrived
        """
        if self._whole is None:
            return 0.0, 0.0
        return self._whole.learner_wait(self._clock()), self._whole.actor_wait()

    def _both(self) -> list[_Sums]:
        return [self._period] if self._whole is None else [self._period, self._whole]


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
    every = "every update" if model.publish_every == 1 else f"every {model.publish_every} updates"
    return (
        f"{_number(model.num_actors, 'actor')} {where}, {_number(model.envs_per_actor, 'environment')} each; rollouts of "
        f"{_number(model.n_steps, 'step')} of each environment, an update {update}, a policy published after {every}."
    )


def _number(number: int, of: str) -> str:
    return f"{number} {of}" if number == 1 else f"{number} {of}s"


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

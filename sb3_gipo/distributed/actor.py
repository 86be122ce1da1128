"""An actor: environments, a copy of the policy, and SB3's loop, or one like it. Knows nothing of where it runs."""

import copy
import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo.distributed import moments, published
from sb3_gipo.distributed.collector import collector
from sb3_gipo.distributed.published import Published
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.types import Rollout

# Of the info at the end of an episode: what ``Monitor`` and SB3 read, and whatever else of the environment's is small.
KEPT_INFO = ("episode", "is_success", "TimeLimit.truncated")
SMALL = (bool, int, float, str, np.bool_, np.number)
Pull = Literal["rollout", "step"]
NOTHING_TAKEN = -1  # version of an actor that has not seen a published policy yet


@dataclasses.dataclass(frozen=True)
class ActorPlan:
    """
    How to build an actor; travels to wherever it runs.

    :param make_env: of the number of an actor, and of how often it was started before: its environments, seeded
    :param policy: class of the policy
    :param settings: arguments of GIPO that matter to who acts: ``n_steps``, ``policy_kwargs``, gSDE, ``ratio_level``...
    :param seed: of the run
    :param pull: when an actor takes a policy it is offered: before its next ``"rollout"``, or before its next ``"step"``
    :param life: how often all actors of the run were made before
    :param on_arrays: whether a policy of plain layers acts on arrays, with random numbers that are not torch's
    """

    make_env: Callable[[int, int], VecEnv]
    policy: type[ActorCriticPolicy]
    settings: dict[str, Any]
    seed: int | None = None
    pull: Pull = "rollout"
    life: int = 0
    on_arrays: bool = False


class EpisodeEnd(NamedTuple):
    """Of one environment at the end of an episode."""

    step: int  # of the rollout
    environment: int
    info: dict[str, Any]  # of KEPT_INFO what there was, and numbers and words


class Collected(NamedTuple):
    """One rollout and what happened on the way."""

    rollout: Rollout
    ends: list[EpisodeEnd]
    before: dict[str, Any] | None  # statistics of VecNormalize that the learner knew of
    after: dict[str, Any] | None  # and with what was seen since
    version: int  # that the actor held at its end
    seconds: float  # it took
    idle: float  # seconds that the actor had nothing to do before it


class _Ends(BaseCallback):
    """Notes how episodes ended, and when the latest step was made."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[EpisodeEnd] = []
        self._step = 0
        self.latest = time.monotonic()

    def _on_rollout_start(self) -> None:
        self.ends, self._step = [], 0
        self.latest = time.monotonic()

    def _on_step(self) -> bool:
        self.latest = time.monotonic()
        if np.count_nonzero(self.locals["dones"]):
            self._note_ends()
        self._step += 1
        return True

    def _note_ends(self) -> None:
        for index in np.flatnonzero(self.locals["dones"]):
            info = self.locals["infos"][index]
            kept = {key: value for key, value in info.items() if key in KEPT_INFO or isinstance(value, SMALL)}
            # a copy: an environment may go on writing into what it gave
            self.ends.append(EpisodeEnd(self._step, int(index), copy.deepcopy(kept)))


class _Pull(BaseCallback):
    """Takes, between two steps, what was offered meanwhile."""

    def __init__(self, take_offered: Callable[[], None]) -> None:
        super().__init__()
        self._take_offered = take_offered

    def _on_step(self) -> bool:
        self._take_offered()
        return True


class Actor:
    """
    :param plan: how to build it
    :param index: its number
    :param times_started: how often it was started before
    """

    _offered: Published | None = None
    _ended: float | None = None  # time at which the latest rollout was finished

    def __init__(self, plan: ActorPlan, index: int, times_started: int = 0) -> None:
        self.index = index
        self._model = collector(plan.policy, env=plan.make_env(index, times_started), device="cpu", **plan.settings)
        assert self._model.env is not None
        if plan.on_arrays:
            self._model.act_on_arrays()
        self._model.policy_version = NOTHING_TAKEN
        self._normalizer = Normalizer(self._model.env)
        self._known = self._normalizer.statistics()  # what the learner knows of what was seen here
        self._ends = _Ends()
        # after the recorder, which has noted by then with which version the step was made
        pulls = [_Pull(self._take_offered)] if plan.pull == "step" else []
        _, self._callback = self._model._setup_learn(1, [self._ends, *pulls])
        self._callback.on_training_start({}, {})

    @property
    def version(self) -> int:
        """Of the policy it holds."""
        return self._model.policy_version

    def silent(self) -> float:
        """
        May be called by another thread while this one collects.

        :return: seconds since its latest step, or since it has begun a rollout
        """
        return time.monotonic() - self._ends.latest

    def offer(self, weights: Published) -> None:
        """
        May be called by another thread while this one collects.

        :param weights: the policy to act with from the next rollout or step on
        """
        self._offered = weights

    def _take_offered(self) -> None:
        weights = self._offered
        if weights is None or weights.version == self.version:
            return
        published.take(self._model.policy, weights)
        self._model.policy_version = weights.version
        if weights.statistics is None or self._known is None:
            return
        seen = self._normalizer.statistics()
        assert seen is not None
        self._normalizer.restore(moments.merge(weights.statistics, self._known, seen))
        self._known = weights.statistics

    def collect(self) -> Collected:
        """
        :return: the next rollout
        :raises NonFiniteStepError: for a number that is not finite
        """
        start, model = time.perf_counter(), self._model
        idle = 0.0 if self._ended is None else start - self._ended
        self._take_offered()
        # Statistics may be others than at its latest step: what the policy saw then would not lead back to the raw one.
        model._last_obs = self._normalizer.seen_now(model._last_obs)  # type: ignore[arg-type,assignment]
        assert model.env is not None
        model.collect_rollouts(model.env, self._callback, model.rollout_buffer, model.n_steps)
        assert model.collected is not None
        rollout = dataclasses.replace(model.collected, actor_id=self.index)
        model.collected = None
        before, self._known = self._known, self._normalizer.statistics()
        self._ended = time.perf_counter()
        return Collected(rollout, self._ends.ends, before, self._known, self.version, self._ended - start, idle)

    def close(self) -> None:
        """Close the environments."""
        assert self._model.env is not None
        self._model.env.close()

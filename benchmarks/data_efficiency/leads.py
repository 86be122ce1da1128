"""
Ideas that the package does not have, as small subclasses, so that a study can say what they are worth (``leads.yaml``).

Each changes one thing of GIPO with its defaults. What pays becomes an option of the package; what does not stays here, with
its numbers in the README beside this file. Resume and save are not supported: a study's runs are all or nothing.
"""

import copy
import math
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch as th

from sb3_gipo import GIPO
from sb3_gipo.learner.batches import replay_source, taken
from sb3_gipo.learner.engine import Engine
from sb3_gipo.learner.replay_targets import ReplayTargets
from sb3_gipo.learner.step import Step
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import ReplayBatch

Epochs = Iterator[Generator[ReplayBatch, None, None]]


class SigmaAuto(GIPO):
    """
    The width of the trust weight holds the divergence from the behaviour policies at a target, as SAC's temperature holds the
    entropy.

    :param target: of ``train/kl_behaviour``, above 0
    :param rate: of the logarithm of the width, for each update
    """

    def __init__(self, *args: Any, target: float, rate: float = 0.1, **kwargs: Any) -> None:
        self.target_divergence, self.rate = target, rate
        self.log_factor = 0.0  # of the width to ``sigma``
        super().__init__(*args, **kwargs)

    def _trust_width(self, name: str) -> float:
        return super()._trust_width(name) * math.exp(self.log_factor)

    def train(self) -> None:
        """One iteration, and a wider or narrower weight after it."""
        super().train()
        assert self.latest_update is not None
        measured = float(self.latest_update.metrics["train/kl_behaviour"])
        if measured > 0:  # the first update has no old data
            step = float(np.clip(math.log(self.target_divergence / measured), -1.0, 1.0))
            # between a twentieth and ten times the width that was given
            self.log_factor = float(np.clip(self.log_factor + self.rate * step, math.log(0.05), math.log(10.0)))


class _ActorEvery(Engine):
    """Its steps leave the actor out of all minibatches but one in ``every``."""

    def __init__(self, compiled: bool, every: int) -> None:
        super().__init__(compiled)
        self._every = every

    def step(self, policy: Any, parameters: Any, how: Any, batch_size: int) -> Step:
        """As :meth:`Engine.step`."""
        actor = policy.optimizer.param_groups[0]
        rate, number = actor["lr"], 0
        both = super().step(policy, parameters, how, batch_size)
        actor["lr"] = 0.0  # a compiled step takes the rate when it is made, one that is not when it is called
        critic_only = super().step(policy, parameters, how, batch_size)

        def step(batch: ReplayBatch) -> Any:
            nonlocal number
            number += 1
            actor["lr"] = rate if number % self._every == 0 else 0.0
            outcome = (both if number % self._every == 0 else critic_only)(batch)
            actor["lr"] = rate
            return outcome

        return step


class ActorEvery(GIPO):
    """
    So many steps of the critic for one of the actor.

    :param every: minibatches of the critic for one of the actor; Adam's moments of the actor see all of them
    :param work: times as many minibatches as GIPO's
    """

    def __init__(self, *args: Any, every: int, work: int = 1, **kwargs: Any) -> None:
        self.every, self.work = every, work
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self._engine = _ActorEvery(self.compile, self.every)

    def _n_gradient_steps(self) -> int:
        return self.work * super()._n_gradient_steps()


class ByAge(GIPO):
    """
    Minibatches that are not drawn uniformly.

    :param fresh: share of every minibatch that is drawn from the newest rollout
    :param decay: of the probability to be drawn, for each version that a transition is old
    """

    def __init__(self, *args: Any, fresh: float = 0.0, decay: float = 1.0, **kwargs: Any) -> None:
        self.fresh, self.decay = fresh, decay
        super().__init__(*args, **kwargs)

    def _epochs(self, replay: RolloutReplayBuffer | None, targets: ReplayTargets | None) -> Epochs:
        assert replay is not None
        assert targets is not None
        source = replay_source(replay, targets, Normalizer(self.env), self.device)
        gap = source.version_gap.numpy()
        batch = min(self.batch_size, len(replay))
        new = round(self.fresh * batch)
        newest = np.flatnonzero(gap == gap.min())
        chances = self.decay ** gap.astype(np.float64)
        n_batches = self._n_gradient_steps()
        drawn = replay.rng.choice(len(replay), (n_batches, batch - new), p=chances / chances.sum())
        fresh = replay.rng.choice(newest, (n_batches, new))
        yield taken(source, np.concatenate([drawn, fresh], axis=1))


class Refreshed(GIPO):
    """
    Targets that follow the critic: computed anew several times in an update.

    :param parts: of an update
    """

    def __init__(self, *args: Any, parts: int, **kwargs: Any) -> None:
        self.parts = parts
        super().__init__(*args, **kwargs)

    def _epochs(self, replay: RolloutReplayBuffer | None, targets: ReplayTargets | None) -> Epochs:
        assert replay is not None
        assert targets is not None
        n_batches, batch = self._n_gradient_steps(), min(self.batch_size, len(replay))
        positions = list(replay.sample(n_batches, batch))
        for part in range(self.parts):
            if part > 0:
                start = targets.log_prob  # of the policy at the start of the update
                targets = self._compute_targets(replay)._replace(log_prob=start)
                self.policy.set_training_mode(True)
            source = replay_source(replay, targets, Normalizer(self.env), self.device)
            yield taken(source, positions[part * n_batches // self.parts : (part + 1) * n_batches // self.parts])


class PolicyEWMA(GIPO):
    """
    Trust is measured against an average of past policies (PPO-EWMA, arXiv 2110.00641); needs ``trust_region="iteration"``.

    :param average: decay of the average of the parameters, for each update
    """

    def __init__(self, *args: Any, average: float, **kwargs: Any) -> None:
        self.average = average
        self._centre: Any = None
        super().__init__(*args, **kwargs)

    def _compute_targets(self, replay: RolloutReplayBuffer) -> ReplayTargets:
        targets = super()._compute_targets(replay)
        if self._centre is None:
            self._centre = copy.deepcopy(self.policy)
        with th.no_grad():
            for mean, now in zip(self._centre.parameters(), self.policy.parameters(), strict=True):
                mean.lerp_(now, 1.0 - self.average)
        current, self.policy = self.policy, self._centre
        try:
            return targets._replace(log_prob=super()._compute_targets(replay).log_prob)
        finally:
            self.policy = current

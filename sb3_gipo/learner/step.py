"""One gradient step on one minibatch."""

from collections.abc import Callable
from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo.learner.objective import ObjectiveSettings, ObjectiveTerms, objective
from sb3_gipo.learner.parameters import Optimization
from sb3_gipo.rollouts.types import ReplayBatch


class StepSettings(NamedTuple):
    """What a step needs to know beside the minibatch."""

    objective: ObjectiveSettings
    max_grad_norm: float
    kl_limit: float | None  # no step beyond this divergence from the policy at the start of the update


class StepOutcome(NamedTuple):
    """What a step did."""

    terms: ObjectiveTerms  # before the step
    grad_norm: th.Tensor | None  # before clipping; ``None``: none was asked for, the divergence is beyond its limit
    finite: bool | th.Tensor  # whether the gradient was; if not, nothing was changed

    @property
    def beyond_limit(self) -> bool:
        """Whether the update has to stop here, before this step."""
        return self.grad_norm is None


Step = Callable[[ReplayBatch], StepOutcome]


class EagerStep:
    """
    The step, operation by operation.

    :param policy: to train
    :param optimization: of its parameters, entered
    :param how: the rest
    """

    def __init__(self, policy: ActorCriticPolicy, optimization: Optimization, how: StepSettings) -> None:
        self._policy = policy
        self._optimization = optimization
        self._how = how

    def __call__(self, batch: ReplayBatch) -> StepOutcome:
        """
        :param batch: minibatch
        :return: what the step did
        """
        terms, slope = objective(self._policy, batch, self._how.objective)
        # the limit is the only number of a step that is read while the update runs, and only where there is one
        if self._how.kl_limit is not None and bool(terms.divergence() > self._how.kl_limit):
            return StepOutcome(terms, None, True)
        norm, finite = self._optimization.step(slope, self._how.max_grad_norm)
        return StepOutcome(terms, norm, finite)

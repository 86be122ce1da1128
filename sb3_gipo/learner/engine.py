"""How a model acts and learns on this machine: operation by operation, or compiled. What it computes is decided elsewhere."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo.learner.acting import CompiledActing
from sb3_gipo.learner.compiled import CompiledSteps
from sb3_gipo.learner.parameters import Optimization, optimization
from sb3_gipo.learner.step import EagerStep, Step, StepSettings


class Engine:
    """
    Keeps from update to update what is costly to make: the room for parameters as vectors, and compiled graphs.

    :param compiled: whether to compile
    """

    def __init__(self, compiled: bool) -> None:
        self.compiled = compiled
        self._steps = CompiledSteps()
        self._acting: CompiledActing | None = None
        self._optimization: Optimization | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine, (self.compiled,)  # graphs are made anew where they are needed

    @property
    def compile_seconds(self) -> float:
        """Spent on compiling so far."""
        return self._steps.seconds + (0.0 if self._acting is None else self._acting.seconds)

    def acting(self, policy: ActorCriticPolicy, reads_distribution: bool) -> AbstractContextManager[Any]:
        """
        :param policy: that acts during the next rollout
        :param reads_distribution: whether more is read from it than ``policy.forward`` returns
        :return: a context for that rollout
        """
        # noise of gSDE is no input of the policy
        if not self.compiled or reads_distribution or policy.use_sde or policy.device.type != "cpu":
            return nullcontext()
        if self._acting is None or self._acting.policy is not policy:
            self._acting = CompiledActing(policy)
        return self._acting

    def optimization(self, policy: ActorCriticPolicy) -> Optimization:
        """
        :param policy: to train
        :return: of its parameters, to be entered
        """
        self._optimization = optimization(policy, self._optimization)
        return self._optimization

    def step(self, policy: ActorCriticPolicy, parameters: Optimization, how: StepSettings, batch_size: int) -> Step:
        """
        :param policy: to train
        :param parameters: :meth:`optimization`, entered
        :param how: the rest
        :param batch_size: of a whole minibatch
        :return: the step for one update
        """
        if self.compiled:
            return self._steps.step(policy, parameters, how, batch_size)
        return EagerStep(policy, parameters, how)

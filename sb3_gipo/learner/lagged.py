"""Acting with a policy that is some versions old, as an actor does whose weights arrive late."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy


class LaggedActing:
    """
    Keeps the parameters of the last versions and lends the policy those of ``lag`` versions ago whenever it is asked to act or
    to draw its exploration noise; in between, the policy is the current one, also for callbacks that evaluate it. A context,
    for the time of a rollout.

    :param lag: how many versions old the policy is that acts, above 0; as many as there are at the start of training
    """

    def __init__(self, lag: int) -> None:
        self.lag = lag
        self._past: deque[tuple[int, list[th.Tensor]]] = deque(maxlen=lag + 1)
        self._policy: ActorCriticPolicy | None = None
        self._replaced: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        # on the CPU: a model may be loaded where there is no GPU
        past = deque([(version, [tensor.cpu() for tensor in tensors]) for version, tensors in self._past], self.lag + 1)
        return {"lag": self.lag, "_past": past, "_policy": None, "_replaced": {}}

    @property
    def version(self) -> int:
        """Of the policy that acts."""
        return self._past[0][0]

    def publish(self, policy: ActorCriticPolicy, version: int) -> None:
        """
        :param policy: as it is after its latest update
        :param version: its number; one that is known already (a rollout that was left is taken up again) changes nothing
        """
        if self._past and self._past[-1][0] >= version:
            return
        self._past.append((version, [tensor.detach().clone() for tensor in tensors_of(policy)]))

    def __call__(self, policy: ActorCriticPolicy) -> "LaggedActing":
        """
        :param policy: that acts during the next rollout
        :return: the context for it
        """
        self._policy = policy
        return self

    def __enter__(self) -> "LaggedActing":
        assert self._policy is not None
        for name in ("forward", "reset_noise"):
            self._replaced[name] = vars(self._policy).get(name)
            vars(self._policy)[name] = self._with_past(getattr(self._policy, name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, before in self._replaced.items():
            if before is None:
                del vars(self._policy)[name]
            else:
                vars(self._policy)[name] = before
        self._policy, self._replaced = None, {}

    def _with_past(self, method: Callable[..., Any]) -> Callable[..., Any]:
        assert self._policy is not None
        tensors = tensors_of(self._policy)
        past = [then.to(now.device) for then, now in zip(self._past[0][1], tensors, strict=True)]

        def call(*args: Any, **kwargs: Any) -> Any:
            present = [tensor.data for tensor in tensors]
            try:
                for tensor, then in zip(tensors, past, strict=True):
                    tensor.data = then
                return method(*args, **kwargs)
            finally:
                for tensor, now in zip(tensors, present, strict=True):
                    tensor.data = now

        return call


def tensors_of(policy: ActorCriticPolicy) -> list[th.Tensor]:
    """
    :param policy: of any kind
    :return: all that makes it act as it does: parameters, then buffers
    """
    return [*policy.parameters(), *policy.buffers()]

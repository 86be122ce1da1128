"""What the policy does at every environment step, as one compiled graph."""

import time
from collections.abc import Hashable
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch.func import functional_call

from sb3_gipo.learner.graphs import Graph, OtherNumbersError, all_close, compile_graph, layout, refusal, untouched
from sb3_gipo.policies import unchecked_distributions

# actions, values and log-probabilities, as ``policy.forward`` returns them
Step = tuple[th.Tensor, ...]


class CompiledActing:
    """
    ``policy.forward`` for the observations of one vectorised step, sampling included, compiled when it is first called and put
    in the policy's place for the time of a rollout. It draws the same random numbers as the policy itself, and sees whatever
    happens to the parameters meanwhile. At the first step of every rollout both are asked, and have to agree.

    :param policy: that acts; without gSDE, whose noise is no input of the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.seconds = 0.0  # spent on compiling so far
        self.policy = policy
        self._graphs: dict[Any, Graph] = {}  # by the layout of their arguments
        self._refused = "forward" in vars(policy)  # somebody else has put something in its place
        self._agreed = False
        self._inside = False
        self._weights: list[th.Tensor] = []
        self._layout: Hashable = None

    def __reduce__(self) -> tuple[Any, ...]:
        # a policy that is copied or pickled inside a rollout acts as it is written
        return CompiledActing, (self.policy,)

    def __enter__(self) -> "CompiledActing":
        if not self._refused and "forward" not in vars(self.policy):
            self._weights = [*self.policy.parameters(), *self.policy.buffers()]
            self._layout = layout(self._weights)
            self._inside, self._agreed = True, False
            vars(self.policy)["forward"] = self._forward
        return self

    def __exit__(self, *_: object) -> None:
        if self._inside:
            vars(self.policy).pop("forward", None)
            self._inside = False

    def _forward(self, obs: PyTorchObs, deterministic: bool = False) -> Step:
        if not self._inside or self._refused or deterministic or self.policy.training or th.is_grad_enabled():
            return self._as_written(obs, deterministic)
        columns = _columns(obs)
        arguments, key = [*self._weights, *columns], (self._layout, layout(columns))
        if key not in self._graphs or not self._agreed:
            return self._ask_both(obs, arguments, key)
        actions, values, log_probs = self._graphs[key](*arguments)
        return actions, values, log_probs

    def _as_written(self, obs: PyTorchObs, deterministic: bool = False) -> Step:
        result: Step = type(self.policy).forward(self.policy, obs, deterministic)  # type: ignore[arg-type]  # SB3 says a tensor
        return result

    def _ask_both(self, obs: PyTorchObs, arguments: list[th.Tensor], key: Any) -> Step:
        """
        The first step of a rollout, as it is written; if the graph does not say the same, it is given up. Also leaves in
        ``policy.action_dist`` the distribution of an observation, and not of a minibatch with its gradients.
        """
        with th.random.fork_rng(devices=[]):
            expected = self._as_written(obs)
            after = th.random.get_rng_state()
        try:
            if key not in self._graphs:
                start = time.perf_counter()
                with unchecked_distributions(), untouched(self.policy), th.random.fork_rng(devices=[]):
                    self._graphs[key] = self._record(obs, arguments)
                self.seconds += time.perf_counter() - start
            if not all_close(expected, self._graphs[key](*arguments)):
                raise OtherNumbersError
            self._agreed = True
        except Exception as error:  # of a compiler or a policy: anything
            self._refused = True
            refusal(error, "acts")
        th.random.set_rng_state(after)
        return expected

    def _record(self, obs: PyTorchObs, arguments: list[th.Tensor]) -> Graph:
        names = [f"policy.{name}" for name, _ in [*self.policy.named_parameters(), *self.policy.named_buffers()]]
        keys = sorted(obs) if isinstance(obs, dict) else None
        module = _Acting(self.policy)

        def step(*tensors: th.Tensor) -> Step:
            seen = tensors[len(names) :]
            given: Any = seen[0] if keys is None else dict(zip(keys, seen, strict=True))
            swapped: dict[str, Any] = dict(zip(names, tensors[: len(names)], strict=True))
            # modules that go by several names are one: with `tie_weights` torch would not put everything back
            result: Step = functional_call(module, swapped, (given,), tie_weights=False)
            return result

        return compile_graph(step, [argument.detach() for argument in arguments])


class _Acting(th.nn.Module):
    """``policy.forward`` as its class defines it: on the policy itself it is replaced."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Any) -> Step:
        result: Step = type(self.policy).forward(self.policy, obs)
        return result


def _columns(obs: PyTorchObs) -> list[th.Tensor]:
    return [obs[key] for key in sorted(obs)] if isinstance(obs, dict) else [obs]

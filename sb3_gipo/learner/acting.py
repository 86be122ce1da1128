"""What the policy does at every environment step, as one compiled graph."""

import copy
import time
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch.func import functional_call

from sb3_gipo.learner.graphs import Graph, OtherNumbersError, all_close, compile_graph, distribution_kept, layout, refusal
from sb3_gipo.policies import unchecked_distributions

# actions, values and log-probabilities, as ``policy.forward`` returns them
Step = tuple[th.Tensor, ...]


class CompiledActing:
    """
    ``policy.forward`` for the observations of one vectorised step, sampling included, compiled when it is first called and put
    in the policy's place for the time of a rollout. It draws the same random numbers as the policy itself.

    :param policy: that acts; without gSDE, whose noise is no input of the policy
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.seconds = 0.0  # spent on compiling so far
        self.policy = policy
        self._graphs: dict[Any, Graph | None] = {}  # by the shapes of the observations; ``None``: cannot be had
        self._weights: list[th.Tensor] = []
        self._left = self._first = True

    def __enter__(self) -> "CompiledActing":
        parameters = [parameter.detach() for parameter in self.policy.parameters()]
        # one vector: the fewer arguments a graph has, the less it takes to call it
        self._weights = [th.cat([parameter.reshape(-1) for parameter in parameters]), *self.policy.buffers()]
        vars(self.policy)["forward"] = self._forward
        self._left, self._first = False, True
        return self

    def __exit__(self, *_: object) -> None:
        vars(self.policy).pop("forward", None)
        self._left = True

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledActing":
        # of a policy that is copied inside a rollout, the copy acts as it is written
        return CompiledActing(copy.deepcopy(self.policy, memo))

    def _forward(self, obs: PyTorchObs, deterministic: bool = False) -> Step:
        observations = list(obs.values()) if isinstance(obs, dict) else [obs]
        if self._left or deterministic or self.policy.training or th.is_grad_enabled():
            return self._as_written(obs, deterministic)
        key = layout([self._weights[0], *observations])
        if key not in self._graphs:
            self._graphs[key] = self._compile(obs, observations)
        graph = self._graphs[key]
        if graph is None:
            return self._as_written(obs)
        if self._first:
            # once a rollout as it is written: `policy.action_dist` is of this policy, and not of a minibatch with its graph
            with th.random.fork_rng(devices=[]):
                self._as_written(obs)
            self._first = False
        actions, values, log_probs = graph(*self._weights, *observations)
        return actions, values, log_probs

    def _as_written(self, obs: PyTorchObs, deterministic: bool = False) -> Step:
        result: Step = type(self.policy).forward(self.policy, obs, deterministic)  # type: ignore[arg-type]  # SB3 says a tensor
        return result

    def _compile(self, obs: PyTorchObs, observations: list[th.Tensor]) -> Graph | None:
        start = time.perf_counter()
        try:
            with unchecked_distributions(), distribution_kept(self.policy), th.random.fork_rng(devices=[]):
                graph = self._record(obs, observations)
                with th.random.fork_rng(devices=[]):
                    expected = self._as_written(obs)
                found = graph(*self._weights, *observations)
            if not all_close(expected, found):
                raise OtherNumbersError
            return graph
        except Exception as error:  # of a compiler or a policy: anything
            refusal(error, "acts")
            return None
        finally:
            self.seconds += time.perf_counter() - start

    def _record(self, obs: PyTorchObs, observations: list[th.Tensor]) -> Graph:
        parameters = [(name, parameter.shape, parameter.numel()) for name, parameter in self.policy.named_parameters()]
        buffers = [name for name, _ in self.policy.named_buffers()]
        module = _Acting(self.policy)

        def step(*tensors: th.Tensor) -> Step:
            pieces = th.split(tensors[0], [size for *_, size in parameters])
            swapped = {f"policy.{name}": piece.view(shape) for piece, (name, shape, _) in zip(pieces, parameters, strict=True)}
            swapped.update({f"policy.{name}": tensors[1 + number] for number, name in enumerate(buffers)})
            seen = tensors[1 + len(buffers) :]
            given: Any = dict(zip(obs, seen, strict=True)) if isinstance(obs, dict) else seen[0]
            result: Step = functional_call(module, swapped, (given,), tie_weights=False)
            return result

        return compile_graph(step, [*self._weights, *observations])


class _Acting(th.nn.Module):
    """``policy.forward`` as its class defines it: on the policy itself it is replaced."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Any) -> Step:
        result: Step = type(self.policy).forward(self.policy, obs)
        return result

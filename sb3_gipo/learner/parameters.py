"""
Parameters and their optimizer during one update: through the optimizer, as SB3 does it, or, for Adam, as single vectors.

Parameters, gradients and moments of a small network are some fifty little tensors, and an update spends more time on going
from one to the next than on numbers. As vectors they take one call for each operation of Adam, on a CPU with the same result
to the last bit: each element undergoes what it did before. On a GPU it is torch's fused kernel, the only one that can leave
out a step without anybody waiting to know.
"""

from typing import Any, Protocol

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.optim.adam import adam

from sb3_gipo.learner.critic import CLIPPED_APART
from sb3_gipo.learner.objective import Slope
from sb3_gipo.ops.adam import AdamSettings, AdamState


class Optimization(Protocol):
    """How a loss changes the parameters, for the time of one update: a context that leaves policy and optimizer up to date."""

    def __enter__(self) -> "Optimization": ...

    def __exit__(self, *_: object) -> None: ...

    def step(self, slope: Slope, max_grad_norm: float) -> tuple[th.Tensor, bool | th.Tensor]:
        """
        :param slope: of the loss
        :param max_grad_norm: the gradient is scaled down to this norm
        :return: norm of the gradient before, and whether it was finite: if not, nothing was changed
        """
        ...


def optimization(policy: ActorCriticPolicy, previous: Optimization | None = None) -> Optimization:
    """
    :param policy: to train
    :param previous: that of the last update, used again where it still belongs to this policy
    :return: the fastest way that gives the numbers of its own optimizer
    """
    if not FlatAdam.suits(policy):
        return AnyOptimizer(policy)
    return previous if isinstance(previous, FlatAdam) and previous.belongs_to(policy) else FlatAdam(policy)


def clipped_together(policy: ActorCriticPolicy) -> list[list[th.nn.Parameter]]:
    """
    :param policy: to train
    :return: all parameters, as SB3 clips their gradient; where the critic has a group of the optimizer, it comes by itself
    """
    groups = policy.optimizer.param_groups
    apart = {id(parameter) for group in groups if group.get(CLIPPED_APART) for parameter in group["params"]}
    parts = [[each for each in policy.parameters() if (id(each) in apart) is which] for which in (False, True)]
    return [part for part in parts if part]


class AnyOptimizer:
    """
    Through the methods of the optimizer.

    :param policy: to train
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self._policy = policy
        self._clipped = clipped_together(policy)

    def __enter__(self) -> "AnyOptimizer":
        return self

    def __exit__(self, *_: object) -> None: ...

    def step(self, slope: Slope, max_grad_norm: float) -> tuple[th.Tensor, bool]:
        """As :class:`Optimization`; waits for the device to know whether the gradient is finite."""
        self._policy.optimizer.zero_grad()
        slope.backward()
        return self.clip_and_step(max_grad_norm)

    def clip_and_step(self, max_grad_norm: float) -> tuple[th.Tensor, bool]:
        """
        :param max_grad_norm: the gradients that are there are scaled down to this norm
        :return: as :meth:`step`
        """
        norms = [th.nn.utils.clip_grad_norm_(part, max_grad_norm) for part in self._clipped]
        norm = norms[0] if len(norms) == 1 else th.stack(norms).norm()
        finite = bool(th.isfinite(norm))
        if finite:
            self._policy.optimizer.step()
        return norm, finite


class FlatAdam:
    """
    Adam on vectors. Inside the context, parameters are views of them; on leaving it, whatever the reason, the parameters lie
    where they lay before and the optimizer has its moments back. A minibatch that does not reach every parameter ends it
    early, and the rest of the update goes through the optimizer.

    :param policy: to train, for which :meth:`suits` holds
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self._policy, self._optimizer = policy, policy.optimizer
        self._parameters: list[th.nn.Parameter] = list(policy.parameters())
        self._homes = [parameter.data for parameter in self._parameters]
        self.values = _join(self._homes)
        self.gradient, self.exp_avg, self.exp_avg_sq = (th.zeros_like(self.values) for _ in range(3))
        self.steps = th.zeros((), device=self.values.device)
        self._stretches: list[tuple[int, slice]] = []
        self._clipped: list[list[int]] = []
        self._clipped_stretches: list[tuple[int, slice]] = []
        if self.values.device.type == "cuda":  # a CUDA graph may change only what stays where it is
            for vector in self.state():
                th._dynamo.mark_static_address(vector, guard=False)
        self._plain = AnyOptimizer(policy)
        self._inside = False

    @property
    def ended(self) -> bool:
        """Whether parameters are no longer views of these vectors."""
        return not self._inside

    def belongs_to(self, policy: ActorCriticPolicy) -> bool:
        """
        :param policy: for which :meth:`suits` holds
        :return: whether these vectors have the room for its parameters
        """
        parameters = list(policy.parameters())
        return (
            self._optimizer is policy.optimizer
            and len(parameters) == len(self._parameters)
            and all(one is other for one, other in zip(parameters, self._parameters, strict=True))
            and parameters[0].device == self.values.device
            and parameters[0].dtype == self.values.dtype
        )

    @staticmethod
    def suits(policy: ActorCriticPolicy) -> bool:
        """
        :param policy: to train
        :return: whether its optimizer is torch's Adam, as it comes, over all of its parameters
        """
        optimizer = policy.optimizer
        if type(optimizer) is not th.optim.Adam:
            return False
        group = optimizer.param_groups[0]
        others = [{**other, "params": None, "lr": None, CLIPPED_APART: None} for other in optimizer.param_groups]
        parameters = list(policy.parameters())
        optimized = [id(parameter) for each in optimizer.param_groups for parameter in each["params"]]
        # decay would move a parameter that has no gradient, which the optimizer leaves alone
        special = ("amsgrad", "maximize", "capturable", "differentiable", "weight_decay")
        hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer)
        states = [optimizer.state.get(parameter, {}) for parameter in parameters]
        steps = {float(state["step"]) if state else None for state in states}
        return (
            not hooked
            and not any(group[name] for name in special)
            and all(other == others[0] for other in others)  # but for the learning rate
            and not any(isinstance(each["lr"], th.Tensor) for each in optimizer.param_groups)
            and sorted(optimized) == sorted(id(parameter) for parameter in parameters)
            and all(parameter.requires_grad and parameter.is_contiguous() for parameter in parameters)
            and len({(parameter.dtype, parameter.device) for parameter in parameters}) == 1
            and parameters[0].device.type in ("cpu", "cuda")
            and len(steps) == 1
        )

    def _of_one_group(self) -> list[tuple[int, slice]]:
        """Stretches of the vectors that belong to one group of the optimizer, with its index: one learning rate each."""
        groups = self._optimizer.param_groups
        index = {id(parameter): number for number, group in enumerate(groups) for parameter in group["params"]}
        return self._joined([index[id(parameter)] for parameter in self._parameters])

    def _joined(self, labels: list[int]) -> list[tuple[int, slice]]:
        """Neighbouring parameters with one label as one stretch of the vectors."""
        stretches: list[tuple[int, slice]] = []
        end = 0
        for label, parameter in zip(labels, self._parameters, strict=True):
            start, end = end, end + parameter.numel()
            if stretches and stretches[-1][0] == label:
                start = stretches.pop()[1].start
            stretches.append((label, slice(start, end)))
        return stretches

    def __enter__(self) -> "FlatAdam":
        states = [self._optimizer.state.get(parameter, {}) for parameter in self._parameters]
        self.steps.fill_(float(states[0]["step"]) if states[0] else 0.0)
        self._stretches = self._of_one_group()
        self._plain = AnyOptimizer(self._policy)  # the groups may be others than at the last update
        self._clipped = self._places(clipped_together(self._policy))
        self._clipped_stretches = self._of_one_clipping()
        self._homes = [parameter.data for parameter in self._parameters]
        self._load(self.values, self._homes)
        for name, vector in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            self._load(vector, [state[name] for state in states if state])
        for parameter, value in zip(self._parameters, self.parts(self.values), strict=True):
            parameter.data = value
        self._inside = True
        return self

    @staticmethod
    def _load(vector: th.Tensor, tensors: list[th.Tensor]) -> None:
        vector.copy_(_join(tensors)) if tensors else vector.zero_()

    def __exit__(self, *_: object) -> None:
        if not self._inside:
            return
        self._inside = False
        for parameter, home in zip(self._parameters, self._homes, strict=True):
            home.copy_(parameter.data)
            parameter.data = home
        if not float(self.steps):
            return  # not one step: the optimizer has no moments yet
        steps = self.steps if self._group["fused"] else self.steps.cpu()
        moments = zip(self._parameters, self.parts(self.exp_avg), self.parts(self.exp_avg_sq), strict=True)
        for parameter, exp_avg, exp_avg_sq in moments:
            self._optimizer.state[parameter] = {
                "step": steps.clone(),
                "exp_avg": exp_avg.clone(),
                "exp_avg_sq": exp_avg_sq.clone(),
            }

    def _places(self, parts: list[list[th.nn.Parameter]]) -> list[list[int]]:
        place = {id(parameter): index for index, parameter in enumerate(self._parameters)}
        return [[place[id(parameter)] for parameter in part] for part in parts]

    @property
    def clipped_stretches(self) -> list[tuple[int, slice]]:
        """Stretches of the vectors whose gradient is clipped together, with the number of that part."""
        return self._clipped_stretches

    def _of_one_clipping(self) -> list[tuple[int, slice]]:
        if len(self._clipped) == 1:
            return [(0, slice(0, self.values.numel()))]
        part_of = {place: part for part, places in enumerate(self._clipped) for place in places}
        return self._joined([part_of[place] for place in range(len(self._parameters))])

    @property
    def _group(self) -> dict[str, Any]:
        group: dict[str, Any] = self._optimizer.param_groups[0]  # loading a state makes it anew
        return group

    def parts(self, vector: th.Tensor) -> list[th.Tensor]:
        """
        :param vector: one number for each parameter [P]
        :return: views of it in the shapes of the parameters
        """
        pieces = th.split(vector, [home.numel() for home in self._homes])
        return [piece.view(home.shape) for piece, home in zip(pieces, self._homes, strict=True)]

    def step(self, slope: Slope, max_grad_norm: float) -> tuple[th.Tensor, bool | th.Tensor]:
        """As :class:`Optimization`; on a GPU nothing waits: whether the gradient was finite stays there."""
        for parameter in self._parameters:
            parameter.grad = None
        slope.backward()
        gradients = [parameter.grad for parameter in self._parameters]
        reached = [gradient for gradient in gradients if gradient is not None]
        if not self._inside or len(reached) < len(gradients):
            # Adam leaves a parameter alone that a minibatch does not reach, and counts its steps apart
            self.__exit__()
            return self._plain.clip_and_step(max_grad_norm)
        norms = [th.nn.utils.get_total_norm([reached[place] for place in places]) for places in self._clipped]
        norm = norms[0] if len(norms) == 1 else th.stack(norms).norm()
        th.cat([gradient.reshape(-1) for gradient in reached], out=self.gradient)
        finite = th.isfinite(norm)
        # as `clip_grad_norm_`
        scales = [th.clamp(max_grad_norm / (each + 1e-6), max=1.0) for each in norms]
        for index, part in self.clipped_stretches:
            self.gradient[part].mul_(scales[index])
        if self.values.device.type != "cpu":
            self._adam(found_inf=(~finite).float())
            return norm, finite
        if not finite:
            return norm, False
        self._adam()
        return norm, True

    @th.no_grad()
    def _adam(self, found_inf: th.Tensor | None = None) -> None:
        for number, (index, part) in enumerate(self._stretches, start=1):
            # torch counts the step with the parameters; all of ours have one count
            steps = self.steps if number == len(self._stretches) else self.steps.clone()
            self._adam_of(part, steps, self._optimizer.param_groups[index]["lr"], found_inf)

    def _adam_of(self, part: slice, steps: th.Tensor, learning_rate: float, found_inf: th.Tensor | None) -> None:
        group = self._group
        beta1, beta2 = group["betas"]
        adam(
            [self.values[part]],
            [self.gradient[part]],
            [self.exp_avg[part]],
            [self.exp_avg_sq[part]],
            [],
            [steps],
            foreach=False,
            fused=bool(group["fused"]) or found_inf is not None,
            found_inf=found_inf,
            amsgrad=False,
            maximize=False,
            beta1=float(beta1),
            beta2=float(beta2),
            lr=learning_rate,
            weight_decay=0.0,
            eps=group["eps"],
        )

    @property
    def learning_rate(self) -> th.Tensor:
        """Of the day, in float64: a scalar, or, where groups have their own, one for each number [P]."""
        rates = th.tensor([float(group["lr"]) for group in self._optimizer.param_groups], dtype=th.float64)
        if len(rates) == 1:
            return rates[0].to(self.values.device)
        sizes = th.tensor([part.stop - part.start for _, part in self._stretches])
        return rates[[index for index, _ in self._stretches]].repeat_interleave(sizes).to(self.values.device)

    def settings(self) -> AdamSettings:
        """:return: what does not change from step to step"""
        beta1, beta2 = self._group["betas"]
        return AdamSettings(float(beta1), float(beta2), float(self._group["eps"]))

    def state(self) -> AdamState:
        """:return: the vectors themselves, to be changed in place"""
        return AdamState(self.values, self.exp_avg, self.exp_avg_sq, self.steps)


def _join(tensors: list[Any]) -> th.Tensor:
    return th.cat([tensor.detach().reshape(-1) for tensor in tensors])

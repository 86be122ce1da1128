"""
The gradient step as one compiled graph: forward pass, slope, clipping and Adam.

The step is recorded once, operation by operation, from the very functions that :class:`~sb3_gipo.learner.step.EagerStep`
calls, and handed to ``torch.compile``. All numbers that may change from update to update (learning rate, coefficients, widths)
enter as tensors, so that schedules need no second compilation. Before a graph is used, its result is compared with that of the
functions themselves: a policy that draws random numbers in training, or changes as it runs, is found there and left as it is.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.func import functional_call

from sb3_gipo.learner.graphs import (
    OtherNumbersError,
    all_close,
    all_gradients_close,
    compile_graph,
    layout,
    refusal,
    untouched,
)
from sb3_gipo.learner.objective import ObjectiveSettings, ObjectiveTerms, Slope, objective
from sb3_gipo.learner.parameters import FlatAdam, Optimization
from sb3_gipo.learner.step import EagerStep, Step, StepOutcome, StepSettings
from sb3_gipo.ops.adam import AdamSettings, AdamState, adam, clip_gradient
from sb3_gipo.rollouts.types import ReplayBatch

# What may follow a schedule. A coefficient of 0 stays a number: its term is left out.
_COEFFICIENTS = ("clip_range", "clip_range_vf", "sigma", "sigma_neg", "ent_coef", "vf_coef", "kl_coef")
_OPTIONAL = ("ent_coef", "kl_coef")


class CompiledSteps:
    """The graphs of one model, made when they are first needed and kept from update to update."""

    def __init__(self) -> None:
        self.seconds = 0.0  # spent on compiling so far
        self._graphs: dict[Any, RecordedStep | None] = {}  # ``None``: cannot be had
        self._policy: ActorCriticPolicy | None = None

    def step(self, policy: ActorCriticPolicy, optimization: Optimization, how: StepSettings, batch_size: int) -> Step:
        """
        :param policy: to train
        :param optimization: of its parameters, entered
        :param how: the rest
        :param batch_size: of the minibatches that are worth a graph; smaller ones take the step operation by operation
        :return: the step for one update
        """
        eager = EagerStep(policy, optimization, how)
        if not isinstance(optimization, FlatAdam) or _has_hooks(policy):
            reason = (
                "the optimizer is not torch's Adam as it comes (one group of all parameters, none of them frozen, no weight "
                "decay, no amsgrad), or there are hooks on it or on gradients."
            )
            self._refuse("optimizer", ValueError(reason))
            return eager
        if policy is not self._policy:
            self._graphs, self._policy = {}, policy
        return CompiledStep(self, eager, policy, optimization, how, batch_size)

    def graph(
        self, policy: ActorCriticPolicy, optimization: FlatAdam, how: StepSettings, batch: ReplayBatch
    ) -> "RecordedStep | None":
        """
        :return: the graph for these settings, compiled now if need be; ``None`` where there can be none
        """
        # a graph does not look at its arguments: what they are is part of the key
        arguments = [optimization.values, optimization.learning_rate, *policy.buffers(), *_tensors(batch)]
        key = layout(arguments), _static_part(how.objective, optimization.settings(), policy.training)
        if key not in self._graphs:
            start = time.perf_counter()
            try:
                self._graphs[key] = _compile_and_compare(policy, optimization, how, batch)
            except Exception as error:  # of a compiler, a policy or a user's function: anything
                self._refuse(key, error)
            self.seconds += time.perf_counter() - start
        return self._graphs[key]

    def give_up(self, graph: "RecordedStep") -> None:
        """
        :param graph: that no longer does what the policy does
        """
        (key,) = (key for key, kept in self._graphs.items() if kept is graph)
        del self._graphs[key]
        self._refuse(key, OtherNumbersError())

    def _refuse(self, key: Any, error: Exception) -> None:
        if key not in self._graphs:
            self._graphs[key] = None
            refusal(error, "is trained")


class CompiledStep:
    """
    The step of one update. Arguments as in :meth:`CompiledSteps.step`.
    """

    def __init__(
        self,
        graphs: CompiledSteps,
        eager: EagerStep,
        policy: ActorCriticPolicy,
        optimization: FlatAdam,
        how: StepSettings,
        batch_size: int,
    ) -> None:
        self._graphs = graphs
        self._eager = eager
        self._made_for = policy, optimization, how
        self._batch_size = batch_size
        self._kl_limit = how.kl_limit
        self._graph: RecordedStep | None = None
        self._agreed = False
        self._arguments = _arguments(policy, optimization, how)

    def __call__(self, batch: ReplayBatch) -> StepOutcome:
        """
        :param batch: minibatch
        :return: what the step did
        """
        if len(batch.advantages) != self._batch_size or self._made_for[1].ended:
            return self._eager(batch)
        if self._graph is None:
            self._graph = self._graphs.graph(*self._made_for, batch)
            if self._graph is None:
                self._batch_size = -1  # of which there is none
                return self._eager(batch)
        if not self._agreed and not self._agree(batch):
            return self._eager(batch)
        done = self._graph(self._arguments, batch)
        # the one who decided that the step was not taken says so
        if self._kl_limit is not None and bool(done.beyond):
            return StepOutcome(done.terms, None, True)
        return StepOutcome(done.terms, done.grad_norm, bool(done.finite) if done.finite.device.type == "cpu" else done.finite)

    def _agree(self, batch: ReplayBatch) -> bool:
        """Whether the graph still says of this minibatch what the policy and the surrogate say; if not, it is given up."""
        assert self._graph is not None
        policy, optimization, how = self._made_for
        with th.no_grad():
            expected, _ = objective(policy, batch, how.objective)
        with put_back(optimization.state()):
            self._agreed = all_close(expected, self._graph(self._arguments, batch).terms)
        if not self._agreed:
            self._graphs.give_up(self._graph)
            self._graph, self._batch_size = None, -1  # of which there is none
        return self._agreed


class RecordedOutcome(NamedTuple):
    """What a graph says of a step."""

    terms: ObjectiveTerms
    grad_norm: th.Tensor
    finite: th.Tensor  # whether the gradient was
    beyond: th.Tensor  # whether the divergence was beyond its limit


class RecordedStep:
    """
    The graph of one step.

    :param policy: to train
    :param optimization: of its parameters, entered
    :param how: settings; of the numbers among them only which there are
    :param batch: a minibatch of the size that the graph is for
    """

    def __init__(self, policy: ActorCriticPolicy, optimization: FlatAdam, how: StepSettings, batch: ReplayBatch) -> None:
        self._cuda = policy.device.type == "cuda"
        names = _coefficient_names(how.objective)
        buffers = [f"policy.{name}" for name, _ in policy.named_buffers()]
        parameters = [f"policy.{name}" for name, _ in policy.named_parameters()]
        module, adam_settings = _Objective(policy), optimization.settings()
        stretches = optimization.clipped_stretches

        def step(*tensors: th.Tensor) -> tuple[th.Tensor, ...]:
            state, (coefficients, learning_rate), rest = AdamState(*tensors[:4]), tensors[4:6], tensors[6:]
            *numbers, max_grad_norm, kl_limit = coefficients.unbind()
            coefficient: dict[str, Any] = dict(zip(names, numbers, strict=True))
            now = how.objective._replace(**coefficient)
            values = state.values.detach().requires_grad_()
            swapped: dict[str, Any] = dict(zip(parameters, optimization.parts(values), strict=True))
            swapped.update(zip(buffers, rest[: len(buffers)], strict=True))
            # modules that go by several names are one: with `tie_weights` torch would not put everything back
            terms, slope = functional_call(module, swapped, (_batch(batch, rest[len(buffers) :]), now), tie_weights=False)
            gradient = slope.gradient(values)
            gradient, norm = clip_gradient(gradient, stretches, max_grad_norm)
            finite = th.isfinite(norm)
            after = adam(state, gradient, learning_rate, adam_settings)
            beyond = terms.divergence() > kl_limit
            changes = finite & ~beyond
            for old, new in zip(state, after, strict=True):
                old.copy_(th.where(changes, new, old))
            return (*terms, norm, finite, beyond)

        self._graph = compile_graph(step, [*_arguments(policy, optimization, how), *_tensors(batch)])

    def __call__(self, arguments: list[th.Tensor], batch: ReplayBatch) -> "RecordedOutcome":
        """
        :param arguments: state of the optimizer, which is changed, numbers of the day, buffers of the policy
        :param batch: minibatch
        :return: what the step did
        """
        with th.no_grad():
            if self._cuda:  # the next replay of the graph overwrites its results
                th.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch does not annotate it
                results: Sequence[th.Tensor] = [result.clone() for result in self._graph(*arguments, *_tensors(batch))]
            else:
                results = self._graph(*arguments, *_tensors(batch))
        *terms, norm, finite, beyond = results
        return RecordedOutcome(ObjectiveTerms(*terms), norm, finite, beyond)


class _Objective(th.nn.Module):
    """The objective as a module, so that parameters can be put in its policy's place."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: ReplayBatch, how: ObjectiveSettings) -> tuple[ObjectiveTerms, Slope]:
        return objective(self.policy, batch, how)


def _compile_and_compare(
    policy: ActorCriticPolicy, optimization: FlatAdam, how: StepSettings, batch: ReplayBatch
) -> RecordedStep:
    """:raises ValueError: when the graph does not do what the functions do"""
    arguments, adam_settings = _arguments(policy, optimization, how), optimization.settings()
    state, learning_rate = optimization.state(), arguments[len(AdamState._fields) + 1]
    buffers = [buffer.clone() for buffer in policy.buffers()]
    devices = [policy.device] if policy.device.type == "cuda" else []
    with th.random.fork_rng(devices=devices):
        with untouched(policy):
            recorded = RecordedStep(policy, optimization, how, batch)
        terms, slope = objective(policy, batch, how.objective)
        policy.optimizer.zero_grad()
        slope.backward()
        changed = [not th.equal(*pair) for pair in zip(policy.buffers(), buffers, strict=True)]
        for buffer, before in zip(policy.buffers(), buffers, strict=True):
            buffer.copy_(before)
        if any(changed):
            raise ValueError("the policy changes its buffers in training (batch normalization does), which is not compiled.")
        gradients = [parameter.grad for parameter in policy.parameters()]
        if any(gradient is None for gradient in gradients):
            raise ValueError("a parameter has no part in the loss.")
        gradient = th.cat([part.reshape(-1) for part in gradients if part is not None])
        clipped, norm = clip_gradient(gradient, optimization.clipped_stretches, how.max_grad_norm)
        expected = adam(state, clipped, learning_rate, adam_settings)
        applied = bool(th.isfinite(norm)) and not (how.kl_limit is not None and bool(terms.divergence() > how.kl_limit))
        after = expected if applied else AdamState(*(part.clone() for part in state))
        with put_back(state):
            found = recorded(arguments, batch)
            # of the state the first moments: a first step of Adam blows rounding up where a gradient is nearly 0
            moments = [optimization.parts(vector) for vector in (after.exp_avg, state.exp_avg.clone())]
            steps = state.steps.clone()
    if not (all_close([*terms, norm, after.steps], [*found.terms, found.grad_norm, steps]) and all_gradients_close(*moments)):
        raise OtherNumbersError
    return recorded


@contextmanager
def put_back(state: AdamState) -> Iterator[None]:
    """
    :param state: that a graph may change, and that is as before after this context (a graph on a GPU knows the very tensors)
    """
    before = [part.clone() for part in state]
    try:
        yield
    finally:
        for part, value in zip(state, before, strict=True):
            part.copy_(value)


def _has_hooks(policy: ActorCriticPolicy) -> bool:
    """Whether somebody wants to see or change the gradients of parameters, which a graph does not give away."""
    return any(parameter._backward_hooks or parameter._post_accumulate_grad_hooks for parameter in policy.parameters())


def _arguments(policy: ActorCriticPolicy, optimization: FlatAdam, how: StepSettings) -> list[th.Tensor]:
    """What a graph takes beside the minibatch: the state, two tensors of numbers, the buffers of the policy."""
    numbers = _numbers(how, optimization.learning_rate, policy.device)
    return [*optimization.state(), *numbers, *policy.buffers()]


def _numbers(how: StepSettings, learning_rate: th.Tensor, device: th.device) -> tuple[th.Tensor, th.Tensor]:
    """Coefficients of the objective, largest norm of the gradient and limit of the divergence; the learning rate."""
    limit = float("inf") if how.kl_limit is None else how.kl_limit
    coefficients = [float(getattr(how.objective, name)) for name in _coefficient_names(how.objective)]
    return (
        th.tensor([*coefficients, how.max_grad_norm, limit], dtype=th.float32, device=device),
        learning_rate,
    )


def _coefficient_names(how: ObjectiveSettings) -> list[str]:
    given = {name: getattr(how, name) for name in _COEFFICIENTS}
    return [name for name, value in given.items() if value is not None and not (name in _OPTIONAL and value == 0)]


def _static_part(how: ObjectiveSettings, adam_settings: AdamSettings, training: bool) -> Any:
    """What a graph is made for; everything else it takes as tensors."""
    own = how.surrogate_name if isinstance(how.surrogate_name, str) else id(how.surrogate_name)  # which may have no hash
    given = how._replace(surrogate_name=own)._asdict()  # type: ignore[arg-type]  # only to tell one from another
    fixed = [value for name, value in given.items() if name not in (*_COEFFICIENTS, "surrogate_kwargs")]
    return *fixed, repr(sorted(how.surrogate_kwargs.items())), tuple(_coefficient_names(how)), adam_settings, training


def _tensors(batch: ReplayBatch) -> list[th.Tensor]:
    observations = batch.observations
    first = list(observations.values()) if isinstance(observations, dict) else [observations]
    return first + [field for field in batch[1:] if field is not None]


def _batch(like: ReplayBatch, tensors: tuple[th.Tensor, ...]) -> ReplayBatch:
    """The inverse of :func:`_tensors`."""
    remaining = iter(tensors)
    observations: Any = like.observations
    observations = {key: next(remaining) for key in observations} if isinstance(observations, dict) else next(remaining)
    fields: list[Any] = [None if field is None else next(remaining) for field in like[1:]]
    return ReplayBatch(observations, *fields)

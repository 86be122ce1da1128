"""
From a function of tensors to a compiled graph, on what both graphs of a model (the gradient step, the policy that acts) agree.
"""

import logging
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.fx.experimental.proxy_tensor import make_fx

# How far a graph may be from the functions it was made of, relative to the largest number: float32 adds up in another order.
TOLERANCE = 1e-4

# tensors -> tensors
Graph = Callable[..., Sequence[th.Tensor]]


class CompileWarning(UserWarning):
    """``compile=True`` was asked for and cannot be had: training goes on uncompiled."""


class OtherNumbersError(ValueError):
    """A graph does not do what the functions do that it was made of."""

    def __init__(self) -> None:
        super().__init__(
            "the graph gives other numbers than the policy and the surrogate themselves. They draw random numbers (dropout "
            "does), or depend on something that is no tensor and has changed."
        )


def refusal(error: Exception, what: str) -> None:
    """
    Say that a graph cannot be had.

    :param error: why
    :param what: what the policy does uncompiled instead
    """
    reason = "\n".join(f"{type(error).__name__}: {str(error).strip()}".splitlines()[:5])
    advice = ""
    if "inductor" in type(error).__module__:
        advice = "\nOn a CPU a C++ compiler (g++ or clang++) and Python's headers are needed, on a GPU Triton."
    warnings.warn(
        f"`compile=True` cannot be had here: the policy {what} uncompiled. {reason}{advice}", CompileWarning, stacklevel=2
    )


def compile_graph(function: Graph, arguments: Sequence[th.Tensor]) -> Graph:
    """
    Record a function, operation by operation, and compile the record for arguments of these shapes.

    :param function: of tensors that it may change in place; recorded on stand-ins without numbers, so that what depends on
        them cannot be recorded, and says so
    :param arguments: examples, which are left alone
    :return: the same function, under ``no_grad``
    :raises Exception: whatever keeps it from being recorded or compiled
    """
    from torch._inductor import standalone_compile  # takes a second, and few need it

    recorded = make_fx(function, tracing_mode="fake")(*arguments)
    if arguments[0].device.type != "cpu":
        compiled: Graph = th.compile(recorded, fullgraph=True, dynamic=False, options={"triton.cudagraphs": True})
        return compiled
    # the wrapper in C++ spares the way from one kernel to the next through Python; torch's own random numbers make a run the
    # same whether it was compiled or not
    options = {"config_patches": {"cpp_wrapper": True, "fallback_random": True}}
    with _quiet(), th.no_grad():
        # without the checks by which `torch.compile` finds the graph for its arguments at every call: callers know theirs
        direct: Graph = standalone_compile(recorded, list(arguments), dynamic_shapes="from_example_inputs", options=options)
    return direct


def layout(tensors: Iterable[th.Tensor]) -> Hashable:
    """
    :param tensors: arguments of a graph
    :return: what a graph is made for: arguments of another layout it would read wrongly
    """
    return tuple((tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors)


@contextmanager
def _quiet() -> Iterator[None]:
    """The compiler need not tell users that it calls torch's sampling as it is."""
    logger = logging.getLogger("torch._inductor.ir")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def untouched(policy: ActorCriticPolicy) -> Iterator[None]:
    """
    Recording runs the policy on stand-ins; what it keeps of them (its distribution, caches, counts) does not outlive this
    context.

    :param policy: that is recorded
    """
    keepers = [policy.action_dist, *policy.modules()]
    before: list[dict[str, Any]] = [vars(keeper).copy() for keeper in keepers]
    try:
        yield
    finally:
        for keeper, attributes in zip(keepers, before, strict=True):
            vars(keeper).clear()
            vars(keeper).update(attributes)


def all_close(expected: Iterable[th.Tensor], found: Iterable[th.Tensor]) -> bool:
    """
    :param expected: of the functions
    :param found: of the graph
    :return: whether they agree but for rounding
    """
    return all(_close(*pair) for pair in zip(expected, found, strict=True))


def all_gradients_close(expected: Sequence[th.Tensor], found: Sequence[th.Tensor]) -> bool:
    """
    :param expected: gradient of each parameter
    :param found: the same, of the graph
    :return: whether they agree but for rounding, also where the gradient of one parameter is much smaller than that of others
    """
    overall = max(float(gradient.abs().max()) for gradient in expected)
    return all(
        float((one - other).abs().max()) <= 1e-3 * float(one.abs().max()) + 1e-6 * overall
        for one, other in zip(expected, found, strict=True)
    )


def _close(one: th.Tensor, other: th.Tensor) -> bool:
    one, other = one.double(), other.double()
    if not bool(th.isfinite(one).all()):
        return bool((th.isfinite(one) == th.isfinite(other)).all())
    scale = max(float(one.abs().max()), 1.0)
    return float((one - other).abs().max()) <= TOLERANCE * scale

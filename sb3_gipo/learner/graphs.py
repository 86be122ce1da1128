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
            "the graph gives other numbers than the policy itself, which draws random numbers of its own (dropout does) or "
            "depends on something that is no tensor."
        )


def refusal(error: Exception, what: str) -> None:
    """
    Say that a graph cannot be had.

    :param error: why
    :param what: what the policy does uncompiled instead
    """
    reason = "\n".join(f"{type(error).__name__}: {str(error).strip()}".splitlines()[:5])
    warnings.warn(
        f"`compile=True` cannot be had here: the policy {what} uncompiled. {reason}\n"
        "(A C++ compiler, g++ or clang++, and Python's headers are needed on a CPU, Triton on a GPU.)",
        CompileWarning,
        stacklevel=2,
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
def distribution_kept(policy: ActorCriticPolicy) -> Iterator[None]:
    """
    Recording leaves its stand-ins in the policy's distribution; they do not outlive this context.

    :param policy: that is recorded
    """
    before: dict[str, Any] = vars(policy.action_dist).copy()
    try:
        yield
    finally:
        vars(policy.action_dist).clear()
        vars(policy.action_dist).update(before)


def all_close(expected: Iterable[th.Tensor], found: Iterable[th.Tensor]) -> bool:
    """
    :param expected: of the functions
    :param found: of the graph
    :return: whether they agree but for rounding
    """
    return all(_close(*pair) for pair in zip(expected, found, strict=True))


def _close(one: th.Tensor, other: th.Tensor) -> bool:
    one, other = one.double(), other.double()
    if not bool(th.isfinite(one).all()):
        return bool((th.isfinite(one) == th.isfinite(other)).all())
    scale = max(float(one.abs().max()), 1.0)
    return float((one - other).abs().max()) <= TOLERANCE * scale

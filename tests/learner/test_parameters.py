"""Parameters as vectors: the optimizer's own numbers to the last bit, and everything back in its place afterwards."""

import copy
from typing import Any

import pytest
import torch as th

from sb3_gipo.learner.objective import Slope
from sb3_gipo.learner.parameters import AnyOptimizer, FlatAdam, optimization
from tests.learner.models import make_model

BATCH = th.linspace(-1.0, 1.0, 30).reshape(10, 3)


def slope_of(policy: Any, scale: float = 1.0) -> Slope:
    values, log_prob, _ = policy.evaluate_actions(BATCH, BATCH[:, :2])
    return Slope([scale * (values.square().mean() + log_prob.exp().mean())], [None])


def train(policy: Any, kind: type, steps: int) -> list[float]:
    norms = []
    with kind(policy) as parameters:
        for step in range(steps):
            policy.optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
            norm, finite = parameters.step(slope_of(policy, 10.0**step), 0.5)
            assert finite is True
            norms.append(float(norm))
    return norms


def state_of(policy: Any) -> list[Any]:
    states = [state for _, state in sorted(policy.optimizer.state_dict()["state"].items())]
    moments = [state[name] for state in states for name in ("step", "exp_avg", "exp_avg_sq")]
    return [*policy.state_dict().values(), *moments]


def assert_same_state(one: Any, other: Any) -> None:
    ours, theirs = state_of(one), state_of(other)
    assert len(ours) == len(theirs)
    assert all(th.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("sizes", [[8], [64, 64], [7, 130]])
def test_the_same_bits_as_the_optimizer(sizes: list[int]) -> None:
    """Through vectors or through the optimizer, in turns, the parameters, moments and norms are the same."""
    flat, plain, mixed = (make_model(policy_kwargs={"net_arch": sizes}).policy for _ in range(3))
    assert train(flat, FlatAdam, 4) + train(flat, FlatAdam, 3) == train(plain, AnyOptimizer, 4) + train(plain, AnyOptimizer, 3)
    train(mixed, AnyOptimizer, 4)
    train(mixed, FlatAdam, 3)
    assert_same_state(flat, plain)
    assert_same_state(mixed, plain)
    assert flat.optimizer.state_dict()["param_groups"] == plain.optimizer.state_dict()["param_groups"]


def test_room_is_used_again() -> None:
    """The vectors of the last update serve the next one, whatever was loaded in between, until the policy is another."""
    model, other = make_model(), make_model()
    first = optimization(model.policy)
    assert optimization(model.policy, first) is first
    with first:
        pass
    loaded = {name: value + 1 for name, value in other.policy.state_dict().items()}
    for policy, kept in ((model.policy, first), (other.policy, None)):
        policy.load_state_dict(copy.deepcopy(loaded))
        policy.optimizer.load_state_dict(copy.deepcopy(make_model().policy.optimizer.state_dict()))
        with optimization(policy, kept) as parameters:
            assert (parameters is first) == (kept is first)
            parameters.step(slope_of(policy), 0.5)
    assert_same_state(model.policy, other.policy)
    assert optimization(other.policy, first) is not first


def test_everything_is_back_after_an_exception() -> None:
    """Parameters lie where they lay, with what was learnt before the exception; the optimizer knows the steps taken."""
    policy, expected = make_model().policy, make_model().policy
    homes = [parameter.data_ptr() for parameter in policy.parameters()]

    def interrupted() -> None:
        with FlatAdam(policy) as parameters:
            parameters.step(slope_of(policy), 0.5)
            assert [parameter.data_ptr() for parameter in policy.parameters()] != homes
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with AnyOptimizer(expected) as plain:
        plain.step(slope_of(expected), 0.5)
    assert [parameter.data_ptr() for parameter in policy.parameters()] == homes
    assert_same_state(policy, expected)


@pytest.mark.parametrize("kind", [FlatAdam, AnyOptimizer])
def test_a_gradient_that_is_not_finite_changes_nothing(kind: type) -> None:
    """Neither parameters nor moments nor the number of steps; and the next good one counts as if nothing had been."""
    policy, expected = make_model().policy, make_model().policy
    with kind(policy) as parameters:
        _, finite = parameters.step(slope_of(policy, float("nan")), 0.5)
        assert not finite
    assert not policy.optimizer.state or all(not state for state in policy.optimizer.state.values())
    train(policy, kind, 2)
    train(expected, AnyOptimizer, 2)
    assert_same_state(policy, expected)


def test_a_parameter_that_some_minibatches_do_not_reach() -> None:
    """Adam leaves it alone and counts its steps apart: so do the vectors, by giving way to the optimizer."""
    one, other = make_model().policy, make_model().policy
    for policy, kind in ((one, FlatAdam), (other, AnyOptimizer)):
        for reached in (True, False, True, True):
            with optimization(policy) if kind is FlatAdam else kind(policy) as parameters:
                for _ in range(2):
                    slope = slope_of(policy) if reached else Slope([policy.predict_values(BATCH).square().mean()], [None])
                    parameters.step(slope, 0.5)
    steps = {float(state["step"]) for state in one.optimizer.state.values()}
    assert steps == {6.0, 8.0}
    assert_same_state(one, other)
    assert isinstance(optimization(one), AnyOptimizer)


@pytest.mark.parametrize(
    ("optimizer", "suits"),
    [
        (lambda p: th.optim.Adam(p), True),
        (lambda p: th.optim.Adam(p, fused=True), True),
        (lambda p: th.optim.Adam(p, weight_decay=0.1), False),
        (lambda p: th.optim.Adam(p, amsgrad=True), False),
        (lambda p: th.optim.AdamW(p), False),
        (lambda p: th.optim.SGD(p, lr=0.1), False),
        (lambda p: th.optim.Adam(p[1:]), False),
        (lambda p: th.optim.Adam(p[::-1]), True),
        (lambda p: th.optim.Adam([{"params": p[:1]}, {"params": p[1:], "lr": 0.1}]), True),
        (lambda p: th.optim.Adam([{"params": p[:1]}, {"params": p[1:], "betas": (0.5, 0.9)}]), False),
    ],
)
def test_who_is_trained_as_vectors(optimizer: Any, suits: bool) -> None:
    """Only what is known to come out the same."""
    policy = make_model().policy
    policy.optimizer = optimizer(list(policy.parameters()))
    assert isinstance(optimization(policy), FlatAdam if suits else AnyOptimizer)


@pytest.mark.parametrize("spoil", ["hook", "frozen", "double"])
def test_who_is_not(spoil: str) -> None:
    """A hook on the optimizer, a frozen parameter and one of another type go the optimizer's own way."""
    policy = make_model().policy
    if spoil == "hook":
        policy.optimizer.register_step_post_hook(lambda *_: None)
    if spoil == "frozen":
        policy.log_std.requires_grad_(False)
    if spoil == "double":
        policy.value_net.double()
    assert isinstance(optimization(policy), AnyOptimizer)


def test_fused_adam_is_the_users_choice() -> None:
    """``optimizer_kwargs={"fused": True}`` is faster with large networks and differs in the last bits: off by default."""
    numbers: dict[bool, th.Tensor] = {}
    for fused in (False, True):
        options = {"fused": True, "eps": 1e-5}  # eps as SB3 has it by default
        kwargs = {"optimizer_kwargs": options} if fused else {}
        numbers[fused] = th.cat([p.detach().flatten() for p in make_model(policy_kwargs=kwargs).learn(96).policy.parameters()])
    assert not th.equal(numbers[False], numbers[True])
    assert th.allclose(numbers[False], numbers[True], atol=1e-4)

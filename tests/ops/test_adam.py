"""Adam as a function: torch's own numbers, up to rounding."""

import math

import numpy as np
import pytest
import torch as th

from sb3_gipo.ops.adam import AdamSettings, AdamState, adam, clip_gradient


def start(values: th.Tensor) -> AdamState:
    return AdamState(values.clone(), th.zeros_like(values), th.zeros_like(values), th.zeros(()))


@pytest.mark.parametrize("how", [AdamSettings(0.9, 0.999, 1e-5), AdamSettings(0.5, 0.9, 1e-3), AdamSettings(0.0, 0.99, 1e-8)])
def test_many_steps_are_torchs(how: AdamSettings) -> None:
    """300 steps with gradients over ten orders of magnitude and a learning rate that changes."""
    generator = th.Generator().manual_seed(0)
    parameter = th.nn.Parameter(th.randn(50, generator=generator, dtype=th.float64))
    optimizer = th.optim.Adam([parameter], betas=(how.beta1, how.beta2), eps=how.eps)
    state = start(parameter.detach())
    for step in range(300):
        gradient = th.randn(50, generator=generator, dtype=th.float64) * 10 ** (10 * th.rand((), generator=generator) - 5)
        parameter.grad = gradient
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        optimizer.step()
        state = adam(state, gradient, th.tensor(0.1 / (1 + step), dtype=th.float64), how)
    np.testing.assert_allclose(state.values, parameter.detach(), rtol=1e-12)
    np.testing.assert_allclose(state.exp_avg_sq, optimizer.state[parameter]["exp_avg_sq"], rtol=1e-12)
    assert state.steps == 300


def test_the_first_step_by_hand() -> None:
    """After one step both corrections undo the decay: the step is the learning rate, towards where the loss falls."""
    after = adam(
        start(th.tensor([1.0, -2.0])), th.tensor([4.0, -1e-3]), th.tensor(0.1, dtype=th.float64), AdamSettings(0.9, 0.999, 0.0)
    )
    np.testing.assert_allclose(after.values, [0.9, -1.9], rtol=1e-6)
    assert after.values.dtype == th.float32


def test_late_and_early_corrections_keep_their_digits() -> None:
    """In float32, ``1 - 0.999`` would be wrong in the fifth digit; the moments of a first step must not show it."""
    after = adam(start(th.zeros(1)), th.ones(1), th.tensor(1.0, dtype=th.float64), AdamSettings(0.9, 0.999, 0.0))
    assert math.isclose(float(after.values), -1.0, rel_tol=3e-7)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_part_of_the_gradient_is_clipped_by_its_own_norm(scale: float) -> None:
    """As torch clips two lists of parameters one after the other; a large second part leaves the first alone."""
    parts = [[th.tensor([0.3, -0.2]), th.tensor([0.1])], [scale * th.tensor([3.0, 4.0])]]
    flat = th.cat([parts[0][0], parts[1][0], parts[0][1]])
    stretches = [(0, slice(0, 2)), (1, slice(2, 4)), (0, slice(4, 5))]
    clipped, norm = clip_gradient(flat, stretches, 0.5)
    for part in parts:
        for tensor in part:
            tensor.grad = tensor.clone()
    norms = [th.nn.utils.clip_grad_norm_(part, 0.5) for part in parts]
    expected = th.cat([parts[0][0].grad, parts[1][0].grad, parts[0][1].grad])
    th.testing.assert_close(clipped, expected, rtol=1e-6, atol=0)
    th.testing.assert_close(norm, th.stack(norms).norm())
    th.testing.assert_close(clipped[[0, 1, 4]], flat[[0, 1, 4]])


def test_one_part_is_clipped_as_a_whole() -> None:
    """The norm is that of everything."""
    clipped, norm = clip_gradient(th.tensor([3.0, 4.0]), [(0, slice(0, 2))], 1.0)
    assert float(norm) == 5.0
    th.testing.assert_close(clipped, th.tensor([0.6, 0.8]))

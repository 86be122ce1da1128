"""DiscretizeActions."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sb3_gipo.envs import DiscretizeActions


class Echo(gym.Env[Any, Any]):
    """An environment that remembers the action it got."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space
        self.received: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.received = action
        return np.zeros(1, np.float32), 0.0, False, False, {}


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    """Bounded Boxes of several shapes, some dimensions constant."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    number = st.floats(-100, 100, width=32)
    low = draw(hnp.arrays(np.float32, shape, elements=number))
    width = draw(hnp.arrays(np.float32, shape, elements=st.floats(0, 100, width=32)))
    return spaces.Box(low, low + width, dtype=np.float32)


@given(boxes(), st.integers(2, 300), st.integers(0, 2**32 - 1))
def test_every_bin_is_a_legal_action(box: spaces.Box, bins: int, seed: int) -> None:
    """Every discrete action gives an action of the original shape and dtype that the original space contains."""
    env = DiscretizeActions(Echo(box), bins)
    assert env.action_space == spaces.MultiDiscrete([bins] * int(np.prod(box.shape)))
    env.action_space.seed(seed)
    assert box.contains(env.action(env.action_space.sample()))


@given(boxes(), st.integers(2, 300))
def test_end_bins_are_the_bounds(box: spaces.Box, bins: int) -> None:
    """The first bin is exactly the lower bound and the last bin exactly the upper bound."""
    env = DiscretizeActions(Echo(box), bins)
    first = np.zeros(env.action_space.shape, dtype=np.int64)
    np.testing.assert_array_equal(env.action(first), box.low)
    np.testing.assert_array_equal(env.action(first + bins - 1), box.high)


@given(boxes(), st.integers(2, 300), st.integers(0, 2**32 - 1))
def test_nearest_bin(box: spaces.Box, bins: int, seed: int) -> None:
    """A continuous action goes to a bin whose value is within half a bin width of it."""
    env = DiscretizeActions(Echo(box), bins)
    box.seed(seed)
    action = box.sample()
    half_width = (box.high.astype(np.float64) - box.low) / (bins - 1) / 2
    distance = np.abs(env.action(env.discretize(action)).astype(np.float64) - action)
    assert np.all(distance <= half_width + 1e-5 * np.maximum(1, np.abs(action)))


@given(st.integers(2, 1000), st.integers(0, 2**32 - 1))
def test_round_trip(bins: int, seed: int) -> None:
    """Going from bins to values and back gives the same bins."""
    env = DiscretizeActions(Echo(spaces.Box(np.float32([-1, 0, -5]), np.float32([1, 0.3, 7]))), bins)
    env.action_space.seed(seed)
    action = env.action_space.sample()
    np.testing.assert_array_equal(env.discretize(env.action(action)), action)


def test_values_are_evenly_spaced() -> None:
    """Five bins over [-1, 1] are -1, -0.5, 0, 0.5 and 1."""
    env = DiscretizeActions(Echo(spaces.Box(-1, 1, (1,))), bins=5)
    assert [float(env.action(np.array([k]))[0]) for k in range(5)] == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_dimensions_keep_c_order() -> None:
    """Element i of the discrete action is element i of the flattened (C order) original action."""
    env = DiscretizeActions(Echo(spaces.Box(0, 1, (2, 3))), bins=2)
    env.reset()
    env.step(np.array([0, 1, 0, 0, 0, 1]))
    np.testing.assert_array_equal(env.unwrapped.received, [[0, 1, 0], [0, 0, 1]])


def test_default_has_256_bins() -> None:
    """Without arguments there are 256 bins per dimension."""
    np.testing.assert_array_equal(DiscretizeActions(Echo(spaces.Box(-1, 1, (4,)))).action_space.nvec, [256] * 4)


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.MultiDiscrete([2, 2]), spaces.Box(0, 255, (2,), np.uint8)])
def test_needs_a_continuous_box(space: spaces.Space[Any]) -> None:
    """A space that is not a floating-point Box is refused, with the space in the message."""
    with pytest.raises(ValueError, match=r"floating-point Box action space, got .*leave the wrapper out"):
        DiscretizeActions(Echo(space))


@pytest.mark.parametrize("high", [np.inf, 1.0])
def test_needs_bounds(high: float) -> None:
    """A Box without bounds on one side or both is refused."""
    with pytest.raises(ValueError, match="finite bounds"):
        DiscretizeActions(Echo(spaces.Box(-np.inf, high, (2,))))


@pytest.mark.parametrize("bins", [1, 0, -3, 2.5, True, "256"])
def test_needs_two_bins(bins: Any) -> None:
    """A number of bins that is not an integer of at least 2 is refused, with the number in the message."""
    with pytest.raises(ValueError, match=f"at least 2 .*got {bins!r}"):
        DiscretizeActions(Echo(spaces.Box(-1, 1, (2,))), bins)


@pytest.mark.parametrize("action", [[0, 4], [-1, 0], [0, 0, 0], [0.0, 1.0]])
def test_illegal_bins_are_refused(action: list[Any]) -> None:
    """A bin out of range, a wrong length or a float raises instead of choosing some action."""
    env = DiscretizeActions(Echo(spaces.Box(-1, 1, (2,))), bins=4)
    with pytest.raises(ValueError, match="Expected 2 integers from 0 to 3"):
        env.action(np.array(action))


def test_spec_rebuilds_the_wrapped_environment() -> None:
    """gymnasium can make the wrapped environment again from its spec."""
    env = DiscretizeActions(gym.make("Pendulum-v1"), bins=7)
    assert gym.make(env.spec).action_space == spaces.MultiDiscrete([7])

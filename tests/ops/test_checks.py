"""Shape and range assertions."""

import math

import pytest
import torch as th

from sb3_gipo.ops.checks import check_positive, check_same_shape


def test_equal_shapes_pass() -> None:
    """Any number of tensors of one shape, of any type, passes."""
    check_same_shape()
    check_same_shape(a=th.zeros(2, 3))
    check_same_shape(a=th.zeros(2, 3), b=th.zeros(2, 3, dtype=th.bool), c=th.ones(2, 3, dtype=th.int64))


@pytest.mark.parametrize("shape", [(3, 2), (2,), (2, 1), (2, 3, 1), ()])
def test_shapes_that_differ_are_listed(shape: tuple[int, ...]) -> None:
    """One that differs raises, also where it would broadcast, and the message gives every name and shape."""
    with pytest.raises(ValueError, match=r"^Expected one shape for all of these, got a \(2, 3\), b \(2, 3\), c \(") as caught:
        check_same_shape(a=th.zeros(2, 3), b=th.zeros(2, 3), c=th.zeros(shape))
    assert str(caught.value).endswith(f"c {shape}.")


def test_positive_numbers_pass() -> None:
    """Finite numbers above 0 pass, however large or small."""
    check_positive(a=1, b=1e-300, c=1e300)


@pytest.mark.parametrize("value", [0, 0.0, -1e-300, -1, math.inf, -math.inf, math.nan])
def test_others_are_refused_by_name(value: float) -> None:
    """A number outside (0, inf) raises, and the message gives its name and value."""
    with pytest.raises(ValueError, match=rf"^`width` must be a finite number above 0, got {value}\.$"):
        check_positive(fine=1.0, width=value)

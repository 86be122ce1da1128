"""Assertions on shapes and ranges, written once for every formula."""

import math

import torch as th


def check_same_shape(**tensors: th.Tensor) -> None:
    """
    Raise where tensors that belong to the same samples differ in shape.

    :param tensors: name and tensor, all expected to have one shape
    :raises ValueError: with every name and shape, when two shapes differ
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"Expected one shape for all of these, got {listed}.")


def check_positive(**values: float | th.Tensor) -> None:
    """
    Raise where a number is not finite or not above zero.

    :param values: name and number; a tensor is not looked at, which would wait for its device
    :raises ValueError: naming the first number that is not in (0, inf)
    """
    for name, value in values.items():
        if not isinstance(value, th.Tensor) and not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be a finite number above 0, got {value}.")

"""Rollout: what it refuses, what it promises; and the types data are stored in."""

import dataclasses
import re
import time
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_gipo.rollouts.types import (
    Rollout,
    StoredTargets,
    action_dtype,
    map_observation,
    observation_dtype,
    observation_parts,
)
from tests.rollouts.data import BOX, ODD_KEYS, make_rollout

FLAT = ("rewards", "terminated", "truncated", "log_probs", "policy_version")
FLOATS = (
    "observations",
    "actions",
    "rewards",
    "log_probs",
    "last_observations",
    "terminal_observations",
    "dimension_log_probs",
)


def fields(rollout: Rollout) -> dict[str, Any]:
    """Its fields as writable copies."""
    copied: dict[str, Any] = {}
    for field in dataclasses.fields(rollout):
        value = getattr(rollout, field.name)
        if isinstance(value, StoredTargets):
            value = StoredTargets(*map(np.array, value))
        elif isinstance(value, np.ndarray | dict):
            value = map_observation(np.array, value)
        copied[field.name] = value
    return copied


def full(space: spaces.Space[Any] = BOX) -> dict[str, Any]:
    """Fields of a rollout that has all of them: 4 steps of 3 environments."""
    return fields(make_rollout(0, 4, 3, space, dimensions=True, stored_targets=True))


@pytest.mark.parametrize(("n_steps", "n_envs"), [(1, 1), (1, 3), (4, 1), (4, 3)])
def test_sizes(n_steps: int, n_envs: int) -> None:
    """A rollout knows its number of steps, environments and transitions."""
    rollout = make_rollout(0, n_steps, n_envs)
    assert (rollout.n_steps, rollout.n_envs, rollout.size) == (n_steps, n_envs, n_steps * n_envs)


def test_time_is_filled_in() -> None:
    """A rollout carries the wall-clock of when it was made."""
    before = time.time()
    given = full()
    del given["collected_at"]
    assert before <= Rollout(**given).collected_at <= time.time()


@pytest.mark.parametrize("space", [BOX, ODD_KEYS], ids=["array", "dict"])
def test_arrays_are_read_only(space: spaces.Space[Any]) -> None:
    """No array of a rollout can be written to, inside a dictionary or a tuple neither."""
    rollout = Rollout(**full(space))
    for field in dataclasses.fields(rollout):
        value = getattr(rollout, field.name)
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, StoredTargets) else [value]
        for part in parts:
            if isinstance(part, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    part[...] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        rollout.rewards = np.zeros((4, 3), np.float32)  # type: ignore[misc]  # that it cannot be done is the point


@pytest.mark.parametrize("shape", [(12,), (0, 3), (4, 0), (4, 3, 1), ()])
def test_rewards_give_the_shape(shape: tuple[int, ...]) -> None:
    """Rewards must be [T, N], both at least 1."""
    with pytest.raises(ValueError, match=r"`rewards` must be \[T, N\]"):
        Rollout(**{**full(), "rewards": np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    "name", ["observations", "actions", "terminated", "truncated", "log_probs", "policy_version", "dimension_log_probs"]
)
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a[:, :-1], lambda a: a.swapaxes(0, 1)])
def test_leading_shape(name: str, change: Any) -> None:
    """Every field must begin with [T, N]; one that is too short or transposed is named."""
    given = full()
    with pytest.raises(ValueError, match=rf"`{name}`.*\(4, 3\)"):
        Rollout(**{**given, name: change(given[name])})


@pytest.mark.parametrize("name", FLAT[1:])
def test_flat_fields_have_no_further_dimension(name: str) -> None:
    """A field with one number per transition is refused as [T, N, 1] (as a rollout buffer's tensors may be)."""
    given = full()
    with pytest.raises(ValueError, match=f"`{name}`"):
        Rollout(**{**given, name: given[name][..., None]})


@pytest.mark.parametrize("name", StoredTargets._fields)
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a[..., None]])
def test_stored_targets_shape(name: str, change: Any) -> None:
    """Values, returns and advantages must be [T, N]."""
    given = full()
    stored = given["stored_targets"]
    with pytest.raises(ValueError, match=f"`{name}`"):
        Rollout(**{**given, "stored_targets": stored._replace(**{name: change(getattr(stored, name))})})


@pytest.mark.parametrize("n_given", [2, 4])
def test_last_observations_shape(n_given: int) -> None:
    """There is one last observation for each environment."""
    with pytest.raises(ValueError, match=r"`last_observations`.*\(3,\)"):
        Rollout(**{**full(), "last_observations": np.zeros((n_given, 3), np.float32)})


@pytest.mark.parametrize("name", ["observations", "last_observations"])
@pytest.mark.parametrize("key", list(ODD_KEYS.spaces))
def test_shape_of_each_key(name: str, key: str) -> None:
    """Every key of a Dict observation is checked, and named."""
    given = full(ODD_KEYS)
    given[name][key] = given[name][key][:-1]
    with pytest.raises(ValueError, match=re.escape(f"`{name}[{key!r}]` must begin with the shape")):
        Rollout(**given)


def test_both_flags() -> None:
    """A step is not terminated and truncated at once."""
    given = full()
    given["terminated"][given["truncated"]] = True
    with pytest.raises(ValueError, match=r"`terminated` and `truncated` at once"):
        Rollout(**given)


@pytest.mark.parametrize("n_given", [0, 1, 3])
def test_number_of_terminal_observations(n_given: int) -> None:
    """There is one terminal observation for each truncated step, not less and not more."""
    given = full()
    assert given["truncated"].sum() == 2
    given["terminal_observations"] = np.zeros((n_given, 3), np.float32)
    with pytest.raises(ValueError, match=f"2 steps are truncated but {n_given} terminal observations"):
        Rollout(**given)


@pytest.mark.parametrize("key", list(ODD_KEYS.spaces))
def test_number_of_terminal_observations_of_each_key(key: str) -> None:
    """Every key of a Dict observation has one terminal observation for each truncated step."""
    given = full(ODD_KEYS)
    given["terminal_observations"][key] = given["terminal_observations"][key][:-1]
    with pytest.raises(ValueError, match="2 steps are truncated but 1 terminal observations"):
        Rollout(**given)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(name: str, value: float) -> None:
    """A number that is not finite is refused, with the field and the index of the first one."""
    given = full()
    index = {"last_observations": (1, 2), "terminal_observations": (1, 0)}.get(name, (2, 1, 1)[: given[name].ndim])
    given[name][index] = value
    given[name][tuple(length - 1 for length in given[name].shape)] = value
    with pytest.raises(ValueError, match=re.escape(f"`{name}` holds a number that is not finite, first at index {index}")):
        Rollout(**given)


@pytest.mark.parametrize("name", StoredTargets._fields)
def test_not_finite_stored_target(name: str) -> None:
    """A stored target that is not finite is refused."""
    given = full()
    getattr(given["stored_targets"], name)[3, 2] = np.nan
    with pytest.raises(ValueError, match=rf"`{name}` .*not finite, first at index \(3, 2\)"):
        Rollout(**given)


@pytest.mark.parametrize("name", ["observations", "last_observations", "terminal_observations"])
def test_not_finite_in_a_key(name: str) -> None:
    """A number that is not finite is found in any key of a Dict observation."""
    given = full(ODD_KEYS)
    given[name]["observations"].flat[0] = np.inf
    with pytest.raises(ValueError, match=rf"`{name}\['observations'\]` .*not finite"):
        Rollout(**given)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(-1, 1, (2,), np.float64), np.float32),
        (spaces.Box(-1, 1, (2,), np.float32), np.float32),
        (spaces.Box(-1, 1, (2,), np.float16), np.float32),
        (spaces.Box(0, 255, (2, 2, 3), np.uint8), np.uint8),
        (spaces.Box(-9, 9, (2,), np.int16), np.int16),
        (spaces.Box(0, 1, (2,), np.bool_), np.bool_),
        (spaces.Discrete(5), np.int64),
        (spaces.MultiDiscrete([2, 3]), np.int64),
        (spaces.MultiBinary(4), np.int8),
    ],
    ids=str,
)
def test_observation_dtype(space: spaces.Space[Any], expected: type) -> None:
    """Integers are stored as they come, everything else as float32."""
    assert observation_dtype(space) == expected


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Box(-1, 1, (2,), np.float64), np.float32),
        (spaces.Box(-1, 1, (2,), np.float32), np.float32),
        (spaces.Discrete(1), np.uint8),
        (spaces.Discrete(256), np.uint8),
        (spaces.Discrete(257), np.uint16),
        (spaces.Discrete(2**16), np.uint16),
        (spaces.Discrete(2**16 + 1), np.uint32),
        (spaces.MultiDiscrete([2, 256]), np.uint8),
        (spaces.MultiDiscrete([257, 2]), np.uint16),
        (spaces.MultiBinary(9), np.uint8),
    ],
    ids=str,
)
def test_action_dtype(space: spaces.Space[Any], expected: type) -> None:
    """A discrete action takes the smallest integer that holds its last choice, a continuous one float32."""
    assert action_dtype(space) == expected


def test_map_observation() -> None:
    """A function reaches an array, or each key of dictionaries with that key of the others."""
    assert map_observation(max, 1, 2) == 2
    assert map_observation(max, {"a": 1, "b": 5}, {"b": 4, "a": 3}) == {"a": 3, "b": 5}


def test_observation_parts() -> None:
    """The first array of a dictionary, or the array itself."""
    one, two = np.zeros(1), np.zeros(2)
    assert observation_parts(one)[0] is one
    assert [id(part) for part in observation_parts({"b": two, "a": one})] == [id(two), id(one)]

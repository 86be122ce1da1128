"""
Identifiable data: every field of a transition is a function of one number, its id, which the reward gives away.
"""

import dataclasses
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import Rollout, StoredTargets, action_dtype, map_observation, observation_dtype

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (2, 3, 1), np.uint8)
NUMBER = spaces.Discrete(1000)
ODD_KEYS = spaces.Dict(
    {"a/b": BOX, "c.0": IMAGE, "été 🙂": NUMBER, "observations": spaces.Box(-np.inf, np.inf, (1,), np.float64)}
)
OBSERVATION_SPACES: dict[str, spaces.Space[Any]] = {"box": BOX, "image": IMAGE, "number": NUMBER, "dict": ODD_KEYS}

BOX_ACTION = spaces.Box(-1.0, 1.0, (2,), np.float32)
ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "box": BOX_ACTION,
    "discrete": spaces.Discrete(300),
    "multi_discrete": spaces.MultiDiscrete([7, 300]),
    "multi_binary": spaces.MultiBinary(3),
}


def observation_of(space: spaces.Space[Any], ids: np.ndarray) -> Any:
    """
    :param space: of observations
    :param ids: [...]
    :return: [..., *obs]
    """
    if isinstance(space, spaces.Dict):
        return {key: observation_of(part, ids + 7 * number) for number, (key, part) in enumerate(space.spaces.items())}
    shape = space.shape or ()
    cells = np.arange(int(np.prod(shape))).reshape(shape)
    numbers = np.asarray(ids).reshape(*np.shape(ids), *[1] * len(shape)) + 13 * cells
    dtype = observation_dtype(space)
    if dtype == np.uint8:
        numbers = numbers % 251
    elif np.issubdtype(dtype, np.integer):
        numbers = numbers % 1000
    return numbers.astype(dtype)


def action_of(space: spaces.Space[Any], ids: np.ndarray) -> np.ndarray:
    """
    :param space: of actions
    :param ids: [...]
    :return: [..., *action]
    """
    shape = space.shape or ()
    numbers = np.asarray(ids).reshape(*np.shape(ids), *[1] * len(shape)) * 5
    numbers = numbers + 3 * np.arange(int(np.prod(shape))).reshape(shape)
    if isinstance(space, spaces.Discrete):
        numbers = numbers % space.n
    elif isinstance(space, spaces.MultiDiscrete):
        numbers = numbers % space.nvec
    elif isinstance(space, spaces.MultiBinary):
        numbers = (numbers // 3) % 2
    return numbers.astype(action_dtype(space))


def fields_of(ids: np.ndarray, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> dict[str, Any]:
    """
    :param ids: [...]
    :param observation_space: of observations
    :param action_space: of actions
    :return: what every column holds for these transitions [..., *column]
    """
    terminated = ids % 7 == 3
    return {
        "observations": observation_of(observation_space, ids),
        "actions": action_of(action_space, ids),
        "rewards": ids.astype(np.float32),
        "terminated": terminated,
        "truncated": (ids % 5 == 2) & ~terminated,
        "log_probs": (-0.25 * ids).astype(np.float32),
        "policy_version": (ids // 3).astype(np.int32),
        "dimension_log_probs": np.stack([0.5 * ids, -0.75 * ids], axis=-1).astype(np.float32),
        "values": (ids + 0.125).astype(np.float32),
        "returns": (ids + 0.25).astype(np.float32),
        "advantages": (ids + 0.5).astype(np.float32),
    }


def make_rollout(
    first: int,
    n_steps: int,
    n_envs: int,
    observation_space: spaces.Space[Any] = BOX,
    action_space: spaces.Space[Any] = BOX_ACTION,
    *,
    dimensions: bool = False,
    stored_targets: bool = False,
    **changes: Any,
) -> Rollout:
    """
    :param first: id of the first transition; those of (t, n) follow as ``first + t * n_envs + n``
    :param n_steps: ``T``
    :param n_envs: ``N``
    :param observation_space: of observations
    :param action_space: of actions
    :param dimensions: with the log-probability of each of two dimensions
    :param stored_targets: with values, returns and advantages
    :param changes: fields to replace
    :return: identifiable rollout
    """
    ids = first + np.arange(n_steps * n_envs).reshape(n_steps, n_envs)
    fields = fields_of(ids, observation_space, action_space)
    stored = StoredTargets(*(fields.pop(name) for name in StoredTargets._fields))
    by_dimension = fields.pop("dimension_log_probs")
    given = {
        **fields,
        "last_observations": observation_of(observation_space, ids[-1] + 100),
        "terminal_observations": observation_of(observation_space, ids[fields["truncated"]] + 200),
        "dimension_log_probs": by_dimension if dimensions else None,
        "stored_targets": stored if stored_targets else None,
        "collected_at": 1e9 + first + 0.1,
        "actor_id": first % 11,
    }
    return Rollout(**{**given, **changes})


def add_rollout_arguments(rollout: Rollout) -> dict[str, Any]:
    """
    :param rollout: any
    :return: the same as writable arguments of ``add_rollout``
    """
    names = ("observations", "actions", "rewards", "terminated", "truncated", "last_observations", "log_probs")
    names += ("terminal_observations", "policy_version")
    arguments = {name: map_observation(np.array, getattr(rollout, name)) for name in names}
    if rollout.dimension_log_probs is not None:
        arguments["dimension_log_probs"] = np.array(rollout.dimension_log_probs)
    return arguments


def assert_same(found: Any, expected: Any, what: str = "") -> None:
    """Assert equality to the bit: type, shape, and the sign of a zero too."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), what
        for key in expected:
            assert_same(found[key], expected[key], f"{what}[{key!r}]")
        return
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, what)
        return
    if not isinstance(expected, np.ndarray):
        assert found == expected, what
        return
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), what
    assert found.tobytes() == expected.tobytes(), what


def contents(replay: RolloutReplayBuffer) -> dict[str, Any]:
    """
    :param replay: any
    :return: a copy of all that it says it holds, wherever that lies in its ring
    """
    everything = np.arange(len(replay))
    columns = {name: replay.gather(name, everything) for name in replay._columns} if len(replay) else {}
    segments = {
        str(number): {
            field.name: map_observation(np.copy, value) if isinstance(value, np.ndarray | dict) else value
            for field in dataclasses.fields(segment)
            if field.name not in ("start", "number", "follows")  # where it lies, and in which order it came
            for value in [getattr(segment, field.name)]
        }
        for number, segment in enumerate(replay.segments)
    }
    state = {"size": len(replay), "dropped": replay.dropped, "generator": str(replay.rng.bit_generator.state)}
    return {"columns": columns, "segments": segments, **state}

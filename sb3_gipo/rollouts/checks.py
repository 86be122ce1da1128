"""Whether a rollout belongs to a store, and how data from outside are brought into its types without losing anything."""

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_gipo.rollouts.types import STEP_DTYPES, Observation, Rollout, StoredTargets, action_dtype, observation_dtype


class StoreSettings(NamedTuple):
    """What a store holds."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    n_dimensions: int | None
    with_stored_targets: bool


def cast(name: str, values: Any, dtype: Any) -> np.ndarray:
    """
    Copy into another type, unless something would be lost.

    :param name: of the data
    :param values: array or nested lists [...]
    :param dtype: wanted
    :return: copy [...]
    :raises ValueError: when whole numbers are wanted and others were given, or numbers beyond their range
    """
    given = np.asarray(values)
    with np.errstate(invalid="ignore", over="ignore"):
        array = given.astype(dtype)
    if not np.issubdtype(array.dtype, np.floating) and not np.array_equal(array, given):
        raise ValueError(
            f"`{name}` is stored as {array.dtype}, but some of what was given ({given.dtype}, {given.min()} to {given.max()}) "
            "is no such number."
        )
    return array


def cast_observation(name: str, observation: Any, space: spaces.Space[Any]) -> Observation:
    """
    :param name: of the data
    :param observation: array, or dictionary for a ``Dict`` space [..., *obs]
    :param space: observation space of the store
    :return: copies in the types that are stored
    :raises ValueError: when the keys are not those of the space, or a number would be lost
    """
    if not isinstance(space, spaces.Dict):
        if isinstance(observation, dict):
            raise ValueError(f"`{name}` is a dictionary with the keys {list(observation)}, the observation space is {space}.")
        return cast(name, observation, observation_dtype(space))
    _check_keys(name, observation, space)
    return {key: cast(f"{name}[{key!r}]", observation[key], observation_dtype(part)) for key, part in space.spaces.items()}


def check_belongs(rollout: Rollout, store: StoreSettings, policy_version: int) -> None:
    """
    :param rollout: to be stored
    :param store: what the store holds
    :param policy_version: of the learner
    :raises ValueError: for another shape, type, key or range than the store's, a version from the future, or a missing part
    """
    for name, n_leading in (("observations", 2), ("last_observations", 1), ("terminal_observations", 1)):
        _check_observation(name, getattr(rollout, name), store.observation_space, n_leading)
    for name, dtype in {**STEP_DTYPES, "dimension_log_probs": np.float32}.items():
        array = getattr(rollout, name)
        if array is not None and array.dtype != dtype:
            raise ValueError(f"`{name}` is {array.dtype}, expected {np.dtype(dtype)}.")
    _check_actions(rollout.actions, store.action_space)
    if rollout.policy_version.min() < 0 or rollout.policy_version.max() > policy_version:
        raise ValueError(
            f"`policy_version` goes from {rollout.policy_version.min()} to {rollout.policy_version.max()}, but versions begin "
            f"at 0 and the learner is at {policy_version}: a later one lies in the future. Give the version of the learner "
            "that chose the actions, or 0."
        )
    _check_parts(rollout, store)


def _check_keys(name: str, observation: Any, space: spaces.Dict) -> None:
    if not isinstance(observation, dict) or observation.keys() != space.spaces.keys():
        given = list(observation) if isinstance(observation, dict) else f"no keys ({type(observation).__name__})"
        raise ValueError(f"`{name}` has {given}, the observation space has the keys {list(space.spaces)}.")


def _check_observation(name: str, observation: Observation, space: spaces.Space[Any], n_leading: int) -> None:
    if isinstance(space, spaces.Dict):
        _check_keys(name, observation, space)
        assert isinstance(observation, dict)
        for key, part in space.spaces.items():
            _check_observation(f"{name}[{key!r}]", observation[key], part, n_leading)
        return
    if isinstance(observation, dict):
        raise ValueError(f"`{name}` is a dictionary with the keys {list(observation)}, the observation space is {space}.")
    expected = (space.shape or (), observation_dtype(space))
    if (observation.shape[n_leading:], observation.dtype) != expected:
        raise ValueError(
            f"`{name}` is {observation.dtype}{list(observation.shape[n_leading:])} after its leading dimensions, expected "
            f"{expected[1]}{list(expected[0])}."
        )


def _check_actions(actions: np.ndarray, space: spaces.Space[Any]) -> None:
    expected = (space.shape or (), action_dtype(space))
    if (actions.shape[2:], actions.dtype) != expected:
        raise ValueError(f"`actions` is {actions.dtype}{list(actions.shape[2:])}, expected {expected[1]}{list(expected[0])}.")
    n_choices: Any = None
    if isinstance(space, spaces.Discrete):
        n_choices = space.n
    elif isinstance(space, spaces.MultiDiscrete):
        n_choices = space.nvec
    elif isinstance(space, spaces.MultiBinary):
        n_choices = 2
    if n_choices is not None and (actions >= n_choices).any():
        raise ValueError(f"`actions` go up to {actions.max()}, outside {space}.")


def _check_parts(rollout: Rollout, store: StoreSettings) -> None:
    if store.n_dimensions is not None:
        given = rollout.dimension_log_probs
        if given is None or given.shape[2:] != (store.n_dimensions,):
            raise ValueError(
                '`ratio_level="dimension"` needs `dimension_log_probs`, the log-probability of each of the '
                f"{store.n_dimensions} action dimensions [T, N, {store.n_dimensions}]; "
                f"got {'none' if given is None else given.shape}."
            )
    if store.with_stored_targets:
        if rollout.stored_targets is None:
            raise ValueError(
                '`target="stored"` needs the advantages of the collection, which this rollout lacks; use "vtrace".'
            )
        for name in StoredTargets._fields:
            dtype = getattr(rollout.stored_targets, name).dtype
            if dtype != np.float32:
                raise ValueError(f"`{name}` is {dtype}, expected float32.")

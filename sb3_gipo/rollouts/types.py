"""What is collected (:class:`Rollout`) and what one gradient step sees (:class:`ReplayBatch`)."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import TensorDict

Observation = np.ndarray | dict[str, np.ndarray]

# What every step has beside its observation and its action, one number each, and the type it is stored in.
STEP_DTYPES: dict[str, Any] = {
    "rewards": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "log_probs": np.float32,
    "policy_version": np.int32,
}


def map_observation(function: Callable[..., Any], *observations: Any) -> Any:
    """
    Apply a function to an observation array, or to each entry of a ``Dict`` observation.

    :param function: takes one array of each observation given
    :param observations: arrays, or dictionaries with the same keys
    :return: the result, or a dictionary of results
    """
    if isinstance(observations[0], dict):
        return {key: function(*(observation[key] for observation in observations)) for key in observations[0]}
    return function(*observations)


def observation_parts(observation: Observation) -> list[np.ndarray]:
    """
    :param observation: an array or a dictionary of arrays
    :return: the array, or all of them, in a list
    """
    return list(observation.values()) if isinstance(observation, dict) else [observation]


def same_observation(one: Observation, other: Observation) -> bool:
    """
    :param one: an array or a dictionary of arrays
    :param other: of the same kind, with the same keys
    :return: whether they are equal in shape and in every number
    """
    same = map_observation(np.array_equal, one, other)
    return all(same.values()) if isinstance(same, dict) else same


def observation_dtype(space: spaces.Space[Any]) -> np.dtype:
    """
    The type an observation is stored in: integers as they come (images stay ``uint8``), the rest as ``float32``.

    :param space: a space that is not a ``Dict``
    :return: dtype
    """
    dtype = np.dtype(space.dtype if space.dtype is not None else np.float32)
    return dtype if np.issubdtype(dtype, np.integer) or dtype == np.bool_ else np.dtype(np.float32)


def action_dtype(space: spaces.Space[Any]) -> np.dtype:
    """
    The type an action is stored in: ``float32`` for a ``Box``, else the smallest integer that holds every choice.

    :param space: action space
    :return: dtype
    """
    if isinstance(space, spaces.Discrete):
        return np.min_scalar_type(int(space.n) - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return np.min_scalar_type(int(space.nvec.max()) - 1)
    if isinstance(space, spaces.MultiBinary):
        return np.dtype(np.uint8)
    return np.dtype(np.float32)


class StoredTargets(NamedTuple):
    """Values, returns and advantages as SB3 computed them at collection, each [T, N]; only for ``target="stored"``."""

    values: np.ndarray
    returns: np.ndarray
    advantages: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rollout:
    """
    One collected segment of ``N`` environments over ``T`` steps: facts only, nothing that depends on the learner.

    Checked once, when built, and read-only from then on.

    :param observations: raw, before ``VecNormalize`` [T, N, *obs]
    :param actions: as sampled, before clipping and before squashing [T, N, *action]
    :param rewards: raw, without any bootstrap [T, N]
    :param terminated: the episode ended in a terminal state [T, N], bool
    :param truncated: the episode was cut short, by a time limit say; never together with ``terminated`` [T, N], bool
    :param log_probs: log-probability of the action under the policy that chose it, joint [T, N]
    :param last_observations: raw observation after the last step [N, *obs]
    :param terminal_observations: raw terminal observation of every truncated episode, in the order of
        ``np.nonzero(truncated)`` [K, *obs]
    :param policy_version: version of the policy that chose the action [T, N], int32
    :param dimension_log_probs: log-probability of each action dimension [T, N, D], for ``ratio_level="dimension"``
    :param stored_targets: for ``target="stored"`` only
    :param collected_at: wall-clock when the segment was finished, seconds since the epoch
    :param actor_id: which actor collected it
    :raises ValueError: for a wrong shape, a number that is not finite, or contradicting flags
    """

    observations: Observation
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    log_probs: np.ndarray
    last_observations: Observation
    terminal_observations: Observation
    policy_version: np.ndarray
    dimension_log_probs: np.ndarray | None = None
    stored_targets: StoredTargets | None = None
    collected_at: float = dataclasses.field(default_factory=time.time)
    actor_id: int = 0

    def __post_init__(self) -> None:
        if self.rewards.ndim != 2 or 0 in self.rewards.shape:
            raise ValueError(f"`rewards` must be [T, N] with T and N of at least 1, got shape {self.rewards.shape}.")
        _check_leading_shape(self, self.rewards.shape)
        if (self.terminated & self.truncated).any():
            raise ValueError(
                "A step is `terminated` and `truncated` at once; a terminal state needs no bootstrap: drop the latter."
            )
        n_truncated = int(self.truncated.sum())
        for part in observation_parts(self.terminal_observations):
            if len(part) != n_truncated:
                raise ValueError(
                    f"{n_truncated} steps are truncated but {len(part)} terminal observations were given; give one for each, "
                    "in the order of np.nonzero(truncated)."
                )
        if not np.isfinite(self.collected_at):
            raise ValueError(f"`collected_at` must be a finite number of seconds, got {self.collected_at}.")
        for name, array in _arrays(self).items():
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                raise ValueError(f"`{name}` holds a number that is not finite, first at index {where}.")
            array.flags.writeable = False

    @property
    def n_steps(self) -> int:
        """``T``."""
        return int(self.rewards.shape[0])

    @property
    def n_envs(self) -> int:
        """``N``."""
        return int(self.rewards.shape[1])

    @property
    def size(self) -> int:
        """Number of transitions, ``T * N``."""
        return int(self.rewards.size)


class ReplayBatch(NamedTuple):
    """Tensors of one gradient step, [B, ...], on the learner's device."""

    observations: th.Tensor | TensorDict  # normalised as the policy expects
    actions: th.Tensor
    old_log_prob: th.Tensor  # of the behaviour policy: joint [B]
    old_dimension_log_prob: th.Tensor | None  # the same for each action dimension [B, D]
    start_log_prob: th.Tensor  # joint, of the policy at the start of this update [B]
    old_values: th.Tensor  # V(s) at the start of this update [B]
    value_targets: th.Tensor
    advantages: th.Tensor
    version_gap: th.Tensor  # current policy version minus that of the behaviour policy [B]


_WITH_FURTHER_DIMENSIONS = ("observations", "last_observations", "actions", "dimension_log_probs")


def _arrays(rollout: Rollout) -> dict[str, np.ndarray]:
    """Every array of a rollout under its name, the parts of a ``Dict`` observation under ``name[key]``."""
    arrays: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(rollout):
        value = getattr(rollout, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = value
        elif isinstance(value, dict):
            arrays.update({f"{field.name}[{key!r}]": part for key, part in value.items()})
        elif isinstance(value, StoredTargets):
            arrays.update(value._asdict())
    return arrays


def _check_leading_shape(rollout: Rollout, shape: tuple[int, ...]) -> None:
    for name, array in _arrays(rollout).items():
        if name.startswith("terminal_observations"):
            continue
        expected = shape[1:] if name.startswith("last_observations") else shape
        has_more = name.startswith(_WITH_FURTHER_DIMENSIONS)
        if array.shape[: len(expected)] != expected or (array.ndim > len(expected) and not has_more):
            words = "begin with the shape" if has_more else "have the shape"
            raise ValueError(f"`{name}` must {words} {expected} (as `rewards` does), got {array.shape}.")

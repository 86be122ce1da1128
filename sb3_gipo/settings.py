"""Checks of GIPO's own arguments: what was given, what is allowed, what to do."""

import difflib
import math
import warnings
from collections.abc import Iterable

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

# A schedule that ends at 0 ends here instead: a trust weight needs a width.
MIN_SIGMA = 1e-3
SMALL_NETWORK = 50_000  # parameters of a policy up to which one thread is best (benchmarks/speed, part learner)
LARGE_NETWORK = 2_000_000  # from which on a GPU may pay for a policy without images
BATCH_OF_ONE = "`batch_size` must be greater than 1. See https://github.com/DLR-RM/stable-baselines3/issues/440"


def closest(value: object, allowed: Iterable[str]) -> str | None:
    """
    :param value: given
    :param allowed: every choice
    :return: what may be meant; ``None`` where nothing is like it
    """
    return next(iter(difflib.get_close_matches(str(value), tuple(allowed), n=1)), None)


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """
    :param name: of the argument
    :param value: given
    :param allowed: every choice
    :raises ValueError: when it is none of them
    """
    allowed = tuple(allowed)
    if value in allowed:
        return
    near = closest(value, allowed)
    hint = "" if near is None else f" Did you mean {near!r}?"
    raise ValueError(f"`{name}` is {value!r}; it must be one of {', '.join(map(repr, allowed))}.{hint}")


def check_above(name: str, value: object, bound: float) -> None:
    """
    :param name: of the argument
    :param value: given
    :param bound: not allowed itself
    :raises ValueError: when it is not a finite number above the bound
    """
    number = _number(value)
    if number is None or not number > bound:
        raise ValueError(f"`{name}` is {value!r}; it must be a finite number above {bound}.")


def check_at_least(name: str, value: object, bound: float, *, integer: bool = False) -> None:
    """
    :param name: of the argument
    :param value: given
    :param bound: smallest that is allowed
    :param integer: only whole numbers
    :raises ValueError: when it is not a finite number of at least the bound
    """
    number = _number(value)
    if number is None or not number >= bound or (integer and not isinstance(number, int)):
        raise ValueError(f"`{name}` is {value!r}; it must be a {'whole' if integer else 'finite'} number of at least {bound}.")


def _number(value: object) -> float | int | None:
    """The value as a finite Python number (NumPy's count too), or ``None``."""
    number = value.item() if isinstance(value, np.generic) else value
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    return number if is_number and math.isfinite(number) else None  # type: ignore[arg-type, return-value]  # just checked


def check_minibatches(n_steps: int, n_envs: int, batch_size: int, normalize_advantage: bool, replay: bool) -> None:
    """
    PPO's own checks, with PPO's words.

    :param n_steps: steps of each environment in a rollout
    :param n_envs: number of environments
    :param batch_size: of a minibatch
    :param normalize_advantage: whether advantages are normalised
    :param replay: whether minibatches are drawn from a replay: all of them are whole then, whatever the rollout
    :raises AssertionError: where advantages would be normalised over a single sample
    """
    buffer_size = n_envs * n_steps
    if normalize_advantage:
        assert batch_size > 1, BATCH_OF_ONE
        assert buffer_size > 1, f"`n_steps * n_envs` must be greater than 1. Currently n_steps={n_steps} and n_envs={n_envs}"
    if not replay and buffer_size % batch_size > 0:
        warnings.warn(
            f"You have specified a mini-batch size of {batch_size},"
            f" but because the `RolloutBuffer` is of size `n_steps * n_envs = {buffer_size}`,"
            f" after every {buffer_size // batch_size} untruncated mini-batches,"
            f" there will be a truncated mini-batch of size {buffer_size % batch_size}\n"
            f"We recommend using a `batch_size` that is a factor of `n_steps * n_envs`.\n"
            f"Info: (n_steps={n_steps} and n_envs={n_envs})",
            stacklevel=3,
        )


def thread_hint(device: th.device, n_threads: int, n_parameters: int) -> str | None:
    """
    :param device: of the learner
    :param n_threads: of torch
    :param n_parameters: of the policy
    :return: what to say where more threads than one cost more than they bring; ``None``: nothing
    """
    if device.type != "cpu" or n_threads == 1 or n_parameters >= SMALL_NETWORK:
        return None
    return (
        f"torch uses {n_threads} threads; for a network of {n_parameters} parameters one is as fast or faster and leaves the "
        "other cores to environments and further runs: `torch.set_num_threads(1)`, or OMP_NUM_THREADS=1 in the environment."
    )


def check_flags(**flags: object) -> None:
    """
    :param flags: arguments of GIPO by name
    :raises ValueError: where one is not true or false
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"`{name}` is {value!r}; it must be True or False.")


def check_replay(capacity: object, gradient_steps: object, n_steps: int, n_envs: int, batch_size: int) -> None:
    """
    :param capacity: ``replay_capacity``: transitions, ``"auto"`` or ``None``
    :param gradient_steps: minibatches per iteration, or ``None``
    :param n_steps: steps of each environment in a rollout
    :param n_envs: number of environments
    :param batch_size: of a minibatch
    :raises ValueError: when they do not fit together
    """
    if gradient_steps is not None:
        if capacity is None:
            raise ValueError(
                "`gradient_steps` counts minibatches drawn from the replay; without one (`replay_capacity=None`) use "
                "`n_epochs`."
            )
        check_at_least("gradient_steps", gradient_steps, 1, integer=True)
    if capacity is None or capacity == "auto":
        return
    check_at_least("replay_capacity", capacity, 1, integer=True)
    rollout_size = n_steps * n_envs
    if _number(capacity) < rollout_size:  # type: ignore[operator]  # a number, as just checked
        raise ValueError(
            f"`replay_capacity` is {capacity}, less than one rollout: n_steps={n_steps} x n_envs={n_envs} = {rollout_size} "
            "transitions. Raise it, collect fewer steps, or use 'auto' (at least 8 rollouts) or None (no replay)."
        )
    if _number(capacity) < batch_size:  # type: ignore[operator]  # a number, as just checked
        raise ValueError(f"`batch_size` {batch_size} is larger than all that is ever stored: `replay_capacity` is {capacity}.")


def check_chains(chain_rollouts: object, target: str, has_replay: bool) -> None:
    """
    :param chain_rollouts: argument of GIPO
    :param target: argument of GIPO
    :param has_replay: whether rollouts are kept from one update to the next
    :raises ValueError: where it is not true or false, or there is nothing to go on into
    """
    check_flags(chain_rollouts=chain_rollouts)
    if chain_rollouts and (not has_replay or target == "stored"):
        why = (
            'with `target="stored"` no target is computed anew' if has_replay else "without a replay there is one rollout only"
        )
        raise ValueError(
            f'`chain_rollouts` is True, but {why}. Leave it out, or use a replay and `target="vtrace"` or `"gae"`.'
        )


def check_lag(lag: object, has_replay: bool) -> None:
    """
    :param lag: ``acting_lag``: how many versions old the policy is that acts
    :param has_replay: whether rollouts are stored
    :raises ValueError: when it is no count of versions, or nothing keeps them apart
    """
    check_at_least("acting_lag", lag, 0, integer=True)
    if lag != 0 and not has_replay:
        raise ValueError(
            f"`acting_lag` is {lag}, but without a replay nothing keeps apart the policy that acted and the one that learns. "
            "Give a `replay_capacity`, or leave `acting_lag` at 0."
        )


def trust_schedule(name: str, value: float | str | Schedule) -> FloatSchedule:
    """
    Make a schedule of a trust width.

    :param name: of the argument
    :param value: a number, a function of the remaining progress (1 to 0), or RL Zoo's ``"lin_0.5"``: from 0.5 linearly
        towards 0, ending at ``MIN_SIGMA``
    :return: schedule
    :raises ValueError: for a width that is not above 0 and finite before the last twentieth of training, or an unreadable text
    """
    if isinstance(value, str):
        value = LinearSchedule(_initial_value(name, value), MIN_SIGMA, 1.0)
    elif not callable(value):
        check_above(name, value, 0)
        value = float(value)
    schedule = FloatSchedule(value)
    for progress in np.linspace(1.0, 0.05, 20).tolist():  # a bad one is refused now, not in the middle of training
        width = schedule(progress)
        if not (math.isfinite(width) and width > 0):
            raise ValueError(
                f"The schedule `{name}` gives {width} at remaining progress {progress}; a width must be above 0 and finite."
            )
    return schedule


def trust_width(name: str, schedule: Schedule, progress_remaining: float) -> float:
    """
    :param name: of the argument
    :param schedule: of the width
    :param progress_remaining: 1 at the start of training, 0 or a little less at its end
    :return: the width now; ``MIN_SIGMA`` where a schedule has come down to 0
    :raises ValueError: for a width that is not finite
    """
    width = schedule(progress_remaining)
    if not math.isfinite(width):
        raise ValueError(f"The schedule `{name}` gives {width} at remaining progress {progress_remaining}; it must be finite.")
    return width if width > 0 else MIN_SIGMA


def _initial_value(name: str, text: str) -> float:
    kind, _, number = text.partition("_")
    try:
        if kind == "lin":
            initial = float(number)
            if math.isfinite(initial) and initial > 0:
                return initial
    except ValueError:
        pass
    raise ValueError(f"`{name}` is {text!r}; as a text it must read 'lin_' and a start value above 0, like 'lin_0.5'.")

"""Checks of AsyncGIPO's arguments: what was given, what is allowed, what to do."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sb3_gipo import settings

if TYPE_CHECKING:
    from sb3_gipo.distributed.async_gipo import AsyncGIPO

# Of GIPO's arguments those that matter to who acts, and of AsyncGIPO's those with which actors are made.
ACTING = ("n_steps", "gamma", "gae_lambda", "use_sde", "sde_sample_freq", "policy_kwargs", "ratio_level", "target", "compile")
OF_ACTORS = (
    *("num_actors", "envs_per_actor", "env_kwargs", "pull", "max_queue", "backend", "lag", "ray_address", "actor_resources"),
    *("hang_seconds", "max_failures"),
)


def made_of(model: "AsyncGIPO") -> tuple[Any, ...]:
    """
    :param model: whose actors are made
    :return: with what: where any of it has changed they are made anew
    """
    return tuple(getattr(model, name) for name in (*OF_ACTORS, *ACTING))


def check_arguments(model: "AsyncGIPO") -> None:
    """
    :param model: with its own arguments
    :raises ValueError: for one that will not do
    """
    for name in ("num_actors", "envs_per_actor", "publish_every", "max_queue", "max_failures"):
        settings.check_at_least(name, getattr(model, name), 1, integer=True)
    settings.check_at_least("lag", model.lag, 0, integer=True)
    settings.check_above("hang_seconds", model.hang_seconds, 0)
    settings.check_above("checkpoint_seconds", model.checkpoint_seconds, 0)
    settings.check_choice("backend", model.backend, ("ray", "serial"))
    settings.check_choice("pull", model.pull, ("rollout", "step"))
    if isinstance(model.replay_ratio, str):
        settings.check_choice("replay_ratio", model.replay_ratio, ("max",))  # or a number, or None
    elif model.replay_ratio is not None:
        settings.check_above("replay_ratio", model.replay_ratio, 0)
    _check_mapping("env_kwargs", model.env_kwargs, "arguments of the environment")
    _check_mapping("actor_resources", model.actor_resources, 'arguments of `ray.remote`, such as {"num_cpus": 2}')
    if not (model.ray_address is None or isinstance(model.ray_address, str)):
        raise ValueError(f'`ray_address` is {model.ray_address!r}; it must be "auto", "host:port", "ray://host:port" or None.')
    if model.replay_ratio == "max" and model.backend == "serial":
        raise ValueError(
            '`replay_ratio` is "max", to train without waiting; but with `backend="serial"` nothing is collected '
            "meanwhile, so that it would never end. Give a number."
        )
    if model.lag > 0 and model.backend != "serial":
        raise ValueError(f'`lag` is {model.lag}, but only `backend="serial"` has a lag that can be set; leave it out.')


def _check_mapping(name: str, given: object, of: str) -> None:
    if not (given is None or isinstance(given, dict)):
        raise ValueError(f"`{name}` is {given!r}; it must be a mapping of {of}, or None.")


def check_with_gipos(model: "AsyncGIPO") -> None:
    """
    :param model: with GIPO's arguments too
    :raises ValueError: for one of those that does not go with actors
    """
    if model.acting_lag > 0:
        raise ValueError(f'`acting_lag` is {model.acting_lag}; with actors it is `backend="serial", lag={model.acting_lag}`.')
    if model.replay_capacity is None and (model.replay_ratio is not None or not model._stores_rollouts):
        raise ValueError(
            "`replay_capacity` is None: nothing would be kept of what actors have collected. Leave it out, or give a "
            "number of transitions; without a replay there is one update for every rollout (`replay_ratio=None`, "
            '`target="vtrace"` or `"gae"`). For PPO itself use `GIPO`.'
        )
    if model.max_policy_lag is not None and model.max_policy_lag < model.lag:
        raise ValueError(
            f"`max_policy_lag` is {model.max_policy_lag} and `lag` {model.lag}: everything would be too old when it arrives."
            " Raise one or lower the other."
        )


def check_all(model: "AsyncGIPO") -> None:
    """
    :param model: with all of its arguments
    :raises ValueError: for one that will not do
    """
    check_arguments(model)
    check_with_gipos(model)


def refuse_unknown(algorithm: type, given: Mapping[str, Any]) -> None:
    """
    :param algorithm: a class of algorithms
    :param given: arguments for it, by name
    :raises TypeError: for one that no constructor of it has
    """
    constructors = [vars(each)["__init__"] for each in algorithm.__mro__ if "__init__" in vars(each) and each is not object]
    known = {name for each in constructors for name in inspect.signature(each).parameters}
    for name in given:
        if name not in known:
            near = settings.closest(name, known)
            hint = "." if near is None else f"; is `{near}` meant?"
            raise TypeError(f"`{name}` is no argument of {algorithm.__name__}{hint}")


def rollout_steps(rollout_length: object, further: Mapping[str, Any]) -> object:
    """
    :param rollout_length: as in the constructor
    :param further: the other arguments
    :return: the same, as ``n_steps``
    :raises ValueError: where it is no number of steps, or both are given
    """
    settings.check_at_least("rollout_length", rollout_length, 1, integer=True)
    if further.get("n_steps") is not None:
        raise ValueError("`rollout_length` and `n_steps` are two names of one argument: give one of them.")
    return rollout_length


def as_arguments(normalize: bool | dict[str, Any] | None) -> dict[str, Any] | None:
    """
    :param normalize: as in the constructor
    :return: arguments of ``VecNormalize``; ``None``: without it
    :raises ValueError: for anything else
    """
    if normalize is None or normalize is False:
        return None
    if normalize is not True and not isinstance(normalize, dict):
        raise ValueError(f"`normalize` is {normalize!r}; it must be True, False or a mapping of arguments of `VecNormalize`.")
    return {} if normalize is True else normalize

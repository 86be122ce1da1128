"""From the settings of a study file to an algorithm with its environments."""

import importlib
import inspect
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import sb3_gipo
from sb3_gipo import defaults  # with the package, which registers the ids of Meta-World
from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.gipo import GIPO
from sb3_gipo.studies.checking import StudyError, suggestion

# What a study decides itself.
OURS = ("self", "policy", "env", "seed", "verbose", "tensorboard_log", "_init_setup_model", "monitor_wrapper")
# ... of an algorithm that makes its environments itself
OURS_OF_ACTORS = ("env_kwargs", "envs_per_actor", "normalize", "args", "kwargs", "checkpoint_path", "checkpoint_seconds")
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")
# Where the name of a class stands for the class.
MODULES = {"activation_fn": "torch.nn", "optimizer_class": "torch.optim", "replay_buffer_class": "stable_baselines3"}
LINEAR = "lin_"
MOST_EVALUATION_ENVS = 10
NOISE = "normal_"


@lru_cache
def _algorithms() -> dict[str, type[BaseAlgorithm]]:
    """Those of SB3, sb3-contrib and ours, by name in small letters."""
    found = {}
    for package in ("stable_baselines3", "sb3_contrib", "sb3_gipo"):
        try:
            module = importlib.import_module(package)
        except ImportError:
            if package != "sb3_contrib":
                raise
            continue
        for name, value in vars(module).items():
            if inspect.isclass(value) and issubclass(value, BaseAlgorithm):
                found[name.lower()] = value
    return {**found, AsyncGIPO.__name__.lower(): AsyncGIPO}


def find_algorithm(name: str) -> type[BaseAlgorithm]:
    """
    :param name: of a class of SB3, sb3-contrib or this package in any letters, or ``package.module:Class``
    :return: the class
    :raises StudyError: where there is none
    """
    if ":" in name:
        found = find_class(name, "")
        if not (inspect.isclass(found) and issubclass(found, BaseAlgorithm)):
            raise StudyError(f"{name!r} is not an algorithm: it must be a subclass of SB3's BaseAlgorithm.")
        return found
    known = _algorithms()
    if name.lower() not in known:
        names = sorted(each.__name__ for each in known.values())
        more = "" if "trpo" in known else " sb3-contrib is not installed: pip install sb3-contrib."
        raise StudyError(
            f"There is no algorithm {name!r}.{suggestion(name, names)} Allowed: {', '.join(names)}, "
            f"or package.module:Class.{more}"
        )
    return known[name.lower()]


def find_class(name: str, module: str) -> Any:
    """
    :param name: of a class in the module, or ``package.module:Class``
    :param module: its name
    :return: the class
    :raises StudyError: where there is none
    """
    place, _, attribute = name.rpartition(":")
    place = place or module
    try:
        return getattr(importlib.import_module(place), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        missing = " Install its package, or put its folder on PYTHONPATH." if isinstance(error, ImportError) else ""
        raise StudyError(f"There is no class {name!r}{f' in {module}' if module else ''} ({error}).{missing}") from error


def path_of(algorithm: type) -> str:
    """
    :param algorithm: a class
    :return: ``package.module:Class``
    """
    return f"{algorithm.__module__}:{algorithm.__qualname__}"


def arguments_of(algorithm: type) -> dict[str, Any] | None:
    """
    :param algorithm: a class
    :return: the arguments that a study may set, with their defaults; ``None`` where it takes any (``**kwargs``)
    """
    parameters = _parameters(algorithm)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return None
    return {name: each.default for name, each in parameters.items()}


def has_actors(algorithm: type) -> bool:
    """
    :param algorithm: a class
    :return: whether its environments are in actors, so many in each
    """
    return issubclass(algorithm, AsyncGIPO)


def argument_defaults(algorithm: type) -> dict[str, Any]:
    """
    What a study file leaves unsaid: a change of these is a change of the study, although its file stays the same.

    :param algorithm: a class
    :return: the arguments of its constructor that a study may set, with their defaults, as JSON knows them; without the device
    """
    named = {name: each.default for name, each in _parameters(algorithm).items() if name != "device"}
    return {name: as_json(default) for name, default in named.items() if default is not inspect.Parameter.empty}


def _parameters(algorithm: type) -> dict[str, inspect.Parameter]:
    """Of the constructor, but for what a study decides itself."""
    parameters = dict(inspect.signature(algorithm.__init__).parameters)  # type: ignore[misc]  # of a class, not of an instance
    ours: tuple[str, ...] = OURS
    if issubclass(algorithm, AsyncGIPO):  # which hands on what it does not know
        parameters, ours = {**inspect.signature(GIPO.__init__).parameters, **parameters}, (*OURS, *OURS_OF_ACTORS)
    return {name: each for name, each in parameters.items() if name not in ours}


def package_defaults(algorithm: type) -> dict[str, Any]:
    """
    :param algorithm: a class
    :return: of ours and what is derived from them: what stands behind ``None`` and ``"auto"``, by name; of others nothing
    """
    if not any(each.__module__.partition(".")[0] == sb3_gipo.__name__ for each in algorithm.__mro__):
        return {}
    return {name: as_json(value) for name, value in sorted(vars(defaults).items()) if name.isupper()}


def as_json(value: Any) -> Any:
    """
    :param value: of an argument
    :return: as JSON knows it; of what JSON does not know, a text that is the same in every process
    """
    if isinstance(value, Mapping):
        return {str(key): as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}:{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def resolve(settings: dict[str, Any], env: VecEnv, algorithm: type) -> dict[str, Any]:
    """
    :param settings: as they stand in the file
    :param env: the algorithm will learn from
    :param algorithm: its class
    :return: arguments of the constructor: schedules, classes and noise in place of their names
    :raises StudyError: for the name of something that is not there
    """
    resolved: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            resolved[key] = resolve(value, env, algorithm)
        elif isinstance(value, str) and value.startswith(LINEAR) and key in SCHEDULES:
            resolved[key] = LinearSchedule(_after(key, value, LINEAR), 0.0, 1.0)
        elif isinstance(value, str) and key == "action_noise":
            size = env.action_space.shape
            if size is None or not isinstance(env.action_space, gym.spaces.Box):
                raise StudyError(f"action_noise is {value!r}, but the actions {env.action_space} are not continuous.")
            resolved[key] = NormalActionNoise(np.zeros(size), np.full(size, _after(key, value, NOISE)))
        elif isinstance(value, str) and (key in MODULES or key.endswith("_class")):
            resolved[key] = find_class(value, MODULES.get(key, ""))
        elif isinstance(value, list) and key == "train_freq":
            resolved[key] = tuple(value)
        else:
            resolved[key] = value
    return resolved


def _after(key: str, value: str, prefix: str) -> float:
    try:
        return float(value.removeprefix(prefix))
    except ValueError:
        raise StudyError(f"{key} is {value!r}; it must be a number or {prefix}NUMBER, such as {prefix}3e-4.") from None


def make_envs(run: dict[str, Any]) -> tuple[VecEnv, VecEnv]:
    """
    :param run: configuration, as in ``run.json``
    :return: environments to learn from, and those to be evaluated on: one for each episode of an evaluation (at most
        ten), so that whatever happens in one episode, the next one has the same goal
    """
    task, normalize, evaluations = run["task"], run["normalize"], run["evaluations"]
    env = make_vec_env(task["id"], run["n_envs"], seed=run["seed"], env_kwargs=task["kwargs"])
    number = min(evaluations["episodes"], MOST_EVALUATION_ENVS)
    eval_env = make_vec_env(task["id"], number, seed=evaluations["seed"], env_kwargs=task["eval_kwargs"])
    if normalize is not None:
        try:
            env = VecNormalize(env, **normalize)
        except ValueError as error:  # of spaces that it does not know
            advice = "Give normalize: false, or normalize: {norm_obs: false} for the reward alone."
            raise StudyError(f"VecNormalize refuses: {error} {advice}") from error
        eval_env = VecNormalize(eval_env, **{**normalize, "training": False, "norm_reward": False})
    return env, eval_env


def make_model(run: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
    """
    :param run: configuration, as in ``run.json``
    :param env: to learn from
    :return: the algorithm, nothing learnt yet
    :raises StudyError: for a policy that it does not have
    """
    algorithm = find_algorithm(run["algorithm"]["class"])
    settings = resolve(run["algorithm"]["settings"], env, algorithm)
    policy = run["algorithm"]["policy"]
    source: Any = env
    if issubclass(algorithm, AsyncGIPO):  # its actors make their own
        source = run["task"]["id"]
        settings |= {"env_kwargs": run["task"]["kwargs"], "envs_per_actor": run["n_envs"], "normalize": run["normalize"]}
    try:
        model: BaseAlgorithm = algorithm(policy, source, seed=run["seed"], **settings)  # type: ignore[call-arg]
    except ValueError as error:
        names = list(algorithm.policy_aliases)
        if not names or policy in names:
            raise
        raise StudyError(
            f"{algorithm.__name__} has no policy {policy!r} ({error}).{suggestion(policy, names)} Give it policy: "
            f"{', '.join(names)}."
        ) from error
    return model

"""Puts GIPO wherever RL Zoo looks for an algorithm, without touching its files; says so when it looks elsewhere."""

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any

import sb3_gipo.envs  # noqa: F401  # registers the ids of Meta-World
from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.gipo import GIPO

TESTED = "2.9.2"
NAME, ASYNC_NAME = "gipo", "async_gipo"


class ZooMissingError(ImportError):
    """RL Zoo, or a package that a command needs, is not installed."""


class ZooChangedError(ImportError):
    """RL Zoo is installed, but something this package holds on to is not where it was."""


def register() -> None:
    """
    Make RL Zoo know ``gipo``: its class, its search space and converter, the file of its settings, and Meta-World's goals of
    evaluation; and ``async_gipo``, which takes what was found for ``gipo`` and is not searched for itself. May be called
    again. Everything else of the Zoo stays as it is.

    :raises ZooMissingError: where RL Zoo is not installed
    :raises ZooChangedError: where its internals have moved
    """
    utils, opt, manager = (_module(name) for name in ("utils", "hyperparams_opt", "exp_manager"))
    tables = [_table(utils, "ALGOS"), _table(opt, "HYPERPARAMS_SAMPLER"), _table(opt, "HYPERPARAMS_CONVERTER")]
    _check_manager(_attribute(manager, "ExperimentManager"))
    _attribute(utils, "create_test_env")
    try:
        from sb3_gipo.zoo import experiment, shown_env, space
    except (ImportError, AttributeError) as error:
        raise changed(str(error)) from error
    for table, entry in zip(tables, (GIPO, space.sample, space.convert), strict=True):
        table[NAME] = entry
    algorithms, _, converters = tables
    algorithms[ASYNC_NAME], converters[ASYNC_NAME] = AsyncGIPO, space.convert
    manager_of_the_zoo = experiment.GipoExperimentManager.__base__
    replacements = ((manager_of_the_zoo, experiment.GipoExperimentManager), shown_env.replacement(utils))
    for original, ours in replacements:
        _replace_everywhere(original, ours)


def _module(name: str) -> ModuleType:
    try:
        importlib.import_module("rl_zoo3")
    except ModuleNotFoundError as error:
        if error.name != "rl_zoo3":
            raise
        raise ZooMissingError("RL Zoo is not installed: pip install 'sb3-gipo[zoo]'") from error
    try:
        return importlib.import_module(f"rl_zoo3.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"rl_zoo3.{name}":
            raise
        raise changed(f"there is no module rl_zoo3.{name}") from error


def _attribute(module: ModuleType, name: str) -> Any:
    if not hasattr(module, name):
        raise changed(f"{module.__name__} has no `{name}`")
    return getattr(module, name)


def _table(module: ModuleType, name: str) -> dict[str, Any]:
    table: dict[str, Any] = _attribute(module, name)
    if not isinstance(table, dict) or "ppo" not in table:
        raise changed(f"{module.__name__}.{name} is no longer a table of algorithms by name")
    return table


def _check_manager(manager: type) -> None:
    """What :class:`~sb3_gipo.zoo.experiment.GipoExperimentManager` overrides must be there, and take what it passes on."""
    wanted = {
        "__init__": ("args", "algo", "env_id", "config"),
        "create_envs": ("n_envs", "eval_env", "no_log"),
        "create_callbacks": (),
        "learn": ("model",),
        "objective": ("trial",),
        "hyperparameters_optimization": (),
        "_maybe_normalize": ("env", "eval_env"),
        "_load_pretrained_agent": ("hyperparams", "env"),
        "_preprocess_schedules": ("hyperparams",),
        "_preprocess_hyperparams": ("hyperparams",),
    }
    for name, parameters in wanted.items():
        method = getattr(manager, name, None)
        if method is None:
            raise changed(f"its ExperimentManager has no `{name}`")
        missing = [parameter for parameter in parameters if parameter not in inspect.signature(method).parameters]
        if missing:
            raise changed(f"its ExperimentManager.{name} does not take {', '.join(missing)}")


def changed(what: str) -> ZooChangedError:
    """
    :param what: is not as it was
    :return: an error that says so, and what to install
    """
    version = getattr(sys.modules.get("rl_zoo3"), "__version__", "of unknown version")
    return ZooChangedError(
        f"RL Zoo (rl_zoo3 {version}) is not built as this version of sb3-gipo expects: {what}. "
        f"It was tested with {TESTED}: pip install 'rl_zoo3=={TESTED}', or install a newer sb3-gipo."
    )


def _replace_everywhere(original: Any, ours: Any) -> None:
    """The Zoo's modules import names from each other: each that has the original gets ours."""
    for name, module in list(sys.modules.items()):
        if name == "rl_zoo3" or name.startswith("rl_zoo3."):
            for attribute, value in list(vars(module).items()):
                if value is original:
                    setattr(module, attribute, ours)

"""Meta-World ids in RL Zoo: file names and ids, goals of evaluation."""

from collections.abc import Sequence
from typing import Any

from sb3_gipo.envs import metaworld_tasks

PREFIX = "MetaWorld"
IDS = {f"{PREFIX}-{task}": f"{PREFIX}/{task}" for task in metaworld_tasks()}
FOLDERS = {env_id: name for name, env_id in IDS.items()}
# What Monitor writes beside return and length, so that `plot_train -y success` has something to plot.
MONITOR_KWARGS = {"info_keywords": ("is_success",)}


def is_meta_world(env_id: str) -> bool:
    """
    :param env_id: of gymnasium
    :return: whether it is a task registered by this package
    """
    return env_id.startswith(f"{PREFIX}/")


def as_ids(arguments: Sequence[str]) -> list[str]:
    """
    :param arguments: of a command that makes environments
    :return: the same, folder names such as ``MetaWorld-reach-v3`` as ids
    """
    return [_exchanged(argument, IDS) for argument in arguments]


def as_folders(arguments: Sequence[str]) -> list[str]:
    """
    :param arguments: of a command that looks for folders of logs
    :return: the same, ids such as ``MetaWorld/reach-v3`` as the names the Zoo gives their folders
    """
    return [_exchanged(argument, FOLDERS) for argument in arguments]


def _exchanged(argument: str, names: dict[str, str]) -> str:
    option, equals, value = argument.rpartition("=")
    return option + equals + names.get(value, value)


def evaluation_kwargs(env_id: str, env_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """
    :param env_id: of gymnasium
    :param env_kwargs: arguments of the environment so far
    :return: arguments of an environment for evaluation: with goals of their own, unless a split was asked for
    """
    return {"split": "eval", **(env_kwargs or {})} if is_meta_world(env_id) else dict(env_kwargs or {})

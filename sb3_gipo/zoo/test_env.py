"""The environment in which RL Zoo's enjoy, record_video and push_to_hub show a trained agent."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from sb3_gipo.zoo import meta_world


def replacement(utils: ModuleType) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """
    :param utils: ``rl_zoo3.utils``
    :return: its ``create_test_env``, and the same with goals of evaluation on Meta-World
    """
    current = utils.create_test_env
    original = getattr(current, "__wrapped__", current)

    @functools.wraps(original)
    def create_test_env(env_id: str, *args: Any, env_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        return original(env_id, *args, env_kwargs=meta_world.evaluation_kwargs(env_id, env_kwargs), **kwargs)

    return current, create_test_env

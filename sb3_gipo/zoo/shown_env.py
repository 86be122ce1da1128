"""The environment in which RL Zoo's enjoy, record_video and push_to_hub show a trained agent."""

import functools
import inspect
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
    def create_test_env(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(original).bind(*args, **kwargs)
        asked = given.arguments.get("env_kwargs")
        given.arguments["env_kwargs"] = meta_world.evaluation_kwargs(given.arguments["env_id"], asked)
        return original(*given.args, **given.kwargs)

    return current, create_test_env

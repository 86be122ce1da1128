"""What stands for the environments where there are none: at the learner, whose actors have them."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

MakeEnvs = Callable[[int, int], VecEnv]


class AbsentVecEnv(VecEnv):
    """
    Has the spaces of an actor's environments, and zeros for a first observation; takes no steps.

    :param num_envs: of one actor
    :param observation_space: theirs
    :param action_space: theirs
    :param make: of the number of an actor, and of how often it was started before: its environments, seeded and with all their
        wrappers; ``None``: who makes them knows it otherwise
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        make: MakeEnvs | None = None,
    ) -> None:
        super().__init__(num_envs, observation_space, action_space)
        self.make = make
        self.may_be_reset = False  # by SB3, which wants an observation to begin with

    def reset(self) -> Any:
        """
        :return: zeros [N, *obs]
        :raises RuntimeError: except at the beginning of ``learn``, for SB3: a normaliser would take them for real
        """
        if not self.may_be_reset:
            self.step_async(np.empty(0))

        def zeros(space: spaces.Space[Any]) -> np.ndarray:
            return np.zeros((self.num_envs, *(space.shape or ())), dtype=space.dtype)

        space = self.observation_space
        return {key: zeros(part) for key, part in space.items()} if isinstance(space, spaces.Dict) else zeros(space)

    def step_async(self, actions: np.ndarray) -> NoReturn:
        """:raises RuntimeError: always"""
        raise RuntimeError(
            "The environments of an asynchronous algorithm are in its actors: there is none here to reset or to take a step "
            "in. To evaluate the policy, make an environment of its own and use `evaluate_policy(model, env)`."
        )

    step_wait = step_async  # type: ignore[assignment]

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """:return: of the attributes that every environment has, ``None`` for each"""
        return [getattr(self, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> NoReturn:
        """:raises RuntimeError: always"""
        self.step_async(np.empty(0))

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> NoReturn:
        """:raises RuntimeError: always"""
        self.step_async(np.empty(0))

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """:return: false for each"""
        return [False for _ in self._get_indices(indices)]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """:return: ``None`` for each: the actors seed their own"""
        return [None] * self.num_envs


def maker_of(env: VecEnv) -> MakeEnvs:
    """
    :param env: what stands for the environments, wrapped as they are
    :return: how an actor makes them
    :raises ValueError: for environments that are here
    """
    absent = env.unwrapped
    if not isinstance(absent, AbsentVecEnv) or absent.make is None:
        raise ValueError(
            f"`env` is a {type(env).__name__}, whose environments are in this process; those of `AsyncGIPO` are made in its "
            "actors. Give an id or a function that makes one environment (with `envs_per_actor`, `normalize`, `env_kwargs`), "
            "or an `AbsentVecEnv(..., make=...)`, which knows how an actor makes all of its own."
        )
    return absent.make

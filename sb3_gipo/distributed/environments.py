"""The environments of actors and of evaluations, made where they are needed, and their seeds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_gipo.distributed.stub import AbsentVecEnv, MakeEnvs, maker_of
from sb3_gipo.distributed.vec_env import ActorVecEnv

EnvFactory = Callable[[], gym.Env[Any, Any]]
EnvSource = str | EnvFactory | VecEnv
STARTS_OF_A_LIFE = 1000  # more than an actor is started in one


def stand_in(source: EnvSource, env_kwargs: dict[str, Any] | None, normalize: dict[str, Any] | None, n_envs: int) -> VecEnv:
    """
    :param source: id of an environment, or a function that makes one; one is made for its spaces and closed again. Or an
        :class:`AbsentVecEnv` in its wrappers, which knows how an actor makes all of its own
    :param env_kwargs: arguments of the environment
    :param normalize: arguments of ``VecNormalize``; ``None``: without it
    :param n_envs: of one actor
    :return: what the learner has in their place
    :raises ValueError: for environments that are here
    """
    if isinstance(source, VecEnv):
        maker_of(source)
        if normalize is not None or env_kwargs is not None:
            raise ValueError("`normalize` and `env_kwargs` do not go with an `AbsentVecEnv`: it makes all of that itself.")
        return source
    if isinstance(source, gym.Env):
        raise ValueError(
            f"`env` is an environment ({source}), which is in this process; those of `AsyncGIPO` are made in its actors. Give "
            "its id, or a function that makes one."
        )
    if not (isinstance(source, str) or callable(source)):
        raise ValueError(
            f"`env` is {source!r}; it must be the id of an environment, or a function without arguments that makes one: they "
            "are made in the actors."
        )
    one = make_vec_env(portable(source), 1, env_kwargs=env_kwargs)
    spaces = one.observation_space, one.action_space
    one.close()
    absent: VecEnv = AbsentVecEnv(n_envs, *spaces)
    return absent if normalize is None else VecNormalize(absent, **normalize)


@contextmanager
def may_be_reset(env: VecEnv) -> Iterator[None]:
    """
    For the duration what stands for the environments may be reset, and the learner's statistics stay what actors have seen.

    :param env: with its wrappers
    """
    normalizer, absent = unwrap_vec_normalize(env), env.unwrapped
    assert isinstance(absent, AbsentVecEnv)
    was = normalizer is not None and normalizer.training
    absent.may_be_reset = True
    if normalizer is not None:
        normalizer.training = False
    try:
        yield
    finally:
        absent.may_be_reset = False
        if normalizer is not None:
            normalizer.training = was


def actor_envs(
    source: EnvSource,
    env_kwargs: dict[str, Any] | None,
    normalize: dict[str, Any] | None,
    seed: int | None,
    n_envs: int,
    life: int,
) -> MakeEnvs:
    """
    :param source: as in :func:`stand_in`
    :param env_kwargs: as in :func:`stand_in`
    :param normalize: as in :func:`stand_in`
    :param seed: of the run
    :param n_envs: of one actor
    :param life: how often all actors were made before in this run, resumed ones counted
    :return: makes the environments of an actor, of its number and of how often it was started before in this life. One that is
        started again does not see the same episodes again
    """
    if isinstance(source, VecEnv):
        return partial(_made_later, maker_of(source), life)
    return partial(_make_actor_envs, portable(source), env_kwargs, normalize, seed, n_envs, life)


def portable(source: str | EnvFactory) -> EnvFactory:
    """
    :param source: id of an environment, or a function that makes one
    :return: a function that makes one also where the id is not known: in another process nobody may have registered it
    """
    if not isinstance(source, str):
        return source
    try:
        return partial(gym.make, gym.spec(source))
    except gym.error.Error:  # gym.make also takes "module:id", which it imports wherever it is, and ids without their version
        return partial(gym.make, source)


def _made_later(make: MakeEnvs, life: int, index: int, times_started: int) -> VecEnv:
    return make(index, life * STARTS_OF_A_LIFE + times_started)


def _make_actor_envs(
    source: EnvFactory,
    env_kwargs: dict[str, Any] | None,
    normalize: dict[str, Any] | None,
    seed: int | None,
    n_envs: int,
    life: int,
    index: int,
    times_started: int,
) -> VecEnv:
    env: VecEnv = make_vec_env(source, n_envs, env_kwargs=env_kwargs, vec_env_cls=ActorVecEnv)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
    if seed is not None:
        first = life == 0 and times_started == 0
        env.seed(seed + index * n_envs if first else seed_of(seed, index, times_started, life))
    return env


def make_evaluation_envs(
    source: EnvFactory,
    env_kwargs: dict[str, Any] | None,
    normalize: dict[str, Any] | None,
    seed: int | None,
    n_envs: int,
) -> VecEnv:
    """
    :param source: makes one
    :param env_kwargs: its arguments
    :param normalize: arguments of ``VecNormalize``; ``None``: without it
    :param seed: of the first environment
    :param n_envs: at a time
    :return: the environments of an evaluation, whose returns are the environment's own
    """
    env = make_vec_env(source, n_envs, seed=seed, env_kwargs=env_kwargs)
    return env if normalize is None else VecNormalize(env, **{**normalize, "training": False, "norm_reward": False})


def settings_of(normalizer: VecNormalize | None) -> dict[str, Any] | None:
    """
    :param normalizer: of the learner
    :return: what another one needs to normalise observations alike; ``None`` without it
    """
    names = ("norm_obs", "clip_obs", "epsilon", "norm_obs_keys")
    return None if normalizer is None else {name: getattr(normalizer, name) for name in names}


def seed_of(*numbers: int) -> int:
    """
    :param numbers: whose it is
    :return: a seed that is no neighbour of that of other numbers
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)  # SB3 wants 31 bits

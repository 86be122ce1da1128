"""
``VecNormalize`` under replay: raw data are stored, and normalised with the statistics of the day when they are used.
"""

import copy
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
    unwrap_vec_normalize,
)

from sb3_gipo.rollouts.types import Observation, observation_parts, same_observation

# Wrappers that may stand above VecNormalize without hiding how the policy's observation follows from the raw one.
_PASS_OBSERVATIONS_ON = (VecMonitor, VecCheckNan, VecVideoRecorder, VecTransposeImage)
_PASS_REWARDS_ON = (*_PASS_OBSERVATIONS_ON, VecFrameStack, VecExtractDictObs)
_OF_EACH_ENV = ("returns", "old_obs")  # discounted returns, latest raw observation
_STATISTICS = ("obs_rms", "ret_rms")  # running means and variances, of all environments together


class Normalizer:
    """
    Gives raw observations and rewards of a vectorised environment, and normalises them again later.

    Where ``VecNormalize`` changes observations and another wrapper changes them once more on top (``VecFrameStack`` around
    ``VecNormalize``, say), what the policy sees cannot be computed from the raw observation alone: then
    :attr:`observations_are_raw` is false and observations are kept as the policy saw them. Rewards likewise: a wrapper on top
    that may change them makes :attr:`rewards_are_raw` false.

    :param env: the training environment as the algorithm sees it; ``None``: nothing is normalised
    """

    def __init__(self, env: VecEnv | None) -> None:
        self.vec_normalize: VecNormalize | None = unwrap_vec_normalize(env) if env is not None else None
        self._transposers: list[VecTransposeImage] = []
        self.observations_are_raw = self.rewards_are_raw = True
        if env is not None and self.vec_normalize is not None:
            wrappers = _wrappers_above(env, self.vec_normalize)
            self.rewards_are_raw = all(type(wrapper) in _PASS_REWARDS_ON for wrapper in wrappers)
            if self.vec_normalize.norm_obs:
                self._transposers = [wrapper for wrapper in reversed(wrappers) if isinstance(wrapper, VecTransposeImage)]
                self.observations_are_raw = all(type(wrapper) in _PASS_OBSERVATIONS_ON for wrapper in wrappers)

    @property
    def normalizes_observations(self) -> bool:
        """Whether stored observations differ from what the policy sees."""
        return self.vec_normalize is not None and self.vec_normalize.norm_obs and self.observations_are_raw

    def raw_space(self, observation_space: spaces.Space[Any]) -> spaces.Space[Any]:
        """
        :param observation_space: of the policy
        :return: of the stored observations: where images are normalised, the policy sees floats and ``uint8`` is stored
        """
        if not self.normalizes_observations:
            return observation_space
        assert self.vec_normalize is not None
        below = self.vec_normalize.venv.observation_space
        if isinstance(observation_space, spaces.Dict) and isinstance(below, spaces.Dict):
            normalized = set(self.vec_normalize.norm_obs_keys or ())
            return spaces.Dict({key: below[key] if key in normalized else space for key, space in observation_space.items()})
        return below

    def raw_observation(self, observation: Observation) -> Observation:
        """
        :param observation: what the policy sees after the latest step or reset [N, *obs]
        :return: the same before normalisation [N, *obs]
        """
        if not self.normalizes_observations:
            return observation
        assert self.vec_normalize is not None
        raw: Observation = self.vec_normalize.old_obs
        for transposer in self._transposers:  # images turn channel-first above VecNormalize, which leaves them alone
            raw = transposer.transpose_observations(raw)
        return raw

    def recall(self, observation: Observation) -> Observation:
        """
        :param observation: what the policy saw some time ago [N, *obs]
        :return: the same before normalisation: exactly, unless the environment went on in the meantime [N, *obs]
        """
        if not self.normalizes_observations:
            return observation
        assert self.vec_normalize is not None
        if hasattr(self.vec_normalize, "old_obs"):
            latest = self.raw_observation(observation)
            if same_observation(self.observation(latest), observation):
                return latest
        return self.vec_normalize.unnormalize_obs(observation)

    def seen_now(self, observation: Observation) -> Observation:
        """
        :param observation: what the policy sees after the latest step or reset [N, *obs]
        :return: what it would see of it with the statistics as they are now, which somebody may have replaced since [N, *obs]
        """
        if not self.normalizes_observations or not hasattr(self.vec_normalize, "old_obs"):
            return observation
        return self.observation(self.raw_observation(observation))

    def latest_observation(self, observation: Observation) -> Observation:
        """
        :param observation: what the policy sees after the latest step [N, *obs]
        :return: what the environments gave at that step, before ``VecNormalize`` and whatever stands above it [N, ...]
        """
        return observation if self.vec_normalize is None else self.vec_normalize.old_obs

    def raw_terminal_observation(self, observation: Observation) -> Observation:
        """
        ``VecNormalize`` has overwritten the terminal observation in ``info``, so that it is computed back; what it clipped
        (beyond ``clip_obs`` standard deviations) stays clipped, as in SB3's off-policy algorithms.

        :param observation: the terminal observation as found in ``info``, normalised just now [*obs]
        :return: the same before normalisation [*obs]
        """
        if not self.normalizes_observations:
            return observation
        assert self.vec_normalize is not None
        return self.vec_normalize.unnormalize_obs(observation)

    def raw_reward(self, reward: np.ndarray) -> np.ndarray:
        """
        :param reward: what the algorithm sees after the latest step [N]
        :return: the same before normalisation [N]
        """
        return self.vec_normalize.old_reward if self.vec_normalize is not None and self.rewards_are_raw else reward

    def observation(self, raw: Observation) -> Observation:
        """
        :param raw: stored observations [..., *obs]
        :return: what the policy expects, with the current statistics [..., *obs]
        """
        if not self.normalizes_observations:
            return raw
        assert self.vec_normalize is not None
        return self.vec_normalize.normalize_obs(raw)

    def reward(self, raw: np.ndarray) -> np.ndarray:
        """
        :param raw: stored rewards [...]
        :return: rewards with the current statistics [...]
        """
        return self.vec_normalize.normalize_reward(raw) if self.vec_normalize is not None and self.rewards_are_raw else raw

    def state(self) -> dict[str, Any] | None:
        """
        :return: a copy of the running statistics, or ``None`` without ``VecNormalize``
        """
        return self._copies(*_STATISTICS, *_OF_EACH_ENV)

    def statistics(self) -> dict[str, Any] | None:
        """
        :return: of :meth:`state` what all environments share, also those elsewhere that are normalised alike
        """
        return self._copies(*_STATISTICS)

    def _copies(self, *names: str) -> dict[str, Any] | None:
        if self.vec_normalize is None:
            return None
        return {name: copy.deepcopy(getattr(self.vec_normalize, name)) for name in names if hasattr(self.vec_normalize, name)}

    def restore(self, state: dict[str, Any] | None) -> None:
        """
        Put running statistics back.

        :param state: what :meth:`state` gave
        """
        if self.vec_normalize is None or state is None:
            return
        for name, value in state.items():
            if name in _OF_EACH_ENV and len(observation_parts(value)[0]) != self.vec_normalize.num_envs:
                continue  # they belong to the environments of the run they came from
            present = getattr(self.vec_normalize, name, None)
            if isinstance(present, dict) and isinstance(value, dict):  # other keys may be normalised here than there
                value = {key: value.get(key, statistics) for key, statistics in present.items()}
            setattr(self.vec_normalize, name, copy.deepcopy(value))

    def take_over(self, state: dict[str, Any]) -> None:
        """
        Take what is missing here: everything, where ``VecNormalize`` has not seen a single step; what its own file does not
        hold, where it was loaded from that and is at the very step of the state; else nothing.

        :param state: what :meth:`state` gave
        """
        if self.vec_normalize is None:
            return
        present, saved = self.vec_normalize.ret_rms, state["ret_rms"]
        if present.count < 1.0:
            self.restore(state)
        elif (present.count, present.mean, present.var) == (saved.count, saved.mean, saved.var):
            self.restore({name: state[name] for name in _OF_EACH_ENV if name in state})


def _wrappers_above(env: VecEnv, vec_normalize: VecNormalize) -> list[VecEnvWrapper]:
    """Wrappers between the algorithm and ``vec_normalize``, outermost first."""
    wrappers: list[VecEnvWrapper] = []
    current: VecEnv = env
    while current is not vec_normalize:
        assert isinstance(current, VecEnvWrapper)
        wrappers.append(current)
        current = current.venv
    return wrappers

"""The loop of an actor that acts on arrays does what SB3's does with the same actions."""

import copy
import os
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_gipo.distributed.array_acting import ArrayActing
from sb3_gipo.distributed.collector import Collector, collector
from sb3_gipo.learner.engine import Engine
from sb3_gipo.policies import MlpPolicy, unchecked_distributions
from sb3_gipo.replay_algorithm import DeadEnvironmentError
from sb3_gipo.rollouts.recorder import NonFiniteStepError
from sb3_gipo.rollouts.types import Rollout
from tests.distributed.test_collector import SIZES, collect, same
from tests.small_envs import SpaceEnv

WRAPPERS: dict[str, Any] = {
    "plain": lambda env: env,
    "normalised": VecNormalize,
    "stacked": lambda env: VecFrameStack(env, 2),
    "stacked, then normalised": lambda env: VecNormalize(VecFrameStack(env, 2)),
}


def model_of(wrap: str = "plain", action: str = "box", seeds: tuple[int, ...] = (1, 2), observation: str = "box") -> Collector:
    env: VecEnv = _ReusingVecEnv([lambda seed=seed: SpaceEnv(observation, action, seed=seed) for seed in seeds])
    model = collector(MlpPolicy, env=WRAPPERS[wrap](env), **SIZES)
    with th.no_grad():  # far enough for actions to be clipped
        model.policy.action_net.weight.mul_(100.0)
    return model


class _ReusingVecEnv(DummyVecEnv):
    """Writes every observation into the same array, as vectorised simulators do."""

    def _obs_from_buf(self) -> Any:
        return self.buf_obs[None]


def with_sb3s_loop(model: Collector) -> Collector:
    """It samples alike, but SB3 asks it."""
    acting = ArrayActing(model.policy)

    def forward(obs: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, ...]:
        actions, log_probs = map(th.from_numpy, acting.act(obs.numpy()))
        return actions, th.zeros(len(actions), 1), log_probs

    model.policy.forward = forward  # type: ignore[method-assign]
    return model


def with_its_own(model: Collector) -> Collector:
    model.act_on_arrays()
    assert model.array_acting is not None
    return model


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
@pytest.mark.parametrize("observation", ["box", "float64"])
@pytest.mark.parametrize("action", ["box", "box_matrix", "discrete"])
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_it_does_what_sb3s_does(wrap: str, action: str, observation: str, seeds: tuple[int, ...]) -> None:
    """Two rollouts, number for number, with ends of both kinds, and what is left for the next one."""
    made = (wrap, action, seeds, observation)
    models = with_sb3s_loop(model_of(*made)), with_its_own(model_of(*made))
    for _ in range(2):
        expected, found = map(collect, models)
        assert expected.truncated.any()
        for field in fields(Rollout):
            if field.name != "collected_at":
                assert same(getattr(expected, field.name), getattr(found, field.name)), field.name
        for name in ("num_timesteps", "_last_obs", "_last_episode_starts"):
            assert same(*(getattr(model, name) for model in models)), name
        assert models[1].rollout_buffer.pos == SIZES["n_steps"]
    if action == "box":
        assert np.abs(expected.actions).max() > 0.5  # stored as sampled, acted as clipped


class _Notes(BaseCallback):
    """What a callback can read, and where it stops."""

    def __init__(self, stops_at: int) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []
        self._stops_at = stops_at

    def _on_step(self) -> bool:
        names = ("actions", "clipped_actions", "new_obs", "rewards", "dones", "infos")
        noted = {name: copy.deepcopy(self.locals[name]) for name in names}
        self.seen.append({**noted, "log_probs": np.asarray(self.locals["log_probs"]).copy(), "timesteps": self.num_timesteps})
        return self.n_calls < self._stops_at


def test_callbacks_see_what_they_see_in_sb3s() -> None:
    """Arrays in place of tensors; where one stops, it is left."""
    seen = []
    for model in (with_sb3s_loop(model_of()), with_its_own(model_of())):
        notes = _Notes(stops_at=5)
        _, callback = model._setup_learn(1, notes)
        callback.on_training_start({}, {})
        assert model.env is not None
        assert not model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        assert model.rollout_buffer.pos == 4
        assert model.collected is None
        seen.append(notes.seen)
    np.testing.assert_equal(*seen)
    assert len(seen[0]) == 5


class _Broken(SpaceEnv):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        return observation, np.nan if self._t == 3 else reward, *rest  # type: ignore[return-value]


def test_a_number_that_is_not_finite_ends_it() -> None:
    """With the environment, the step and what led there."""
    env = DummyVecEnv([lambda: SpaceEnv(seed=1), lambda: _Broken(seed=2)])
    model = with_its_own(collector(MlpPolicy, env=env, **SIZES))
    with pytest.raises(NonFiniteStepError, match=r"Environment 1: .* a reward that is not finite, at step 2 of") as error:
        collect(model)
    assert set(error.value.step) == {"actions", "clipped_actions", "rewards", "new_obs"}
    assert np.isnan(error.value.step["rewards"])


class _BrokenFromTheBeginning(SpaceEnv):
    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = super().reset(**arguments)
        return observation * np.nan, info


def test_a_first_observation_that_is_not_finite_is_the_environments_fault() -> None:
    """Said before the policy is asked what it makes of it."""
    env = DummyVecEnv([lambda: SpaceEnv(seed=1), lambda: _BrokenFromTheBeginning(seed=2)])
    model = with_its_own(collector(MlpPolicy, env=env, **SIZES))
    with pytest.raises(NonFiniteStepError, match="Environment 1: the environment returned an observation"):
        collect(model)


@pytest.mark.parametrize("action", ["box", "discrete"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_policy_that_is_not_finite_is_stopped_at_its_first_step(action: str, number: float) -> None:
    """As in SB3's loop. Here torch does not look at its distributions, as in Ray's actors."""
    model = with_its_own(model_of(action=action))
    with th.no_grad():
        model.policy.action_net.bias[0] = number
    with (
        unchecked_distributions(),
        np.errstate(invalid="ignore"),
        pytest.raises(NonFiniteStepError, match=r"Environment 0: the policy returned a log-probability .* at step 0 of"),
    ):
        collect(model)
    assert model.num_timesteps == 2


def test_an_environment_that_died_is_told_of() -> None:
    """Its process ends in the middle of a rollout."""
    env = SubprocVecEnv([lambda: _Dying(seed=1)], start_method="fork")
    model = with_its_own(collector(MlpPolicy, env=env, **SIZES))
    with pytest.raises(DeadEnvironmentError, match="An environment process died"):
        collect(model)
    assert model._last_obs is None


class _Dying(SpaceEnv):
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._t == 3:
            os._exit(1)
        return super().step(action)


def test_nothing_is_compiled_for_it() -> None:
    model = with_its_own(model_of())
    model.compile = True
    model._engine = Engine(compiled=True)
    collect(model)
    assert model._engine.compile_seconds == 0.0
    assert "forward" not in vars(model.policy)

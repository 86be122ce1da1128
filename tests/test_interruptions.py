"""However a run is left, what is stored afterwards belongs together, and the error is the one that happened."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize

from sb3_gipo import GIPO
from tests.small_envs import SpaceEnv

# Nothing moves: no learning rate, no statistics that follow. Then the policy's log-probability of what is stored must be
# the stored one.
STILL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "learning_rate": 0.0, "seed": 1}


class RaisesAt(SpaceEnv):
    """Raises at one step of its life."""

    def __init__(self, at: int, error: type[BaseException], seed: int = 0) -> None:
        super().__init__(seed=seed)
        self._countdown, self._error = at, error

    def step(self, action: Any) -> Any:
        self._countdown -= 1
        if self._countdown == 0:
            raise self._error("as told")
        return super().step(action)


def normalized(env: VecEnv) -> VecNormalize:
    """VecNormalize with statistics that matter and stand still."""
    env = VecNormalize(env, training=False)
    env.obs_rms.mean += 0.5
    env.obs_rms.var *= 0.01
    return env


def largest_log_ratio(model: GIPO) -> float:
    """Of all that is stored, under the present policy."""
    targets = model._compute_targets(model.replay_buffer)
    assert model.replay_buffer is not None
    stored = model.replay_buffer.gather("log_probs", np.arange(len(model.replay_buffer)))
    return float((targets.log_prob - th.from_numpy(stored)).abs().max())


class StopAt(BaseCallback):
    """Stops at a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def _on_step(self) -> bool:
        return self.n_calls != self._at


@pytest.mark.parametrize("wrap", [lambda env: env, normalized], ids=["plain", "VecNormalize"])
@pytest.mark.parametrize("at", [1, 2, 16, 20])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_in_the_environment_is_the_error(wrap: Any, at: int, error: type[BaseException]) -> None:
    """What the environment raises comes out as it is, at any step, and the next rollout begins with its own observation."""
    model = GIPO("MlpPolicy", wrap(DummyVecEnv([lambda: RaisesAt(at, error)])), **STILL)
    with pytest.raises(error, match="as told"):
        model.learn(200)
    model.learn(32, reset_num_timesteps=False)
    assert largest_log_ratio(model) < 1e-5


@pytest.mark.parametrize("wrap", [lambda env: env, normalized], ids=["plain", "VecNormalize"])
def test_stopped_interrupted_and_stopped_again(wrap: Any) -> None:
    """Stops by callbacks and interrupts in any order leave no wrong observation behind."""
    model = GIPO("MlpPolicy", wrap(DummyVecEnv([lambda: RaisesAt(12, KeyboardInterrupt)])), **STILL)
    model.learn(200, callback=StopAt(11))
    with pytest.raises(KeyboardInterrupt):
        model.learn(32, reset_num_timesteps=False)
    model.learn(40, callback=StopAt(20), reset_num_timesteps=False)
    model.learn(16, reset_num_timesteps=False)
    assert largest_log_ratio(model) < 1e-5


def test_the_training_environment_was_used_in_between() -> None:
    """Evaluating on the training environment moves it on; what is stored next is still what the policy saw."""
    env = normalized(DummyVecEnv([SpaceEnv]))
    model = GIPO("MlpPolicy", env, **STILL).learn(16)
    evaluate_policy(model, env, n_eval_episodes=1, warn=False)
    model.learn(16, reset_num_timesteps=False)
    assert largest_log_ratio(model) < 1e-4


class TimesHundred(VecEnvWrapper):
    """Scales rewards, above VecNormalize."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards * 100.0, dones, infos


@pytest.mark.parametrize("norm_reward", [True, False])
def test_rewards_from_above_vec_normalize(norm_reward: bool) -> None:
    """Rewards that a wrapper on top changes are stored as they are seen, with a warning, not as they were below."""
    env = TimesHundred(VecNormalize(DummyVecEnv([SpaceEnv]), norm_obs=False, norm_reward=norm_reward))
    model = GIPO("MlpPolicy", env, **{**STILL, "gamma": 0.0})
    with pytest.warns(UserWarning, match="observations or rewards"):
        model.learn(16)
    stored = model.replay_buffer.gather("rewards", np.arange(16))
    np.testing.assert_allclose(stored, model.rollout_buffer.rewards.flatten(), rtol=1e-6)


def test_other_keys_are_normalised_where_it_is_loaded(tmp_path: Any) -> None:
    """A model loads into a VecNormalize of other keys; those it knows get their statistics."""

    def make(keys: list[str] | None) -> VecNormalize:
        space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3,))})

        class TwoKeys(SpaceEnv):
            def __init__(self) -> None:
                super().__init__()
                self.observation_space = space

        return VecNormalize(DummyVecEnv([TwoKeys]), norm_obs_keys=keys)

    model = GIPO("MultiInputPolicy", make(["a"]), **STILL).learn(16)
    model.save(tmp_path / "model")
    both = make(["a", "b"])
    GIPO.load(tmp_path / "model", env=both).learn(16)
    assert both.obs_rms["a"].count > both.obs_rms["b"].count > 1


def test_warning_and_remedy_agree(tmp_path: Any) -> None:
    """Who follows the warning and wraps the environment gets the statistics, at once or after saving again."""
    GIPO("MlpPolicy", VecNormalize(DummyVecEnv([SpaceEnv])), **STILL).learn(32).save(tmp_path / "model")
    with pytest.warns(UserWarning, match="Wrap the environment in VecNormalize"):
        model = GIPO.load(tmp_path / "model", env=DummyVecEnv([SpaceEnv]))
    model.save(tmp_path / "again")
    later, at_once = VecNormalize(DummyVecEnv([SpaceEnv])), VecNormalize(DummyVecEnv([SpaceEnv]))
    model.set_env(at_once)
    GIPO.load(tmp_path / "again", env=later)
    assert at_once.obs_rms.count == later.obs_rms.count > 32


def test_seeded_from_outside() -> None:
    """Without a seed of its own, a run follows the global generators, the replay's included."""
    results = []
    for _ in range(2):
        set_random_seed(7)
        model = GIPO("MlpPolicy", DummyVecEnv([SpaceEnv]), **{**STILL, "seed": None, "learning_rate": 1e-2}).learn(64)
        results.append(list(model.policy.parameters()))
    assert all(th.equal(a, b) for a, b in zip(*results, strict=True))


def test_scalar_actions() -> None:
    """A Box action without dimensions replays."""

    class Scalar(SpaceEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(-1.0, 1.0, (), np.float32)

    model = GIPO("MlpPolicy", DummyVecEnv([Scalar]), **STILL).learn(48)
    assert largest_log_ratio(model) < 1e-5

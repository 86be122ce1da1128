"""Bad input gets an error that says what was given and what is allowed, before anything is built or lost."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_gipo import GIPO, NonFiniteUpdateError
from sb3_gipo.settings import MIN_SIGMA, trust_schedule, trust_width
from tests.small_envs import SpaceEnv

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 1}


def make_env(n_envs: int = 2) -> DummyVecEnv:
    return DummyVecEnv([lambda index=index: SpaceEnv(seed=index) for index in range(n_envs)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0}, "`sigma` is 0; it must be a finite number above 0"),
        ({"sigma": -0.5}, "`sigma` is -0.5"),
        ({"sigma": float("nan")}, "`sigma` is nan"),
        ({"sigma": float("inf")}, "`sigma` is inf"),
        ({"sigma": "0.5"}, "must read 'lin_' and a start value above 0"),
        ({"sigma": "lin_-1"}, "must read 'lin_'"),
        ({"sigma": "lin_nan"}, "must read 'lin_'"),
        ({"sigma": True}, "`sigma` is True"),
        ({"sigma": lambda progress: -progress}, "gives -1.0 at remaining progress 1.0"),
        ({"sigma": lambda progress: progress - 0.5}, "gives 0.0 at remaining progress 0.5"),
        ({"sigma_neg": 0.0}, "`sigma_neg` is 0.0"),
        ({"surrogate": "gippo"}, "Did you mean 'gipo'"),
        ({"surrogate": "gipo", "surrogate_kwargs": {"tau": 1.0}}, "do not suit the surrogate"),
        ({"surrogate": lambda log_ratio, advantages: (log_ratio * advantages).mean()}, "Do not average it"),
        ({"kernel": "gauss"}, "Did you mean 'gaussian'"),
        ({"target": "v-trace"}, "Did you mean 'vtrace'"),
        ({"ratio_level": "token"}, "`ratio_level` is 'token'; it must be one of 'joint', 'dimension'"),
        ({"replay_capacity": 31}, "less than one rollout: n_steps=16 x n_envs=2 = 32"),
        ({"replay_capacity": 0}, "`replay_capacity` is 0"),
        ({"replay_capacity": 64.5}, "whole number"),
        ({"replay_capacity": "all"}, "`replay_capacity` is 'all'"),
        ({"replay_capacity": 40, "batch_size": 64}, "`batch_size` 64 is larger than all that is ever stored"),
        ({"gradient_steps": 0}, "`gradient_steps` is 0"),
        ({"gradient_steps": 5, "replay_capacity": None}, "use `n_epochs`"),
        ({"n_epochs": 0}, "`n_epochs` is 0"),
        ({"vtrace_rho_bar": 0.0}, "`vtrace_rho_bar` is 0.0"),
        ({"vtrace_c_bar": float("nan")}, "`vtrace_c_bar` is nan"),
        ({"chain_rollouts": 1}, "`chain_rollouts` is 1; it must be True or False"),
        ({"chain_rollouts": True, "replay_capacity": None}, "`chain_rollouts` is True, but without a replay"),
        ({"chain_rollouts": True, "target": "stored"}, '`chain_rollouts` is True, but with `target="stored"`'),
        ({"max_policy_lag": -1}, "`max_policy_lag` is -1"),
        ({"old_threshold": 1.5}, "whole number"),
        ({"kl_coef": -0.1}, "`kl_coef` is -0.1"),
        ({"kl_coef": "0.1"}, "`kl_coef` is '0.1'"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "given",
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_refused_with_the_reason(options: dict[str, Any], message: str) -> None:
    """Each bad argument is a ``ValueError``, which RL Zoo's tuner prunes, naming the argument and what is allowed."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is checked below
        GIPO("MlpPolicy", make_env(), **{**SMALL, **options})
    assert message in str(caught.value)


def test_numpy_numbers_are_numbers() -> None:
    """What a tuner suggests as NumPy numbers is taken."""
    options = {
        "sigma": np.float32(0.5),
        "replay_capacity": np.int64(64),
        "gradient_steps": np.int32(2),
        "kl_coef": np.float64(0.1),
    }
    GIPO("MlpPolicy", make_env(), **SMALL, **options).learn(32)


def test_bad_argument_at_load(tmp_path: Any) -> None:
    """Arguments changed while loading are checked too."""
    GIPO("MlpPolicy", make_env(), **SMALL).save(tmp_path / "model")
    with pytest.raises(ValueError, match="`sigma` is -1"):
        GIPO.load(tmp_path / "model", env=make_env(), sigma=-1)
    assert GIPO.load(tmp_path / "model", env=make_env(), sigma="lin_0.3").sigma(1.0) == 0.3


def test_linear_width_ends_above_zero() -> None:
    """RL Zoo's ``lin_0.5`` runs from 0.5 towards 0 and stays a width at and beyond the end of training."""
    schedule = trust_schedule("sigma", "lin_0.5")
    assert schedule(1.0) == 0.5
    assert schedule(0.5) == pytest.approx(0.25, abs=1e-3)
    assert schedule(0.0) == pytest.approx(MIN_SIGMA)
    assert schedule(-0.2) == pytest.approx(MIN_SIGMA)
    assert trust_width("sigma", lambda progress: progress, -0.2) == MIN_SIGMA
    with pytest.raises(ValueError, match="must be finite"):
        trust_width("sigma", lambda progress: float("nan"), 0.3)


class BrokenSum(th.autograd.Function):
    """Identity whose gradient is not finite."""

    @staticmethod
    def forward(ctx: Any, value: th.Tensor) -> th.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: th.Tensor) -> th.Tensor:
        return gradient * float("nan")


def test_single_broken_minibatches_are_skipped_and_counted() -> None:
    """A minibatch without a finite gradient changes nothing and is counted; the others are taken."""
    calls = 0

    def surrogate(log_ratio: th.Tensor, advantages: th.Tensor) -> th.Tensor:
        nonlocal calls
        calls += 1
        loss = -th.exp(log_ratio) * advantages
        return BrokenSum.apply(loss) if calls == 5 else loss

    model = GIPO("MlpPolicy", make_env(), **SMALL, surrogate=surrogate)
    model.learn(32, log_interval=10**6)
    assert model.logger.name_to_value["train/skipped_steps"] == 1
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


def test_an_update_without_any_finite_gradient_is_an_error() -> None:
    """When no minibatch will do, the run ends with the offending batch at hand, and the parameters are those from before."""

    def surrogate(log_ratio: th.Tensor, advantages: th.Tensor) -> th.Tensor:
        return BrokenSum.apply(-th.exp(log_ratio) * advantages)

    model = GIPO("MlpPolicy", make_env(), **SMALL, surrogate=surrogate)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    with pytest.raises(NonFiniteUpdateError, match="parameters are as they were") as caught:
        model.learn(32)
    assert isinstance(caught.value, ValueError)
    assert len(caught.value.batch.advantages) == 16
    assert all(th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


class NanReward(gym.Wrapper):
    """Gives a reward that is not a number at the 20th step."""

    steps = 0

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        return observation, float("nan") if self.steps == 20 else reward, terminated, truncated, info


@pytest.mark.parametrize("options", [{}, {"surrogate": "ppo_clip", "target": "stored", "replay_capacity": None}], ids=str)
def test_non_finite_reward_names_its_environment_and_keeps_the_replay(options: dict[str, Any]) -> None:
    """The error names environment and step; the replay is as it was, and training can go on."""
    env = DummyVecEnv([lambda: SpaceEnv(seed=0), lambda: NanReward(SpaceEnv(seed=1))])
    model = GIPO("MlpPolicy", env, **SMALL, **options)
    with pytest.raises(ValueError, match=r"Environment 1: .* reward that is not finite, at step 3 of this rollout"):
        model.learn(320)
    if model.replay_buffer is not None:
        assert len(model.replay_buffer) == 32
    model.learn(64, reset_num_timesteps=False)
    if model.replay_buffer is not None:
        assert len(model.replay_buffer) == 96


def test_loading_a_replay_into_a_model_without_one(tmp_path: Any) -> None:
    """A model that keeps no replay says so."""
    model = GIPO("MlpPolicy", make_env(), **SMALL)
    model.learn(32)
    model.save_replay_buffer(tmp_path / "replay")
    ppo = GIPO("MlpPolicy", make_env(), **SMALL, surrogate="ppo_clip", target="stored", replay_capacity=None)
    with pytest.raises(ValueError, match="keeps no replay"):
        ppo.load_replay_buffer(tmp_path / "replay")

"""Ratios: a stored log-probability belongs to the stored action, for every distribution SB3 has."""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_gipo import GIPO
from sb3_gipo.learner.batches import replay_source
from sb3_gipo.learner.objective import objective
from sb3_gipo.policies import check_policy, evaluate_actions, n_action_dimensions
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.types import ReplayBatch, Rollout

BOX = spaces.Box(-0.5, 0.5, (3,), np.float32)
SQUASHED = {"use_sde": True, "policy_kwargs": {"squash_output": True}}
# so wide that the tanh of most samples is 1 in float32
SATURATED = {"use_sde": True, "policy_kwargs": {"squash_output": True, "log_std_init": 2.5}}

DISTRIBUTIONS: dict[str, tuple[spaces.Space[Any], dict[str, Any]]] = {
    "Gaussian": (BOX, {}),
    "wide Gaussian": (BOX, {"policy_kwargs": {"log_std_init": 2.0}}),
    "matrix Gaussian": (spaces.Box(-0.5, 0.5, (2, 2), np.float32), {}),
    "gSDE": (BOX, {"use_sde": True}),
    "gSDE, one noise at a time": (BOX, {"use_sde": True, "sde_sample_freq": 3}),
    "gSDE, expln": (BOX, {"use_sde": True, "policy_kwargs": {"use_expln": True, "log_std_init": 0.5}}),
    "gSDE, one std": (BOX, {"use_sde": True, "policy_kwargs": {"full_std": False}}),
    "squashed gSDE": (BOX, SQUASHED),
    "squashed gSDE, matrix": (spaces.Box(-0.5, 0.5, (2, 2), np.float32), SQUASHED),
    "squashed gSDE, expln": (BOX, {"use_sde": True, "policy_kwargs": {"squash_output": True, "use_expln": True}}),
    "squashed gSDE, one noise at a time": (BOX, {**SQUASHED, "sde_sample_freq": 2}),
    "saturated gSDE": (BOX, SATURATED),
    "Discrete": (spaces.Discrete(5), {}),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 2, 300]), {}),
    "MultiBinary": (spaces.MultiBinary(4), {}),
}
cases = pytest.mark.parametrize(("space", "kwargs"), DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())
LEVELS = ("joint", "dimension")


class Noise(gym.Env[np.ndarray, Any]):
    """Random observations, random rewards, an end now and then; actions change nothing."""

    observation_space = spaces.Box(-3.0, 3.0, (4,), np.float32)

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        self.action_space = action_space

    def _observe(self) -> np.ndarray:
        return self.np_random.normal(size=4).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        end = self.np_random.random()
        return self._observe(), float(self.np_random.normal()), bool(end < 0.1), bool(0.1 <= end < 0.2), {}


class Keep(BaseCallback):
    """Keeps what the policy was and did at each step of the first rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[np.ndarray] = []
        self.log_probs: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.actions.append(self.locals["actions"].copy())
        self.log_probs.append(self.locals["log_probs"].numpy().copy())
        return True


def make_model(space: spaces.Space[Any], n_envs: int = 3, **kwargs: Any) -> GIPO:
    """A small model."""
    env = DummyVecEnv([lambda: Noise(space)] * n_envs)
    policy_kwargs = {"net_arch": [8], **kwargs.pop("policy_kwargs", {})}
    arguments = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "seed": 0, "device": "cpu", "learning_rate": 0.05}
    return GIPO("MlpPolicy", env, policy_kwargs=policy_kwargs, **{**arguments, **kwargs})


def collect(model: GIPO, callback: BaseCallback | None = None) -> Rollout:
    """One rollout, with no update after it."""
    _, started = model._setup_learn(10**6, callback)
    assert model.env is not None
    started.on_training_start({}, {})
    assert model.collect_rollouts(model.env, started, model.rollout_buffer, model.n_steps)
    assert model.replay_buffer is not None
    return model.replay_buffer.segment_rollout(model.replay_buffer.segments[-1])[0]


def batch_of(model: GIPO) -> ReplayBatch:
    """All that is in the replay as one minibatch."""
    assert model.replay_buffer is not None
    targets = model._compute_targets(model.replay_buffer)
    assert targets is not None
    everything = np.arange(len(model.replay_buffer))
    return replay_source(model.replay_buffer, targets, Normalizer(model.env), model.device).take(everything)


@cases
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("n_envs", [1, 3])
def test_ratio_is_one_after_collection(space: spaces.Space[Any], kwargs: dict[str, Any], level: str, n_envs: int) -> None:
    """Right after collection, before any gradient step, every log-ratio is 0: joint, of each dimension, and for V-trace."""
    model = make_model(space, n_envs, ratio_level=level, **kwargs)
    collect(model)
    batch = batch_of(model)
    how = model._objective_settings()
    terms, _ = objective(model.policy, batch, how)
    expected_shape = (8 * n_envs,) if level == "joint" else (8 * n_envs, n_action_dimensions(space))
    assert terms.log_ratio.shape == expected_shape
    assert terms.log_ratio.abs().max() < 1e-5
    assert terms.joint_log_ratio.abs().max() < 2e-5
    assert (batch.start_log_prob - batch.old_log_prob).abs().max() < 2e-5
    assert batch.old_log_prob.std() > 1e-4  # it is not that all are the same


@cases
def test_joint_is_the_sum_of_dimensions(space: spaces.Space[Any], kwargs: dict[str, Any]) -> None:
    """The joint log-probability is the sum of those of the dimensions, as stored and as computed anew."""
    model = make_model(space, ratio_level="dimension", **kwargs)
    rollout = collect(model)
    assert rollout.dimension_log_probs is not None
    assert rollout.dimension_log_probs.shape == (8, 3, n_action_dimensions(space))
    np.testing.assert_allclose(rollout.log_probs, rollout.dimension_log_probs.sum(axis=-1), atol=1e-5, rtol=1e-5)
    batch = batch_of(model)
    with th.no_grad():
        now = evaluate_actions(model.policy, batch.observations, batch.actions, "dimension", sampled=True)
    assert now.dimension_log_prob is not None
    np.testing.assert_allclose(now.log_prob, now.dimension_log_prob.sum(dim=1), atol=1e-5, rtol=1e-5)


@cases
def test_stored_is_what_the_policy_said(space: spaces.Space[Any], kwargs: dict[str, Any]) -> None:
    """Without squashing, the stored action and log-probability are the very numbers of SB3's loop."""
    keep = Keep()
    model = make_model(space, **kwargs)
    rollout = collect(model, keep)
    if model.policy.squash_output:
        np.testing.assert_array_equal(np.tanh(rollout.actions).shape, np.stack(keep.actions).shape)
        np.testing.assert_allclose(th.tanh(th.tensor(rollout.actions)), np.stack(keep.actions), atol=1e-6)
    else:
        np.testing.assert_array_equal(rollout.actions, np.stack(keep.actions))
        np.testing.assert_array_equal(rollout.log_probs, np.stack(keep.log_probs))


@pytest.fixture(params=[-2.0, 0.0, 2.5], ids=["narrow", "middle", "saturated"])
def squashed(request: pytest.FixtureRequest) -> tuple[GIPO, Rollout, np.ndarray]:
    """A squashed gSDE policy, its first rollout, and the actions that SB3's loop saw."""
    keep = Keep()
    model = make_model(BOX, use_sde=True, policy_kwargs={"squash_output": True, "log_std_init": request.param})
    rollout = collect(model, keep)
    actions = np.stack(keep.actions)
    share = (np.abs(actions) == 1.0).mean()
    assert {-2.0: share == 0, 2.5: share > 0.5}.get(request.param, True)
    return model, rollout, actions


def gaussian_of(model: GIPO, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of gSDE at every step, in double precision, from the network's weights alone."""

    def numbers(tensor: th.Tensor) -> np.ndarray:
        return tensor.detach().numpy().astype(np.float64)

    policy = model.policy
    hidden = np.asarray(rollout.observations, np.float64)
    for layer in policy.mlp_extractor.policy_net:
        hidden = np.tanh(hidden) if isinstance(layer, th.nn.Tanh) else hidden @ numbers(layer.weight).T + numbers(layer.bias)
    mean = hidden @ numbers(policy.action_net.weight).T + numbers(policy.action_net.bias)
    variance = hidden**2 @ np.exp(numbers(policy.log_std)) ** 2
    return mean, np.sqrt(variance + 1e-6)


def test_squashed_log_prob_in_double_precision(squashed: tuple[GIPO, Rollout, np.ndarray]) -> None:
    """
    The stored log-probability is that of the sample before the tanh, ``log N(u) - sum log(1 - tanh(u)^2 + 1e-6)``, computed
    independently in double precision: where the action is 1 in float32 too, and a reconstruction would be far off.
    """
    model, rollout, actions = squashed
    before = rollout.actions.astype(np.float64)
    mean, std = gaussian_of(model, rollout)
    by_dimension = -0.5 * ((before - mean) / std) ** 2 - np.log(std) - 0.5 * math.log(2 * math.pi)
    by_dimension -= np.log(1 - np.tanh(before) ** 2 + 1e-6)
    np.testing.assert_allclose(rollout.log_probs, by_dimension.sum(axis=-1), atol=0.05, rtol=1e-3)
    exact = np.abs(before) < 4  # beyond, float32 cannot tell 1 - tanh(u)^2 from 0, which the 1e-6 covers up
    close = exact.all(axis=-1)
    np.testing.assert_allclose(rollout.log_probs[close], by_dimension.sum(axis=-1)[close], atol=1e-3)
    if (np.abs(actions) == 1.0).any():
        # what the loop's own log-probability would have been: of the largest float32 below 1
        rebuilt = np.arctanh(np.clip(actions.astype(np.float64), -1 + 2.0**-23, 1 - 2.0**-23))
        assert np.abs(rebuilt - before).max() > 5


def test_squashed_sample_is_the_noise(squashed: tuple[GIPO, Rollout, np.ndarray]) -> None:
    """The stored sample is the mean plus the features times the noise matrix of its environment."""
    model, rollout, actions = squashed
    np.testing.assert_allclose(np.tanh(rollout.actions), actions, atol=1e-6)
    mean, _ = gaussian_of(model, rollout)
    distribution: Any = model.policy.action_dist
    hidden = np.asarray(rollout.observations, np.float64)
    for layer in model.policy.mlp_extractor.policy_net:
        weights = [part.detach().numpy().astype(np.float64) for part in layer.parameters()]
        hidden = np.tanh(hidden) if not weights else hidden @ weights[0].T + weights[1]
    noise = np.einsum("tnh,nhd->tnd", hidden, distribution.exploration_matrices.detach().numpy())
    np.testing.assert_allclose(rollout.actions, mean + noise, rtol=1e-4, atol=1e-4)


def test_squashed_gradient_pulls_towards_the_sample(squashed: tuple[GIPO, Rollout, np.ndarray]) -> None:
    """The gradient of a log-probability moves the mean towards the stored sample, with Gaussian strength."""
    model, rollout, _ = squashed
    batch = batch_of(model)
    bias = model.policy.action_net.bias
    now = evaluate_actions(model.policy, batch.observations, batch.actions, "joint", sampled=True)
    (gradient,) = th.autograd.grad(now.log_prob.sum(), bias)
    mean, std = gaussian_of(model, rollout)
    expected = ((rollout.actions - mean) / std**2).sum(axis=(0, 1))
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


def gradients(model: GIPO, batch: ReplayBatch) -> list[th.Tensor]:
    """Of the policy loss of a batch, for each parameter it depends on."""
    _, slope = objective(model.policy, batch, model._objective_settings()._replace(vf_coef=0.0))
    parameters = [p for name, p in model.policy.named_parameters() if "value" not in name]
    return list(th.autograd.grad(slope.roots, parameters, slope.derivatives))


@cases
@pytest.mark.parametrize("surrogate", ["gipo", "ppo_clip", "no_clip"])
def test_level_does_not_matter_on_policy(space: spaces.Space[Any], kwargs: dict[str, Any], surrogate: str) -> None:
    """At ratio 1, one ratio for each dimension gives the gradient of the joint ratio."""
    found = []
    for level in LEVELS:
        model = make_model(space, ratio_level=level, surrogate=surrogate, **kwargs)
        collect(model)
        found.append(gradients(model, batch_of(model)))
    assert sum(float(part.abs().sum()) for part in found[0]) > 1e-3
    for joint, by_dimension in zip(*found, strict=True):
        scale = max(1.0, float(joint.abs().max()))
        th.testing.assert_close(by_dimension, joint, atol=2e-4 * scale, rtol=1e-3)


@cases
def test_ratio_moves_with_the_policy(space: spaces.Space[Any], kwargs: dict[str, Any]) -> None:
    """After an update the log-ratio is the change of the log-probability, and no longer 0."""
    model = make_model(space, **kwargs)
    collect(model)
    old = batch_of(model)
    model.train()
    new = batch_of(model)
    assert th.equal(new.old_log_prob, old.old_log_prob)
    assert (new.start_log_prob - old.start_log_prob).abs().max() > 1e-3
    assert (new.version_gap == 1).all()


@cases
def test_learns_and_replays(space: spaces.Space[Any], kwargs: dict[str, Any]) -> None:
    """Several iterations with replay, and everything stays finite."""
    model = make_model(space, **kwargs, gradient_steps=2).learn(96)
    assert model.policy_version == 4
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


def test_ratio_is_one_under_vec_normalize() -> None:
    """With frozen statistics, re-normalised observations give the ratio 1 too."""
    env = VecNormalize(DummyVecEnv([lambda: Noise(BOX)] * 2))
    model = GIPO("MlpPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    model.learn(16)
    env.training = False
    assert model.replay_buffer is not None
    model.replay_buffer.drop_older_than(10)
    collect(model)
    batch = batch_of(model)
    assert (batch.start_log_prob - batch.old_log_prob).abs().max() < 2e-5


class SquashedGaussianPolicy(ActorCriticPolicy):
    """A policy whose tanh Gaussian does not keep the sample before the tanh."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._squash_output = True
        self.action_dist = SquashedDiagGaussianDistribution(3)  # type: ignore[assignment]  # as a user may do
        self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)


def test_squashing_without_gsde_is_refused() -> None:
    """A policy that squashes its actions with another distribution than gSDE is refused, with what to do."""
    env = DummyVecEnv([lambda: Noise(BOX)] * 2)
    expected = "SquashedDiagGaussianDistribution does not keep the sample before the tanh.*use_sde=True"
    for kwargs in ({}, {"ratio_level": "dimension"}, {"target": "stored"}):
        with pytest.raises(ValueError, match=expected):
            GIPO(SquashedGaussianPolicy, env, n_steps=8, batch_size=8, device="cpu", **kwargs)
    # where nothing is replayed there is nothing to refuse
    GIPO(SquashedGaussianPolicy, env, n_steps=8, batch_size=8, device="cpu", replay_capacity=None)


def test_unknown_distribution_has_no_dimensions() -> None:
    """ratio_level="dimension" needs a distribution that knows its dimensions; a subclass may not be one."""

    class Other(SquashedGaussianPolicy):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._squash_output = False

    model = make_model(BOX)
    other = Other(model.observation_space, BOX, lambda _: 1e-3)
    with pytest.raises(ValueError, match=r'`ratio_level="dimension"` needs .*SquashedDiagGaussianDistribution does not give'):
        check_policy(other, "dimension", stores_actions=True)
    check_policy(other, "joint", stores_actions=True)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (BOX, 3),
        (spaces.Box(-1, 1, (2, 3)), 6),
        (spaces.Discrete(7), 1),
        (spaces.MultiDiscrete([2, 9]), 2),
        (spaces.MultiBinary(5), 5),
    ],
    ids=str,
)
def test_n_action_dimensions(space: spaces.Space[Any], expected: int) -> None:
    """A choice is one dimension, whatever its number of options."""
    assert n_action_dimensions(space) == expected

"""Replay really happens, with fresh targets, and its numbers are those of the run."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_gipo import GIPO
from tests.small_envs import POLICIES, OneStateEnv, SpaceEnv

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 1}


class Logged(BaseCallback):
    """Keeps the log of every iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.iterations: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if "replay/size" in self.logger.name_to_value:
            self.iterations.append(dict(self.logger.name_to_value))

    def _on_training_end(self) -> None:
        self._on_rollout_start()


def make_env(observation: str = "box", action: str = "box", n_envs: int = 2) -> DummyVecEnv:
    return DummyVecEnv([lambda index=index: SpaceEnv(observation, action, seed=index) for index in range(n_envs)])


def test_replay_happens_in_a_real_run() -> None:
    """From the log of a real run: minibatches hold old samples in the share the replay has, at the ages the replay has."""
    log = Logged()
    model = GIPO("MlpPolicy", make_env(), **SMALL, replay_capacity=4 * 32, gradient_steps=8, old_threshold=1)
    model.learn(10 * 32, callback=log, log_interval=10**6)
    assert [entry["replay/rollouts"] for entry in log.iterations] == [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]
    for index, entry in enumerate(log.iterations):
        stored = min(index + 1, 4)
        # 8 minibatches of 16 are 128 draws: one pass over a full replay, whole passes over a filling one (128 = 4 x 32)
        assert entry["replay/size"] == 32 * stored
        if stored in (1, 2, 4):
            assert entry["replay/replayed_frac"] == pytest.approx(1 - 1 / stored)
            assert entry["lag/version_gap_mean"] == pytest.approx((stored - 1) / 2)
            assert entry["lag/old_frac"] == pytest.approx(max(stored - 2, 0) / stored)
        assert entry["lag/version_gap_max"] == stored - 1
        assert 0 < entry["utilization/trust_mean"] <= 1
    # in the steady state each pass draws every stored transition once: ages 0..3 were drawn 1..4 times
    assert log.iterations[-1]["replay/reuse_mean"] == pytest.approx(2.5)
    assert log.iterations[-1]["replay/reuse_max"] == 4
    assert log.iterations[-1]["lag/abs_log_rho_p95"] > 0
    assert 0 < log.iterations[-1]["utilization/ess_eff_old"] <= 1


def test_no_replay_logs_no_age() -> None:
    """Without replay every sample is fresh."""
    log = Logged()
    GIPO("MlpPolicy", make_env(), **SMALL, replay_capacity=None).learn(5 * 32, callback=log, log_interval=10**6)
    for entry in log.iterations:
        assert entry["replay/replayed_frac"] == 0
        assert entry["lag/version_gap_max"] == 0
        assert "utilization/ess_old" not in entry
        assert entry["replay/reuse_mean"] == SMALL["n_epochs"]


def test_max_policy_lag_drops_and_counts() -> None:
    """Rollouts older than the limit leave, and what left for its age is counted."""
    log = Logged()
    model = GIPO("MlpPolicy", make_env(), **SMALL, replay_capacity=8 * 32, max_policy_lag=2)
    model.learn(6 * 32, callback=log, log_interval=10**6)
    assert [entry["lag/version_gap_max"] for entry in log.iterations] == [0, 1, 2, 2, 2, 2]
    assert [entry["replay/dropped"] for entry in log.iterations] == [0, 0, 0, 32, 64, 96]


def test_default_work_grows_with_what_is_stored() -> None:
    """
    Without ``gradient_steps``: the minibatches that PPO takes on one rollout; with half of 8,192 transitions twice as many,
    and with all of them or more four times as many.
    """
    model = GIPO("MlpPolicy", make_env(), **{**SMALL, "n_steps": 512, "batch_size": 256}, replay_capacity=16_384)
    ppo = SMALL["n_epochs"] * 1024 // 256
    counts = [model.learn(1024, reset_num_timesteps=False).n_gradient_steps for _ in range(10)]
    assert np.diff([0, *counts]).tolist() == [ppo * of_8 // 2 for of_8 in (2, 2, 3, 4, 5, 6, 7, 8, 8, 8)]


def test_default_work_of_a_replay_that_keeps_less() -> None:
    """It is four times PPO's when that is full."""
    model = GIPO("MlpPolicy", make_env(), **SMALL, replay_capacity=4 * 32)
    ppo = SMALL["n_epochs"] * 32 // SMALL["batch_size"]
    counts = [model.learn(32, reset_num_timesteps=False).n_gradient_steps for _ in range(6)]
    assert np.diff([0, *counts]).tolist() == [ppo * times for times in (1, 2, 3, 4, 4, 4)]


@pytest.mark.parametrize("target", ["vtrace", "gae"])
def test_value_of_a_time_limit_is_that_of_going_on(target: str) -> None:
    """On one state with reward 1 the value tends to 1 / (1 - gamma) through time limits, also from old data."""
    gamma = 0.9
    env = DummyVecEnv([lambda: OneStateEnv(horizon=5)] * 2)
    model = GIPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=64,
        n_epochs=4,
        gamma=gamma,
        learning_rate=3e-3,
        target=target,
        policy_kwargs={"net_arch": [16]},
        seed=0,
        replay_capacity=8 * 64,
        gradient_steps=20,
    )
    model.learn(8 * 64)
    stored = model.replay_buffer.gather("rewards", np.arange(len(model.replay_buffer)))
    assert (stored == 1.0).all(), "a bootstrap value was baked into the rewards"
    for _ in range(80):  # nothing is collected any more: everything in the replay grows old
        model.train()
    assert model.policy_version == 88
    state = th.ones(1, 1)
    with th.no_grad():
        value = float(model.policy.predict_values(state))
    # taken for an end, a limit of 5 steps would give at most (1 - gamma^5) / (1 - gamma) = 4.1
    assert value == pytest.approx(1 / (1 - gamma), rel=0.03)


def test_gae_lambda_reaches_the_targets() -> None:
    """With replay the trace decay is that of V-trace and of GAE: at 0 the advantage is the temporal difference."""
    for target in ("vtrace", "gae"):
        model = GIPO("MlpPolicy", make_env(), **SMALL, target=target, gae_lambda=0.0, gamma=0.9).learn(32)
        targets = model._compute_targets(model.replay_buffer)
        rewards = model.replay_buffer.gather("rewards", np.arange(32))
        ends = model.replay_buffer.gather("terminated", np.arange(32)) | model.replay_buffer.gather("truncated", np.arange(32))
        inside = np.flatnonzero(~ends[:-2])  # two environments: the next step of the same one lies two places further
        difference = rewards[inside] + 0.9 * targets.values.numpy()[inside + 2] - targets.values.numpy()[inside]
        np.testing.assert_allclose(targets.advantages.numpy()[inside], difference, rtol=1e-4, atol=1e-5)


def test_updates_are_counted() -> None:
    """``n_updates`` grows by one with each iteration of replay, and goes on after that."""
    model = GIPO("MlpPolicy", make_env(), **SMALL).learn(96, log_interval=10**6)
    assert model.logger.name_to_value["train/n_updates"] == model._n_updates == model.policy_version == 3
    assert model.learn(32, reset_num_timesteps=False)._n_updates == 4


def test_targets_follow_the_current_policy() -> None:
    """The targets of a stored rollout change with the value function; stored ones (the ablation) do not."""
    for target, changes in (("vtrace", True), ("gae", True), ("stored", False)):
        model = GIPO("MlpPolicy", make_env(), **SMALL, target=target)
        model.learn(32)
        before = model._compute_targets(model.replay_buffer)
        with th.no_grad():
            model.policy.value_net.bias += 1.0
        after = model._compute_targets(model.replay_buffer)
        assert (not th.equal(before.advantages, after.advantages)) == changes


def test_vec_normalize_statistics_of_the_day() -> None:
    """Replayed observations and rewards are raw in the store and normalised with the current statistics when used."""
    env = VecNormalize(make_env())
    model = GIPO("MlpPolicy", env, **SMALL)
    model.learn(64)
    raw = model.replay_buffer.gather("observations", np.arange(64))
    assert np.abs(raw).max() <= 1.0  # the space's own bounds, which normalised observations leave
    seen: list[np.ndarray] = []
    original = model.policy.evaluate_actions
    model.policy.evaluate_actions = lambda obs, actions: (seen.append(obs.numpy()), original(obs, actions))[1]
    env.obs_rms.mean += 0.25
    model._compute_targets(model.replay_buffer)
    np.testing.assert_allclose(seen[0], env.normalize_obs(raw), rtol=1e-6)


@pytest.mark.parametrize("surrogate", ["gipo", "ppo_clip", "sapo", "no_clip"])
@pytest.mark.parametrize("ratio_level", ["joint", "dimension"])
def test_every_surrogate_trains_at_every_ratio_level(surrogate: str, ratio_level: str) -> None:
    """All four surrogates run through the same update, with one ratio for an action and with one for each dimension."""
    for action in ("box", "multidiscrete", "multibinary", "discrete"):
        model = GIPO("MlpPolicy", make_env(action=action), **SMALL, surrogate=surrogate, ratio_level=ratio_level, kl_coef=0.1)
        before = [parameter.clone() for parameter in model.policy.parameters()]
        model.learn(96)
        assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())
        assert any(not th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "cauchy"])
def test_kernels_and_widths(kernel: str) -> None:
    """Each kernel trains, with its own width where the advantage is negative and schedules for both."""
    model = GIPO(
        "MlpPolicy", make_env(), **SMALL, kernel=kernel, sigma="lin_0.5", sigma_neg=lambda progress: 0.1 + 0.2 * progress
    )
    log = Logged()
    model.learn(96, callback=log, log_interval=10**6)
    assert [entry["train/sigma"] for entry in log.iterations] == pytest.approx([0.334, 0.16733, 0.001], rel=1e-3)


def test_user_surrogate_is_the_same_code_path() -> None:
    """A function of log-ratio and advantage is a surrogate like the built-in ones: no-clip written out trains the same."""

    def plain(log_ratio: th.Tensor, advantages: th.Tensor) -> th.Tensor:
        return -th.exp(log_ratio) * advantages

    logs, models = [], []
    for surrogate in (plain, "no_clip"):
        log = Logged()
        models.append(GIPO("MlpPolicy", make_env(), **SMALL, surrogate=surrogate).learn(96, callback=log, log_interval=10**6))
        logs.append(log.iterations[-1])
    for ours, theirs in zip(models[0].policy.parameters(), models[1].policy.parameters(), strict=True):
        th.testing.assert_close(ours, theirs)
    for key in ("utilization/dead_frac", "utilization/trust_mean", "utilization/near_zero_frac"):
        assert logs[0][key] == pytest.approx(logs[1][key], rel=1e-5), key


def test_kl_penalty_holds_the_policy_back() -> None:
    """A penalty from the stored log-probabilities keeps the policy closer to those that collected the replay."""

    def divergence(kl_coef: float) -> float:
        log = Logged()
        options = {**SMALL, "n_epochs": 10, "learning_rate": 1e-2, "kl_coef": kl_coef}
        GIPO("MlpPolicy", make_env(), **options, surrogate="no_clip").learn(192, callback=log, log_interval=10**6)
        return float(log.iterations[-1]["train/kl_behaviour"])

    assert divergence(1.0) < 0.5 * divergence(0.0)


@pytest.mark.parametrize(
    ("options", "restoring", "kl_coef"),
    [
        ({}, 3.0, 0.0),  # one-sided trust pulls back by itself
        ({"surrogate_kwargs": {}}, None, 0.1),  # the paper's symmetric weight does not
        ({"surrogate_kwargs": {"restoring": 1.5}}, 1.5, 0.0),
        ({"surrogate_kwargs": {}, "kl_coef": 0.0}, None, 0.0),
        ({"kl_coef": 0.3}, 3.0, 0.3),
        ({"surrogate": "ppo_clip"}, None, 0.0),  # its min pulls back
        ({"surrogate": "sapo"}, None, 0.1),
        ({"surrogate": "no_clip"}, None, 0.1),
        ({"replay_capacity": None}, None, 0.0),
        ({"replay_capacity": None, "kl_coef": 0.3}, None, 0.3),
    ],
)
def test_something_pulls_back_what_old_data_carry_away(
    options: dict[str, Any], restoring: float | None, kl_coef: float
) -> None:
    """With a replay the surrogate does, or by default a penalty; without one neither; what was asked for is used."""
    how = GIPO("MlpPolicy", make_env(), **SMALL, **options)._objective_settings()
    assert (how.surrogate_kwargs.get("restoring"), how.kl_coef) == (restoring, kl_coef)


@pytest.mark.parametrize("observation", ["box", "discrete", "multidiscrete", "multibinary", "dict", "image", "dict_image"])
@pytest.mark.parametrize("action", ["box_matrix", "multidiscrete"])
def test_every_observation_space_replays(observation: str, action: str) -> None:
    """GIPO with replay trains on every kind of observation, several environments at once."""
    kwargs = {"features_extractor_kwargs": {"cnn_output_dim": 8}} if observation == "dict_image" else None
    env = make_env(observation, action)
    model = GIPO(POLICIES.get(observation, "MlpPolicy"), env, **{**SMALL, "n_epochs": 1}, policy_kwargs=kwargs)
    model.learn(96)
    assert len(model.replay_buffer) == 96
    model.predict(env.reset())


@pytest.mark.parametrize("squash", [False, True])
def test_gsde_with_replay(squash: bool) -> None:
    """gSDE replays, also squashed: the ratio of fresh data is 1 and nothing explodes."""
    model = GIPO(
        "MlpPolicy",
        make_env(),
        **SMALL,
        use_sde=True,
        sde_sample_freq=4,
        policy_kwargs={"squash_output": squash, "log_std_init": 1.0},
    )
    log = Logged()
    model.learn(160, callback=log, log_interval=10**6)
    assert all(np.isfinite(entry["train/kl_behaviour"]) for entry in log.iterations)
    if squash:
        actions = model.replay_buffer.gather("actions", np.arange(len(model.replay_buffer)))
        assert np.abs(actions).max() > 3.0, "the stored action is the sample before the tanh"


def test_outside_rollouts_are_learnt_from() -> None:
    """A rollout added from outside is drawn like any other."""
    model = GIPO("MlpPolicy", make_env(action="discrete"), **SMALL)
    model.learn(32)
    rng = np.random.default_rng(0)
    n_steps, n_envs = 10, 3
    model.replay_buffer.add_rollout(
        observations=rng.uniform(-1, 1, (n_steps, n_envs, 3)),
        actions=rng.integers(4, size=(n_steps, n_envs)),
        rewards=np.ones((n_steps, n_envs)),
        terminated=np.zeros((n_steps, n_envs)),
        truncated=np.zeros((n_steps, n_envs)),
        last_observations=rng.uniform(-1, 1, (n_envs, 3)),
        log_probs=np.full((n_steps, n_envs), np.log(0.25)),
    )
    log = Logged()
    model.learn(32, callback=log, reset_num_timesteps=False, log_interval=10**6)
    assert log.iterations[-1]["replay/size"] == 32 + 30 + 32
    draws = model.replay_buffer.gather("draws", np.arange(32, 62))
    assert draws.sum() > 0

"""``GIPO(surrogate="ppo_clip", replay_capacity=None)`` is SB3's PPO, to the last bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize

from sb3_gipo import GIPO
from tests.small_envs import POLICIES, SpaceEnv

AS_PPO: dict[str, Any] = {"surrogate": "ppo_clip", "replay_capacity": None}
# a learning rate at which ratios leave the clip range within an iteration: otherwise every surrogate would do
SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "n_epochs": 3, "learning_rate": 3e-2, "seed": 3}


def make_env(observation: str, action: str, n_envs: int = 2) -> VecEnv:
    return DummyVecEnv([lambda index=index: SpaceEnv(observation, action, seed=index) for index in range(n_envs)])


def policy_kwargs(observation: str) -> dict[str, Any]:
    net: dict[str, Any] = {"net_arch": [8]}
    if observation == "image":
        net.update(features_extractor_class=NatureCNN, features_extractor_kwargs={"features_dim": 8})
    if observation == "dict_image":
        net.update(features_extractor_kwargs={"cnn_output_dim": 8})
    return net


class LoggedValues(BaseCallback):
    """Keeps what was logged at the end of each iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[dict[str, Any]] = []

    def _on_rollout_start(self) -> None:
        self.logged.append(dict(self.logger.name_to_value))

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.logged.append(dict(self.logger.name_to_value))


def train_both(make: Callable[[], VecEnv], policy: str, iterations: int = 4, **kwargs: Any) -> tuple[PPO, GIPO, list, list]:
    kwargs = {**SMALL, **kwargs}
    steps = iterations * kwargs["n_steps"] * 2
    theirs, ours = LoggedValues(), LoggedValues()
    ppo = PPO(policy, make(), **kwargs).learn(steps, callback=theirs, log_interval=10**6)
    gipo = GIPO(policy, make(), **kwargs, **AS_PPO).learn(steps, callback=ours, log_interval=10**6)
    return ppo, gipo, theirs.logged, ours.logged


def assert_same_parameters(ppo: PPO, gipo: GIPO) -> None:
    theirs, ours = ppo.policy.state_dict(), gipo.policy.state_dict()
    assert theirs.keys() == ours.keys()
    for name, parameter in theirs.items():
        assert th.equal(parameter, ours[name]), f"{name} differs by {(parameter - ours[name]).abs().max()}"


def assert_same_log(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> None:
    assert len(theirs) == len(ours) > 1
    for their, our in zip(theirs, ours, strict=True):
        for key, value in their.items():
            if not key.startswith("time/"):
                np.testing.assert_allclose(our[key], value, rtol=1e-5, atol=1e-7, err_msg=key)


@pytest.mark.parametrize("action", ["box", "box_matrix", "discrete", "multidiscrete", "multibinary"])
def test_bit_identical_for_every_action_space(action: str) -> None:
    """The parameters after four iterations are PPO's, bit for bit, and so is everything that PPO logs."""
    ppo, gipo, theirs, ours = train_both(lambda: make_env("box", action), "MlpPolicy", policy_kwargs={"net_arch": [8]})
    assert_same_parameters(ppo, gipo)
    assert_same_log(theirs, ours)
    assert max(log.get("train/clip_fraction", 0.0) for log in ours) > 0.1, "nothing was clipped: the comparison says little"


@pytest.mark.parametrize(
    "observation", ["box", "float64", "discrete", "multidiscrete", "multibinary", "dict", "image", "dict_image"]
)
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_bit_identical_for_every_observation_space(observation: str, action: str) -> None:
    """The parameters after three iterations are PPO's for every kind of observation."""
    ppo, gipo, *_ = train_both(
        lambda: make_env(observation, action),
        POLICIES.get(observation, "MlpPolicy"),
        iterations=3,
        policy_kwargs=policy_kwargs(observation),
    )
    assert_same_parameters(ppo, gipo)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_range_vf": 0.1},
        {"clip_range_vf": LinearSchedule(0.3, 0.05, 1.0), "clip_range": LinearSchedule(0.3, 0.05, 1.0)},
        {"target_kl": 0.003},
        {"use_sde": True},
        {"use_sde": True, "sde_sample_freq": 3},
        {"use_sde": True, "policy_kwargs": {"squash_output": True, "net_arch": [8]}},
        {"learning_rate": LinearSchedule(2e-2, 1e-4, 1.0)},
        {"normalize_advantage": False, "ent_coef": 0.1, "vf_coef": 0.9, "max_grad_norm": 0.05},
        {"gamma": 0.5, "gae_lambda": 0.3},
        {"batch_size": 5},
        {"policy_kwargs": {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}}},
        {"policy_kwargs": {"share_features_extractor": False, "activation_fn": th.nn.ReLU, "ortho_init": False}},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_bit_identical_for_every_option(options: dict[str, Any]) -> None:
    """The parameters and the log are PPO's whatever PPO's own arguments are."""
    ppo, gipo, theirs, ours = train_both(lambda: make_env("box", "box"), "MlpPolicy", **options)
    assert_same_parameters(ppo, gipo)
    assert_same_log(theirs, ours)


@pytest.mark.parametrize("settings", [{}, {"norm_reward": False}, {"norm_obs": False}, {"clip_obs": 0.5}], ids=str)
def test_bit_identical_with_vec_normalize(settings: dict[str, Any]) -> None:
    """Under VecNormalize the parameters are PPO's, and the normaliser's statistics too."""
    ppo, gipo, *_ = train_both(lambda: VecNormalize(make_env("box", "box"), **settings), "MlpPolicy")
    assert_same_parameters(ppo, gipo)
    theirs, ours = ppo.get_vec_normalize_env(), gipo.get_vec_normalize_env()
    assert theirs.ret_rms.var == ours.ret_rms.var


def test_target_kl_stops_at_the_same_minibatch() -> None:
    """The update stops early, and where PPO's does."""
    ppo, gipo, *_ = train_both(lambda: make_env("box", "box"), "MlpPolicy", iterations=4, target_kl=0.003)
    assert 4 <= gipo._n_updates == ppo._n_updates < 4 * SMALL["n_epochs"]
    assert_same_parameters(ppo, gipo)


def test_bit_identical_with_frame_stack() -> None:
    """A wrapper on top of VecNormalize changes nothing without replay."""
    ppo, gipo, *_ = train_both(lambda: VecFrameStack(VecNormalize(make_env("box", "box")), 2), "MlpPolicy")
    assert_same_parameters(ppo, gipo)


def test_differs_from_ppo_when_it_should() -> None:
    """The comparison can fail: another surrogate gives other parameters."""
    ppo = PPO("MlpPolicy", make_env("box", "box"), **SMALL).learn(128)
    gipo = GIPO("MlpPolicy", make_env("box", "box"), **SMALL, **{**AS_PPO, "surrogate": "no_clip"}).learn(128)
    with pytest.raises(AssertionError, match="differs by"):
        assert_same_parameters(ppo, gipo)


def test_wide_gipo_on_policy_is_no_clip() -> None:
    """With an infinitely wide trust weight, GIPO without replay is the plain importance-weighted surrogate."""
    common = {**SMALL, "target": "stored", "replay_capacity": None}
    wide = GIPO("MlpPolicy", make_env("box", "box"), **common, surrogate="gipo", sigma=1e6).learn(128)
    plain = GIPO("MlpPolicy", make_env("box", "box"), **common, surrogate="no_clip").learn(128)
    for ours, theirs in zip(wide.policy.parameters(), plain.policy.parameters(), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", ["vtrace", "gae"])
def test_recomputed_targets_on_one_rollout_learn_the_same(target: str) -> None:
    """Recomputing the targets of a fresh rollout gives what was stored at collection."""
    common = {**SMALL, "surrogate": "ppo_clip", "n_epochs": 1, "batch_size": 32, "learning_rate": 1e-3}
    stored = GIPO("MlpPolicy", make_env("box", "box"), **common, target="stored", replay_capacity=None).learn(32)
    fresh = GIPO("MlpPolicy", make_env("box", "box"), **common, target=target, replay_capacity=None).learn(32)
    for ours, theirs in zip(fresh.policy.parameters(), stored.policy.parameters(), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

"""An actor acts as the learner's policy would, number for number, and does not compute what only training reads."""

from dataclasses import fields
from typing import Any, NoReturn

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_gipo import GIPO
from sb3_gipo.distributed.collector import Collector, collector, without_critic
from sb3_gipo.policies import MlpPolicy
from sb3_gipo.rollouts.types import Rollout
from tests.small_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, SpaceEnv

SIZES: dict[str, Any] = {"n_steps": 24, "batch_size": 48, "replay_capacity": 48, "seed": 4, "device": "cpu"}


class Blind(MlpPolicy):
    """Has features of its own."""

    def extract_features(self, obs: Any, features_extractor: Any = None) -> Any:
        return super().extract_features(th.zeros_like(obs), features_extractor)


class Tempered(MlpPolicy):
    """Shows others a bolder self than it acts by."""

    def get_distribution(self, obs: Any) -> Any:
        return self._get_action_dist_from_latent(3.0 * self.mlp_extractor.forward_actor(self.extract_features(obs)))


class _SplitExtractor(MlpExtractor):
    """What it gives at once is not what it gives one by one."""

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return 2.0 * self.forward_actor(features), self.forward_critic(features)


class Split(MlpPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _SplitExtractor(self.features_dim, self.net_arch, self.activation_fn, self.device)


def envs(observation: str = "box", action: str = "box") -> DummyVecEnv:
    return DummyVecEnv([lambda seed=seed: SpaceEnv(observation, action, seed=seed) for seed in (1, 2)])


class Kept(GIPO):
    """Keeps its latest rollout."""

    collected: Rollout

    def _store_rollout(self, rollout: Rollout) -> None:
        self.collected = rollout


def collect(model: Kept | Collector) -> Rollout:
    _, callback = model._setup_learn(1)
    callback.on_training_start({}, {})
    assert model.env is not None
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    assert model.collected is not None
    return model.collected


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return (one is None and other is None) or bool(np.array_equal(one, other))


@pytest.mark.parametrize(
    ("observation", "action", "settings"),
    [
        *(pytest.param(name, "box", {}, id=name) for name in OBSERVATION_SPACES),
        *(pytest.param("box", name, {}, id=f"{name} actions") for name in ACTION_SPACES),
        pytest.param("box", "box", {"ratio_level": "dimension"}, id="dimension"),
        pytest.param("box", "box", {"use_sde": True, "sde_sample_freq": 5}, id="gSDE"),
        pytest.param("box", "box", {"policy_kwargs": {"share_features_extractor": False}}, id="two extractors"),
        pytest.param("box", "box", {"target": "stored"}, id="stored values"),
        *(pytest.param("box", "box", {"policy": policy}, id=policy.__name__) for policy in (Blind, Tempered, Split)),
    ],
)
def test_its_rollouts_are_gipos(observation: str, action: str, settings: dict[str, Any]) -> None:
    """Observations, actions, log-probabilities, ends, and with ``target="stored"`` what training reads of them."""
    settings = {"policy": GIPO.policy_aliases[POLICIES.get(observation, "MlpPolicy")], **settings}
    policy = settings.pop("policy")
    expected = collect(Kept(policy, envs(observation, action), **SIZES, **settings))
    found = collect(collector(policy, env=envs(observation, action), **SIZES, **settings))
    assert expected.terminated.any()
    assert expected.truncated.any()
    stored = expected.stored_targets, found.stored_targets
    assert all(same(*pair) for pair in zip(*stored, strict=True)) if "target" in settings else stored == (None, None)
    for field in fields(Rollout):
        if field.name not in ("stored_targets", "collected_at"):
            assert same(getattr(expected, field.name), getattr(found, field.name)), field.name


class _NeverAsked(th.nn.Module):
    def forward(self, latent: th.Tensor) -> NoReturn:
        raise AssertionError


def test_the_critic_is_not_asked() -> None:
    """Neither at a step, nor at a time limit, nor at the end; the parameters are there for the learner's to be put into."""
    model = collector(MlpPolicy, env=envs(), **SIZES)
    assert list(model.policy.state_dict()) == list(GIPO(MlpPolicy, envs(), **SIZES).policy.state_dict())
    model.policy.value_net = _NeverAsked()
    assert collect(model).truncated.any()


def test_a_policy_that_acts_in_its_own_way_is_left_alone() -> None:
    class Timid(MlpPolicy):
        def forward(self, obs: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
            actions, values, log_probs = super().forward(obs, deterministic)
            return actions * 0, values, log_probs

    assert without_critic(Timid) is Timid
    assert issubclass(without_critic(MlpPolicy), MlpPolicy)
    assert without_critic(ActorCriticPolicy) is not ActorCriticPolicy
    assert not collect(collector(Timid, env=envs(), **SIZES)).actions.any()

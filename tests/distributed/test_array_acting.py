"""A policy of plain layers on arrays: the same distribution, the latest weights, and torch for every other policy."""

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_gipo.distributed import AsyncGIPO, backends, published
from sb3_gipo.distributed.actor import Actor
from sb3_gipo.distributed.array_acting import DRAWN_AT_ONCE, ArrayActing, OtherActionsWarning, can_act
from sb3_gipo.distributed.collector import Collector, collector, without_critic
from sb3_gipo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_gipo.rollouts.normalization import Normalizer
from tests.distributed.test_collector import SIZES, Blind, Split, collect
from tests.small_envs import ACTION_SPACES, OBSERVATION_SPACES, POLICIES, SpaceEnv

CAMERA = spaces.Box(0, 255, (3, 36, 36), np.uint8)  # as the policy sees it, channels first
TRANSPOSED = {
    "image": CAMERA,
    "dict_image": spaces.Dict({"camera": CAMERA, "joints": spaces.Box(-1.0, 1.0, (2,), np.float32)}),
}
POLICY_CLASSES = {"MlpPolicy": MlpPolicy, "CnnPolicy": CnnPolicy, "MultiInputPolicy": MultiInputPolicy}


def policy_of(observation: str = "box", action: str = "box", kind: Any = None, **arguments: Any) -> ActorCriticPolicy:
    kind = kind or POLICY_CLASSES[POLICIES.get(observation, "MlpPolicy")]
    space = TRANSPOSED.get(observation, OBSERVATION_SPACES[observation])
    th.manual_seed(0)
    policy = kind(space, ACTION_SPACES[action], lambda _: 0.0, **arguments).eval()
    with th.no_grad():  # else nearly uniform
        policy.action_net.weight.mul_(100.0)
        policy.action_net.bias.add_(th.linspace(0.0, 1.5, len(policy.action_net.bias)))
        if hasattr(policy, "log_std") and not arguments.get("use_sde"):
            policy.log_std.add_(th.linspace(-1.0, 0.5, policy.log_std.numel()))
    return policy


def observations(observation: str, number: int) -> np.ndarray:
    space = OBSERVATION_SPACES[observation]
    space.seed(5)
    return np.stack([space.sample() for _ in range(number)])


@pytest.mark.parametrize("action", ["box", "box_matrix", "discrete"])
@pytest.mark.parametrize("observation", ["box", "float64"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"activation_fn": th.nn.ReLU, "net_arch": [16, 16, 16]},
        {"net_arch": []},
        {"net_arch": {"pi": [8], "vf": [4, 4]}, "share_features_extractor": False},
        {"critic_layer_norm": True},
    ],
)
def test_log_probabilities_are_the_policys(observation: str, action: str, arguments: dict[str, Any]) -> None:
    policy = policy_of(observation, action, **arguments)
    seen = observations(observation, 64)
    actions, log_probs = ArrayActing(policy).act(seen)
    with th.no_grad():
        done = th.from_numpy(actions.reshape(64, -1) if action.startswith("box") else actions)
        _, expected, _ = policy.evaluate_actions(th.from_numpy(seen), done)
        shape = policy(th.from_numpy(seen))[0].shape
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-5)
    assert actions.shape == shape
    assert (actions.dtype, log_probs.dtype) == (np.int64 if action == "discrete" else np.float32, np.float32)


def test_gaussian_actions_have_mean_and_spread_of_the_policy() -> None:
    """Of 40,000 samples in one state, within five standard errors; independent of each other."""
    policy = policy_of()
    seen = np.repeat(observations("box", 1), 40_000, axis=0)
    actions, _ = ArrayActing(policy).act(seen)
    with th.no_grad():
        normal = policy.get_distribution(th.from_numpy(seen[:1])).distribution
    mean, std = normal.mean.numpy()[0], normal.stddev.numpy()[0]
    assert (np.abs(actions.mean(axis=0) - mean) < 5 * std / 200).all()
    np.testing.assert_allclose(actions.std(axis=0), std, rtol=5 / np.sqrt(2 * 40_000))
    assert abs(np.corrcoef(actions.T)[0, 1]) < 5 / 200
    assert abs(np.corrcoef(actions[:-1, 0], actions[1:, 0])[0, 1]) < 5 / 200


def test_categorical_actions_are_as_frequent_as_the_policy_says() -> None:
    policy = policy_of(action="discrete")
    seen = np.repeat(observations("box", 1), 40_000, axis=0)
    actions, _ = ArrayActing(policy).act(seen)
    with th.no_grad():
        probabilities = policy.get_distribution(th.from_numpy(seen[:1])).distribution.probs.numpy()[0]
    assert probabilities.min() < 0.15 < 0.35 < probabilities.max()
    errors = np.sqrt(probabilities * (1 - probabilities) / 40_000)
    assert (np.abs(np.bincount(actions, minlength=4) / 40_000 - probabilities) < 5 * errors).all()


def test_noise_is_drawn_anew_when_it_is_used_up() -> None:
    """None of it comes twice, and to each step belongs its own log-probability; then for more environments."""
    policy = policy_of()
    acting, steps = ArrayActing(policy), 3 * DRAWN_AT_ONCE + 5
    for number in (1, 2):
        seen = observations("box", number)
        found = [acting.act(seen) for _ in range(steps)]
        assert len(np.unique([actions for actions, _ in found])) == steps * number * 2
        with th.no_grad():
            distribution = policy.get_distribution(th.from_numpy(seen))
            expected = [distribution.log_prob(th.from_numpy(actions)).numpy() for actions, _ in found]
        np.testing.assert_allclose([log_probs for _, log_probs in found], expected, rtol=1e-4, atol=1e-5)


def test_exploration_follows_torchs_seed() -> None:
    policy, seen = policy_of(), observations("box", 3)
    found = []
    for seed in (1, 1, 2):
        th.manual_seed(seed)
        found.append(ArrayActing(policy).act(seen)[0])
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).all()


class Bold(MlpPolicy):
    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Any:
        return super()._get_action_dist_from_latent(2.0 * latent_pi)


class WeightNorm(MlpPolicy):
    """The weight is no parameter, but what a hook makes of two of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        th.nn.utils.weight_norm(self.action_net)


class Hooked(MlpPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mlp_extractor.register_forward_hook(lambda _, __, latent: (latent[0] * 2.0, latent[1]))


class Replaced(MlpPolicy):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.forward = self.timidly  # type: ignore[method-assign]

    def timidly(self, obs: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, ...]:
        actions, values, log_probs = ActorCriticPolicy.forward(self, obs, deterministic)
        return actions * 0.0, values, log_probs


@pytest.mark.parametrize(
    "policy",
    [
        *(
            pytest.param(lambda name=name: policy_of(name), id=name)
            for name in OBSERVATION_SPACES
            if name not in ("box", "float64")
        ),
        pytest.param(lambda: policy_of(action="multidiscrete"), id="multidiscrete actions"),
        pytest.param(lambda: policy_of(action="multibinary"), id="multibinary actions"),
        pytest.param(lambda: policy_of(use_sde=True), id="gSDE"),
        pytest.param(lambda: policy_of(use_sde=True, squash_output=True), id="squashed"),
        pytest.param(lambda: policy_of(activation_fn=th.nn.SiLU), id="activation"),
        pytest.param(lambda: policy_of(kind=Bold), id="its own distribution"),
        pytest.param(lambda: policy_of(kind=Blind), id="its own features"),
        pytest.param(lambda: policy_of(kind=Split), id="its own extractor"),
        pytest.param(lambda: policy_of(kind=Hooked), id="a hook"),
        pytest.param(lambda: policy_of(kind=Replaced), id="another forward in its place"),
    ],
)
def test_other_policies_are_not_for_arrays(policy: Any) -> None:
    assert not can_act(policy())


def test_a_weight_that_is_no_parameter_is_not_for_arrays() -> None:
    assert not can_act(WeightNorm(OBSERVATION_SPACES["box"], ACTION_SPACES["box"], lambda _: 0.0))


def model_of(policy: type[ActorCriticPolicy] = MlpPolicy, action: str = "box", **more: Any) -> Collector:
    env = DummyVecEnv([lambda seed=seed: SpaceEnv("box", action, seed=seed) for seed in (1, 2)])
    model = collector(policy, env=env, **{**SIZES, **more})
    model.act_on_arrays()
    return model


@pytest.mark.parametrize("action", ["box", "box_matrix", "discrete"])
def test_a_rollout_holds_the_policys_log_probabilities(action: str) -> None:
    """Also after the parameters were replaced, in their place, as an actor takes them."""
    model = model_of(action=action)
    assert model.array_acting is not None
    for _ in range(2):
        rollout = collect(model)
        seen = th.from_numpy(rollout.observations.reshape(48, 3))
        done = th.from_numpy(rollout.actions.reshape(48, *([] if action == "discrete" else [-1])))
        with th.no_grad():
            _, expected, _ = model.policy.evaluate_actions(seen, done)
            for parameter in model.policy.parameters():
                parameter.add_(0.1)
        np.testing.assert_allclose(rollout.log_probs.ravel(), expected, rtol=1e-4, atol=1e-5)


def test_torch_is_asked_once_in_a_rollout() -> None:
    model, asked = model_of(), []
    model.policy.action_net.register_forward_hook(lambda *_: asked.append(1))
    collect(model)
    assert len(asked) == 1


def test_a_policy_that_says_otherwise_acts_as_it_is_written() -> None:
    """From the step on at which that is seen, which is the first."""
    model = model_of()
    hook = model.policy.action_net.register_forward_hook(lambda _, __, mean: mean + 100.0)
    with pytest.warns(OtherActionsWarning, match="acts as it is written"):
        assert collect(model).actions.min() > 50.0
    assert collect(model).actions.min() > 50.0  # and stays so, without another warning
    hook.remove()
    assert collect(model).actions.max() < 50.0


@pytest.mark.parametrize("action", ["box", "discrete"])
def test_far_from_its_beginning_a_policy_is_not_taken_for_another(action: str) -> None:
    """Large means with a small spread: a log-probability is known less well than the mean it comes from."""
    policy = policy_of(action=action)
    with th.no_grad():
        policy.action_net.bias.add_(th.linspace(-12.0, 10.0, len(policy.action_net.bias)))
        if action == "box":
            policy.log_std.fill_(-6.0)
    acting = ArrayActing(policy)
    seen = observations("box", 4000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(acting.agrees(row[None]) for row in seen)


def test_a_spread_that_is_another_one_is_noticed() -> None:
    """By the policy's word, not the layers': here only of the spread."""
    policy = policy_of()
    acting = ArrayActing(policy)
    acting._log_std = acting._log_std.detach() + 0.01
    with pytest.warns(OtherActionsWarning):
        assert not acting.agrees(observations("box", 2))


@pytest.mark.parametrize("pull", ["rollout", "step"])
def test_an_actor_acts_with_the_version_it_says(pull: str) -> None:
    """Whatever it is offered between two steps, each one's log-probability is that of the policy of its version."""
    learner = AsyncGIPO("MlpPolicy", lambda: SpaceEnv("box", seed=1), backend="serial", pull=pull, **SIZES)
    actor = Actor(dataclasses.replace(learner._plan(), on_arrays=True), 0)
    assert actor._model.array_acting is not None
    policies: dict[int, dict[str, th.Tensor]] = {}

    def offer() -> None:
        with th.no_grad():
            for parameter in learner.policy.parameters():
                parameter.add_(0.05)
        policies[len(policies)] = {name: value.clone() for name, value in learner.policy.state_dict().items()}
        actor.offer(published.publish(learner.policy, len(policies) - 1, Normalizer(learner.env)))

    offer()
    step = actor._ends._on_step
    actor._ends._on_step = lambda: (offer(), step())[1]  # type: ignore[method-assign]  # once for every step
    rollout = actor.collect().rollout
    assert len(np.unique(rollout.policy_version)) == (24 if pull == "step" else 1)
    for index, version in enumerate(rollout.policy_version[:, 0]):
        learner.policy.load_state_dict(policies[version])
        seen, done = th.from_numpy(rollout.observations[index]), th.from_numpy(rollout.actions[index])
        with th.no_grad():
            _, expected, _ = learner.policy.evaluate_actions(seen, done)
        np.testing.assert_allclose(rollout.log_probs[index], expected, rtol=1e-4, atol=1e-5)


def test_actors_of_ray_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the serial twin are not: they repeat GIPO's random numbers."""
    ray_backend = pytest.importorskip("sb3_gipo.distributed.ray_backend")
    plans = []
    monkeypatch.setattr(ray_backend, "RayBackend", lambda plan, *_: plans.append(plan))
    model = AsyncGIPO("MlpPolicy", SpaceEnv, **SIZES)
    backends.make(model)
    assert plans[0].on_arrays
    assert not model._plan().on_arrays


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"target": "stored"}, id="values are stored"),
        pytest.param({"use_sde": True}, id="gSDE"),
        pytest.param({"ratio_level": "dimension"}, id="ratios of each dimension"),
    ],
)
def test_where_more_is_wanted_torch_acts(settings: dict[str, Any]) -> None:
    assert model_of(**settings).array_acting is None


def test_a_critic_of_ones_own_is_no_hindrance() -> None:
    """What acts is the actor; nothing of the critic is looked at."""

    class Deaf(MlpPolicy):
        def predict_values(self, obs: Any) -> th.Tensor:
            raise AssertionError

    policy = without_critic(Deaf)(spaces.Box(-1.0, 1.0, (3,), np.float32), ACTION_SPACES["box"], lambda _: 0.0)
    assert can_act(policy)
    assert collect(model_of(Deaf)).truncated.any()

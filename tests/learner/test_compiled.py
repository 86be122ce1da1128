"""``compile=True``: the numbers of the functions themselves, several times as fast, or a warning and no harm done."""

import copy
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule

from sb3_gipo import GIPO, HealthCallback, UtilizationCallback
from sb3_gipo.learner.graphs import CompileWarning
from tests.learner.models import ON_POLICY, make_model

pytestmark = pytest.mark.filterwarnings("error::sb3_gipo.learner.graphs.CompileWarning")
STEPS = 32


class Kept(BaseCallback):
    """Keeps what was logged, and what the policy did at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[dict[str, Any]] = []
        self.actions: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.actions.append(self.locals["actions"].copy())
        return True

    def _on_rollout_start(self) -> None:
        self.logged.append(dict(self.logger.name_to_value))


def train(model: GIPO, iterations: int = 4, *callbacks: BaseCallback) -> Kept:
    kept = Kept()
    model.learn(iterations * STEPS, callback=[kept, *callbacks], log_interval=10**6, reset_num_timesteps=False)
    return kept


def run(iterations: int = 4, *callbacks: BaseCallback, **kwargs: Any) -> tuple[GIPO, Kept]:
    """A model, made and trained in one go: it seeds the generators that all share."""
    model = make_model(**kwargs)
    return model, train(model, iterations, *callbacks)


def parameters(model: GIPO) -> th.Tensor:
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


def n_graphs(model: GIPO) -> int:
    return len([graph for graph in model._engine._steps._graphs.values() if graph is not None])


def assert_same_run(tolerance: float = 2e-5, **kwargs: Any) -> GIPO:
    """:return: the compiled model, which did and logged what the other one did"""
    (compiled, ours), (plain, theirs) = run(**kwargs, compile=True), run(**kwargs)
    assert n_graphs(compiled) == 1
    np.testing.assert_allclose(np.array(ours.actions), np.array(theirs.actions), atol=tolerance)
    np.testing.assert_allclose(parameters(compiled), parameters(plain), atol=tolerance)
    for mine, other in zip(ours.logged[1:], theirs.logged[1:], strict=True):
        assert set(mine) - {"time/compile"} == set(other)
        for key, value in other.items():
            if not key.startswith("time/"):
                np.testing.assert_allclose(mine[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
    return compiled


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"action": "discrete", **ON_POLICY, "surrogate": "ppo_clip"},
        {"action": "multidiscrete", "observation": "dict", "ratio_level": "dimension"},
        {"action": "multibinary", "observation": "float64", "surrogate": "sapo", "ent_coef": 0.1},
        {"observation": "image", "clip_range_vf": 0.2, "batch_size": 16, "gradient_steps": 16, "learning_rate": 1e-3},
        {"use_sde": True, "policy_kwargs": {"squash_output": True}},
    ],
    ids=["box", "discrete", "dict", "multibinary", "image", "gSDE"],
)
def test_the_same_run(kwargs: dict[str, Any]) -> None:
    """Actions, parameters and the log of four iterations are those of the uncompiled run, up to rounding."""
    assert_same_run(**kwargs)


def test_schedules_and_coefficients_need_no_second_graph() -> None:
    """All numbers of the day may change from update to update."""

    class Change(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            for name in ("ent_coef", "vf_coef", "kl_coef", "max_grad_norm"):
                setattr(self.model, name, getattr(self.model, name) * 0.5)

    falling = LinearSchedule(0.3, 0.1, 1.0)
    kwargs: dict[str, Any] = {"sigma": "lin_0.6", "clip_range": falling, "clip_range_vf": falling, "learning_rate": falling}
    kwargs.update(ent_coef=0.2, kl_coef=0.2, surrogate="gipo", learning_rate=LinearSchedule(1e-2, 1e-3, 1.0))
    (compiled, _), (plain, _) = run(4, Change(), **kwargs, compile=True), run(4, Change(), **kwargs)
    assert n_graphs(compiled) == 1
    np.testing.assert_allclose(parameters(compiled), parameters(plain), atol=2e-5)


def test_target_kl_stops_where_it_stops_uncompiled() -> None:
    """The step beyond the limit is not taken, and as many updates are counted."""
    compiled = assert_same_run(target_kl=0.003, learning_rate=3e-2, n_epochs=10, **ON_POLICY, surrogate="ppo_clip")
    assert compiled._n_updates < 40


def test_smaller_minibatches_take_the_step_as_it_is() -> None:
    """The last minibatch of an epoch, and a replay that still fills, need no graph of their own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
        assert_same_run(batch_size=12, **ON_POLICY)
        assert_same_run(batch_size=40, replay_capacity=96)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    """A minibatch with a number that is not finite is skipped and counted, as uncompiled."""
    found = {}
    for compiled in (False, True):
        model = make_model(compile=compiled, **ON_POLICY, normalize_advantage=False)
        train(model, 1)
        model.rollout_buffer.advantages[3] = np.inf
        before = parameters(model)
        model.train()
        assert model.latest_update is not None
        found[compiled] = parameters(model) - before, model.logger.name_to_value["train/skipped_steps"]
    assert found[False][1] == found[True][1] == 2  # once in each epoch
    np.testing.assert_allclose(found[True][0], found[False][0], atol=2e-5)
    assert found[True][0].abs().max() > 1e-4


def test_watched_is_the_same_run() -> None:
    """The callbacks change no bit of a compiled run either."""
    alone, _ = run(compile=True)
    watched, _ = run(4, UtilizationCallback(), HealthCallback(), compile=True)
    assert th.equal(parameters(alone), parameters(watched))


def test_save_load_and_go_on(tmp_path: Path) -> None:
    """A compiled run that is saved, loaded and continued is the run that never stopped, bit for bit."""
    whole, _ = run(2, compile=True)
    train(whole, 2)
    parted, _ = run(2, compile=True)
    parted.save(tmp_path / "model")
    parted.save_replay_buffer(tmp_path / "replay")
    loaded = GIPO.load(tmp_path / "model", env=parted.get_env(), force_reset=False)
    loaded.load_replay_buffer(tmp_path / "replay")
    assert loaded.compile is True
    train(loaded, 2)
    assert th.equal(parameters(loaded), parameters(whole))
    assert "forward" not in vars(loaded.policy)


def test_arguments_of_another_layout_get_a_graph_of_their_own() -> None:
    """A graph does not look at its arguments; a batch size that is changed between two calls of ``learn`` is another graph."""
    found = {}
    for compiled in (False, True):
        model, _ = run(2, compile=compiled)
        model.batch_size = 16
        train(model, 2)
        found[compiled] = parameters(model)
    assert n_graphs(model) == 2
    np.testing.assert_allclose(found[True], found[False], atol=2e-5)


def test_images_in_another_order_of_bytes() -> None:
    """The same image with its channels last in memory is read rightly by the policy that acts."""
    model = make_model("image", compile=True)
    images = th.randint(0, 255, (2, 1, 36, 36), dtype=th.uint8, generator=th.Generator().manual_seed(0))
    model.policy.set_training_mode(False)
    with th.no_grad(), model._engine.acting(model.policy, reads_distribution=False):
        found = []
        for obs in (images, images.transpose(2, 3).contiguous().transpose(2, 3)):
            th.manual_seed(0)
            found.append(model.policy(obs))
    for one, other in zip(*found, strict=True):
        assert th.allclose(one, other, atol=1e-5)
    assert len(model._engine._acting._graphs) == 2


def test_a_copy_of_the_policy_made_inside_a_rollout() -> None:
    """It is a policy of its own, which stays as it was while the original learns on."""

    class Copy(BaseCallback):
        copied: Any = None

        def _on_step(self) -> bool:
            if self.n_calls == 20:
                policy = self.model.policy
                self.copied = copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))
                self.expected = {name: value.clone() for name, value in policy.state_dict().items()}
            return True

    callback = Copy()
    model, _ = run(3, callback, compile=True)
    assert not all(th.equal(value, callback.expected[name]) for name, value in model.policy.state_dict().items())
    obs = th.zeros(2, 3)
    for copied in callback.copied:
        assert all(th.equal(value, callback.expected[name]) for name, value in copied.state_dict().items())
        with th.no_grad():
            assert th.equal(copied(obs, deterministic=True)[1], copied.predict_values(obs))
            assert copied(obs)[1].shape == (2, 1)


def test_compiling_is_in_no_time_that_is_logged() -> None:
    """``time/compile`` says how long it took; no other time knows of it, nor does ``time/fps``."""
    model = make_model(compile=True, policy_kwargs={"net_arch": [9]})
    kept = train(model, 3)
    logged = kept.logged[1]
    compiling = model.logger.name_to_value["time/compile"]
    assert compiling > 0.1  # from the compiler's cache on disk, at the least
    assert logged["time/update"] + logged["time/collect"] < compiling


# --- where it cannot be had -----------------------------------------------------------------------------------------------


class Dropout(BaseFeaturesExtractor):
    """Draws random numbers in training."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, features_dim=3)
        self.layer: th.nn.Module = th.nn.Dropout(0.5)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        result: th.Tensor = self.layer(observations)
        return result


class BatchNorm(Dropout):
    """Changes its buffers in training."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space)
        self.layer = th.nn.BatchNorm1d(3)


class Branching(Dropout):
    """What it does depends on numbers."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations if float(observations.sum()) > 0 else -observations


class Counting(ActorCriticPolicy):
    """What it says depends on how often it was asked."""

    calls = 0

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> Any:
        self.calls += 1
        values, log_prob, entropy = super().evaluate_actions(obs, actions)
        return values + 0.1 * self.calls, log_prob, entropy


class Cached(Dropout):
    """Keeps what it made at the first call."""

    scale: Any = None

    def forward(self, observations: th.Tensor) -> th.Tensor:
        if self.scale is None:
            self.scale = th.linspace(0.5, 1.5, 3)
        return observations * self.scale


@pytest.mark.filterwarnings("always::sb3_gipo.learner.graphs.CompileWarning")
@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"policy_kwargs": {"features_extractor_class": Dropout}}, "other numbers"),
        ({"policy_kwargs": {"features_extractor_class": BatchNorm}}, "changes its buffers"),
        ({"policy_kwargs": {"features_extractor_class": Branching}}, "is trained uncompiled"),
        ({"policy_kwargs": {"features_extractor_class": Cached}}, "is trained uncompiled"),
        ({"policy_kwargs": {"optimizer_class": th.optim.AdamW}}, "not torch's Adam as it comes"),
    ],
    ids=["dropout", "batch normalization", "branch", "cache", "optimizer"],
)
def test_what_cannot_be_compiled_is_trained_as_it_is(kwargs: dict[str, Any], words: str) -> None:
    """One warning with the reason, and the very run without ``compile``."""
    if "features_extractor_class" in kwargs["policy_kwargs"]:
        kwargs = {**kwargs, "use_sde": True}  # so that only the step is to be compiled
    plain, _ = run(**kwargs)
    with pytest.warns(CompileWarning, match=words) as caught:
        compiled, _ = run(**kwargs, compile=True)
    assert len([warning for warning in caught if warning.category is CompileWarning]) == 1
    if "optimizer_class" in kwargs["policy_kwargs"]:
        np.testing.assert_allclose(parameters(compiled), parameters(plain), atol=2e-5)  # acting is compiled
    else:
        assert th.equal(parameters(compiled), parameters(plain))


class Width:
    """A surrogate with a number of its own."""

    width = 1.0

    def __call__(self, log_ratio: th.Tensor, advantages: th.Tensor) -> th.Tensor:
        return -(log_ratio.clamp(-self.width, self.width).exp() * advantages)


class Scaled(Dropout):
    """A features extractor with a Python number."""

    scale = 1.0

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return observations * self.scale


def changed_surrogate(compiled: bool) -> GIPO:
    surrogate = Width()
    model, _ = run(2, compile=compiled, surrogate=surrogate, use_sde=True)
    surrogate.width = 0.01
    train(model, 2)
    return model


def changed_policy(compiled: bool) -> GIPO:
    model, _ = run(2, compile=compiled, policy_kwargs={"features_extractor_class": Scaled})
    model.policy.features_extractor.scale = 0.1
    train(model, 2)
    return model


@pytest.mark.parametrize(("change", "n_warnings"), [(changed_surrogate, 1), (changed_policy, 2)])
@pytest.mark.filterwarnings("always::sb3_gipo.learner.graphs.CompileWarning")
def test_what_changes_behind_a_graph_is_noticed(change: Any, n_warnings: int) -> None:
    """A number that is no tensor and changes between updates: the graphs are given up, and the run is the uncompiled one."""
    plain = change(False)
    with pytest.warns(CompileWarning, match="has changed") as caught:
        compiled = change(True)
    assert len([warning for warning in caught if warning.category is CompileWarning]) == n_warnings
    np.testing.assert_allclose(parameters(compiled), parameters(plain), atol=2e-5)


def test_hooks_on_gradients_are_obeyed() -> None:
    """A graph would not call them: the step is not compiled."""
    model = make_model(compile=True, use_sde=True)
    model.policy.action_net.weight.register_hook(lambda gradient: gradient * 0)
    before = model.policy.action_net.weight.detach().clone()
    with pytest.warns(CompileWarning, match="hooks"):
        train(model, 2)
    assert th.equal(model.policy.action_net.weight, before)


def test_parameters_that_change_during_a_rollout() -> None:
    """A callback that sets the deviation at the start of a rollout is seen by the policy that acts."""

    class Narrow(BaseCallback):
        def _on_rollout_start(self) -> None:
            self.model.policy.log_std.data.fill_(-3.0)

        def _on_step(self) -> bool:
            if self.n_calls == 10:
                self.model.policy.action_net.bias.data = th.full_like(self.model.policy.action_net.bias, 5.0)
            return True

    (_, ours), (_, theirs) = (run(1, Narrow(), compile=compiled) for compiled in (True, False))
    np.testing.assert_allclose(np.array(ours.actions), np.array(theirs.actions), atol=2e-5)
    assert np.std(np.array(ours.actions)[:9]) < 0.5 < 4 < np.min(np.array(ours.actions)[12:])


def test_a_forward_of_somebody_else_stays() -> None:
    """What a user has put in the place of ``forward`` acts, and is there afterwards."""
    model = make_model(compile=True)
    calls: list[Any] = []
    mine = lambda obs, deterministic=False: (calls.append(obs), type(model.policy).forward(model.policy, obs))[1]  # noqa: E731
    model.policy.forward = mine
    train(model, 2)
    assert len(calls) == 32
    assert vars(model.policy)["forward"] is mine


def test_a_dict_in_another_order() -> None:
    """The parts of an observation are told by their names."""
    model = make_model("dict", compile=True)
    train(model, 1)
    model.policy.set_training_mode(False)
    obs = {"position": th.tensor([[0.3, -0.4]] * 2), "mode": th.tensor([2, 0])}
    with th.no_grad(), model._engine.acting(model.policy, reads_distribution=False):
        model.policy(obs)
        found = model.policy({"mode": obs["mode"], "position": obs["position"]})[1]
        expected = model.policy.predict_values(obs)
    assert th.allclose(found, expected, atol=1e-5)


def test_a_policy_that_counts_is_found() -> None:
    """A policy that depends on something that is no tensor would be frozen in the graph: it is refused."""
    model = make_model(compile=True, use_sde=True)
    counting = GIPO(Counting, model.get_env(), n_steps=16, batch_size=8, n_epochs=1, use_sde=True, compile=True, device="cpu")
    with pytest.warns(CompileWarning, match="other numbers"):
        train(counting, 1)


NO_COMPILER = """
import warnings, torch
warnings.simplefilter("error", UserWarning)
from sb3_gipo import GIPO
from sb3_gipo.learner.graphs import CompileWarning
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", CompileWarning)
    model = GIPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=16, n_epochs=1, seed=0, device="cpu", compile=True)
    model.learn(128)
words = [str(warning.message) for warning in caught if warning.category is CompileWarning]
assert len(words) == 2, words  # acting, training
assert all("C++ compiler" in text for text in words), words
assert torch.distributions.Distribution._validate_args
print("trained", model.num_timesteps)
"""


def test_without_a_compiler_training_goes_on(tmp_path: Path) -> None:
    """In a process that finds no C++ compiler: a warning in words for each of the two graphs, and the run."""
    env = {**os.environ, "CXX": "/nowhere/g++", "PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    run = subprocess.run([sys.executable, "-c", NO_COMPILER], env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "trained 128" in run.stdout


@pytest.mark.parametrize("name", ["compile", "bf16"])
def test_bad_arguments(name: str) -> None:
    """Neither takes a word for yes."""
    with pytest.raises(ValueError, match=f"`{name}` is 'yes'; it must be True or False"):
        make_model(**{name: "yes"})

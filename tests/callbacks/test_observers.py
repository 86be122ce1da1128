"""A run that is watched: the same run bit for bit, seen exactly, and left as it was."""

import contextlib
import copy
import gc
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, EveryNTimesteps
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_gipo import GIPO
from sb3_gipo.callbacks import HealthCallback, HealthWarning, UtilizationCallback
from sb3_gipo.callbacks.observers import GRAD_NORM_EVERY, ClipObserver, observer_of, used_advantages
from sb3_gipo.learner.batches import MinibatchSource
from sb3_gipo.learner.parameters import FlatAdam
from sb3_gipo.learner.statistics import UpdateStatistics
from sb3_gipo.learner.step import EagerStep, StepSettings
from sb3_gipo.policies import unchecked_distributions
from tests.callbacks.runs import learn, make, parameters
from tests.small_envs import SpaceEnv

CLIPPED = ["ppo", "maskable", "recurrent"]
ALL = [*CLIPPED, "gipo"]


class Noisy(BaseFeaturesExtractor):
    """Batch statistics and a generator are touched by every forward pass in training mode."""

    def __init__(self, space: Any) -> None:
        super().__init__(space, 8)
        self.net = th.nn.Sequential(th.nn.Linear(3, 8), th.nn.BatchNorm1d(8), th.nn.Dropout(0.2))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features: th.Tensor = self.net(observations)
        return features


def both() -> list[BaseCallback]:
    return [UtilizationCallback(histogram_freq=1, figure_freq=2), HealthCallback(ignore=["kl_runaway", "no_reward_signal"])]


# --- the same run ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sb3_gipo.callbacks.HealthWarning")
@pytest.mark.parametrize(
    ("kind", "kwargs"),
    [
        *[(kind, {}) for kind in ALL],
        ("ppo", {"action": "multidiscrete", "observation": "dict"}),
        ("ppo", {"observation": "image", "action": "multibinary"}),
        ("ppo", {"use_sde": True, "sde_sample_freq": 4}),
        ("ppo", {"target_kl": 0.01}),
        ("ppo", {"policy_kwargs": {"features_extractor_class": Noisy}}),
        ("gipo", {"policy_kwargs": {"features_extractor_class": Noisy}}),
        ("gipo", {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
        ("gipo", {"ratio_level": "dimension", "action": "multidiscrete"}),
        ("gipo", {"replay_capacity": None, "target": "stored", "surrogate": "ppo_clip"}),
    ],
    ids=str,
)
def test_a_watched_run_is_the_same_run(kind: str, kwargs: dict[str, Any]) -> None:
    """With every callback and all pictures, parameters and optimizer agree to the last bit with the run without them."""
    watched = make(kind, **kwargs)
    learn(watched, both())
    generator = th.get_rng_state()
    alone = make(kind, **kwargs)
    learn(alone, None)
    assert th.equal(th.get_rng_state(), generator)
    assert th.equal(parameters(watched), parameters(alone))
    for name, buffer in watched.policy.named_buffers():
        assert th.equal(buffer, dict(alone.policy.named_buffers())[name]), name
    for ours, theirs in zip(
        watched.policy.optimizer.state_dict()["state"].values(),
        alone.policy.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(th.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("kind", CLIPPED)
def test_policy_and_buffer_are_left_as_they_were(kind: str) -> None:
    """After training, between two ``learn``, nothing of ours is left on the objects; the model can be saved and dies."""
    model = make(kind)
    learn(model, both())
    assert "evaluate_actions" not in vars(model.policy)
    assert "get" not in vars(model.rollout_buffer)
    assert all(not parameter._backward_hooks for parameter in model.policy.parameters())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_methods_set_by_others_stay() -> None:
    """A method that someone else has set on the object is wrapped, and put back."""
    model = make("ppo")
    calls = []
    original = model.policy.evaluate_actions

    def theirs(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    model.policy.evaluate_actions = theirs
    learn(model, UtilizationCallback())
    assert model.policy.evaluate_actions is theirs
    assert len(calls) >= 4 * 3 * 4


def test_an_interrupted_update_leaves_nothing_behind() -> None:
    """Ctrl-C in the middle of an update, then training without callbacks: nothing goes on being collected."""

    class Interrupt(Exception):
        pass

    model = make("ppo")
    callback = UtilizationCallback()
    calls = {"n": 0}
    step = model.policy.optimizer.step

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == 20:
            raise Interrupt
        return step(*args, **kwargs)

    model.policy.optimizer.step = interrupted
    with pytest.raises(Interrupt):
        learn(model, callback)
    learn(model, None)
    assert "get" not in vars(model.rollout_buffer)
    assert "evaluate_actions" not in vars(model.policy)
    observer = observer_of(model)
    assert isinstance(observer, ClipObserver)
    assert observer._drawn == []


@pytest.mark.parametrize("kind", ["ppo", "maskable", "gipo"])
def test_a_frozen_actor(kind: str) -> None:
    """While only the critic is trained there is no policy gradient to take the norm of, and training goes on."""
    model = make(kind)
    for module in (model.policy.mlp_extractor.policy_net, model.policy.action_net):
        module.requires_grad_(False)
    if hasattr(model.policy, "log_std"):
        model.policy.log_std.requires_grad_(False)
    dumps = learn(model, UtilizationCallback(histogram_freq=1))
    assert "train/grad_norm" in dumps[-1]
    assert not any(key.startswith("by_age/policy_grad_norm") for key in dumps[-1])


def test_a_graph_that_may_be_used_once() -> None:
    """What is compiled ahead of time frees its graph: it is not gone through twice where there is one age."""
    model = make("ppo")
    model.policy.mlp_extractor.compile(backend="aot_eager")
    try:
        dumps = learn(model, UtilizationCallback(histogram_freq=1), iterations=2)
    finally:  # torch.compile switches it off for good, and other tests want to see torch refuse what is not finite
        th.distributions.Distribution.set_default_validate_args(True)
    assert dumps[-1]["by_age/policy_grad_norm/0"] > 0


@pytest.mark.parametrize("order", [1, -1])
def test_a_policy_that_breaks(order: int) -> None:
    """In either order of the callbacks the words come, and the pictures are left out instead of breaking first."""
    model = make("ppo", ent_coef=-1e3, learning_rate=50.0, n_epochs=1)
    health = HealthCallback()
    with pytest.warns(HealthWarning), contextlib.suppress(ValueError):
        learn(model, [UtilizationCallback(histogram_freq=1, figure_freq=1), health][::order], iterations=8)
    assert "non_finite" in [report.symptom for report in health.reports]


def test_pictures_that_fail_do_not_end_the_training() -> None:
    """A surrogate that takes only whole minibatches cannot be drawn as a curve: that is said, and training goes on."""

    def picky(log_ratio: th.Tensor, advantages: th.Tensor) -> th.Tensor:
        assert len(log_ratio) in (2, 16)
        return -(log_ratio.exp() * advantages)

    model = make("gipo", surrogate=picky)
    with pytest.warns(UserWarning, match="without figure of update"):
        dumps = learn(model, UtilizationCallback(histogram_freq=0, figure_freq=1))
    assert "utilization/dead_frac" in dumps[-1]
    assert "utilization/multiplier" not in dumps[-1]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))], ids=["copy", "pickle"])
def test_a_snapshot_of_the_policy_by_another_callback(how: Any) -> None:
    """A copy taken while we read along has the plain methods of its class."""
    model = make("ppo")
    snapshots = []

    class Snapshot(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            assert "evaluate_actions" in vars(self.model.policy)
            snapshots.append(how(self.model.policy))

    learn(model, [UtilizationCallback(), HealthCallback(ignore=["kl_runaway"]), Snapshot()], iterations=2)
    observations, actions = th.zeros(4, 3), th.zeros(4, 2)
    for snapshot in snapshots:
        values, _, _ = snapshot.evaluate_actions(observations, actions)
        assert snapshot.evaluate_actions.__self__ is snapshot
        assert th.isfinite(values).all()
    assert not th.equal(parameters(model), th.cat([p.detach().flatten() for p in snapshots[-1].parameters()]))


def test_hooks_are_gone_when_target_kl_has_stopped_an_update() -> None:
    """Whoever takes gradients before the next rollout finds none of our hooks."""
    model = make("ppo", target_kl=1e-6)
    seen = []

    class Before(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            seen.append([len(p._backward_hooks or {}) for p in self.model.policy.parameters()])

    learn(model, [Before(), UtilizationCallback()], iterations=4)
    assert len(seen) == 4
    assert not any(any(counts) for counts in seen)


@pytest.mark.parametrize("callback", [UtilizationCallback, HealthCallback])
def test_inside_of_an_event_callback(callback: Any) -> None:
    """SB3 does not tell children of rollouts: that is said instead of silently doing nothing."""
    with pytest.warns(UserWarning, match=r"sees no updates inside.*beside"):
        learn(make("ppo"), EveryNTimesteps(n_steps=10, callback=callback()))


def test_two_learns_with_the_same_callbacks() -> None:
    """The last update of one ``learn`` is not told again by the next."""
    model = make("ppo")
    callback = UtilizationCallback()
    numbers = []
    report = callback._log_clipped

    def note(update: Any) -> None:
        numbers.append(update.number)
        report(update)

    callback._log_clipped = note  # type: ignore[method-assign]  # to see it
    learn(model, callback)
    model.learn(2 * 64, callback=callback, reset_num_timesteps=False)
    assert numbers == [1, 2, 3, 4, 5, 6]


# --- seen exactly ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLIPPED)
@pytest.mark.parametrize("normalize", [True, False])
def test_dead_means_a_gradient_of_exactly_zero(kind: str, normalize: bool) -> None:
    """
    The reported fraction of dead samples of an unmodified run is the fraction whose policy gradient is exactly zero: every
    sample of every minibatch by itself, by autograd through the loss as PPO writes it down.
    """
    model = make(kind, normalize_advantage=normalize)
    dead: list[bool] = []
    evaluate = model.policy.evaluate_actions
    get = model.rollout_buffer.get
    seen: dict[str, Any] = {}

    def spy_get(batch_size: int | None = None) -> Any:
        for minibatch in get(batch_size):
            seen["minibatch"] = minibatch
            yield minibatch

    def spy(*args: Any, **kwargs: Any) -> Any:
        minibatch = seen.pop("minibatch", None)
        if minibatch is not None:
            dead.extend(dead_by_autograd(evaluate(*args, **kwargs)[1], minibatch, normalize))
        return evaluate(*args, **kwargs)

    model.policy.evaluate_actions, model.rollout_buffer.get = spy, spy_get
    dumps = learn(model, UtilizationCallback(), iterations=2)
    reported = [dump["utilization/dead_frac"] for dump in dumps if "utilization/dead_frac" in dump]
    half = len(dead) // 2
    assert len(reported) == 2
    assert 0.02 < np.mean(dead) < 0.9  # there is something to count
    assert reported == pytest.approx([np.mean(dead[:half]), np.mean(dead[half:])], abs=1e-7)


def dead_by_autograd(log_prob: th.Tensor, minibatch: Any, normalize: bool, clip_range: float = 0.2) -> list[bool]:
    """For each sample: is the gradient of its term of PPO's loss, as in the paper, with respect to log pi exactly zero?"""
    mask = minibatch.mask > 0.5 if hasattr(minibatch, "mask") else th.ones_like(minibatch.advantages, dtype=th.bool)
    advantages = minibatch.advantages
    if normalize:
        advantages = (advantages - advantages[mask].mean()) / (advantages[mask].std() + 1e-8)
    found = []
    for index in th.nonzero(mask).flatten().tolist():
        leaf = log_prob[index].detach().requires_grad_()
        ratio = th.exp(leaf - minibatch.old_log_prob[index])
        a = advantages[index]
        loss = -th.min(a * ratio, a * th.clamp(ratio, 1 - clip_range, 1 + clip_range))
        (gradient,) = th.autograd.grad(loss, leaf)
        assert a != 0
        found.append(bool(gradient == 0))
    return found


@pytest.mark.parametrize("kind", ["ppo", "maskable"])
def test_what_is_seen_is_what_sb3_logs(kind: str) -> None:
    """Clip fraction and divergence worked out from the observed samples are those that the algorithm logs by itself."""
    model = make(kind, n_epochs=1)
    dumps = learn(model, UtilizationCallback(), iterations=3)
    samples = observer_of(model).latest().samples  # type: ignore[union-attr]  # there were updates
    ratio = samples.log_ratio.exp()
    last = dumps[-1]
    assert last["train/clip_fraction"] == pytest.approx(((ratio - 1).abs() > 0.2).float().mean().item(), abs=1e-6)
    assert last["train/approx_kl"] == pytest.approx((ratio - 1 - samples.log_ratio).mean().item(), abs=1e-6)
    assert last["train/kl_previous"] == pytest.approx(last["train/approx_kl"], abs=1e-6)
    assert last["utilization/dead_frac"] <= last["train/clip_fraction"]
    assert last["replay/reuse_mean"] == 1.0


def test_gradient_norm_is_the_one_before_clipping() -> None:
    """The logged norm of PPO is what ``clip_grad_norm_`` returned, in every eighth minibatch."""
    model = make("ppo", max_grad_norm=1e-3)
    returned: list[float] = []
    original = th.nn.utils.clip_grad_norm_

    def spy(*args: Any, **kwargs: Any) -> th.Tensor:
        norm = original(*args, **kwargs)
        returned.append(norm.item())
        return norm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(th.nn.utils, "clip_grad_norm_", spy)
        dumps = learn(model, UtilizationCallback(), iterations=1)
    taken = returned[::GRAD_NORM_EVERY]
    assert len(taken) == 2
    assert observer_of(model).latest().grad_norms.tolist() == taken  # type: ignore[union-attr]  # there was an update
    assert dumps[-1]["train/grad_norm"] == pytest.approx(np.mean(taken))
    assert dumps[-1]["train/grad_norm_max"] == pytest.approx(max(taken))
    assert min(returned) > 1e-3


def test_padding_of_a_recurrent_buffer_does_not_count() -> None:
    """Each transition is counted once an epoch, however the sequences were padded."""
    model = make("recurrent")
    learn(model, UtilizationCallback(), iterations=1)
    samples = observer_of(model).latest().samples  # type: ignore[union-attr]  # there was an update
    assert len(samples.log_ratio) == 3 * 64


def test_an_update_that_target_kl_stops() -> None:
    """The minibatch that stopped it is counted, as in PPO's own numbers; no gradient was taken of it."""
    model = make("ppo", target_kl=1e-6)
    dumps = learn(model, UtilizationCallback(histogram_freq=1), iterations=2)
    assert "utilization/dead_frac" in dumps[-1]
    assert dumps[-1]["replay/reuse_mean"] < 1.0


def test_observations_are_not_kept() -> None:
    """Of all minibatches but the last, only three numbers for each sample stay until the update is over."""
    model = make("ppo", observation="image", n_epochs=10)
    held: list[int] = []
    evaluate = model.policy.evaluate_actions

    def spy(*args: Any, **kwargs: Any) -> Any:
        gc.collect()
        batches = [t for t in gc.get_objects() if isinstance(t, th.Tensor) and t.dim() == 4 and len(t) == 16]
        held.append(len(batches))
        return evaluate(*args, **kwargs)

    model.policy.evaluate_actions = spy
    gc.freeze()  # what other tests have left is not looked through at every minibatch
    try:
        learn(model, UtilizationCallback(), iterations=1)
    finally:
        gc.unfreeze()
    assert len(held) >= 40
    assert max(held[5:40]) <= max(held[:5]) + 2


# --- nothing waits for the device -----------------------------------------------------------------------------------------


def test_no_minibatch_waits_for_the_device() -> None:
    """
    What is done for each minibatch works on tensors without any data (device ``meta``), where reading a number, branching on
    one or copying to the host raises.
    """
    model = make("ppo")
    model.policy.to("meta")
    model._current_progress_remaining = 1.0
    model.num_timesteps = 0
    minibatch = next(iter_of_meta_minibatches())
    model.policy.evaluate_actions = lambda *args, **kwargs: (None, th.zeros(16, device="meta", requires_grad=True), None)
    model.rollout_buffer.get = lambda batch_size: iter_of_meta_minibatches()
    observer = ClipObserver(model)
    observer.watch()
    for sample in model.rollout_buffer.get(16):
        model.policy.evaluate_actions(sample)
        observer._add_gradient(0, th.zeros(3, device="meta"))
        observer._add_gradient(2, th.zeros(2, 2, device="meta"))
    assert len(observer._drawn) == 3
    used_advantages(observer._drawn, normalize=True)
    with pytest.raises(RuntimeError, match="meta"):
        minibatch.advantages.mean().item()


def iter_of_meta_minibatches() -> Any:
    from stable_baselines3.common.type_aliases import RolloutBufferSamples

    for _ in range(3):
        yield RolloutBufferSamples(*[th.zeros(16, device="meta") for _ in RolloutBufferSamples._fields])


@pytest.mark.parametrize("level", ["joint", "dimension"])
def test_no_step_of_gipo_waits_either(level: Any) -> None:
    """The same for GIPO's whole step and its statistics: minibatch, objective, backward pass, clipping, Adam."""
    model = make("gipo", ratio_level=level)
    model.policy.to("meta")
    model.policy.optimizer = th.optim.Adam(model.policy.parameters(), fused=True)
    sizes = {
        "observations": (50, 3),
        "actions": (50, 2),
        "old_dimension_log_prob": (50, 2),
        "version_gap": (50,),
        "facts": (5, 50),
    }
    columns: dict[str, Any] = {name: th.zeros(shape, device="meta") for name, shape in sizes.items()}
    source = MinibatchSource(**columns, rows=None, device=th.device("meta"))
    statistics = UpdateStatistics(old_threshold=4)
    optimization = FlatAdam(model.policy).__enter__()  # never left: that reads the number of steps, once an update
    with unchecked_distributions():
        step = EagerStep(model.policy, optimization, StepSettings(model._objective_settings(), 0.5, None))
        for _ in range(3):
            batch = source.take(np.arange(16))
            statistics.add(step(batch), batch)
    assert len(statistics._outcomes) == 3
    with pytest.raises(RuntimeError, match="meta"):
        statistics.settle()


# --- who can be watched ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [A2C, DQN])
@pytest.mark.parametrize("callback", [UtilizationCallback, HealthCallback])
def test_others_are_refused_with_words(algorithm: Any, callback: Any) -> None:
    """An algorithm without importance ratios is refused before anything is trained, and the message names who is not."""
    model = algorithm("MlpPolicy", SpaceEnv(action="discrete"), device="cpu")
    with pytest.raises(TypeError, match=rf"{algorithm.__name__} has no importance ratios.*PPO"):
        model.learn(10, callback=callback())
    assert model.num_timesteps == 0


def test_subclasses_and_wrapped_callbacks() -> None:
    """A subclass of PPO is watched as PPO is; callbacks work in lists of lists."""
    from stable_baselines3.common.callbacks import CallbackList

    class Mine(PPO):
        pass

    model = Mine("MlpPolicy", SpaceEnv(), n_steps=32, batch_size=16, n_epochs=1, device="cpu")
    callback = UtilizationCallback()
    model.learn(96, callback=CallbackList([CallbackList([callback])]))
    assert callback._seen == 3
    assert isinstance(GIPO("MlpPolicy", SpaceEnv(), device="cpu"), GIPO)

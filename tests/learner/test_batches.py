"""Minibatches: the very ones that SB3's buffer gives, in its order; and of the replay, every field from one transition."""

from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_gipo import GIPO
from sb3_gipo.learner.batches import from_rollout_buffer, replay_source, rollout_batches
from sb3_gipo.rollouts.normalization import Normalizer
from tests.learner.models import ON_POLICY, SETTINGS, collected, make_env
from tests.small_envs import ACTION_SPACES, OBSERVATION_SPACES


def assert_same_batches(ours: Any, theirs: Any) -> None:
    for name, value in ours._asdict().items():
        other = getattr(theirs, name)
        for one, two in zip(*(x.values() if isinstance(x, dict) else [x] for x in (value, other)), strict=True):
            assert (one is None) == (two is None), name
            assert one is None or (one.dtype == two.dtype and th.equal(one, two)), name


@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
@pytest.mark.parametrize("action", ACTION_SPACES)
def test_minibatches_of_a_rollout_are_sb3s(observation: str, action: str) -> None:
    """The same numbers in the same order from the same random numbers, for every space; the last one is smaller."""
    model = collected(observation, action, **ON_POLICY, batch_size=16)
    for seed in range(2):
        np.random.seed(seed)
        theirs = [from_rollout_buffer(samples, model.action_space) for samples in model.rollout_buffer.get(10)]
        after = np.random.get_state()[1]
        np.random.seed(seed)
        ours = list(rollout_batches(model.rollout_buffer, 10, model.action_space, model.device))
        assert np.array_equal(np.random.get_state()[1], after)
        assert [len(batch.advantages) for batch in ours] == [10, 10, 10, 2]
        for one, other in zip(ours, theirs, strict=True):
            assert_same_batches(one, other)
    assert "_get_samples" not in vars(model.rollout_buffer)


def test_a_buffer_with_minibatches_of_its_own() -> None:
    """A buffer that overrides how a minibatch is made is asked for it."""

    class Mine(RolloutBuffer):
        def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> Any:
            samples = super()._get_samples(batch_inds, env)
            return samples._replace(advantages=samples.advantages * 0 + 3.0)

    model = collected(**ON_POLICY, rollout_buffer_class=Mine)
    batches = list(rollout_batches(model.rollout_buffer, 16, model.action_space, model.device))
    assert all((batch.advantages == 3.0).all() for batch in batches)


def test_a_buffer_with_an_order_of_its_own() -> None:
    """So is one that overrides ``get``."""

    class Mine(RolloutBuffer):
        def get(self, batch_size: int | None = None) -> Any:
            for samples in super().get(batch_size):
                yield samples._replace(advantages=samples.advantages * 0 + 3.0)

    model = collected(**ON_POLICY, rollout_buffer_class=Mine)
    batches = list(rollout_batches(model.rollout_buffer, 16, model.action_space, model.device))
    assert len(batches) == 2
    assert all((batch.advantages == 3.0).all() for batch in batches)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("observation", ["box", "dict", "image"])
@pytest.mark.parametrize("level", ["joint", "dimension"])
def test_fields_of_a_replayed_minibatch_belong_together(observation: str, normalized: bool, level: Any) -> None:
    """After the ring has wrapped around, every field is that of its position, observations normalised as of today."""
    if normalized and observation == "image":
        pytest.skip("images are not normalised")
    env = make_env(observation, "multidiscrete")
    keys = ["position"] if observation == "dict" else None
    env = VecNormalize(env, norm_obs_keys=keys) if normalized else env
    policy = {"dict": "MultiInputPolicy", "image": "CnnPolicy"}.get(observation, "MlpPolicy")
    model = GIPO(policy, env, **{**SETTINGS, "n_epochs": 1}, replay_capacity=80, ratio_level=level).learn(5 * 32)
    replay = model.replay_buffer
    assert replay is not None
    targets = model._compute_targets(replay)
    normalizer = Normalizer(model.env)
    positions = np.random.default_rng(0).integers(len(replay), size=20)
    batch = replay_source(replay, targets, normalizer, model.device).take(positions)
    expected = normalizer.observation(replay.gather("observations", positions))
    for name, part in expected.items() if isinstance(expected, dict) else [("", expected)]:
        seen = batch.observations[name] if name else batch.observations
        assert np.array_equal(seen, part)
    assert np.array_equal(batch.actions, replay.gather("actions", positions))
    assert np.array_equal(batch.old_log_prob, replay.gather("log_probs", positions))
    assert np.array_equal(batch.version_gap, replay.policy_version - replay.gather("policy_version", positions))
    same_name = {name: name for name in ("value_targets", "advantages")}
    for name, source in {"start_log_prob": "log_prob", "old_values": "values", **same_name}.items():
        assert th.equal(getattr(batch, name), getattr(targets, source)[th.from_numpy(positions)])
    if level == "dimension":
        assert np.array_equal(batch.old_dimension_log_prob, replay.gather("dimension_log_probs", positions))

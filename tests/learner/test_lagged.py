"""``acting_lag``: the policy that collects is some versions old, and everything stored says so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor

from sb3_gipo import GIPO
from tests.learner.models import make_env, make_model

ROLLOUT = 32


class Policies(BaseCallback):
    """Parameters at the start of each rollout, and whether a callback inside it sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[dict[str, th.Tensor]] = []

    def _on_rollout_start(self) -> None:
        self.versions.append({name: value.clone() for name, value in self.model.policy.state_dict().items()})

    def _on_step(self) -> bool:
        now = self.model.policy.state_dict()
        assert all(th.equal(value, now[name]) for name, value in self.versions[-1].items())
        return True


def versions_stored(model: GIPO) -> list[int]:
    assert model.replay_buffer is not None
    return model.replay_buffer.gather("policy_version", np.arange(len(model.replay_buffer)))[::ROLLOUT].tolist()


@pytest.mark.parametrize(("action", "compile"), [("box", False), ("box", True), ("discrete", False)])
def test_the_policy_of_so_many_versions_ago_acts(action: str, compile: bool) -> None:
    """Versions lag by ``acting_lag``, and the stored log-probabilities are those of that very version."""
    model, policies = make_model(action=action, acting_lag=2, replay_capacity=1024, compile=compile), Policies()
    model.learn(6 * ROLLOUT, callback=policies)
    assert versions_stored(model) == [0, 0, 0, 1, 2, 3]
    replay = model.replay_buffer
    assert replay is not None
    for segment, version in zip(replay.segments, versions_stored(model), strict=True):
        rollout, _ = replay.segment_rollout(segment)
        model.policy.load_state_dict(policies.versions[version])
        observations = obs_as_tensor(rollout.observations.reshape(ROLLOUT, -1), model.device)
        actions = th.as_tensor(rollout.actions.reshape(ROLLOUT, -1))
        with th.no_grad():
            _, log_prob, _ = model.policy.evaluate_actions(
                observations, actions.flatten() if action == "discrete" else actions
            )
        np.testing.assert_allclose(rollout.log_probs.flatten(), log_prob.numpy(), atol=1e-5)


def test_noise_of_gsde_is_that_of_the_policy_that_acts() -> None:
    """Right after collection, with the acting version's parameters, every log-ratio is 0."""
    model, policies = make_model(use_sde=True, sde_sample_freq=4, acting_lag=1, replay_capacity=1024), Policies()
    model.learn(3 * ROLLOUT, callback=policies)
    replay = model.replay_buffer
    assert replay is not None
    assert versions_stored(model) == [0, 0, 1]
    rollout, _ = replay.segment_rollout(replay.segments[-1])
    model.policy.load_state_dict(policies.versions[1])
    flat = rollout.observations.reshape(ROLLOUT, -1)
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions(th.as_tensor(flat), th.as_tensor(rollout.actions.reshape(ROLLOUT, -1)))
    np.testing.assert_allclose(rollout.log_probs.flatten(), log_prob.numpy(), atol=1e-5)


def test_a_lag_of_0_changes_nothing() -> None:
    """The same numbers as without the argument."""
    models = [make_model(replay_capacity=256, **options).learn(3 * ROLLOUT) for options in ({}, {"acting_lag": 0})]
    for one, other in zip(*(model.policy.parameters() for model in models), strict=True):
        assert th.equal(one, other)


def test_resumes_with_the_same_old_policies(tmp_path: Path) -> None:
    """Saved in the middle, the versions that are still to act are saved too."""

    def options() -> dict[str, Any]:
        return {"acting_lag": 2, "replay_capacity": 1024, "learning_rate": 1e-3}

    whole = make_model(**options())
    whole.learn(8 * ROLLOUT)
    half = make_model(**options())
    half.learn(4 * ROLLOUT)
    half.save(tmp_path / "model")
    half.save_replay_buffer(tmp_path / "replay")
    loaded = GIPO.load(tmp_path / "model", env=half.get_env(), force_reset=False)
    loaded.load_replay_buffer(tmp_path / "replay")
    loaded.learn(4 * ROLLOUT, reset_num_timesteps=False)
    assert versions_stored(loaded) == versions_stored(whole) == [0, 0, 0, 1, 2, 3, 4, 5]
    for one, other in zip(loaded.policy.parameters(), whole.policy.parameters(), strict=True):
        assert th.equal(one, other)


@pytest.mark.parametrize(("lag", "expected"), [(0, [4, 5, 6, 7]), (1, [4, 4, 5, 6]), (2, [4, 4, 4, 5]), (4, [0, 1, 2, 3])])
def test_loaded_with_another_lag(lag: int, expected: list[int], tmp_path: Path) -> None:
    """
    The policies kept for a lag of 4 serve no other: the current one acts until there are older ones, and what is stored
    says so. With the same lag they serve on.
    """
    model = make_model(acting_lag=4, replay_capacity=1024, learning_rate=1e-3)
    model.learn(4 * ROLLOUT)
    model.save(tmp_path / "model")
    loaded = GIPO.load(tmp_path / "model", env=model.get_env(), force_reset=False, acting_lag=lag)
    policies = Policies()
    loaded.learn(4 * ROLLOUT, callback=policies, reset_num_timesteps=False)
    assert versions_stored(loaded) == expected
    replay = loaded.replay_buffer
    assert replay is not None
    if lag > 0 and expected[-1] >= 4:
        rollout, _ = replay.segment_rollout(replay.segments[-1])
        loaded.policy.load_state_dict(policies.versions[expected[-1] - 4])
        with th.no_grad():
            _, log_prob, _ = loaded.policy.evaluate_actions(
                th.as_tensor(rollout.observations.reshape(ROLLOUT, -1)), th.as_tensor(rollout.actions.reshape(ROLLOUT, -1))
            )
        np.testing.assert_allclose(rollout.log_probs.flatten(), log_prob.numpy(), atol=1e-5)


@pytest.mark.parametrize("lag", [-1, 1.5, "2"])
def test_refuses_what_is_no_lag(lag: Any) -> None:
    """A whole number, at least 0."""
    with pytest.raises(ValueError, match="acting_lag"):
        make_model(acting_lag=lag)


def test_refuses_a_lag_without_replay() -> None:
    """PPO's own path knows one policy only."""
    with pytest.raises(ValueError, match="replay_capacity"):
        GIPO("MlpPolicy", make_env(), n_steps=16, batch_size=8, replay_capacity=None, target="stored", acting_lag=1)

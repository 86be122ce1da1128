"""Ideas that studies tried and the package does not have (``benchmarks/data_efficiency/leads.py``): they do what they say."""

from typing import Any

import pytest
import torch as th

from benchmarks.data_efficiency.leads import ActorEvery, ByAge, PolicyEWMA, Refreshed, SigmaAuto
from sb3_gipo import GIPO
from tests.callbacks.runs import parameters
from tests.small_envs import SpaceEnv

SMALL: dict[str, Any] = {
    "n_steps": 16,
    "batch_size": 16,
    "gradient_steps": 8,
    "replay_capacity": 64,
    "seed": 0,
    "device": "cpu",
}
ITERATION: dict[str, Any] = {"trust_region": "iteration", "sigma": 0.2}


def learned(algorithm: type[GIPO], steps: int = 64, **settings: Any) -> GIPO:
    return algorithm("MlpPolicy", SpaceEnv(), **{**SMALL, **settings}).learn(steps)


def weights(model: GIPO, part: str) -> th.Tensor:
    return th.cat([value.detach().flatten() for name, value in model.policy.named_parameters() if part in name])


@pytest.mark.parametrize(
    ("lead", "off", "base"),
    [
        (ActorEvery, {"every": 1}, {}),
        (PolicyEWMA, {"average": 0.0}, ITERATION),
        (Refreshed, {"parts": 1}, {}),
        (SigmaAuto, {"target": 1.0, "rate": 0.0}, {}),
    ],
)
def test_switched_off_it_is_gipo(lead: type[GIPO], off: dict[str, Any], base: dict[str, Any]) -> None:
    """To the last bit, so that what a study measures is the idea and nothing beside it."""
    assert th.equal(parameters(learned(lead, **off, **base)), parameters(learned(GIPO, **base)))


@pytest.mark.parametrize(
    ("lead", "on", "base"),
    [
        (PolicyEWMA, {"average": 0.8}, ITERATION),
        (Refreshed, {"parts": 4}, {}),
        (ByAge, {"decay": 0.5}, {}),
    ],
)
def test_switched_on_it_is_not(lead: type[GIPO], on: dict[str, Any], base: dict[str, Any]) -> None:
    assert not th.equal(parameters(learned(lead, **on, **base)), parameters(learned(GIPO, **base)))


def test_the_actor_rests_where_it_is_left_out() -> None:
    """One actor step in the eight minibatches of an update, and none where there are fewer than ``every``."""
    start, never = learned(GIPO, 0), learned(ActorEvery, every=1000)
    assert th.equal(weights(never, "policy_net"), weights(start, "policy_net"))
    assert not th.equal(weights(never, "value_net"), weights(start, "value_net"))
    assert not th.equal(weights(learned(ActorEvery, 16, every=8), "policy_net"), weights(start, "policy_net"))
    assert learned(ActorEvery, every=4, work=2).n_gradient_steps == 2 * learned(GIPO).n_gradient_steps


def test_the_centre_lags() -> None:
    """Between the policies of the first and of the last update: an average of four with the decay 0.5."""
    model = learned(PolicyEWMA, 16, average=0.5, **ITERATION)
    before = [parameters(learned(GIPO, 0))]
    for _ in range(3):
        before.append(parameters(model))
        model.learn(16, reset_num_timesteps=False)
    centre = before[0]
    for policy in before[1:]:
        centre = (centre + policy) / 2
    found = th.cat([value.detach().flatten() for value in model._centre.parameters()])
    th.testing.assert_close(found, centre)


def test_the_width_moves_to_the_target() -> None:
    """A target that is never reached widens the weight, one that is always passed narrows it, by ``rate`` at most."""
    wide, narrow = (learned(SigmaAuto, target=target, rate=0.1) for target in (1e3, 1e-9))
    assert (
        wide._trust_width("sigma")
        > GIPO("MlpPolicy", SpaceEnv(), **SMALL)._trust_width("sigma")
        > narrow._trust_width("sigma")
    )
    assert 0 < wide.log_factor <= 0.4
    assert -0.4 <= narrow.log_factor < 0


@pytest.mark.parametrize(("drawn", "share"), [({"fresh": 0.25}, 0.25), ({"fresh": 1.0}, 1.0), ({"decay": 1e-9}, 1.0)])
def test_the_newest_rollout_is_drawn_as_often_as_asked(drawn: dict[str, float], share: float) -> None:
    """A share of each minibatch at least, the rest drawn from all."""
    model = learned(ByAge, gradient_steps=200, **drawn)
    replay = model._replay_to_draw_from()
    assert replay is not None
    (batches,) = model._epochs(replay, model._compute_targets(replay))
    gaps = th.stack([batch.version_gap for batch in batches])
    newest = (gaps == gaps.min()).float()
    assert newest.sum(dim=1).min() >= share * 16
    assert newest.mean().item() == pytest.approx(share + (1 - share) / 4, abs=0.05)

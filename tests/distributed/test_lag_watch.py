"""An actor that falls behind for good is told of, one that is merely late is not."""

import warnings
from typing import Any

import numpy as np
import pytest

from sb3_gipo.distributed import AsyncGIPO, LagGrowsWarning
from sb3_gipo.distributed.actor import Actor
from sb3_gipo.distributed.lag_watch import LagWatch


def test_one_that_is_stuck_is_told_once() -> None:
    """With its number, what it holds, and how far it is behind; the others are left alone."""
    watch = LagWatch(stretch=3)
    said = [watch.arrived(7, held=2, published=2 + step) for step in range(40)]
    assert [step for step, words in enumerate(said) if words is not None] == [11]
    assert "Actor 7 acts with policy version 2 while 13 is published, and fell behind further all through" in str(said[11])
    assert all(watch.arrived(1, held=step, published=step + 40) is None for step in range(99))


def test_ever_later_with_a_jitter_is_ever_later() -> None:
    """Now and then one that is a little less late does not excuse it."""
    watch = LagWatch(stretch=4)
    assert any(watch.arrived(0, 0, 2 * step + 3 - step % 2) for step in range(40))


def test_policies_published_seldom_are_no_lag() -> None:
    """Between two publications nothing grows; every one that arrives is a new beginning."""
    watch = LagWatch(stretch=3)
    for published in range(0, 2000, 100):
        for held in (published - 100, published - 100, published, published):
            assert watch.arrived(0, max(held, 0), published) is None


def test_one_that_is_stuck_while_little_is_published() -> None:
    """Rollouts in which nothing was published do not excuse it."""
    watch = LagWatch(stretch=6)
    said = [watch.arrived(0, held=0, published=rollout // 5) for rollout in range(80)]
    assert sum(words is not None for words in said) == 1


def test_chance_is_no_growth() -> None:
    """A lag that goes up and down at random, one that grew once for good, and one that stays."""
    rng = np.random.default_rng(0)
    for lags in (rng.integers(0, 9, 20_000), np.repeat([3, 4, 5], 100), np.full(500, 7)):
        watch = LagWatch(stretch=12)
        assert all(watch.arrived(0, 0, int(lag)) is None for lag in lags)


def serial(**kwargs: Any) -> AsyncGIPO:
    small: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "gradient_steps": 1, "replay_capacity": 64, "seed": 0}
    return AsyncGIPO("MlpPolicy", "CartPole-v1", num_actors=2, backend="serial", device="cpu", **small, **kwargs)


def test_a_run_whose_weights_do_not_arrive_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actor 1 gets the policy of its first turn and no other: it is named, and only it."""
    offer = Actor.offer
    monkeypatch.setattr(Actor, "offer", lambda self, w: offer(self, w) if self.index == 0 or self.version < 0 else None)
    with pytest.warns(LagGrowsWarning, match="Actor 1 acts with policy version 1 ") as told:
        serial().learn(8 * 120)
    assert len(told) == 1


def test_a_run_that_is_late_does_not(recwarn: pytest.WarningsRecorder) -> None:
    """A lag of many versions that stays, and policies published seldom."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", LagGrowsWarning)
        serial(lag=8).learn(8 * 60)
        serial(publish_every=12).learn(8 * 60)

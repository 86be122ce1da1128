"""An actor that falls behind for good is told of, one that is merely late is not."""

import warnings
from typing import Any

import pytest

from sb3_gipo.distributed import AsyncGIPO, LagGrowsWarning
from sb3_gipo.distributed.actor import Actor
from sb3_gipo.distributed.lag_watch import LagWatch


def test_one_that_is_stuck_is_told_once() -> None:
    """With its number, what it holds, and how far it is behind; the others are left alone."""
    watch = LagWatch(patience=3)
    said = [watch.arrived(7, held=2, published=2 + step) for step in range(8)]
    assert [words is not None for words in said] == [False, False, False, True, False, False, False, False]
    assert "Actor 7 acts with policy version 2 while 5 is published, and fell behind further 3 times in a row" in str(said[3])
    assert all(watch.arrived(1, held=step, published=step + 40) is None for step in range(99))


def test_policies_published_seldom_are_no_lag() -> None:
    """Between two publications nothing grows; every one that arrives is a new beginning."""
    watch = LagWatch(patience=3)
    for published in range(0, 2000, 100):
        for held in (published - 100, published - 100, published, published):
            assert watch.arrived(0, max(held, 0), published) is None


def test_one_that_is_stuck_while_little_is_published() -> None:
    """Rollouts in which nothing was published do not excuse it."""
    watch = LagWatch(patience=3)
    said = [watch.arrived(0, held=0, published=rollout // 5) for rollout in range(40)]
    assert sum(words is not None for words in said) == 1
    assert said[15] is not None


def serial(**kwargs: Any) -> AsyncGIPO:
    small: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "gradient_steps": 1, "replay_capacity": 64, "seed": 0}
    return AsyncGIPO("MlpPolicy", "CartPole-v1", num_actors=2, backend="serial", device="cpu", **small, **kwargs)


def test_a_run_whose_weights_do_not_arrive_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actor 1 gets the policy of its first turn and no other: it is named, and only it."""
    offer = Actor.offer
    monkeypatch.setattr(Actor, "offer", lambda self, w: offer(self, w) if self.index == 0 or self.version < 0 else None)
    with pytest.warns(LagGrowsWarning, match="Actor 1 acts with policy version 1 ") as told:
        serial().learn(8 * 60)
    assert len(told) == 1


def test_a_run_that_is_late_does_not(recwarn: pytest.WarningsRecorder) -> None:
    """A lag of many versions that stays, and policies published seldom."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", LagGrowsWarning)
        serial(lag=8).learn(8 * 60)
        serial(publish_every=12).learn(8 * 60)

"""Who is started again and when, by a clock of our own."""

import warnings

import pytest

from sb3_gipo.distributed.faults import ActorFailedWarning, ActorsFailedError, Supervisor


def supervisor(patience: int = 4) -> Supervisor:
    return Supervisor(2, patience=patience, back_off=1.0, longest_back_off=3.0, hang_after=10.0, making_takes=60.0, now=0.0)


def test_waits_twice_as_long_after_each_failure_in_a_row() -> None:
    """1, 2, then at most 3 seconds; the other actor is not held up."""
    watch = supervisor(patience=9)
    for number, pause in enumerate((1.0, 2.0, 3.0, 3.0)):
        now = 100.0 * number
        watch.started(0, now)
        watch.failed(0, now, "broken", "died", lost=int(number > 0))
        assert not watch.may_start(0, now + pause - 0.01)
        assert watch.may_start(0, now + pause)
        assert watch.may_start(1, now)
    assert (watch.restarts, watch.lost_rollouts) == (3, 3)
    assert watch.failures == {"raised": 0, "died": 4, "hung": 0}


def test_a_rollout_is_forgiveness() -> None:
    """Failures count in a row only."""
    watch = supervisor(patience=2)
    for now in range(5):
        watch.failed(0, float(now), "broken", "raised")
        watch.finished_rollout(0, float(now))
    watch.check()
    assert watch.failures == {"raised": 5, "died": 0, "hung": 0}


def test_one_failure_too_many_shows_the_first() -> None:
    """Its traceback is that of the first failure of the run, whoever had it."""
    watch = supervisor(patience=3)
    watch.failed(1, 0.0, "Traceback: the simulator has no licence", "raised")
    watch.failed(0, 0.0, "later", "hung")
    watch.failed(0, 1.0, "later", "died")
    watch.check()
    watch.failed(0, 2.0, "later", "raised")
    with pytest.raises(ActorsFailedError, match=r"Actor 0 failed 3 times(?s:.*)no licence"):
        watch.check()


def test_the_first_failure_is_told_of_at_once() -> None:
    """With its traceback and what comes next; all others are counted only."""
    watch = supervisor()
    words = r"Actor 1 failed\. It is started again;.*`async/restarts`.*\(4\)(?s:.*)no licence"
    with pytest.warns(ActorFailedWarning, match=words):
        watch.failed(1, 0.0, "Traceback: the simulator has no licence", "raised")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.failed(1, 1.0, "later", "died")
        watch.failed(0, 2.0, "later", "hung")


def test_a_failure_that_ends_the_run_is_not_told_of_twice() -> None:
    """The error has its traceback."""
    watch = supervisor(patience=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.failed(1, 0.0, "broken", "raised")
    with pytest.raises(ActorsFailedError, match="broken"):
        watch.check()


def test_hangs_when_silent_for_too_long() -> None:
    """From its latest rollout, or the last time it had nothing to do; while it is made it has longer."""
    watch = supervisor()
    watch.started(0, -100.0)
    assert watch.hangs(0, -39.9)
    assert not watch.hangs(0, -40.0)
    watch.is_ready(0, 5.0)
    watch.is_ready(0, 14.0)  # known already
    assert not watch.hangs(0, 15.0)
    assert watch.hangs(0, 15.1)
    watch.finished_rollout(0, 20.0)
    assert not watch.hangs(0, 30.0)
    watch.waits(0, 40.0)
    assert not watch.hangs(0, 50.0)
    assert watch.hangs(0, 51.0)

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


def test_hangs_when_it_is_made_for_too_long() -> None:
    """For that it has longer than for a step."""
    watch = supervisor()
    watch.started(0, -100.0)
    assert watch.hangs(0, -39.9)
    assert not watch.hangs(0, -40.0)
    assert "not made within 60 s" in watch.say_hangs(0, -39.9)
    assert not watch.is_to_be_asked(0, -39.9)


def ready() -> Supervisor:
    """Since 5.0."""
    watch = supervisor()
    watch.started(0, 0.0)
    watch.is_ready(0, 5.0)
    watch.is_ready(0, 14.0)  # known already
    return watch


def test_is_asked_when_nothing_was_heard_for_long() -> None:
    """Since it was ready, since its latest rollout, or since it had nothing to do; once, and not before it has answered."""
    watch = ready()
    assert not watch.is_to_be_asked(0, 15.0)
    watch.finished_rollout(0, 20.0)
    assert not watch.is_to_be_asked(0, 30.0)
    watch.waits(0, 40.0)
    assert [watch.is_to_be_asked(0, now) for now in (50.0, 50.1, 50.2)] == [False, True, False]
    assert not watch.answered(0, silent=4.1)
    assert [watch.is_to_be_asked(0, now) for now in (56.0, 56.1)] == [False, True]
    watch.failed(0, 57.0, "died", "died")
    watch.started(0, 60.0)
    watch.is_ready(0, 61.0)
    assert watch.is_to_be_asked(0, 72.0)


def test_a_slow_one_does_not_hang() -> None:
    """As long as it makes steps; an answer counts from when it was asked for, however late it is read."""
    watch = ready()
    for now in (15.1, 115.1, 515.1):
        assert watch.is_to_be_asked(0, now)
        assert not watch.hangs(0, now + 9.9)
        assert not watch.answered(0, silent=9.9)
    assert watch.is_to_be_asked(0, 520.0)
    assert watch.answered(0, silent=14.9)
    assert "no step for 15 s, more than `hang_seconds` (10)" in watch.say_hangs(0, 520.1)


def test_an_answer_that_a_rollout_has_overtaken_says_nothing() -> None:
    """It has worked since."""
    watch = ready()
    assert watch.is_to_be_asked(0, 15.1)
    watch.finished_rollout(0, 20.0)
    assert not watch.hangs(0, 30.0)
    assert not watch.answered(0, silent=10.1)


def test_who_does_not_answer_hangs() -> None:
    """After as long again."""
    watch = ready()
    assert not watch.hangs(0, 99.0)  # the learner was away, and has not asked yet
    assert watch.is_to_be_asked(0, 99.0)
    assert not watch.hangs(0, 109.0)
    assert watch.hangs(0, 109.1)

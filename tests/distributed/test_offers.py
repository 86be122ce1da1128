"""Which offers are made, by a clock of our own."""

import pytest

from sb3_gipo.distributed.offers import Offers


def test_what_would_be_replaced_is_left_out() -> None:
    """Of sixteen policies published during a rollout of 1.6 s, the two that may be the next one's are offered."""
    offers = Offers(2, "rollout")
    offers.arrived(0, now=10.0, seconds=1.6)
    due = [offers.is_due(0, 10.0 + 0.1 * number + 0.05) for number in range(16)]
    assert due == [False] * 14 + [True] * 2
    assert offers.is_due(1, 10.0)  # of which nothing is known yet
    assert offers.is_due(0, 99.0)  # it takes longer than the one before


def test_for_steps_everything_is_offered() -> None:
    """They may need it at once."""
    offers = Offers(1, "step")
    offers.arrived(0, now=10.0, seconds=1.6)
    assert offers.is_due(0, 10.0)


@pytest.mark.parametrize("pull", ["rollout", "step"])
def test_nothing_is_offered_twice(pull: str) -> None:
    """Nor what an actor was started with; one that is started again knows what it was given."""
    offers = Offers(1, pull)  # type: ignore[arg-type]
    offers.started(0, version=3)
    assert not offers.take_note(0, 3)
    assert offers.take_note(0, 4)
    assert not offers.take_note(0, 4)
    offers.arrived(0, now=10.0, seconds=1.6)
    offers.started(0, version=5)
    assert offers.is_due(0, 10.0)
    assert not offers.take_note(0, 5)
    assert offers.take_note(0, 4)

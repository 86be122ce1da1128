"""Statistics of many actors put together: as if one had seen everything."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_gipo.distributed.moments import difference, merge

DATA = np.random.default_rng(0).normal(3.0, 2.0, (400, 5)) * [1, 10, 0.1, 1, 100] + [0, 0, 50, 0, 0]


def statistics(*parts: np.ndarray) -> RunningMeanStd:
    found = RunningMeanStd(shape=(5,))
    for part in parts:
        found.update(part)
    return found


@given(st.integers(1, 398), st.integers(1, 200))
def test_difference_is_of_the_data_in_between(start: int, size: int) -> None:
    """Mean, variance and count of what came after, whatever was there before."""
    later = DATA[start : start + size]
    mean, variance, count = difference(statistics(DATA[:start], later), statistics(DATA[:start]))
    assert count == pytest.approx(len(later))
    assert mean == pytest.approx(later.mean(axis=0), rel=1e-6, abs=1e-6)
    assert variance == pytest.approx(later.var(axis=0), rel=1e-6, abs=1e-5)


def test_two_actors_are_one_that_saw_all() -> None:
    """Each began with the same statistics; each one's data count once."""
    before = {"obs_rms": statistics(DATA[:100])}
    present = copy.deepcopy(before)
    for part in (DATA[100:250], DATA[250:]):
        present = merge(present, before, {"obs_rms": statistics(DATA[:100], part)})
    everything = statistics(DATA)
    assert present["obs_rms"].count == pytest.approx(everything.count)
    assert present["obs_rms"].mean == pytest.approx(everything.mean, rel=1e-9)
    assert present["obs_rms"].var == pytest.approx(everything.var, rel=1e-9)


def test_one_actor_keeps_every_bit() -> None:
    """Where the learner knows what the actor began with, it gets what the actor has, not a sum of differences."""
    before, after = statistics(DATA[:100]), statistics(DATA[:100], DATA[100:])
    found = merge({"obs_rms": copy.deepcopy(before)}, {"obs_rms": before}, {"obs_rms": after})["obs_rms"]
    assert (found.mean == after.mean).all()
    assert (found.var == after.var).all()
    assert found is not after


def test_nothing_new_changes_nothing() -> None:
    """Also for an actor that is behind."""
    before, present = statistics(DATA[:10]), statistics(DATA)
    found = merge({"obs_rms": present}, {"obs_rms": before}, {"obs_rms": before})["obs_rms"]
    assert (found.count, found.mean.tolist()) == (present.count, present.mean.tolist())


def test_every_key_of_a_dict_observation() -> None:
    """Each has statistics of its own."""
    before: dict[str, Any] = {"obs_rms": {key: statistics() for key in "ab"}}
    after = {"obs_rms": {"a": statistics(DATA[:50]), "b": statistics(DATA[50:])}}
    found = merge({"obs_rms": {key: statistics(DATA[:7]) for key in "ab"}}, before, after)["obs_rms"]
    assert found["a"].count == pytest.approx(57, abs=1e-3)
    assert found["b"].count == pytest.approx(357, abs=1e-3)

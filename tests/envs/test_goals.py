"""The partition into training and evaluation goals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_gipo.envs.goals import PERIOD, SPLITS, GoalSplit, Split

LOW = np.array([-0.1, 0.6, 0.02, -0.1, 0.8, 0.05])
HIGH = np.array([0.1, 0.7, 0.02, 0.1, 0.9, 0.3])


@given(st.integers(0, 2**63), st.sampled_from(SPLITS))
def test_membership_can_be_read_back(seed: int, split: Split) -> None:
    """Whatever the seed, a drawn vector lies in the box and in its split, also after rounding to float32."""
    goals = GoalSplit(LOW, HIGH)
    vector = goals.sample(np.random.default_rng(seed), split)
    assert np.all((vector >= LOW) & (vector <= HIGH))
    assert goals.split_of(vector) == goals.split_of(vector.astype(np.float32)) == split


def test_a_gap_separates_the_splits() -> None:
    """On every split coordinate, training and evaluation values are at least 0.1 % of the range apart."""
    goals = GoalSplit(LOW, HIGH)
    rng = np.random.default_rng(0)
    train, evaluation = (np.array([goals.sample(rng, split) for _ in range(3000)]) for split in ("train", "eval"))
    for axis in goals.axes:
        distance = np.abs(train[:, axis, None] - evaluation[None, :, axis]).min() / goals.span[axis]
        assert distance >= 0.001 - 1e-9


def test_evaluation_covers_the_range_without_extrapolating() -> None:
    """Evaluation values visit every tenth of a coordinate's range, and training values lie on both sides of all of them."""
    goals = GoalSplit(LOW, HIGH)
    rng = np.random.default_rng(0)
    unit = {split: (np.array([goals.sample(rng, split) for _ in range(2000)]) - LOW)[:, goals.axes] for split in SPLITS}
    unit = {split: values / goals.span[goals.axes] for split, values in unit.items()}
    for k in range(goals.axes.size):
        assert set(np.floor(unit["eval"][:, k] * PERIOD).astype(int)) == set(range(PERIOD))
        assert unit["train"][:, k].min() < unit["eval"][:, k].min()
        assert unit["eval"][:, k].max() < unit["train"][:, k].max()


def test_training_loses_little() -> None:
    """Training values of a split coordinate leave no hole wider than 1.3 % of its range and are uniform otherwise."""
    goals = GoalSplit(LOW[3:], HIGH[3:])
    rng = np.random.default_rng(0)
    values = np.sort(np.array([goals.sample(rng, "train") for _ in range(20_000)])[:, goals.axes[0]])
    unit = (values - LOW[3:][goals.axes[0]]) / goals.span[goals.axes[0]]
    assert np.diff(unit).max() < 0.013
    counts = np.histogram(unit, bins=PERIOD)[0]
    assert abs(counts / counts.mean() - 1).max() < 0.1


def test_coordinates_outside_the_split_stay_uniform() -> None:
    """The coordinates that are not split keep the uniform distribution of the box in both splits; constants stay constant."""
    goals = GoalSplit(LOW, HIGH)
    rng = np.random.default_rng(0)
    for split in SPLITS:
        vectors = np.array([goals.sample(rng, split) for _ in range(5000)])
        assert set(vectors[:, 2]) == {0.02}
        counts = np.histogram((vectors[:, 4] - LOW[4]) / 0.1, bins=10, range=(0, 1))[0]
        assert abs(counts / counts.mean() - 1).max() < 0.2


def test_each_position_is_split_on_its_widest_coordinate() -> None:
    """The object is split on x (20 cm) and the goal on z (25 cm); a position that does not vary is left alone."""
    assert GoalSplit(LOW, HIGH).axes.tolist() == [0, 5]
    assert GoalSplit(LOW, np.concatenate((LOW[:3], HIGH[3:]))).axes.tolist() == [5]


def test_mixed_vector_belongs_to_neither() -> None:
    """An evaluation object with a training goal belongs to neither split."""
    goals = GoalSplit(LOW, HIGH)
    rng = np.random.default_rng(0)
    mixed = np.concatenate((goals.sample(rng, "eval")[:3], goals.sample(rng, "train")[3:]))
    assert goals.split_of(mixed) is None


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [([0, 0], [1, 1], "positions"), ([1, 0, 0], [0, 1, 1], "low <= high"), ([0, 0, 0], [0, 0, 0.001], "nothing to split")],
)
def test_bad_boxes_are_refused(low: list[float], high: list[float], message: str) -> None:
    """Bounds that are no positions, are reversed or do not vary raise a ValueError that says so."""
    with pytest.raises(ValueError, match=message):
        GoalSplit(np.array(low), np.array(high))

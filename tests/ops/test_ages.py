"""Age buckets: powers of two of the version gap."""

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_gipo.ops.ages import age_bucket, bucket_label, group_by_age
from tests.ops.strategies import PROPERTY

GAPS = st.lists(st.one_of(st.integers(0, 9), st.integers(0, 2**31 - 1)), min_size=1, max_size=40)


def test_buckets_by_hand() -> None:
    """0 | 1 | 2 3 | 4 .. 7 | 8 .. 15 | ..."""
    gaps = th.tensor([0, 1, 2, 3, 4, 7, 8, 15, 16, 1023, 1024])
    assert age_bucket(gaps).tolist() == [0, 1, 2, 2, 3, 3, 4, 4, 5, 10, 11]
    assert [bucket_label(k) for k in range(6)] == ["0", "1", "2-3", "4-7", "8-15", "16-31"]


@pytest.mark.parametrize("power", range(1, 53))
def test_powers_of_two_are_exact(power: int) -> None:
    """Where a rounded logarithm would put a gap on the wrong side of a border, the bucket is right."""
    gaps = th.tensor([2**power - 1, 2**power, 2**power + 1], dtype=th.int64)
    assert age_bucket(gaps).tolist() == [power, power + 1, power + 1]


@PROPERTY
@given(gaps=GAPS, dtype=st.sampled_from([th.int32, th.int64]))
def test_every_sample_is_in_the_bucket_its_label_names(gaps: list[int], dtype: th.dtype) -> None:
    """Every sample is in one group, its gap lies in the range of the label, and groups go from young to old."""
    groups = group_by_age(th.tensor(gaps, dtype=dtype))
    assert sorted(index for group in groups for index in group.positions.tolist()) == list(range(len(gaps)))
    previous = -1
    for label, index in groups:
        first, _, last = label.partition("-")
        low, high = int(first), int(last or first)
        assert low > previous
        previous = high
        assert len(index) > 0
        assert all(low <= gaps[i] <= high for i in index.tolist())


def test_order_inside_a_group_is_kept() -> None:
    """Samples of one age stay in the order in which they were drawn."""
    groups = group_by_age(th.tensor([5, 0, 4, 0, 6]))
    assert [(label, index.tolist()) for label, index in groups] == [("0", [1, 3]), ("4-7", [0, 2, 4])]

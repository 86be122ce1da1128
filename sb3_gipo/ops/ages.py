"""Samples grouped by how old they are: buckets that double with the version gap."""

from typing import NamedTuple

import torch as th


class AgeGroup(NamedTuple):
    """The samples of one bucket."""

    label: str  # the version gaps it holds: "0", "1", "2-3", "4-7", ...
    positions: th.Tensor  # which samples [n]


def age_bucket(version_gap: th.Tensor) -> th.Tensor:
    """
    Bucket of a version gap: 0 for a gap of 0, else ``1 + floor(log2(gap))``, so that bucket ``k`` holds
    ``2^(k-1) .. 2^k - 1``.

    :param version_gap: current policy version minus that of the behaviour policy, whole numbers, at least 0 [B]
    :return: number of the bucket [B], int64
    """
    # the exponent of a float64 is exact where a logarithm is rounded to the wrong side of a power of two
    return th.frexp(version_gap.double()).exponent.long()


def bucket_label(bucket: int) -> str:
    """
    :param bucket: number of a bucket, at least 0
    :return: the gaps it holds, such as ``"4-7"``
    """
    if bucket <= 1:
        return str(bucket)
    return f"{2 ** (bucket - 1)}-{2**bucket - 1}"


def group_by_age(version_gap: th.Tensor) -> list[AgeGroup]:
    """
    :param version_gap: whole numbers, at least 0 [B]
    :return: the buckets that hold any sample, youngest first
    """
    bucket = age_bucket(version_gap)
    order = bucket.argsort(stable=True)
    counts = th.bincount(bucket).tolist()
    parts = th.split(order, counts)
    return [AgeGroup(bucket_label(number), part) for number, part in enumerate(parts) if len(part)]

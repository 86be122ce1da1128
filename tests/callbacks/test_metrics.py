"""Every number that the callbacks log, against float64 arithmetic that shares nothing with them."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.policies import BasePolicy

from sb3_gipo.callbacks.metrics import metrics_by_age, overall_metrics, policy_gradient_norms, split_by_age
from sb3_gipo.learner.observed import LastMinibatch, ObservedUpdate
from sb3_gipo.learner.samples import UpdateSamples, as_numbers, update_metrics
from sb3_gipo.ops import surrogates
from tests.ops.strategies import PROPERTY

SURROGATES: dict[str, surrogates.Surrogate] = {
    "gipo": partial(surrogates.gipo, sigma=0.5),
    "gipo_neg": partial(surrogates.gipo, sigma=0.8, sigma_neg=0.3),
    "ppo_clip": partial(surrogates.ppo_clip, clip_range=0.2),
    "sapo": surrogates.sapo,
    "no_clip": surrogates.no_clip,
}
BATCHES = st.lists(
    st.tuples(
        st.floats(-4.0, 4.0),  # log rho
        st.floats(-2.0, 2.0),  # log rho to the start of the update
        st.one_of(st.just(0.0), st.floats(0.01, 3.0), st.floats(-3.0, -0.01)),  # advantage
        st.integers(0, 20),  # version gap
    ),
    min_size=1,
    max_size=40,
)


def samples_of(rows: list[tuple[float, float, float, int]], surrogate: surrogates.Surrogate) -> UpdateSamples:
    log_ratio, start, advantages = (th.tensor(column, dtype=th.float64) for column in list(zip(*rows, strict=True))[:3])
    gap = th.tensor([row[3] for row in rows])
    multiplier = surrogate(log_ratio, advantages).multiplier
    return UpdateSamples(multiplier, advantages, log_ratio, gap, log_ratio, start, gap)


def update_of(samples: UpdateSamples) -> ObservedUpdate:
    nothing = LastMinibatch(lambda: th.zeros(0), th.zeros(0), th.zeros(0), th.zeros(0), None, {})
    return ObservedUpdate(1, samples, {}, surrogates.no_clip, 0.2, th.tensor([1.0, 3.0]), nothing, {})


def weight(name: str, x: float, a: float) -> float:
    """Multiplier of one sample, from the table in the paper, with ``math`` alone."""
    rho = math.exp(x)
    if name == "gipo":
        return math.exp(-(x**2) / (2 * 0.5**2)) * rho
    if name == "gipo_neg":
        return math.exp(-(x**2) / (2 * (0.3 if a < 0 else 0.8) ** 2)) * rho
    if name == "ppo_clip":
        return 0.0 if (a > 0 and rho > 1.2) or (a < 0 and rho < 0.8) else rho
    if name == "sapo":
        z = (1.0 if a > 0 else 1.05) * (rho - 1)
        return rho * 4 / (1 + math.exp(-z)) / (1 + math.exp(z))
    return rho


def expected_metrics(name: str, rows: list[tuple[float, float, float, int]], total: float, n_all: int) -> dict[str, float]:
    """Of one bucket, by counting."""
    n = len(rows)
    w = [weight(name, x, a) for x, _, a, _ in rows]
    c = [abs(wi * a) for wi, (_, _, a, _) in zip(w, rows, strict=True)]
    trust = [wi / math.exp(x) for wi, (x, *_) in zip(w, rows, strict=True)]
    squares = math.fsum(ci**2 for ci in c)
    ess = math.fsum(c) ** 2 / squares if squares > 0 else 0.0
    return {
        "frac": n / n_all,
        "share": math.fsum(c) / total if total > 0 else 0.0,
        "dead_frac": sum(wi == 0 for wi in w) / n,
        "suppressed_frac": sum(0 < wi < 0.01 for wi in w) / n,
        "near_zero_frac": sum(ci < 0.001 for ci in c) / n,
        "ess": ess,
        "ess_eff": ess / n,
        "trust_mean": math.fsum(trust) / n,
        "trust_below_0.1": sum(t < 0.1 for t in trust) / n,
        "trust_below_0.5": sum(t < 0.5 for t in trust) / n,
        "abs_log_rho_p95": float(np.quantile([abs(x) for x, *_ in rows], 0.95)),
        "kl_behaviour": math.fsum(math.expm1(x) - x for x, *_ in rows) / n,
        "kl_previous": math.fsum(math.expm1(s) - s for _, s, *_ in rows) / n,
    }


def near_a_threshold(name: str, rows: list[tuple[float, float, float, int]]) -> bool:
    w = [weight(name, x, a) for x, _, a, _ in rows]
    trust = [wi / math.exp(x) for wi, (x, *_) in zip(w, rows, strict=True)]
    close = [abs(t - limit) < 1e-9 for t in trust for limit in (0.1, 0.5)] + [abs(wi - 0.01) < 1e-9 for wi in w]
    close += [abs(abs(wi * a) - 0.001) < 1e-9 for wi, (_, _, a, _) in zip(w, rows, strict=True)]
    close += [abs(math.exp(x) - limit) < 1e-9 for x, *_ in rows for limit in (0.8, 1.2)]
    return any(close)


def bucket(gap: int) -> str:
    low = 0 if gap == 0 else 2 ** (len(f"{gap:b}") - 1)
    return str(low) if low <= 1 else f"{low}-{2 * low - 1}"


@pytest.mark.parametrize("name", SURROGATES)
@PROPERTY
@given(rows=BATCHES)
def test_metrics_by_age_agree_with_counting(name: str, rows: list[tuple[float, float, float, int]]) -> None:
    """Every quantity in every bucket, for every surrogate."""
    if near_a_threshold(name, rows):
        return
    got = metrics_by_age(samples_of(rows, SURROGATES[name]), 1e-2, 1e-3)
    total = math.fsum(abs(weight(name, x, a) * a) for x, _, a, _ in rows)
    assert set(got) == {bucket(row[3]) for row in rows}
    for label, metrics in got.items():
        inside = [row for row in rows if bucket(row[3]) == label]
        expected = expected_metrics(name, inside, total, len(rows))
        numbers = as_numbers(metrics)
        for key, value in expected.items():
            assert numbers[key] == pytest.approx(value, rel=1e-6, abs=1e-9), (label, key)
        for sign, chosen in (("pos", [r for r in inside if r[2] > 0]), ("neg", [r for r in inside if r[2] < 0])):
            ratios = [math.exp(x) for x, *_ in chosen]
            for quantile, q in (("min", 0), ("p05", 0.05), ("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1)):
                key = f"ratio_{sign}_{quantile}"
                assert (key in numbers) == bool(ratios)
                if ratios:
                    assert numbers[key] == pytest.approx(float(np.quantile(ratios, q)), rel=1e-9), (label, key)


@pytest.mark.parametrize("name", SURROGATES)
@PROPERTY
@given(rows=BATCHES)
def test_buckets_add_up(name: str, rows: list[tuple[float, float, float, int]]) -> None:
    """Parts of the samples and of the contribution add up to one, and means over buckets to the mean over all."""
    samples = samples_of(rows, SURROGATES[name])
    by_age = [as_numbers(metrics) for metrics in metrics_by_age(samples, 1e-2, 1e-3).values()]
    overall = as_numbers(update_metrics(samples, old_threshold=4) | overall_metrics(update_of(samples)))
    assert sum(m["frac"] for m in by_age) == pytest.approx(1.0)
    assert sum(m["share"] for m in by_age) == pytest.approx(1.0 if any(m["ess"] > 0 for m in by_age) else 0.0)
    for key, overall_key in (
        ("dead_frac", "utilization/dead_frac"),
        ("suppressed_frac", "utilization/suppressed_frac"),
        ("near_zero_frac", "utilization/near_zero_frac"),
        ("trust_mean", "utilization/trust_mean"),
        ("trust_below_0.1", "utilization/trust_below_0.1"),
        ("trust_below_0.5", "utilization/trust_below_0.5"),
        ("kl_behaviour", "train/kl_behaviour"),
        ("kl_previous", "train/kl_previous"),
    ):
        assert sum(m["frac"] * m[key] for m in by_age) == pytest.approx(overall[overall_key], rel=1e-5, abs=1e-6), key


def test_a_tabular_case_by_hand() -> None:
    """
    A bandit with two actions. The behaviour policy of version 0 chose them with 1/2 and 1/2, that of version 3 with 1/4 and
    3/4; the policy of today, version 3, with 3/4 and 1/4 (so it has moved since). One sample of each action from each:

    ==========  ======  =====  ==========  ==  =====================  =================================
    behaviour   action  rho    log rho     A   PPO (eps = 0.2): w, c  no-clip: w, c
    ==========  ======  =====  ==========  ==  =====================  =================================
    1/2, 1/2    left    3/2    0.405        1  clipped: 0, 0          3/2, 3/2
    1/2, 1/2    right   1/2    -0.693       1  1/2, 1/2               1/2, 1/2
    1/4, 3/4    left    3      1.099       -2  3, 6                   3, 6
    1/4, 3/4    right   1/3    -1.099      -2  clipped: 0, 0          1/3, 2/3
    ==========  ======  =====  ==========  ==  =====================  =================================
    """
    rows = [
        (math.log(3 / 2), 0.0, 1.0, 3),
        (math.log(1 / 2), 0.0, 1.0, 3),
        (math.log(3), 0.0, -2.0, 0),
        (math.log(1 / 3), 0.0, -2.0, 0),
    ]
    clipped = samples_of(rows, SURROGATES["ppo_clip"])
    overall = as_numbers(update_metrics(clipped, old_threshold=2) | overall_metrics(update_of(clipped)))
    assert overall["utilization/dead_frac"] == 1 / 2
    assert overall["utilization/old_share"] == pytest.approx((1 / 2) / (13 / 2))
    assert overall["utilization/ess_old"] == pytest.approx(1.0)  # of the two old samples one is dead
    assert overall["utilization/ess_eff_old"] == pytest.approx(1 / 2)
    assert overall["utilization/ess_eff"] == pytest.approx((13 / 2) ** 2 / (1 / 4 + 36) / 4)
    assert overall["lag/old_frac"] == 1 / 2
    assert overall["lag/version_gap_mean"] == 3 / 2
    assert overall["utilization/trust_mean"] == pytest.approx(1 / 2)
    assert overall["utilization/trust_below_0.1"] == overall["utilization/trust_below_0.5"] == 1 / 2
    assert overall["ratio/pos_max"] == pytest.approx(3 / 2)
    assert overall["ratio/neg_max"] == pytest.approx(3.0)
    assert overall["ratio/neg_p50"] == pytest.approx((3 + 1 / 3) / 2)
    # (rho - 1) - log rho: 0.0945, 0.1931, 0.9014, 0.4319
    divergence = [1 / 2 - math.log(3 / 2), -1 / 2 + math.log(2), 2 - math.log(3), -2 / 3 + math.log(3)]
    assert overall["train/kl_behaviour"] == pytest.approx(sum(divergence) / 4)
    assert overall["train/kl_previous"] == 0.0
    assert (overall["train/grad_norm_max"], overall["replay/replayed_frac"]) == (3.0, 0.5)
    young, old = (as_numbers(metrics) for metrics in metrics_by_age(clipped, 1e-2, 1e-3).values())
    assert (young["dead_frac"], old["dead_frac"]) == (1 / 2, 1 / 2)
    assert (young["share"], old["share"]) == (pytest.approx(12 / 13), pytest.approx(1 / 13))
    plain = samples_of(rows, SURROGATES["no_clip"])
    overall = as_numbers(update_metrics(plain, old_threshold=2))
    assert overall["utilization/dead_frac"] == 0.0
    assert overall["utilization/old_share"] == pytest.approx(2 / (2 + 20 / 3))
    assert overall["utilization/ess_old"] == pytest.approx(2**2 / (9 / 4 + 1 / 4))
    assert list(metrics_by_age(plain, 1e-2, 1e-3)) == ["0", "2-3"]


EDGE_CASES: dict[str, list[tuple[float, float, float, int]]] = {
    "no old samples": [(0.1, 0.1, 1.0, 0), (-0.1, 0.0, -1.0, 0)],
    "all dead": [(1.0, 0.1, 1.0, 0), (-1.0, 0.0, -1.0, 9)],
    "one sample": [(0.3, 0.0, 0.5, 6)],
    "all advantages zero": [(0.1, 0.1, 0.0, 0), (2.0, 0.0, 0.0, 8)],
}


@pytest.mark.parametrize("case", EDGE_CASES)
def test_edge_cases(case: str) -> None:
    """Every number is there, finite and what counting gives."""
    rows = EDGE_CASES[case]
    samples = samples_of(rows, SURROGATES["ppo_clip"])
    overall = as_numbers(update_metrics(samples, old_threshold=4) | overall_metrics(update_of(samples)))
    assert all(math.isfinite(value) for value in overall.values())
    expected = expected_metrics("ppo_clip", rows, 1.0, len(rows))
    for key in ("dead_frac", "suppressed_frac", "near_zero_frac", "trust_mean", "ess_eff"):
        assert overall[f"utilization/{key}"] == pytest.approx(expected[key]), key
    assert ("utilization/ess_old" in overall) == any(row[3] > 4 for row in rows)
    assert ("ratio/pos_p50" in overall) == any(row[2] > 0 for row in rows)
    total = sum(abs(weight("ppo_clip", x, a) * a) for x, _, a, _ in rows)
    for label, metrics in metrics_by_age(samples, 1e-2, 1e-3).items():
        inside = [row for row in rows if bucket(row[3]) == label]
        numbers = as_numbers(metrics)
        for key, value in expected_metrics("ppo_clip", inside, total, len(rows)).items():
            assert numbers[key] == pytest.approx(value), (label, key)


def test_a_ratio_for_each_dimension() -> None:
    """With D ratios for an action, ratios and samples are divided by the same ages; what is joint is counted once a sample."""
    gap = th.tensor([0, 5, 0])
    ratios = th.tensor([[0.1, 0.2], [1.0, -1.0], [0.3, 0.0]])
    joint = ratios.sum(dim=1)
    samples = UpdateSamples(
        multiplier=ratios.exp().flatten(),
        advantages=th.ones(6),
        log_ratio=ratios.flatten(),
        ratio_gap=gap.repeat_interleave(2),
        joint_log_ratio=joint,
        start_log_ratio=th.zeros(3),
        version_gap=gap,
    )
    (young_label, young), (old_label, old) = split_by_age(samples)
    assert (young_label, old_label) == ("0", "4-7")
    assert young.log_ratio.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.0])
    assert young.joint_log_ratio.tolist() == pytest.approx([0.3, 0.3])
    assert old.log_ratio.tolist() == [1.0, -1.0]
    assert old.joint_log_ratio.tolist() == [0.0]
    by_age = metrics_by_age(samples, 1e-2, 1e-3)
    assert by_age["0"]["frac"].item() == pytest.approx(4 / 6)
    assert by_age["4-7"]["kl_behaviour"].item() == 0.0


class ThetaPolicy(BasePolicy):
    """A policy with two numbers for parameters."""

    def __init__(self, theta: th.nn.Parameter) -> None:
        super().__init__(spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)))
        self.theta = theta
        self.set_training_mode(True)

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return self.theta


@pytest.mark.parametrize("by_dimension", [False, True])
def test_gradient_norms_by_age_are_parts_of_the_whole(by_dimension: bool) -> None:
    """Each part is the gradient, by hand, of the surrogate over the samples of that age; padding takes no part."""
    gap = th.tensor([0, 3, 0, 3])
    valid = th.tensor([True, True, True, False])
    theta = th.nn.Parameter(th.tensor([0.2, -0.1], dtype=th.float64))
    features = th.tensor([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0], [9.0, 9.0]], dtype=th.float64)
    advantages = th.tensor([1.0, -2.0, 0.5, 100.0], dtype=th.float64)

    def log_prob() -> th.Tensor:
        return features * theta if by_dimension else features @ theta

    last = LastMinibatch(log_prob, th.zeros_like(log_prob().detach()), advantages, gap, valid, {})
    policy = ThetaPolicy(theta)
    norms = as_numbers(policy_gradient_norms(last, surrogates.no_clip, policy))
    x, a, t = features.numpy()[:3], advantages.numpy()[:3], theta.detach().numpy()
    ratios = np.exp(x * t) if by_dimension else np.exp(x @ t)[:, None]
    each = -ratios * a[:, None] * x / 3  # gradient of each sample's part of the mean
    assert norms == pytest.approx({"0": np.linalg.norm(each[[0, 2]].sum(0)), "2-3": np.linalg.norm(each[1])})
    assert theta.grad is None
    assert policy.training


def test_as_numbers_of_nothing() -> None:
    """No metrics, no numbers."""
    empty: dict[str, Any] = {}
    assert as_numbers(empty) == {}

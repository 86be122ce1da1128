"""
What real runs log, recomputed sample by sample: minibatches are noted down from outside while they are used, and every key is
worked out from them with ``math`` and NumPy alone.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th

from sb3_gipo import UtilizationCallback
from sb3_gipo.callbacks.observers import observer_of
from sb3_gipo.learner import step
from tests.callbacks.runs import learn, make
from tests.callbacks.test_metrics import bucket

OLD = 1


class Sample(NamedTuple):
    """One ratio of one sample, as it was used."""

    log_ratio: float
    advantage: float
    gap: int


class Seen(NamedTuple):
    """What an update drew."""

    ratios: list[Sample]
    joint: list[tuple[float, float, int]]  # log-ratio to the behaviour policy, to the start of the update; gap
    last: int  # how many ratios the last minibatch had


def watch_gipo(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Notes (batch, terms) of every minibatch of the latest update; :return: a list that fills"""
    noted: list[Any] = []
    objective, train = step.objective, model.train

    def spy(policy: Any, batch: Any, how: Any) -> Any:
        result = objective(policy, batch, how)
        now = policy.evaluate_actions(batch.observations, batch.actions)[1].detach()
        noted.append((batch, now, by_dimension(policy, batch)))
        return result

    def begin() -> None:
        noted.clear()
        train()

    monkeypatch.setattr(step, "objective", spy)
    monkeypatch.setattr(model, "train", begin)
    return noted


def by_dimension(policy: Any, batch: Any) -> np.ndarray | None:
    """Log-probability of each dimension of a Gaussian action, written down from its density."""
    if batch.old_dimension_log_prob is None:
        return None
    with th.no_grad():
        distribution = policy.get_distribution(batch.observations).distribution
    mean, std = distribution.mean.double().numpy(), distribution.stddev.double().numpy()
    z = (batch.actions.double().numpy() - mean) / std
    density: np.ndarray = -0.5 * z**2 - np.log(std) - 0.5 * math.log(2 * math.pi)
    return density


def used(advantages: th.Tensor) -> np.ndarray:
    a = advantages.double().numpy()
    return (a - a.mean()) / (a.std(ddof=1) + 1e-8)  # type: ignore[no-any-return]  # NumPy does not say


def seen_by_gipo(noted: list[Any]) -> Seen:
    ratios, joint, last = [], [], 0
    for batch, now, dimensions in noted:
        a, gap = used(batch.advantages), batch.version_gap.tolist()
        log_ratio = (now - batch.old_log_prob).double().numpy()
        start = (now - batch.start_log_prob).double().numpy()
        joint += list(zip(log_ratio.tolist(), start.tolist(), gap, strict=True))
        rows = log_ratio[:, None] if dimensions is None else dimensions - batch.old_dimension_log_prob.double().numpy()
        here = [Sample(x, a[i], gap[i]) for i, row in enumerate(rows.tolist()) for x in row]
        ratios, last = ratios + here, len(here)
    return Seen(ratios, joint, last)


def multiplier(sample: Sample, surrogate: str, sigma: float) -> float:
    """From the table in the paper; one-sided, what brings its ratio back counts up to 3 times."""
    rho = math.exp(sample.log_ratio)
    if surrogate == "one-sided" and sample.log_ratio * sample.advantage < 0:
        return min(rho, 3.0)
    if surrogate in ("symmetric", "one-sided"):
        return math.exp(-(sample.log_ratio**2) / (2 * sigma**2)) * rho
    clipped = rho > 1.2 if sample.advantage > 0 else rho < 0.8
    return 0.0 if clipped and sample.advantage != 0 else rho


def expected(seen: Seen, surrogate: str, sigma: float = 0.5) -> dict[str, float]:
    """Every key, by counting."""
    w = [multiplier(s, surrogate, sigma) for s in seen.ratios]
    c = [abs(wi * s.advantage) for wi, s in zip(w, seen.ratios, strict=True)]
    old = [ci for ci, s in zip(c, seen.ratios, strict=True) if s.gap > OLD]
    trust = [wi / math.exp(s.log_ratio) for wi, s in zip(w, seen.ratios, strict=True)]
    n = len(w)
    clip = [multiplier(s, "ppo_clip", sigma) == 0 for s in seen.ratios]
    found = {
        "utilization/dead_frac": sum(wi == 0 for wi in w) / n,
        "utilization/dead_frac_if_clipped": sum(clip) / n,
        "utilization/suppressed_frac": sum(0 < wi < 0.01 for wi in w) / n,
        "utilization/near_zero_frac": sum(ci < 0.001 for ci in c) / n,
        "utilization/ess_eff": math.fsum(c) ** 2 / math.fsum(x * x for x in c) / n,
        "utilization/trust_mean": math.fsum(trust) / n,
        "utilization/trust_below_0.1": sum(t < 0.1 for t in trust) / n,
        "utilization/trust_below_0.5": sum(t < 0.5 for t in trust) / n,
        "utilization/old_share": math.fsum(old) / math.fsum(c),
        "lag/version_gap_mean": sum(gap for *_, gap in seen.joint) / len(seen.joint),
        "lag/version_gap_min": min(gap for *_, gap in seen.joint),
        "lag/version_gap_max": max(gap for *_, gap in seen.joint),
        "lag/old_frac": sum(gap > OLD for *_, gap in seen.joint) / len(seen.joint),
        "lag/abs_log_rho_p95": float(np.quantile([abs(x) for x, *_ in seen.joint], 0.95)),
        "train/kl_behaviour": math.fsum(math.expm1(x) - x for x, *_ in seen.joint) / len(seen.joint),
        "train/kl_previous": math.fsum(math.expm1(s) - s for _, s, _ in seen.joint) / len(seen.joint),
    }
    if old:
        found["utilization/ess_old"] = math.fsum(old) ** 2 / math.fsum(x * x for x in old)
        found["utilization/ess_eff_old"] = found["utilization/ess_old"] / len(old)
    for sign, keep in (("pos", lambda a: a > 0), ("neg", lambda a: a < 0)):
        ratios = [math.exp(s.log_ratio) for s in seen.ratios if keep(s.advantage)]
        for name, q in (("min", 0), ("p05", 0.05), ("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1)):
            found[f"ratio/{sign}_{name}"] = float(np.quantile(ratios, q))
    for label in {bucket(s.gap) for s in seen.ratios}:
        inside = [(ci, wi) for ci, wi, s in zip(c, w, seen.ratios, strict=True) if bucket(s.gap) == label]
        found[f"by_age/frac/{label}"] = len(inside) / n
        found[f"by_age/share/{label}"] = math.fsum(ci for ci, _ in inside) / math.fsum(c)
        found[f"by_age/dead_frac/{label}"] = sum(wi == 0 for _, wi in inside) / len(inside)
        joint = [(x, s) for x, s, gap in seen.joint if bucket(gap) == label]
        found[f"by_age/kl_behaviour/{label}"] = math.fsum(math.expm1(x) - x for x, _ in joint) / len(joint)
        found[f"by_age/kl_previous/{label}"] = math.fsum(math.expm1(s) - s for _, s in joint) / len(joint)
    return found


SURROGATES: dict[str, dict[str, Any]] = {
    "one-sided": {"sigma": 0.5},
    "symmetric": {"sigma": 0.5, "surrogate_kwargs": {}},
    "ppo_clip": {"surrogate": "ppo_clip"},
}


@pytest.mark.parametrize("ratio_level", ["joint", "dimension"])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_gipo_with_replay(surrogate: str, ratio_level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key of the last update of a run with four rollouts in its replay."""
    options = {**SURROGATES[surrogate], "replay_capacity": 256, "old_threshold": OLD, "learning_rate": 3e-3}
    model = make("gipo", ratio_level=ratio_level, **options)
    noted = watch_gipo(model, monkeypatch)
    dump = learn(model, UtilizationCallback(histogram_freq=1, figure_freq=0), iterations=6)[-1]
    seen = seen_by_gipo(noted)
    assert len(seen.joint) == 48 * 16
    assert {gap for *_, gap in seen.joint} == {0, 1, 2, 3}
    wanted = expected(seen, surrogate)
    for key, value in wanted.items():
        assert dump[key] == pytest.approx(value, rel=2e-3, abs=2e-5), key
    assert wanted["train/kl_previous"] < 0.8 * wanted["train/kl_behaviour"]  # two things, not one
    assert wanted["utilization/dead_frac_if_clipped"] > 0.02
    check_histograms(dump, seen, surrogate)
    check_last_minibatch(model, seen, surrogate)
    if ratio_level == "joint":
        check_gradient_norms(model, noted[-1][0], dump, surrogate)


def check_gradient_norms(model: Any, batch: Any, dump: dict[str, Any], surrogate: str) -> None:
    """Norm of ``mean of w A grad log pi`` over the samples of each age in the last minibatch, with ``w`` and ``A`` by hand."""
    log_prob = model.policy.evaluate_actions(batch.observations, batch.actions)[1]
    advantages = used(batch.advantages).tolist()
    ratios = (log_prob - batch.old_log_prob).tolist()
    gaps = batch.version_gap.tolist()
    samples = [Sample(x, a, gap) for x, a, gap in zip(ratios, advantages, gaps, strict=True)]
    for label in {bucket(gap) for gap in gaps}:
        weights = [multiplier(s, surrogate, 0.5) * s.advantage * (bucket(s.gap) == label) for s in samples]
        loss = -(th.tensor(weights) * log_prob).mean()
        gradients = th.autograd.grad(loss, list(model.policy.parameters()), allow_unused=True, retain_graph=True)
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients if g is not None))
        assert dump[f"by_age/policy_grad_norm/{label}"] == pytest.approx(norm, rel=2e-3, abs=1e-6), label


def check_histograms(dump: dict[str, Any], seen: Seen, surrogate: str) -> None:
    """Histograms hold the values of their bucket, log-ratios and multipliers each under their own name."""
    for label in {bucket(s.gap) for s in seen.ratios}:
        inside = [s for s in seen.ratios if bucket(s.gap) == label]
        logged = sorted(dump[f"by_age/log_ratio/{label}"].tolist())
        assert logged == pytest.approx(sorted(s.log_ratio for s in inside), rel=2e-3, abs=2e-5)
        logged = sorted(dump[f"by_age/multiplier/{label}"].tolist())
        assert logged == pytest.approx(sorted(multiplier(s, surrogate, 0.5) for s in inside), rel=2e-3, abs=2e-5)


def check_last_minibatch(model: Any, seen: Seen, surrogate: str) -> None:
    """What is kept of the last minibatch, and may be saved, is the last minibatch."""
    arrays = observer_of(model).latest().last.arrays  # type: ignore[union-attr]  # there were updates
    rows = seen.ratios[-seen.last :]
    assert arrays["log_ratio"].flatten().tolist() == pytest.approx([s.log_ratio for s in rows], rel=2e-3, abs=2e-5)
    assert arrays["multiplier"].flatten().tolist() == pytest.approx(
        [multiplier(s, surrogate, 0.5) for s in rows], rel=2e-3, abs=2e-5
    )
    repeats = len(rows) // len(arrays["used_advantages"])
    assert arrays["used_advantages"].tolist() == pytest.approx([s.advantage for s in rows[::repeats]], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ["ppo", "maskable", "recurrent"])
def test_clipped_algorithms(kind: str) -> None:
    """Every key of the last update, from minibatches noted down between the buffer and the policy; padding is left out."""
    model = make(kind)
    noted: list[tuple[Any, th.Tensor]] = []
    pending: dict[str, Any] = {}
    evaluate, get, train = model.policy.evaluate_actions, model.rollout_buffer.get, model.train

    def spy_get(batch_size: int | None = None) -> Any:
        for minibatch in get(batch_size):
            pending["minibatch"] = minibatch
            yield minibatch

    def spy(*args: Any, **kwargs: Any) -> Any:
        result = evaluate(*args, **kwargs)
        if "minibatch" in pending:
            noted.append((pending.pop("minibatch"), result[1].detach()))
        return result

    def begin() -> None:
        noted.clear()
        train()

    model.policy.evaluate_actions, model.rollout_buffer.get, model.train = spy, spy_get, begin
    dumps = learn(model, UtilizationCallback(histogram_freq=1), iterations=3)
    ratios: list[Sample] = []
    for minibatch, now in noted:
        mask = minibatch.mask.bool() if hasattr(minibatch, "mask") else th.ones(len(now), dtype=th.bool)
        a = used(minibatch.advantages[mask])
        ratios += [Sample(x, y, 0) for x, y in zip((now - minibatch.old_log_prob)[mask].tolist(), a.tolist(), strict=True)]
    assert len(ratios) == 3 * 64
    seen = Seen(ratios, [(s.log_ratio, s.log_ratio, 0) for s in ratios], 16)
    for key, value in expected(seen, "ppo_clip").items():
        if not key.startswith("by_age"):
            assert dumps[-1][key] == pytest.approx(value, rel=2e-3, abs=2e-5), key
    assert dumps[-2]["time/collect"] > 0
    assert dumps[-2]["time/update"] > 0
    minibatch, _ = noted[-1]
    norm = policy_gradient_by_hand(evaluate, minibatch, kind)
    assert dumps[-1]["by_age/policy_grad_norm/0"] == pytest.approx(norm, rel=1e-3)


def policy_gradient_by_hand(evaluate: Any, minibatch: Any, kind: str) -> float:
    """Norm of the gradient of PPO's clipped loss over the last minibatch, under the policy as it is now."""
    model = evaluate.__self__
    actions = minibatch.actions.long().flatten() if kind == "maskable" else minibatch.actions
    further = {"maskable": ["action_masks"], "recurrent": ["lstm_states", "episode_starts"]}.get(kind, [])
    log_prob = evaluate(minibatch.observations, actions, *[getattr(minibatch, name) for name in further])[1]
    mask = minibatch.mask.bool() if hasattr(minibatch, "mask") else th.ones(len(log_prob), dtype=th.bool)
    a = minibatch.advantages[mask]
    a = (a - a.mean()) / (a.std() + 1e-8)
    ratio = th.exp(log_prob - minibatch.old_log_prob)[mask]
    loss = -th.min(a * ratio, a * ratio.clamp(0.8, 1.2)).mean()
    parameters = list(model.parameters())
    gradients = th.autograd.grad(loss, parameters, allow_unused=True)
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients if g is not None))

"""
The formulas once more, as plain Python on float64 numbers, one sample at a time: what the package is compared with.

Written from the papers and not from the package: other algebra where there is a choice (PPO by cases, SAPO through
hyperbolic functions, V-trace as the explicit sum over k), loops instead of recursions.
"""

import math
from typing import NamedTuple

import numpy as np

BOUND = 20.0  # of |log rho|
PPO_BOUND = 80.0  # of |log rho| in PPO's ratio, which no weight tames


class Terms(NamedTuple):
    """Loss of one sample and the multiplier on ``A * grad log pi``."""

    loss: float
    multiplier: float


def _limited(log_ratio: float, bound: float = BOUND) -> float:
    return max(-bound, min(bound, log_ratio))


def omega(log_ratio: float, sigma: float, kernel: str = "gaussian") -> float:
    """Trust weight of one sample."""
    x = _limited(log_ratio)
    if kernel == "gaussian":
        return math.exp(-(x**2) / (2.0 * sigma**2))
    if kernel == "laplacian":
        return math.exp(-abs(x) / sigma)
    return sigma**2 / (sigma**2 + x**2)


def gipo(
    log_ratio: float,
    advantage: float,
    *,
    sigma: float,
    sigma_neg: float | None = None,
    kernel: str = "gaussian",
    restoring: float | None = None,
) -> Terms:
    """``-omega rho A``, the weight a constant; one-sided: not damped where a step along the advantage leads back to 1."""
    if restoring is not None and ((advantage > 0 and log_ratio < 0) or (advantage < 0 and log_ratio > 0)):
        ratio = math.exp(_limited(log_ratio))
        return Terms(-min(ratio, restoring) * advantage, min(ratio, restoring))
    width = sigma_neg if sigma_neg is not None and advantage < 0 else sigma
    multiplier = omega(log_ratio, width, kernel) * math.exp(_limited(log_ratio))
    return Terms(-multiplier * advantage, multiplier)


def ppo_clip(log_ratio: float, advantage: float, *, clip_range: float) -> Terms:
    """By cases: a positive advantage stops paying above ``1 + eps``, a negative one below ``1 - eps``."""
    ratio = math.exp(_limited(log_ratio, PPO_BOUND))
    if advantage > 0:
        return Terms(-advantage * min(ratio, 1 + clip_range), 0.0 if ratio > 1 + clip_range else ratio)
    if advantage < 0:
        return Terms(-advantage * max(ratio, 1 - clip_range), 0.0 if ratio < 1 - clip_range else ratio)
    return Terms(0.0, ratio)


def sapo(log_ratio: float, advantage: float, *, tau_pos: float = 1.0, tau_neg: float = 1.05) -> Terms:
    """With ``sigmoid(z) = (1 + tanh(z / 2)) / 2`` and ``4 p (1 - p) = 1 / cosh(z / 2)^2``."""
    ratio = math.exp(_limited(log_ratio))
    tau = tau_pos if advantage > 0 else tau_neg
    half = tau * (ratio - 1.0) / 2.0
    multiplier = ratio / math.cosh(half) ** 2 if half < 350.0 else 0.0
    return Terms(-(2.0 / tau) * (1.0 + math.tanh(half)) * advantage, multiplier)


def no_clip(log_ratio: float, advantage: float) -> Terms:
    """``-rho A``."""
    ratio = math.exp(_limited(log_ratio))
    return Terms(-ratio * advantage, ratio)


class Trace(NamedTuple):
    """V-trace of a segment, ``[T, B]`` each; ``scale`` is the sum of the sizes of all summands, for the tolerance."""

    value_targets: np.ndarray
    advantages: np.ndarray
    scale: np.ndarray


def vtrace(
    log_ratio: np.ndarray,
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
    *,
    gamma: float,
    gae_lambda: float,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> Trace:
    """The explicit sum over ``k`` with its products, every step on its own."""
    n_steps, n_segments = values.shape
    targets, advantages, scale = (np.zeros((n_steps, n_segments)) for _ in range(3))
    for b in range(n_segments):

        def next_value(t: int, b: int = b) -> float:
            return 0.0 if terminated[t, b] else float(next_values[t, b])

        for t in range(n_steps):
            total = size = 0.0
            for k in range(n_steps - t):
                # an earlier step of this sum ended the episode: step t + k belongs to another one
                if any(terminated[t + j, b] or truncated[t + j, b] for j in range(k)):
                    break
                trace = math.prod(gae_lambda * min(c_bar, math.exp(_limited(log_ratio[t + j, b]))) for j in range(k))
                rho_hat = min(rho_bar, math.exp(_limited(log_ratio[t + k, b])))
                parts = rewards[t + k, b], gamma * next_value(t + k), -values[t + k, b]
                total += gamma**k * trace * rho_hat * math.fsum(parts)
                size += gamma**k * trace * rho_hat * math.fsum(map(abs, parts))
            targets[t, b] = values[t, b] + total
            scale[t, b] = abs(values[t, b]) + size
        for t in range(n_steps):
            last = t == n_steps - 1 or terminated[t, b] or truncated[t, b]
            next_target = next_value(t) if last else targets[t + 1, b]
            mixed = (1 - gae_lambda) * next_value(t) + gae_lambda * next_target
            advantages[t, b] = rewards[t, b] + gamma * mixed - values[t, b]
        for t in reversed(range(n_steps)):  # what follows enters the advantage
            scale[t, b] += abs(rewards[t, b]) + abs(next_value(t)) + (scale[t + 1, b] if t + 1 < n_steps else 0.0)
    return Trace(targets, advantages, scale)


def utilization(
    multiplier: list[float], advantages: list[float], old: list[bool], *, eps_w: float, eps_c: float
) -> dict[str, float]:
    """Counting, sample by sample."""
    n = len(multiplier)
    contribution = [abs(w * a) for w, a in zip(multiplier, advantages, strict=True)]
    of_old = [c for c, is_old in zip(contribution, old, strict=True) if is_old]
    ess_old = effective_sample_size(of_old)
    return {
        "dead_frac": sum(1 for w in multiplier if w == 0) / n,
        "suppressed_frac": sum(1 for w in multiplier if 0 < w < eps_w) / n,
        "near_zero_frac": sum(1 for c in contribution if c < eps_c) / n,
        "old_share": math.fsum(of_old) / math.fsum(contribution) if math.fsum(contribution) > 0 else 0.0,
        "ess_old": ess_old,
        "ess_eff_old": ess_old / len(of_old) if of_old else 0.0,
    }


def effective_sample_size(weights: list[float]) -> float:
    """``(sum c)^2 / sum c^2``; 0 where there is nothing."""
    if not weights or max(weights) == 0:
        return 0.0
    return math.fsum(weights) ** 2 / math.fsum(c**2 for c in weights)


def quantile(values: list[float], q: float) -> float:
    """Linear interpolation between the two order statistics around ``q (n - 1)``."""
    ordered = sorted(values)
    below = math.floor(q * (len(values) - 1))
    above = math.ceil(q * (len(values) - 1))
    return ordered[below] + (q * (len(values) - 1) - below) * (ordered[above] - ordered[below])


def k3(log_ratio: float) -> float:
    """``(rho - 1) - log rho`` without cancellation; only the ratio is limited."""
    return math.expm1(_limited(log_ratio)) - log_ratio

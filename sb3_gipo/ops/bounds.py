"""The paper's bounds, as functions of the trust width (section 5 and appendix B.3)."""

import math

from sb3_gipo.ops.checks import check_positive


def multiplier_bound(sigma: float) -> float:
    """
    Lemma 5.3: ``0 < omega(rho) rho <= exp(sigma^2 / 2)``, attained at ``rho = exp(sigma^2)`` (gaussian kernel).

    :param sigma: trust width, in (0, inf)
    :return: the bound; ``inf`` where it leaves the range of floats (sigma above 37)
    """
    check_positive(sigma=sigma)
    exponent = 0.5 * sigma * sigma
    return math.exp(exponent) if exponent < 709.0 else math.inf


def deviation_bound(sigma: float, max_advantage: float, n_samples: int, delta: float) -> float:
    """
    Theorem 5.4: with probability ``1 - delta`` the surrogate estimated from ``N`` independent samples is within
    ``A_max exp(sigma^2 / 2) sqrt(2 log(2 / delta) / N)`` of its expectation.

    :param sigma: trust width, in (0, inf)
    :param max_advantage: ``A_max``, bound of ``|A|``, in (0, inf)
    :param n_samples: ``N``, at least 1
    :param delta: probability of failure, in (0, 1)
    :return: the bound on the deviation
    :raises ValueError: for a number out of range
    """
    check_positive(max_advantage=max_advantage, n_samples=n_samples)
    if n_samples < 1:
        raise ValueError(f"`n_samples` must be at least 1, got {n_samples}.")
    if not 0 < delta < 1:
        raise ValueError(f"`delta` must be a probability in (0, 1), got {delta}.")
    return max_advantage * multiplier_bound(sigma) * math.sqrt(2.0 * math.log(2.0 / delta) / n_samples)


def damping_bias_bound(sigma: float, truncation: float, tail_probability: float = 0.0) -> float:
    """
    Lemma 5.1: ``E_mu[rho (1 - omega)] <= u^2 / (2 sigma^2) + exp(-u) + P_pi(log rho > u)`` for any ``u > 0``.

    :param sigma: trust width, in (0, inf)
    :param truncation: ``u``, in (0, inf)
    :param tail_probability: ``P_pi(log rho > u)``, in [0, 1]
    :return: the bound on the ratio mass that damping takes away
    """
    check_positive(sigma=sigma, truncation=truncation)
    if not 0 <= tail_probability <= 1:
        raise ValueError(f"`tail_probability` must be a probability in [0, 1], got {tail_probability}.")
    return truncation**2 / (2.0 * sigma**2) + math.exp(-truncation) + tail_probability


def optimal_truncation(sigma: float) -> float:
    """
    Appendix B.3: ``u* = W(sigma^2)`` (Lambert W) makes the first two terms of Lemma 5.1 smallest.

    :param sigma: trust width, in (0, inf)
    :return: ``u*``, where ``u* exp(u*) = sigma^2``
    """
    check_positive(sigma=sigma)
    square = sigma * sigma
    root = math.log1p(square)
    for _ in range(50):  # Halley's iteration; converges in a handful of steps from log(1 + x)
        error = root * math.exp(root) - square
        slope = math.exp(root) * (root + 1.0)
        step = error / (slope - (root + 2.0) * error / (2.0 * root + 2.0))
        root -= step
        if abs(step) <= 1e-15 * max(root, 1e-300):
            break
    return root

"""Value targets and advantages on whole segments: V-trace, with GAE as its on-policy case."""

from typing import NamedTuple

import torch as th

from sb3_gipo.ops.checks import check_same_shape
from sb3_gipo.ops.surrogates import importance_ratio


class Targets(NamedTuple):
    """
    ``value_targets`` [T, B]: what the value function is regressed on. ``advantages`` [T, B]: what the surrogate uses.
    """

    value_targets: th.Tensor
    advantages: th.Tensor


def vtrace(
    log_ratio: th.Tensor,
    rewards: th.Tensor,
    values: th.Tensor,
    next_values: th.Tensor,
    terminated: th.Tensor,
    truncated: th.Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> Targets:
    """
    V-trace targets (Espeholt et al. 2018, arXiv 1802.01561, with the trace decay lambda) and the advantages that go with
    a surrogate which already multiplies by the ratio.

    With ``c_t = lambda min(c_bar, rho_t)``, ``rho_hat_t = min(rho_bar, rho_t)`` and
    ``delta_t = r_t + gamma V(s_{t+1}) - V(s_t)``:
    ``v_t = V(s_t) + sum_k gamma^k (prod_{i<k} c_{t+i}) rho_hat_{t+k} delta_{t+k}`` and
    ``A_t = r_t + gamma ((1 - lambda) V(s_{t+1}) + lambda v_{t+1}) - V(s_t)``.
    ``A_t`` carries no ratio of its own (paper, section 3.4: surrogate and target correct separately).
    At ``rho = 1`` and bars of at least 1 this is GAE(lambda) and its TD(lambda) return.

    :param log_ratio: ``log pi(a_t|s_t) - log mu(a_t|s_t)``, joint over action dimensions [T, B]
    :param rewards: ``r_t`` [T, B]
    :param values: ``V(s_t)`` [T, B]
    :param next_values: ``V(s_{t+1})``, before any reset: at a truncation the value of the terminal observation, at the
        last row the value of the observation after it; read as 0 at a termination [T, B]
    :param terminated: 1 where the episode ended in a terminal state [T, B]
    :param truncated: 1 where the episode was cut short (time limit) [T, B]
    :param gamma: discount factor in [0, 1]
    :param gae_lambda: ``lambda`` in [0, 1]
    :param rho_bar: truncation of the ratio in the temporal difference, above 0
    :param c_bar: truncation of the ratio in the trace, above 0
    :return: value targets and advantages, both [T, B]
    :raises ValueError: for shapes that differ
    """
    check_same_shape(
        log_ratio=log_ratio,
        rewards=rewards,
        values=values,
        next_values=next_values,
        terminated=terminated,
        truncated=truncated,
    )
    ratio = importance_ratio(log_ratio)
    running = 1.0 - terminated.to(values.dtype)
    same_episode = running * (1.0 - truncated.to(values.dtype))
    # where, not a product: the value of a state that does not exist may be anything, also not finite
    bootstrap = th.where(running > 0, next_values, th.zeros_like(next_values))
    delta = rewards + gamma * bootstrap - values
    decay = gamma * gae_lambda * ratio.clamp(max=c_bar) * same_episode
    correction = _discounted_sum(ratio.clamp(max=rho_bar) * delta, decay)
    # v_{t+1} - V(s_{t+1}); beyond the segment and beyond the episode nothing is known but the bootstrap value
    next_correction = th.zeros_like(correction)
    next_correction[:-1] = th.where(same_episode[:-1] > 0, correction[1:], 0.0)  # what is beyond an end may be anything
    return Targets(values + correction, delta + gamma * gae_lambda * next_correction)


def gae(
    rewards: th.Tensor,
    values: th.Tensor,
    next_values: th.Tensor,
    terminated: th.Tensor,
    truncated: th.Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Targets:
    """
    Generalized advantage estimation (arXiv 1506.02438): V-trace at a ratio of 1. Arguments as in :func:`vtrace`.

    :return: TD(lambda) returns and GAE(lambda) advantages, both [T, B]
    """
    return vtrace(
        th.zeros_like(values), rewards, values, next_values, terminated, truncated, gamma=gamma, gae_lambda=gae_lambda
    )


def _discounted_sum(terms: th.Tensor, decay: th.Tensor) -> th.Tensor:
    """
    Solve ``x_t = terms_t + decay_t x_{t+1}`` backwards from ``x_T = 0`` in about ``log2 T`` rounds: after the first each sum
    reaches over two steps, then over four, eight (Hillis and Steele 1986).
    Of thousands of steps many times as fast as a loop.

    :param terms: [T, B]
    :param decay: at least 0 [T, B]
    :return: ``x`` [T, B]
    """
    # in float64: what decays were multiplied to may be larger than the sum itself ever gets
    result, reached = terms.double(), decay.double()
    largest = th.finfo(th.float64).max
    reach = 1
    while reach < len(result):
        result = th.cat([th.addcmul(result[:-reach], reached[:-reach], result[reach:]), result[-reach:]])
        # no infinity: where an episode ends, 0 times it would not be 0
        further = (reached[:-reach] * reached[reach:]).clamp(max=largest)
        reached = th.cat([further, reached[-reach:]])
        reach *= 2
    return result.to(terms.dtype)

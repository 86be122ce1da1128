"""V-trace and GAE: against the explicit sum, against SB3, against Markov decision processes solved exactly."""

import itertools
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_gipo.ops.targets import Targets, gae, vtrace
from tests.ops import references
from tests.ops.strategies import DTYPES, LOG_RATIOS, PROPERTY, assert_close

NO_BAR = 1e30


class Facts(NamedTuple):
    """What a segment consists of, in the order of :func:`vtrace`, [T, B] each."""

    log_ratio: th.Tensor
    rewards: th.Tensor
    values: th.Tensor
    next_values: th.Tensor
    terminated: th.Tensor
    truncated: th.Tensor


def random_facts(
    seed: int,
    n_steps: int = 7,
    n_segments: int = 5,
    dtype: th.dtype = th.float64,
    spread: float = 1.0,
    end_probability: float = 0.15,
) -> Facts:
    """Segments with random ends; the value after a termination is not a number, as nobody needs it."""
    rng = np.random.default_rng(seed)
    shape = (n_steps, n_segments)
    values = rng.normal(size=shape)
    terminated, truncated = rng.random(shape) < end_probability, rng.random(shape) < end_probability
    next_values = np.concatenate([values[1:], rng.normal(size=(1, n_segments))])
    next_values[truncated] = rng.normal(size=truncated.sum())
    next_values[terminated] = rng.choice([np.nan, np.inf, -np.inf, 1e30], size=terminated.sum())
    numbers = (spread * rng.normal(size=shape), rng.normal(size=shape), values, next_values)
    return Facts(*(th.tensor(x, dtype=dtype) for x in numbers), *(th.tensor(x) for x in (terminated, truncated)))


def reference(facts: Facts, **how: float) -> references.Trace:
    """The explicit sum on the same numbers."""
    return references.vtrace(*(x.double().numpy() for x in facts), **how)


def column(*rows: float) -> th.Tensor:
    """One segment [T, 1]."""
    return th.tensor(rows, dtype=th.float64).unsqueeze(1)


def assert_targets(targets: Targets, value_targets: list[float], advantages: list[float]) -> None:
    """Targets of one segment are these numbers."""
    np.testing.assert_allclose(targets.value_targets[:, 0], value_targets, rtol=1e-12)
    np.testing.assert_allclose(targets.advantages[:, 0], advantages, rtol=1e-12)


# --- against the reference ----------------------------------------------------------------------------------------------

FRACTIONS = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.95, 0.99, 1.0]))
BARS = st.one_of(st.floats(0.01, 5.0), st.sampled_from([1.0, NO_BAR]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@PROPERTY
@given(
    seed=st.integers(0, 2**32),
    n_steps=st.integers(1, 8),
    extreme=st.lists(st.tuples(st.integers(0, 7), LOG_RATIOS), max_size=4),
    gamma=FRACTIONS,
    gae_lambda=FRACTIONS,
    rho_bar=BARS,
    c_bar=BARS,
)
def test_vtrace_is_the_sum_of_the_paper(
    dtype: th.dtype, seed: int, n_steps: int, extreme: list[tuple[int, float]], **how: float
) -> None:
    """``v_t = V + sum_k gamma^k (prod c) rho_hat delta`` and its ``A_t``, for random ends, ratios, bars, lambda and gamma."""
    facts = random_facts(seed, n_steps, n_segments=3, dtype=dtype)
    for step, log_ratio in extreme:
        facts.log_ratio[step % n_steps, step % 3] = log_ratio
    expected = reference(facts, **how)
    got = vtrace(*facts, **how)
    assert got.value_targets.dtype == got.advantages.dtype == dtype
    # float32 cannot hold a product of eight ratios of e^20
    known = expected.scale < (1e30 if dtype == th.float32 else 1e200)
    assert_close(got.value_targets[known], expected.value_targets[known], expected.scale[known])
    assert_close(got.advantages[known], expected.advantages[known], expected.scale[known])


def test_defaults_are_the_papers_bars() -> None:
    """Without bars both are 1 (Espeholt et al. 2018)."""
    facts = random_facts(seed=1)
    default, explicit = (vtrace(*facts, gamma=0.9, gae_lambda=0.8, **bars) for bars in ({}, {"rho_bar": 1.0, "c_bar": 1.0}))
    assert th.equal(default.value_targets, explicit.value_targets)
    assert th.equal(default.advantages, explicit.advantages)


# --- by hand ------------------------------------------------------------------------------------------------------------


class TestByHand:
    """
    Three steps with gamma = lambda = 1/2, rho = (2, 1/2, 1), rho_bar = 3/2, c_bar = 1.

    rho_hat = (3/2, 1/2, 1), c = (1/2, 1/4, 1/2); rewards 1, 2, 3; values 4, 2, 6, then 8.
    delta_0 = 1 + 2/2 - 4 = -2; delta_1 = 2 + 6/2 - 2 = 3; delta_2 = 3 + 8/2 - 6 = 1.
    """

    HOW: ClassVar[dict[str, float]] = {"gamma": 0.5, "gae_lambda": 0.5, "rho_bar": 1.5, "c_bar": 1.0}
    LOG_RATIO = column(math.log(2.0), math.log(0.5), 0.0)
    REWARDS, VALUES, NEXT_VALUES = column(1, 2, 3), column(4, 2, 6), column(2, 6, 8)
    NEVER, AT_THE_SECOND_STEP = column(0, 0, 0), column(0, 1, 0)

    def test_going_on(self) -> None:
        """The segment is cut after three steps, the episode goes on."""
        targets = vtrace(self.LOG_RATIO, self.REWARDS, self.VALUES, self.NEXT_VALUES, self.NEVER, self.NEVER, **self.HOW)
        # v_2 = 6 + 1 * 1 = 7
        # v_1 = 2 + 1/2 * 3 + (1/2 * 1/4) * 1 * 1 = 3.625
        # v_0 = 4 + 3/2 * -2 + (1/2 * 1/2) * 1/2 * 3 + (1/2 * 1/2) * (1/2 * 1/4) * 1 * 1 = 1.40625
        # A_2 = 3 + 8/2 - 6 = 1
        # A_1 = 2 + 1/2 * (6/2 + 7/2) - 2 = 3.25
        # A_0 = 1 + 1/2 * (2/2 + 3.625/2) - 4 = -1.59375
        assert_targets(targets, [1.40625, 3.625, 7.0], [-1.59375, 3.25, 1.0])

    def test_terminated(self) -> None:
        """The second step ends the episode in a terminal state: nothing follows it, not even its value of 6."""
        ends = self.AT_THE_SECOND_STEP, self.NEVER
        targets = vtrace(self.LOG_RATIO, self.REWARDS, self.VALUES, self.NEXT_VALUES, *ends, **self.HOW)
        # delta_1 = 2 + 0 - 2 = 0, so v_1 = 2; v_0 = 4 - 3 + 0 = 1
        # A_1 = 2 + 0 - 2 = 0; A_0 = 1 + 1/2 * (2/2 + 2/2) - 4 = -2
        assert_targets(targets, [1.0, 2.0, 7.0], [-2.0, 0.0, 1.0])

    def test_truncated(self) -> None:
        """The second step meets the time limit: its value of 6 is believed, and nothing beyond it."""
        ends = self.NEVER, self.AT_THE_SECOND_STEP
        targets = vtrace(self.LOG_RATIO, self.REWARDS, self.VALUES, self.NEXT_VALUES, *ends, **self.HOW)
        # v_1 = 2 + 1/2 * 3 = 3.5; v_0 = 4 - 3 + (1/2 * 1/2) * 1/2 * 3 = 1.375
        # A_1 = 2 + 1/2 * (6/2 + 6/2) - 2 = 3; A_0 = 1 + 1/2 * (2/2 + 3.5/2) - 4 = -1.625
        assert_targets(targets, [1.375, 3.5, 7.0], [-1.625, 3.0, 1.0])

    def test_gae(self) -> None:
        """On-policy: every ratio is 1."""
        targets = gae(self.REWARDS, self.VALUES, self.NEXT_VALUES, self.NEVER, self.NEVER, gamma=0.5, gae_lambda=0.5)
        # A_2 = 1; A_1 = 3 + 1/4 * 1 = 3.25; A_0 = -2 + 1/4 * 3.25 = -1.1875; v = V + A
        assert_targets(targets, [2.8125, 5.25, 7.0], [-1.1875, 3.25, 1.0])


# --- on-policy it is SB3's ----------------------------------------------------------------------------------------------


def sb3_returns_and_advantages(facts: Facts, gamma: float, gae_lambda: float) -> tuple[np.ndarray, np.ndarray]:
    """What SB3 computes of the same experience: its rollout buffer, filled as its ``collect_rollouts`` does."""
    _, rewards, values, next_values, terminated, truncated = (x.numpy() for x in facts)
    n_steps, n_envs = values.shape
    space = spaces.Box(-1.0, 1.0, (1,))
    buffer = RolloutBuffer(n_steps, space, space, "cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=n_envs)
    nothing = np.zeros((n_envs, 1), np.float32)
    episode_starts = np.ones(n_envs)
    for t in range(n_steps):
        dones = terminated[t] | truncated[t]
        step_rewards = rewards[t].copy()
        for env in np.flatnonzero(truncated[t] & ~terminated[t]):  # infos[env]["TimeLimit.truncated"]
            step_rewards[env] += gamma * next_values[t, env]
        buffer.add(nothing, nothing, step_rewards, episode_starts, facts.values[t].float(), th.zeros(n_envs))
        episode_starts = dones
    # after a reset SB3 evaluates the new episode's first observation and multiplies by 0: any finite number will do
    last_values = th.where(th.as_tensor(dones), th.tensor(123.0), facts.next_values[-1].float())
    buffer.compute_returns_and_advantage(last_values, dones)
    return buffer.returns, buffer.advantages


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (0.9, 1.0), (1.0, 0.5), (0.99, 0.0), (0.0, 0.95), (1.0, 1.0)])
@pytest.mark.parametrize("seed", range(5))
def test_on_policy_it_is_sb3s_gae(seed: int, gamma: float, gae_lambda: float) -> None:
    """At a ratio of 1 V-trace and GAE equal ``compute_returns_and_advantage`` on episodes with both kinds of ends."""
    facts = random_facts(seed, n_steps=40, n_segments=4, dtype=th.float32)._replace(log_ratio=th.zeros(40, 4))
    returns, advantages = sb3_returns_and_advantages(facts, gamma, gae_lambda)
    for targets in (
        vtrace(*facts, gamma=gamma, gae_lambda=gae_lambda),
        vtrace(*facts, gamma=gamma, gae_lambda=gae_lambda, rho_bar=7.0, c_bar=3.0),
        gae(*facts[1:], gamma=gamma, gae_lambda=gae_lambda),
    ):
        np.testing.assert_allclose(targets.value_targets, returns, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(targets.advantages, advantages, rtol=1e-5, atol=1e-5)


def test_gae_takes_its_keywords() -> None:
    """GAE is V-trace at a ratio of 1, whatever gamma and lambda, bit for bit."""
    facts = random_facts(seed=2)
    for gamma, gae_lambda in itertools.product([0.0, 0.5, 1.0], [0.0, 0.7, 1.0]):
        one = vtrace(th.zeros_like(facts.values), *facts[1:], gamma=gamma, gae_lambda=gae_lambda)
        other = gae(*facts[1:], gamma=gamma, gae_lambda=gae_lambda)
        assert th.equal(one.value_targets, other.value_targets)
        assert th.equal(one.advantages, other.advantages)


# --- ends of episodes and segments --------------------------------------------------------------------------------------

HOW = {"gamma": 0.9, "gae_lambda": 0.8, "rho_bar": 1.3, "c_bar": 1.1}


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
def test_value_after_a_termination_is_not_read(garbage: float) -> None:
    """Whatever stands where a terminal state's value would, the targets are those of a value of 0."""
    facts = random_facts(seed=3, end_probability=0.3)
    assert facts.terminated.any()
    assert (facts.terminated & facts.truncated).any()  # a termination at the time limit is a termination
    clean, dirty = (
        vtrace(*facts._replace(next_values=th.where(facts.terminated, value, facts.next_values)), **HOW)
        for value in (0.0, garbage)
    )
    assert th.isfinite(clean.value_targets).all()
    assert th.equal(clean.value_targets, dirty.value_targets)
    assert th.equal(clean.advantages, dirty.advantages)


@pytest.mark.parametrize("last_row", [False, True])
def test_truncation_believes_the_next_value(last_row: bool) -> None:
    """At a truncation the next value counts with gamma times the limited ratio, in the middle and at the end of a segment."""
    facts = random_facts(seed=4, n_steps=4, n_segments=1, end_probability=0.0)
    t = 3 if last_row else 1
    facts.truncated[t] = True
    higher = facts.next_values.clone()
    higher[t] += 1.0
    before, after = vtrace(*facts, **HOW), vtrace(*facts._replace(next_values=higher), **HOW)
    rho_hat = min(1.3, math.exp(facts.log_ratio[t].item()))
    assert (after.value_targets - before.value_targets)[t].item() == pytest.approx(0.9 * rho_hat)
    assert (after.advantages - before.advantages)[t].item() == pytest.approx(0.9)


def test_segment_end_is_no_episode_end() -> None:
    """Where a segment is cut in the middle of an episode, the value after its last step counts as at a truncation."""
    facts = random_facts(seed=5, end_probability=0.0)
    cut = th.zeros_like(facts.truncated)
    cut[-1] = True
    going_on, truncated = vtrace(*facts, **HOW), vtrace(*facts._replace(truncated=cut), **HOW)
    assert th.equal(going_on.value_targets, truncated.value_targets)
    assert th.equal(going_on.advantages, truncated.advantages)


@pytest.mark.parametrize("kind", ["terminated", "truncated"])
@pytest.mark.parametrize("end", range(6))
def test_nothing_leaks_over_the_end_of_an_episode(end: int, kind: str) -> None:
    """Targets up to an end do not depend on anything after it, and equal those of the episode on its own."""
    facts = random_facts(seed=6, end_probability=0.0)
    getattr(facts, kind)[end] = True
    other = random_facts(seed=7, end_probability=0.3)
    changed = Facts(*(th.cat([mine[: end + 1], theirs[end + 1 :]]) for mine, theirs in zip(facts, other, strict=True)))
    alone = Facts(*(x[: end + 1] for x in facts))
    whole = vtrace(*facts, **HOW)
    for targets in (vtrace(*changed, **HOW), vtrace(*alone, **HOW)):
        th.testing.assert_close(targets.value_targets[: end + 1], whole.value_targets[: end + 1], rtol=0, atol=0)
        th.testing.assert_close(targets.advantages[: end + 1], whole.advantages[: end + 1], rtol=0, atol=0)
    # and where nothing ends, what follows does count
    unended = facts._replace(terminated=th.zeros_like(facts.terminated), truncated=th.zeros_like(facts.truncated))
    assert not th.isclose(vtrace(*unended, **HOW).advantages[end], whole.advantages[end]).any()


def test_segments_do_not_see_each_other() -> None:
    """Each column is what it is alone, whatever stands beside it."""
    facts = random_facts(seed=8, end_probability=0.2)
    together = vtrace(*facts, **HOW)
    for b in range(facts.values.shape[1]):
        alone = vtrace(*(x[:, b : b + 1] for x in facts), **HOW)
        th.testing.assert_close(together.value_targets[:, b : b + 1], alone.value_targets, rtol=1e-12, atol=0)
        th.testing.assert_close(together.advantages[:, b : b + 1], alone.advantages, rtol=1e-12, atol=0)


def test_flags_may_be_of_any_type() -> None:
    """Ends given as booleans, bytes and floats mean the same."""
    facts = random_facts(seed=9, end_probability=0.2)
    boolean = vtrace(*facts, **HOW)
    for dtype in (th.uint8, th.float32, th.float64):
        ends = {"terminated": facts.terminated.to(dtype), "truncated": facts.truncated.to(dtype)}
        assert th.equal(vtrace(*facts._replace(**ends), **HOW).value_targets, boolean.value_targets)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["terminated", "truncated"])
def test_an_end_is_one_however_large_the_ratios(kind: str, dtype: th.dtype) -> None:
    """Without bars the product of 64 ratios of e^20 is no number in any type; behind an end it counts nothing."""
    n_steps, end = 160, 124
    nothing = th.zeros(n_steps, 1, dtype=dtype)
    facts = Facts(nothing + 20.0, nothing.clone(), nothing, nothing, nothing.clone(), nothing.clone())
    getattr(facts, kind)[end] = 1.0
    facts.rewards[end + 1 :] = 1.0  # 35 steps of them: their sum is no number either
    targets = vtrace(*facts, gamma=1.0, gae_lambda=1.0, rho_bar=NO_BAR, c_bar=NO_BAR)
    assert not targets.value_targets[: end + 1].any()
    assert not targets.advantages[: end + 1].any()
    assert (targets.value_targets[end + 1 :] > 1e8).all()


# --- special cases ------------------------------------------------------------------------------------------------------


def test_without_a_trace_it_is_one_step() -> None:
    """lambda = 0: ``v_t = V + rho_hat delta`` and ``A_t = delta``; the trace bar no longer matters."""
    facts = random_facts(seed=10)
    delta = facts.rewards + 0.9 * th.where(facts.terminated, 0.0, facts.next_values) - facts.values
    targets = vtrace(*facts, gamma=0.9, gae_lambda=0.0, rho_bar=1.5, c_bar=0.01)
    th.testing.assert_close(targets.value_targets, facts.values + facts.log_ratio.exp().clamp(max=1.5) * delta)
    th.testing.assert_close(targets.advantages, delta)


def test_without_a_future_only_the_reward_counts() -> None:
    """gamma = 0: ``A_t = r - V`` and ``v_t = V + rho_hat (r - V)``."""
    facts = random_facts(seed=11)
    targets = vtrace(*facts, gamma=0.0, gae_lambda=0.9, rho_bar=1.5)
    th.testing.assert_close(targets.advantages, facts.rewards - facts.values)
    surprise = facts.log_ratio.exp().clamp(max=1.5) * (facts.rewards - facts.values)
    th.testing.assert_close(targets.value_targets, facts.values + surprise)


def test_a_single_step() -> None:
    """T = 1: r = 2, V = 3, next value 5, gamma = 0.5, rho = 1/2: delta = 1.5, v = 3 + 0.75, A = 1.5."""
    never = column(0)
    targets = vtrace(column(math.log(0.5)), column(2), column(3), column(5), never, never, gamma=0.5, gae_lambda=0.9)
    assert_targets(targets, [3.75], [1.5])


def test_advantage_carries_no_ratio_of_its_own() -> None:
    """Changing the ratio at t alone moves ``v_t`` but not ``A_t``, nor anything later; the surrogate multiplies by it."""
    facts = random_facts(seed=12, end_probability=0.0)
    before = vtrace(*facts, **HOW)
    for t in range(len(facts.values)):
        log_ratio = facts.log_ratio.clone()
        log_ratio[t] = -1.0 - log_ratio[t].abs()  # below both bars, and different
        after = vtrace(*facts._replace(log_ratio=log_ratio), **HOW)
        assert th.equal(after.advantages[t:], before.advantages[t:])
        assert not th.isclose(after.value_targets[t], before.value_targets[t]).any()
        if t > 0:
            assert not th.isclose(after.advantages[t - 1], before.advantages[t - 1]).any()


def test_bars_stop_a_large_ratio() -> None:
    """Above its bar a ratio no longer matters: here all are, and V-trace is the one of ratios at the bars."""
    facts = random_facts(seed=13)
    huge = facts._replace(log_ratio=facts.log_ratio.abs() + 3.0)
    larger = facts._replace(log_ratio=huge.log_ratio + 5.0)
    assert th.equal(vtrace(*huge, **HOW).value_targets, vtrace(*larger, **HOW).value_targets)
    assert th.equal(vtrace(*huge, **HOW).advantages, vtrace(*larger, **HOW).advantages)


def test_inputs_are_left_alone() -> None:
    """None of the arguments is written to."""
    facts = random_facts(seed=14)
    before = [x.clone() for x in facts]
    vtrace(*facts, **HOW)
    for now, then in zip(facts, before, strict=True):
        th.testing.assert_close(now, then, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", Facts._fields)
def test_shapes_that_differ_are_refused(name: str) -> None:
    """A tensor that is one step short raises, and the message names it with its shape."""
    facts = random_facts(seed=15)
    short = facts._replace(**{name: getattr(facts, name)[:-1]})
    with pytest.raises(ValueError, match=rf"Expected one shape.*{name} \(6, 5\)"):
        vtrace(*short, **HOW)


# --- Markov decision processes solved exactly ---------------------------------------------------------------------------


class Process:
    """Two states, two actions, random transitions and rewards; expectations by going through every course of events."""

    def __init__(self, seed: int, gamma: float = 0.8) -> None:
        rng = np.random.default_rng(seed)
        self.gamma = gamma
        self.transitions = rng.dirichlet([1.0, 1.0], size=(2, 2))  # [state, action, next state]
        self.rewards = rng.normal(size=(2, 2))  # [state, action]
        self.behaviour, self.target = rng.dirichlet([2.0, 2.0], size=2), rng.dirichlet([2.0, 2.0], size=2)  # [state, action]

    def bellman(self, policy: np.ndarray, values: np.ndarray) -> np.ndarray:
        """One step of ``policy``, then ``values`` [state]."""
        return np.sum(policy * (self.rewards + self.gamma * self.transitions @ values), axis=1)

    def solve(self, policy: np.ndarray) -> np.ndarray:
        """``V`` of a policy [state], from its linear equation."""
        transitions = np.einsum("sa,sax->sx", policy, self.transitions)
        return np.linalg.solve(np.eye(2) - self.gamma * transitions, np.sum(policy * self.rewards, axis=1))

    def expected(self, values: np.ndarray, n_steps: int = 3, **how: float) -> tuple[np.ndarray, np.ndarray]:
        """
        Expectation under the behaviour policy, over every course of events of ``n_steps`` steps.

        :return: of ``v_0`` given ``s_0`` [state], and of ``A_0`` given ``s_0, a_0`` [state, action]
        """
        courses = np.array(list(itertools.product(*[range(2)] * (2 * n_steps + 1)))).T  # s_0, a_0, s_1, a_1, ... [2T + 1, n]
        states, actions = courses[0::2], courses[1::2]
        here, after = states[:-1], states[1:]
        chances = self.behaviour[here, actions] * self.transitions[here, actions, after]
        facts = (
            np.log(self.target[here, actions] / self.behaviour[here, actions]),
            self.rewards[here, actions],
            values[here],
            values[after],
            np.zeros_like(here),
            np.zeros_like(here),
        )
        targets = vtrace(*(th.as_tensor(x) for x in facts), gamma=self.gamma, **how)
        chance = chances.prod(axis=0)
        value_targets, advantages = np.zeros(2), np.zeros((2, 2))
        np.add.at(value_targets, states[0], chance * targets.value_targets[0].numpy())
        np.add.at(advantages, (states[0], actions[0]), chance * targets.advantages[0].numpy())
        return value_targets, advantages / self.behaviour


SEEDS = pytest.mark.parametrize("seed", range(3))
LAMBDAS = pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
UNBARRED: dict[str, Any] = {"rho_bar": NO_BAR, "c_bar": NO_BAR}


@SEEDS
@LAMBDAS
def test_true_values_are_kept_on_policy(seed: int, gae_lambda: float) -> None:
    """Given ``V`` of the policy that acts, targets average to ``V`` and advantages to zero over actions."""
    process = Process(seed)
    process.target = process.behaviour
    truth = process.solve(process.behaviour)
    value_targets, advantages = process.expected(truth, gae_lambda=gae_lambda)
    np.testing.assert_allclose(value_targets, truth, atol=1e-12)
    np.testing.assert_allclose(np.sum(process.behaviour * advantages, axis=1), 0.0, atol=1e-12)


@SEEDS
@LAMBDAS
def test_true_values_are_kept_off_policy(seed: int, gae_lambda: float) -> None:
    """Without bars, data of one policy keep ``V`` of another where it is true, and give its advantages ``Q - V``."""
    process = Process(seed)
    truth = process.solve(process.target)
    value_targets, advantages = process.expected(truth, gae_lambda=gae_lambda, **UNBARRED)
    np.testing.assert_allclose(value_targets, truth, atol=1e-12)
    action_values = process.rewards + process.gamma * process.transitions @ truth
    np.testing.assert_allclose(advantages, action_values - truth[:, None], atol=1e-12)


@SEEDS
@pytest.mark.parametrize("n_steps", [1, 2, 4])
def test_unbarred_vtrace_is_the_bellman_operator(seed: int, n_steps: int) -> None:
    """Without bars and with lambda = 1 the target of wrong values averages to ``T`` steps of the target policy, then them."""
    process = Process(seed)
    wrong = np.array([5.0, -3.0])
    expected = wrong
    for _ in range(n_steps):
        expected = process.bellman(process.target, expected)
    value_targets, _ = process.expected(wrong, n_steps, gae_lambda=1.0, **UNBARRED)
    np.testing.assert_allclose(value_targets, expected, rtol=1e-10)


@SEEDS
@LAMBDAS
@pytest.mark.parametrize(("rho_bar", "c_bar"), [(1.0, 1.0), (0.7, 2.0), (2.0, 0.5)])
def test_fixed_point_is_the_barred_policys_value(seed: int, gae_lambda: float, rho_bar: float, c_bar: float) -> None:
    """With bars, V-trace settles on ``V`` of the policy ``min(rho_bar mu, pi)``, whatever c_bar (Espeholt et al. 2018)."""
    process = Process(seed)
    barred = np.minimum(rho_bar * process.behaviour, process.target)
    truth = process.solve(barred / barred.sum(axis=1, keepdims=True))
    value_targets, _ = process.expected(truth, gae_lambda=gae_lambda, rho_bar=rho_bar, c_bar=c_bar)
    np.testing.assert_allclose(value_targets, truth, atol=1e-12)


@SEEDS
def test_repeating_vtrace_finds_the_value(seed: int) -> None:
    """From values of nothing, targets made values over and over converge to ``V`` of the target policy."""
    process = Process(seed, gamma=0.5)
    values = np.zeros(2)
    for _ in range(15):
        values, _ = process.expected(values, gae_lambda=1.0, **UNBARRED)
    np.testing.assert_allclose(values, process.solve(process.target), atol=1e-9)

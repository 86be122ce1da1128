"""The facts against computations by hand, and the three questions on both sides of each threshold."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from sb3_gipo.diagnosis.facts import Facts, Number, gather, window_mean, window_start
from sb3_gipo.diagnosis.logs import Curve, Run, read_logs
from sb3_gipo.diagnosis.questions import Answer, answer, part_of_old
from tests.diagnosis.written import FALLING, FLAT, GIPO, LENGTH, PPO, RISING, SLOW, Values, run_of


def facts_of(*values: Mapping[str, Values]) -> Facts:
    return gather(run_of({key: value for part in values for key, value in part.items()}))


def scarce(*values: Mapping[str, Values]) -> Answer:
    return answer(facts_of(*values)).scarce


def stale(*values: Mapping[str, Values]) -> Answer:
    return answer(facts_of(*values)).stale


def clipping(*values: Mapping[str, Values]) -> Answer:
    return answer(facts_of(*values)).clipping


def value(number: Number | None) -> float:
    assert number is not None
    return number.value


# ---------------------------------------------------------------- facts


def test_window() -> None:
    """Logged at 100 ... 2000, a run has 2000 steps: its last fifth begins after 1600, so that four values are in it."""
    run = run_of({"train/loss": RISING, "train/early": RISING[:10]})
    assert (window_start(run), window_start(run, 2)) == (1600, 1200)
    assert window_mean(run, "train/loss") == np.mean([16, 17, 18, 19])
    assert window_mean(run, "train/early") is None
    assert window_mean(run, "train/missing") is None
    assert window_mean(run_of({"train/loss": [3.0]}), "train/loss") == 3


def test_window_of_a_continued_run() -> None:
    """A log from 10,100 to 12,000 in steps of 100 is of 2000 steps, not of 12,000."""
    steps = np.arange(10_100, 12_001, 100.0)
    run = Run("run", Path("run"), {"train/loss": Curve(steps, np.arange(20.0))})
    assert window_start(run) == 11_600


def test_numbers_of_a_run() -> None:
    """Each number is the mean over the window of the key it names."""
    facts = facts_of(GIPO)
    assert value(facts.fps) == 400
    assert value(facts.collect_share) == 4 / (4 + 1 + 5)
    assert (value(facts.drift), value(facts.old_frac), value(facts.old_share)) == (0.9, 0.5, 0.4)
    assert (value(facts.dead), value(facts.suppressed), value(facts.sigma)) == (0.01, 0.02, 0.5)
    assert (value(facts.uses), value(facts.size), value(facts.rollouts)) == (12, 8192, 8)
    assert part_of_old(facts) == 0.8
    assert part_of_old(facts_of(GIPO, {"lag/old_frac": 0.04})) is None


def test_drift_estimated_from_the_divergence() -> None:
    """With variance 2 KL, 95 % of a normal log-ratio lie within 1.96 deviations; a sample of a million agrees."""
    drift = facts_of(PPO, {"train/approx_kl": 0.005}).drift
    assert value(drift) == pytest.approx(1.96 * 0.1)
    assert drift is not None
    assert (drift.kind, drift.text) == ("estimate", "about 0.196")
    drawn = np.random.default_rng(0).normal(-0.005, math.sqrt(2 * 0.005), 1_000_000)
    assert value(drift) == pytest.approx(np.quantile(np.abs(drawn), 0.95), rel=0.01)
    assert value(facts_of(PPO, {"train/approx_kl": -1e-4}).drift) == 0
    assert value(facts_of(PPO, {"lag/abs_log_rho_p95": 0.3}).drift) == 0.3


@pytest.mark.parametrize(
    ("curve", "direction", "change"),
    [
        (RISING, "rising", 4 / 19),
        (RISING[::-1], "falling", -4 / 19),
        (FALLING, "falling", -8 / 12),
        (FLAT, "flat", 0),
        ([5.0] * LENGTH, "flat", 0),
        ([*range(16), 16.2, 15.8, 16.2, 15.8], "rising", (16 - 13.5) / 16.2),
        ([*[0.0] * 12, 1.0, -1.0, 1.0, -1.0, 1.2, -0.8, 1.2, -0.8], "flat", 0.2 / 2.2),  # less than it scatters
        ([100.0, *[0.0] * 11, 3.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 4.0], "flat", 0.01),  # less than 5 % of the range
    ],
)
def test_trend(curve: list[float], direction: str, change: float) -> None:
    """The last four of twenty values against the four before, relative to the range."""
    trend = facts_of({"rollout/ep_rew_mean": curve}).trend
    assert trend is not None
    assert trend.direction == direction
    assert trend.change == pytest.approx(change)


def test_trend_needs_enough_values() -> None:
    """Two values in a window are no trend; the next curve that has enough is taken."""
    few = run_of({"rollout/ep_rew_mean": RISING[:8]})
    assert gather(few).trend is None
    other = facts_of({"rollout/ep_rew_mean": RISING[:8], "eval/mean_reward": FLAT}).trend
    assert other is not None
    assert (other.key, other.direction) == ("eval/mean_reward", "flat")


@pytest.mark.parametrize(
    ("keys", "algorithm"),
    [
        (["train/sigma", "train/clip_fraction"], "GIPO"),
        (["replay/size", "train/clip_fraction"], "GIPO"),
        (["train/clip_fraction", "train/value_loss"], "PPO"),
        (["train/value_loss", "train/explained_variance"], "on-policy"),
        (["rollout/exploration_rate", "train/loss"], "off-policy"),
        (["train/actor_loss", "train/ent_coef"], "off-policy"),
        (["rollout/ep_rew_mean"], "unknown"),
    ],
)
def test_algorithm(keys: list[str], algorithm: str) -> None:
    """The keys give the algorithm away."""
    assert facts_of(dict.fromkeys(keys, 1.0)).algorithm == algorithm


def test_uses() -> None:
    """30 updates in 3 iterations are 10 passes; with the callback or a replay they are counted."""
    counted = {"train/n_updates": [10.0 * number for number in range(20)], "time/iterations": RISING}
    assert value(facts_of(PPO, counted).uses) == 10
    assert facts_of(PPO, counted, {"time/iterations": 1.0}).uses is None
    measured = facts_of(PPO, counted, {"replay/reuse_mean": 7.0}).uses
    assert measured is not None
    assert (measured.value, measured.label) == (7, "times a step is used, then thrown away")


def test_ages_in_the_order_of_their_age() -> None:
    """Labels as the callback writes them; a bucket without its counterpart is left out."""
    keys = {"by_age/frac/4-7": 0.5, "by_age/share/4-7": 0.1, "by_age/frac/0": 0.2, "by_age/share/0": 0.4}
    keys |= {"by_age/frac/16-31": 0.3, "by_age/share/16-31": 0.5, "by_age/frac/1": 0.3, "by_age/stored_frac/2-3": 0.3}
    ages = facts_of(keys).ages
    assert [tuple(age) for age in ages] == [("0", 0, 0.2, 0.4), ("4-7", 7, 0.5, 0.1), ("16-31", 31, 0.3, 0.5)]


def test_symptoms() -> None:
    """Flags that were raised in the window, with the share of the iterations."""
    flags = {"health/raised": [*[0.0] * 18, 1.0, 1.0], "health/never": 0.0, "health/early": [1.0, *[0.0] * 19]}
    assert [(flag.key, flag.value, flag.text) for flag in facts_of(flags).symptoms] == [("health/raised", 0.5, "50.0 %")]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number("", 0.12345, "", share=True), "12.3 %"),
        (Number("", 0.12345, "", share=True, kind="at most"), "at most 12.3 %"),
        (Number("", 1540.4, ""), "1,540"),
        (Number("", 0.12345, "", kind="estimate"), "about 0.123"),
    ],
)
def test_text_of_numbers(number: Number, text: str) -> None:
    """As they are printed."""
    assert number.text == text


# ---------------------------------------------------------------- is data scarce?


@pytest.mark.parametrize(
    ("values", "word", "said"),
    [
        ({**SLOW}, "yes", "90.0 % of the time"),
        ({**SLOW, "time/collect": 1.0}, "yes", "50.0 % of the time"),
        ({**SLOW, "time/collect": 0.99}, "no", "waits for the update"),
        ({**SLOW, "time/fps": 1999.0}, "yes", "1,999 steps per second"),
        ({**SLOW, "time/fps": 2000.0}, "no", "Steps are cheap: 2,000 steps per second"),
        ({**SLOW, "rollout/ep_rew_mean": FLAT}, "no", "flat at the end"),
        ({**SLOW, "rollout/ep_rew_mean": FALLING}, "no", "falling at the end"),
        ({**SLOW, "rollout/ep_rew_mean": RISING[:4]}, "cannot tell", "too few values"),
        ({"time/fps": 500.0}, "yes", "Steps are slow: 500 steps per second"),
        ({"time/fps": 501.0}, "cannot tell", "not logged"),
        ({"time/fps": 501.0, "rollout/ep_rew_mean": FLAT}, "no", "flat at the end"),
        ({"time/fps": 3000.0, "rollout/ep_rew_mean": RISING[:4]}, "no", "Steps are cheap"),
        ({}, "cannot tell", "Neither time nor speed is logged"),
    ],
)
def test_scarce(values: dict[str, Values], word: str, said: str) -> None:
    """Expensive steps and a curve that rises; the reason says which of them failed."""
    found = scarce(PPO, values)
    assert found.word == word
    assert said in found.why


def test_numbers_behind_scarce() -> None:
    """Share of the time, speed, change of the curve and uses, each with its key."""
    numbers = scarce(PPO, SLOW, {"replay/reuse_mean": 10.0}).numbers
    named = {number.key: number.text for number in numbers}
    assert named == {"time/collect": "90.0 %", "time/fps": "100", "rollout/ep_rew_mean": "21.1 %", "replay/reuse_mean": "10"}


# ---------------------------------------------------------------- is replay stale?


@pytest.mark.parametrize(("drift", "word"), [(0.095, "no"), (0.369, "no"), (0.37, "yes"), (1.46, "yes")])
def test_stale(drift: float, word: str) -> None:
    """From the middle of the paper's two regimes on, on a log scale."""
    found = stale(GIPO, {"lag/abs_log_rho_p95": drift})
    assert found.word == word
    assert f"{drift:.3g}; stale from 0.37" in found.why


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.24, "0.48 of what their number would: much"), (0.4, "0.80 of what"), (0.45, "full part (0.90")],
)
def test_part_of_old_samples(share: float, said: str) -> None:
    """Half of the samples are old; what they contribute relative to that."""
    assert said in stale(GIPO, {"utilization/old_share": share}).why


def test_without_old_samples() -> None:
    """Then the drift is not of the replay."""
    assert "drift is of the update itself" in stale(GIPO, {"lag/old_frac": 0.0, "utilization/old_share": 0.0}).why
    assert stale({"replay/size": 10.0}).word == "cannot tell"


def test_stale_without_replay() -> None:
    """PPO, and GIPO without a replay: nothing is older than an update; the price and the drift are told."""
    found = stale(PPO, {"replay/reuse_mean": 10.0})
    assert found.word == "no"
    assert "used in one update (10 passes), then thrown away" in found.why
    assert "drifts by about 0.196" in found.why
    assert stale({"train/sigma": 0.5, "lag/abs_log_rho_p95": 2.0}).word == "no"


def test_stale_of_others() -> None:
    """Not a question for algorithms without importance ratios, nor to be told without any train/ key."""
    assert stale({"train/critic_loss": 1.0}).word == "does not apply"
    assert stale({"rollout/ep_rew_mean": RISING}).word == "cannot tell"


# ---------------------------------------------------------------- does clipping zero out much of the gradient?


@pytest.mark.parametrize(
    ("fraction", "word", "number"),
    [
        (0.19, "no", "at most 19.0 %"),
        (0.2, "cannot tell", "at most 20.0 %"),
        (0.39, "cannot tell", "at most 39.0 %"),
        (0.4, "yes", "at most 40.0 %"),
    ],
)
def test_clip_fraction_bounds_the_dead(fraction: float, word: str, number: str) -> None:
    """Below a fifth surely not much; from two fifths the half that is lost at least is much; between, not to be told."""
    found = clipping(PPO, {"train/clip_fraction": fraction})
    assert (found.word, found.numbers[0].text) == (word, number)
    assert number.capitalize() in found.why


@pytest.mark.parametrize(("dead", "suppressed", "word"), [(0.19, 0.0, "no"), (0.2, 0.0, "yes"), (0.05, 0.16, "yes")])
def test_measured_dead_fraction(dead: float, suppressed: float, word: str) -> None:
    """What the callback measured goes before the bound; dead and suppressed add up."""
    values = {"utilization/dead_frac": dead, "utilization/suppressed_frac": suppressed, "train/clip_fraction": 0.9}
    found = clipping(PPO, values)
    assert found.word == word
    assert f"{100 * (dead + suppressed):.1f} % of the samples" in found.why
    assert found.question.startswith("Does clipping")
    assert clipping(PPO, values, {"train/sigma": 0.5}).question.startswith("Does the trust weight")


def test_clipping_of_others() -> None:
    """A2C and DQN clip nothing; of an unknown log nothing is to be told."""
    assert clipping({"train/critic_loss": 1.0}).word == "does not apply"
    assert clipping({"train/value_loss": 1.0}).word == "does not apply"
    assert clipping({"rollout/ep_rew_mean": RISING}).word == "cannot tell"


def test_real_logs(real_logs: Path) -> None:
    """What SB3, GIPO and the callback write is found under the names that are looked for."""
    facts = {run.name: gather(run) for run in read_logs(real_logs).runs}
    found = [facts[name].algorithm for name in sorted(facts)]
    assert found == ["on-policy", "off-policy", "GIPO", "GIPO", "PPO", "PPO"]
    plain, measured = facts["ppo/CartPole-v1_1"], facts["ppo/with callback"]
    assert value(plain.uses) == 3
    assert value(measured.uses) == 3
    assert not measured.replays
    assert value(measured.dead) <= value(plain.clip_fraction)
    assert value(measured.drift) == pytest.approx(value(plain.drift), rel=0.5)
    for name in ("gipo/CartPole-v1_1", "gipo/with callback"):
        numbers = facts[name]
        assert numbers.replays
        assert None not in (numbers.collect_share, numbers.drift, numbers.old_frac, numbers.old_share, numbers.dead)
        assert value(numbers.sigma) == pytest.approx(0.3)
        assert (value(numbers.size), value(numbers.rollouts)) == (512, 8)
    ages = facts["gipo/with callback"].ages
    assert [age.label for age in ages] == ["0", "1", "2-3", "4-7"]
    assert sum(age.frac for age in ages) == pytest.approx(1)
    assert sum(age.share for age in ages) == pytest.approx(1)
    assert part_of_old(plain) is None

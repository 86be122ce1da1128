"""Symptoms: which numbers are trouble, which words are said, and when an episode begins and ends."""

import pytest

from sb3_gipo.callbacks.symptoms import RECOVERY, SYMPTOMS, Numbers, TroubleEpisodes

# What a healthy run of GIPO on Meta-World shows.
HEALTHY: dict[str, float] = {
    "train/kl_previous": 0.03,
    "start_log_ratio_p95": 0.5,
    "train/kl_behaviour": 0.2,
    "train/explained_variance": 0.97,
    "train/loss": 0.1,
    "train/sigma": 0.5,
    "train/skipped_steps": 0.0,
    "minibatches": 80.0,
    "lag/abs_log_rho_p95": 1.5,
    "lag/old_frac": 0.37,
    "utilization/old_share": 0.25,
    "utilization/dead_frac": 0.0,
    "utilization/suppressed_frac": 0.08,
    "utilization/trust_mean": 0.65,
    "utilization/trust_below_0.1": 0.12,
    "relative_entropy": 0.9,
    "no_reward": 0.0,
    "reward": 0.0,
}
NAN = float("nan")
# For each symptom: numbers that are trouble, words that must be said, and numbers just inside that are not.
CASES: dict[str, tuple[Numbers, list[str], Numbers]] = {
    "non_finite": ({"train/loss": NAN}, ["non-finite", "train/loss"], {"train/explained_variance": NAN}),
    "no_reward_signal": ({"no_reward": 1.0}, ["every reward was 0", "no action is better"], {"reward": 0.0}),
    "kl_runaway": (
        {"train/kl_previous": 0.6, "start_log_ratio_p95": 2.0},
        ["KL runaway", "0.6"],
        {"train/kl_previous": 3.0, "start_log_ratio_p95": 0.5},  # one far sample
    ),
    "sigma_too_narrow": (
        {"train/sigma": 1e-3, "utilization/trust_below_0.1": 0.9, "lag/abs_log_rho_p95": 0.1},
        ["sigma too narrow", "sigma = 0.001", "90%"],
        {"utilization/trust_below_0.1": 0.3, "lag/abs_log_rho_p95": 0.1},
    ),
    "sigma_too_wide": (
        {"train/sigma": 100.0, "utilization/trust_mean": 0.999, "lag/abs_log_rho_p95": 2.5},
        ["sigma too wide", "sigma = 100"],
        {"utilization/trust_mean": 0.999, "lag/abs_log_rho_p95": 0.3},
    ),
    "heavy_ratio_tail": ({"lag/abs_log_rho_p95": 3.5}, ["heavy ratio tail", "3.5"], {"lag/abs_log_rho_p95": 2.9}),
    "utilization_collapse": (
        {"utilization/dead_frac": 0.3, "utilization/suppressed_frac": 0.2},
        ["utilization collapse", "50%", "30%", "20%"],
        {"utilization/dead_frac": 0.2, "utilization/suppressed_frac": 0.1},
    ),
    "replay_too_old": (
        {"lag/old_frac": 0.8, "utilization/old_share": 0.1},
        ["replay too old", "80%", "10%"],
        {"lag/old_frac": 0.8, "utilization/old_share": 0.3},
    ),
    "entropy_collapse": ({"relative_entropy": 0.001}, ["entropy collapse", "0.1%"], {"relative_entropy": 0.03}),
    "value_not_explaining": (
        {"train/explained_variance": -0.2},
        ["value function not explaining", "-0.20"],
        {"train/explained_variance": 0.1},
    ),
}


def names(episodes: TroubleEpisodes, numbers: Numbers, first: int, updates: int) -> list[tuple[str, int, int]]:
    """:return: what is said: name, update at which it is said, update since when"""
    said = []
    for update in range(first, first + updates):
        said += [(s.name, update, s.since_update) for s in episodes.see(numbers, update, 100 * update)]
    return said


def test_every_symptom_has_a_case() -> None:
    """The table above is complete, and nothing in it is misspelt."""
    assert set(CASES) == {symptom.name for symptom in SYMPTOMS}
    for symptom in SYMPTOMS:
        assert set(symptom.explains) <= set(CASES)
        # causes come first: what they explain is not said in the same round
        later = [other.name for other in SYMPTOMS[SYMPTOMS.index(symptom) + 1 :]]
        assert set(symptom.explains) <= set(later)


def test_a_healthy_run_is_left_alone() -> None:
    """Nothing is said of healthy numbers, nor of a run of which hardly anything is known."""
    assert names(TroubleEpisodes(), HEALTHY, 1, 50) == []
    assert names(TroubleEpisodes(), {}, 1, 50) == []


@pytest.mark.parametrize("name", CASES)
def test_trouble_is_named_with_its_numbers(name: str) -> None:
    """The right symptom and no other, after its patience, since its first update, with the numbers in the words."""
    bad, words, inside = CASES[name]
    symptom = next(symptom for symptom in SYMPTOMS if symptom.name == name)
    assert names(TroubleEpisodes(), HEALTHY | dict(bad), 7, 30) == [(name, 6 + symptom.patience, 7)]
    said = symptom.says(HEALTHY | dict(bad))
    assert said is not None
    for word in words:
        assert word in said
    assert symptom.remedy.endswith(".")
    assert names(TroubleEpisodes(), HEALTHY | dict(inside), 1, 30) == []


def test_patience() -> None:
    """One bad update fewer than the patience, again and again, is no trouble."""
    episodes = TroubleEpisodes()
    bad = HEALTHY | {"utilization/dead_frac": 0.8}
    for first in range(1, 60, 6):
        assert names(episodes, bad, first, 5) == []
        assert names(episodes, HEALTHY, first + 5, 1) == []


def test_once_for_each_episode() -> None:
    """While it lasts, with gaps too, nothing is repeated; after a recovery it is said again."""
    episodes = TroubleEpisodes()
    bad = HEALTHY | {"utilization/dead_frac": 0.8}
    assert names(episodes, bad, 1, 20) == [("utilization_collapse", 6, 1)]
    assert names(episodes, HEALTHY, 21, RECOVERY - 1) == []
    assert episodes.active == {"utilization_collapse"}
    assert names(episodes, bad, 40, 20) == []
    assert names(episodes, HEALTHY, 60, RECOVERY) == []
    assert episodes.active == set()
    assert names(episodes, bad, 80, 20) == [("utilization_collapse", 85, 80)]


def test_what_is_told_between_updates() -> None:
    """It begins at once and goes on while it is told again, however seldom a round of updates sees it; once is enough."""
    episodes = TroubleEpisodes()
    said = 0
    for update in range(1, 50):
        said += episodes.tell("non_finite", update, update)
        assert episodes.see(HEALTHY, update, update) == []
        assert episodes.active == {"non_finite"}
    assert said == 1
    assert names(episodes, HEALTHY, 50, RECOVERY) == []
    assert episodes.active == set()
    assert episodes.tell("non_finite", 70, 70)
    assert not TroubleEpisodes(()).tell("non_finite", 1, 1)  # not looked for


def test_a_disaster_is_said_at_once() -> None:
    """One update that throws the policy away is enough: afterwards a dead policy no longer moves."""
    bad = HEALTHY | {"train/kl_previous": 50.0, "start_log_ratio_p95": 9.0}
    assert names(TroubleEpisodes(), bad, 1, 1) == [("kl_runaway", 1, 1)]


def test_what_follows_from_a_cause_waits_until_the_cause_is_over() -> None:
    """Dead samples of a runaway are not reported beside it, but are when they stay after it."""
    episodes = TroubleEpisodes()
    dead = HEALTHY | {"utilization/dead_frac": 0.8, "lag/abs_log_rho_p95": 9.0}
    runaway = dead | {"train/kl_previous": 50.0, "start_log_ratio_p95": 9.0}
    assert names(episodes, runaway, 1, 10) == [("kl_runaway", 1, 1)]
    # the tail explains nothing of the dead samples: both are said as soon as the runaway is over
    after = names(episodes, dead, 11, RECOVERY)
    assert after == [("heavy_ratio_tail", 10 + RECOVERY, 1), ("utilization_collapse", 10 + RECOVERY, 1)]


def test_skipped_minibatches() -> None:
    """Half of the minibatches may be skipped, more may not."""
    said = next(s for s in SYMPTOMS if s.name == "non_finite").says
    assert said(HEALTHY | {"train/skipped_steps": 40.0}) is None
    words = said(HEALTHY | {"train/skipped_steps": 41.0})
    assert words is not None
    assert "41 minibatches" in words


def test_a_constant_reward_that_is_not_zero() -> None:
    """The words say that no episode ended early: only then does a constant reward teach nothing."""
    said = next(s for s in SYMPTOMS if s.name == "no_reward_signal").says
    words = said({"no_reward": 1.0, "reward": -1.0})
    assert words is not None
    assert "every reward was -1 and no episode ended early" in words

"""Verdicts and settings, for each way the three questions can be answered."""

import ast
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from gymnasium.envs.registration import make

from sb3_gipo import GIPO as Algorithm
from sb3_gipo.callbacks.symptoms import SYMPTOMS
from sb3_gipo.defaults import AUTO_REPLAY_ROLLOUTS, AUTO_REPLAY_TRANSITIONS
from sb3_gipo.diagnosis import Diagnosis, diagnose, read_logs
from sb3_gipo.diagnosis.verdict import DEFAULT_SIGMA
from tests.diagnosis.written import CHEAP, FALLING, GIPO, PPO, RISING, SLOW, Values, run_of


def diagnosis_of(*values: Mapping[str, Values]) -> Diagnosis:
    return diagnose(run_of({key: value for part in values for key, value in part.items()}))


def settings(diagnosis: Diagnosis) -> dict[str, Any]:
    return {setting.name: ast.literal_eval(setting.value) for setting in diagnosis.settings}


def test_the_defaults_of_gipo_are_its_defaults() -> None:
    """What is recommended as a default is the default."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(Algorithm).parameters.items()}
    assert {name: defaults[name] for name in DEFAULTS} == DEFAULTS
    assert defaults["sigma"] == DEFAULT_SIGMA
    (said,) = (each.reason for each in diagnosis_of(PPO, SLOW).settings if each.name == "replay_capacity")
    assert said.startswith(f"{AUTO_REPLAY_ROLLOUTS} rollouts, at least {AUTO_REPLAY_TRANSITIONS:,} transitions: ")
    for symptom in SYMPTOMS:
        if symptom.name.startswith("sigma"):
            assert f"its default, {defaults['sigma']}" in symptom.remedy


DEFAULTS = {"sigma": 0.3, "replay_capacity": "auto", "gradient_steps": None, "kl_coef": None}

# ---------------------------------------------------------------- PPO


@pytest.mark.parametrize(
    ("values", "word", "measures"),
    [
        ({**SLOW}, "switch", False),
        ({**SLOW, "train/clip_fraction": 0.5}, "switch", False),
        ({**CHEAP}, "little to gain", False),
        ({**CHEAP, "train/clip_fraction": 0.3}, "measure first", True),
        ({**CHEAP, "train/clip_fraction": 0.5}, "worth a trial", True),
        ({**CHEAP, "utilization/dead_frac": 0.5}, "worth a trial", False),
        ({"time/fps": 1000.0}, "measure first", True),
        ({**SLOW, "rollout/ep_rew_mean": RISING[:4]}, "measure first", False),
    ],
)
def test_verdicts_on_switching(values: dict[str, Values], word: str, measures: bool) -> None:
    """Scarcity decides; clipping alone is worth a trial; the callback is advised where it would tell more."""
    found = diagnosis_of(PPO, values)
    assert (found.word, bool(found.measure)) == (word, measures)
    assert settings(found) == ({} if word == "little to gain" else DEFAULTS)


def test_what_to_measure() -> None:
    """Where the curve is missing the callback would not help, and it is not advised."""
    assert "add UtilizationCallback()" in diagnosis_of(PPO, {"time/fps": 1000.0}).why
    short = diagnosis_of(PPO, SLOW, {"rollout/ep_rew_mean": RISING[:4]})
    assert "train for longer" in short.why
    assert "UtilizationCallback" not in short.why
    assert "Clipping also leaves much" in diagnosis_of(PPO, SLOW, {"train/clip_fraction": 0.5}).why
    assert "Clipping" not in diagnosis_of(PPO, SLOW).why


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"train/critic_loss": 1.0}, "does not apply"),
        ({"train/value_loss": 1.0}, "does not apply"),
        ({"rollout/ep_rew_mean": RISING}, "cannot tell"),
    ],
)
def test_other_algorithms(values: dict[str, Values], word: str) -> None:
    """No advice for what is not PPO."""
    found = diagnosis_of(SLOW, values)
    assert (found.word, found.settings, found.snippet, found.measure) == (word, (), "", "")


# ---------------------------------------------------------------- GIPO


def test_nothing_to_change() -> None:
    """At a drift of 0.9 a sample at the 95th percentile is 1.8 widths away: it still counts."""
    found = diagnosis_of(GIPO)
    assert found.word == "keep"
    assert settings(found) == {"sigma": 0.5, "replay_capacity": "auto"}  # what the log does not say is left alone


@pytest.mark.parametrize(
    ("drift", "sigma", "falls", "lost", "recommended"),
    [
        (1.2, 0.5, False, 0.5, 0.5),  # 0.6 is within the tolerance
        (1.3, 0.5, False, 0.5, 0.65),  # raise
        (1.3, 0.5, False, 0.1, 0.5),  # a tail, but little is lost with it
        (2.9, 0.5, False, 0.5, 1.0),  # no wider than 1
        (0.36, 2.0, True, 0.5, 2.0),  # hardly any drift: the width does not matter
        (0.6, 0.5, False, 0.0, 0.5),  # narrower than it could be, but nothing is wrong
        (0.6, 0.5, True, 0.0, 0.3),  # the return falls: lower
        (0.4, 0.5, True, 0.0, 0.2),
        (0.6, 0.35, True, 0.0, 0.35),
    ],
)
def test_sigma(drift: float, sigma: float, falls: bool, lost: float, recommended: float) -> None:
    """Half of the 95th percentile of the drift, between 0.2 and 1, where there is a reason to change."""
    curve = FALLING if falls else RISING
    logged = {"lag/abs_log_rho_p95": drift, "train/sigma": sigma, "utilization/suppressed_frac": lost}
    found = diagnosis_of(GIPO, logged, {"rollout/ep_rew_mean": curve})
    assert settings(found)["sigma"] == recommended
    assert found.word == ("keep" if recommended == sigma else "adjust")
    if recommended != sigma:
        assert f"sigma{' from ' + str(sigma) if falls else ''} to {recommended}" in found.why
        assert found.why.startswith("This is GIPO already. ")


def test_a_narrow_sigma_is_not_rounded_away() -> None:
    """What is to be pasted is what was set."""
    assert settings(diagnosis_of(GIPO, {"train/sigma": 0.0015, "lag/abs_log_rho_p95": 0.1}))["sigma"] == 0.0015


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({**GIPO, "health/sigma_too_narrow": 1.0}, "Sigma too narrow: Raise `sigma`"),
        ({**GIPO, "health/kl_runaway": 0.6, "health/utilization_collapse": 1.0}, "Kl runaway: Lower `learning_rate`"),
        ({**GIPO, "lag/abs_log_rho_p95": 37.0}, "Heavy ratio tail: Keep less"),
        ({**PPO, **SLOW, "health/no_reward_signal": 1.0}, "No reward signal: Check the reward function"),
        ({**PPO, **SLOW, "train/approx_kl": 5.0}, "Kl runaway: Lower `learning_rate`"),
    ],
)
def test_a_run_that_is_not_well(values: dict[str, Values], words: str) -> None:
    """What is wrong comes before any other advice, causes without what follows from them."""
    found = diagnosis_of(values)
    assert (found.word, found.settings) == ("mend first", ())
    assert words in found.why
    assert "Utilization collapse" not in found.why
    assert diagnosis_of({key: 0.2 if key.startswith("health") else value for key, value in PPO.items()}).word != "mend first"


@pytest.mark.parametrize("values", [GIPO, {**PPO, **SLOW}], ids=["gipo", "ppo"])
def test_a_run_of_a_few_updates(values: dict[str, Values]) -> None:
    """Nothing is said of a run that ended as soon as it had begun."""
    short = {key: [0.01] * 3 for key in values}
    found = diagnosis_of(short)
    assert (found.word, found.settings) == ("cannot tell", ())
    assert "Only 3 updates" in found.why


def test_sigma_of_another_surrogate() -> None:
    """A replay under PPO's clip has no width yet."""
    without = {key: value for key, value in GIPO.items() if key != "train/sigma"}
    found = diagnosis_of(without)
    assert settings(found)["sigma"] == 0.45
    assert 'Use surrogate="gipo" with sigma=0.45' in found.why
    assert settings(found)["surrogate"] == "gipo"


def ages(*parts: tuple[str, float, float]) -> dict[str, Values]:
    fracs = {f"by_age/frac/{label}": frac for label, frac, _ in parts}
    return {**fracs, **{f"by_age/share/{label}": share for label, _, share in parts}}


@pytest.mark.parametrize(
    ("values", "capacity"),
    [
        ({"utilization/old_share": 0.13}, "auto"),  # 0.26 of their number
        ({"utilization/old_share": 0.12}, 4096),  # 0.24: half of the rollouts
        ({"utilization/old_share": 0.5}, "auto"),  # full part, but the update is what takes the time
        ({"utilization/old_share": 0.5, **SLOW}, 16384),  # full part, and data are scarce
        ({"utilization/old_share": 0.4, **SLOW}, "auto"),
        (ages(("0", 0.2, 0.5), ("1", 0.2, 0.4), ("2-3", 0.2, 0.06), ("4-7", 0.4, 0.04)), 4096),  # 2-3 gives 0.3, 4-7 0.1
        (ages(("0", 0.2, 0.5), ("1", 0.2, 0.4), ("2-3", 0.2, 0.04), ("4-7", 0.4, 0.06)), 2048),
        (ages(("0", 0.5, 0.5), ("1", 0.49, 0.5), ("2-3", 0.009, 0.0)), "auto"),  # too few to be judged
        (ages(("0", 0.5, 0.1), ("1", 0.5, 0.9)), "auto"),
        ({"replay/size": 8192.0, "replay/rollouts": 16.0}, "auto"),  # 8 rollouts would be less than 8,192 transitions
        ({"replay/size": 32768.0, "replay/rollouts": 8.0}, "auto"),
        ({"replay/size": 32768.0, "replay/rollouts": 16.0}, 32768),
        ({"replay/size": 17408.0, "replay/rollouts": 17.0}, 17408),
        ({"replay/size": 3072.0, "replay/rollouts": 3.0}, "auto"),  # not yet full
    ],
)
def test_capacity(values: dict[str, Values], capacity: int | str) -> None:
    """Fewer rollouts where the oldest give next to nothing, more where they count in full and data are scarce."""
    found = diagnosis_of(GIPO, values)
    assert settings(found)["replay_capacity"] == capacity
    if found.word == "adjust":
        assert "rollouts instead of 8" in found.why


def test_one_change_at_a_time() -> None:
    """Under a wider sigma old samples count for more: the capacity waits."""
    found = diagnosis_of(GIPO, {"lag/abs_log_rho_p95": 1.6, "utilization/suppressed_frac": 0.5, "utilization/old_share": 0.05})
    assert settings(found)["sigma"] == 0.8
    assert settings(found)["replay_capacity"] == "auto"


def test_gipo_without_replay() -> None:
    """Where data are scarce the replay is to be switched on; else it stays off."""
    without = {key: value for key, value in GIPO.items() if not key.startswith("replay/")}
    assert settings(diagnosis_of(without))["replay_capacity"] is None
    found = diagnosis_of(without, SLOW)
    assert settings(found)["replay_capacity"] == "auto"
    assert (found.word, settings(found)["sigma"]) == ("adjust", 0.5)


def test_gipo_that_has_just_begun() -> None:
    """Without the drift there is nothing to say."""
    assert diagnosis_of({"train/sigma": 0.5, "replay/size": 10.0, "replay/rollouts": 1.0}).word == "cannot tell"


@pytest.mark.parametrize(
    ("collect", "said"),
    [(24.0, "takes 80 % of the time: a larger gradient_steps"), (1.4, "only 19 % of the time: a smaller"), (6.0, None)],
)
def test_remark_on_gradient_steps(collect: float, said: str | None) -> None:
    """Where one side takes four fifths of the time, the other is nearly free; also where there is something to change."""
    for drift in (0.9, 1.6):
        why = diagnosis_of(GIPO, {"time/collect": collect, "lag/abs_log_rho_p95": drift}).why
        assert (said in why) if said else ("gradient_steps" not in why)


# ---------------------------------------------------------------- snippets


@pytest.mark.parametrize("values", [{**PPO, **SLOW}, {**PPO, **CHEAP, "utilization/dead_frac": 0.5}, {**GIPO}])
def test_snippets_run(values: dict[str, Values]) -> None:
    """What is to be copied builds a model."""
    found = diagnosis_of(values)
    names: dict[str, Any] = {"policy": "MlpPolicy", "env": make("CartPole-v1")}
    exec(found.snippet, names)
    assert isinstance(names["model"], Algorithm)


def test_measuring_snippet_runs() -> None:
    """The callback is where the snippet imports it from."""
    seen: list[Any] = []

    class Model:
        def learn(self, steps: int, callback: Any) -> None:
            seen.append(callback)

    exec(diagnosis_of(PPO, {"time/fps": 1000.0}).measure, {"model": Model(), "total_timesteps": 10})
    assert type(seen[0]).__name__ == "UtilizationCallback"


def test_real_logs(real_logs: Path) -> None:
    """Each algorithm gets the kind of verdict that suits it."""
    words = {run.name: diagnose(run).word for run in read_logs(real_logs).runs}
    assert words["a2c"] == words["dqn"] == "does not apply"
    assert {words["gipo/CartPole-v1_1"], words["gipo/with callback"]} <= {"keep", "adjust"}
    assert {words["ppo/CartPole-v1_1"], words["ppo/with callback"]} <= {
        "switch",
        "worth a trial",
        "little to gain",
        "measure first",
    }

"""The page of keys is complete and true: every key that is logged is described, and every key that is described is logged."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.logger import Logger

from sb3_gipo import HealthCallback, UtilizationCallback
from sb3_gipo.callbacks import symptoms
from sb3_gipo.distributed import AsyncGIPO
from tests.callbacks.runs import Memory, learn, make
from tests.small_envs import SpaceEnv

PAGE = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
CODE = set(re.findall(r"`([^`\n]+)`", PAGE))
OURS = ("async/", "lag/", "utilization/", "ratio/", "by_age/", "replay/", "health/")
# Of other sections only what SB3's PPO does not log itself.
OURS_ELSEWHERE = {
    "train/kl_behaviour", "train/kl_previous", "train/grad_norm", "train/grad_norm_max", "train/sigma", "train/clamped_frac",
    "train/skipped_steps", "time/collect", "time/targets", "time/update", "time/wait", "time/compile",
}  # fmt: skip


@pytest.fixture(scope="module")
def logged() -> dict[str, set[str]]:
    """Keys of ours that a run with both callbacks logs."""
    found = {}
    for kind in ("ppo", "gipo"):
        keys: set[str] = set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # compiled, for the key of that
            for dump in learn(
                make(kind, **{"compile": True} if kind == "gipo" else {}),
                [UtilizationCallback(1, 1), HealthCallback()],
                iterations=7,
            ):
                keys |= set(dump)
        found[kind] = ours(keys)
    twin = AsyncGIPO("MlpPolicy", SpaceEnv, backend="serial", n_steps=16, batch_size=16, device="cpu")
    twin.set_logger(Logger(None, [Memory()]))
    found["async"] = ours({key for dump in learn(twin, None) for key in dump})
    return found


def ours(keys: set[str]) -> set[str]:
    return {key for key in keys if key.startswith(OURS) or key in OURS_ELSEWHERE}


# Heading of a section of the page -> what stands in it as code.
SECTIONS = {
    part.splitlines()[0]: set(re.findall(r"`([^`\n]+)`", part)) for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}


def is_described(key: str) -> bool:
    """In the section of its prefix, with its prefix or, in a list, without."""
    prefix, _, name = key.partition("/")
    name = name.split("/")[0]  # of by_age/<quantity>/<ages>
    (code,) = (code for heading, code in SECTIONS.items() if f"{prefix}/" in heading)
    if prefix == "ratio":
        return "ratio/pos_*" in code and name.split("_")[1] in code
    if prefix == "by_age" and name.startswith("ratio_"):
        return "ratio_pos_*" in code
    return key in code or name in code


def test_what_is_not_described() -> None:
    """A name that stands in another section does not count."""
    assert is_described("by_age/share/0")
    assert not is_described("lag/share")
    assert not is_described("train/nothing")


@pytest.mark.parametrize("kind", ["ppo", "gipo", "async"])
def test_every_logged_key_is_described(logged: dict[str, set[str]], kind: str) -> None:
    """Nothing is logged that the page does not explain."""
    missing = sorted(key for key in logged[kind] if not is_described(key))
    assert missing == []
    assert len(logged[kind]) > (20 if kind == "async" else 40)


def test_every_described_key_is_logged(logged: dict[str, set[str]]) -> None:
    """Nothing is explained that no run logs."""
    described = {code for code in CODE if re.fullmatch(r"(async|lag|utilization|ratio|replay|health)/[a-z_0-9.]+", code)}
    described |= {code for code in CODE if code in OURS_ELSEWHERE}
    assert described - logged["gipo"] - logged["async"] - {"health/report"} == set()
    assert OURS_ELSEWHERE - described == set()
    assert len(described) > 40


def test_every_symptom_is_described_with_its_threshold() -> None:
    """The table of symptoms names them all; the numbers in a row are those that the code compares with."""
    rows = {match[1]: match[0] for match in re.finditer(r"^\| `([a-z_]+)` \| .*$", PAGE, flags=re.MULTILINE)}
    numbers: dict[str, list[Any]] = {
        "kl_runaway": [symptoms.KL_RUNAWAY, symptoms.KL_RUNAWAY_LOG_RATIO, symptoms.KL_DISASTER],
        "sigma_too_narrow": [symptoms.NARROW, symptoms.NARROW_LOG_RATIO],
        "sigma_too_wide": [symptoms.WIDE, symptoms.WIDE_LOG_RATIO],
        "heavy_ratio_tail": [symptoms.HEAVY_TAIL],
        "utilization_collapse": [symptoms.USELESS],
        "replay_too_old": [symptoms.OLD_FRAC, symptoms.OLD_SHARE],
        "entropy_collapse": [symptoms.ENTROPY],
        "value_not_explaining": [symptoms.EXPLAINED],
    }
    for symptom in symptoms.SYMPTOMS:
        row = rows[symptom.name]
        for number in numbers.get(symptom.name, []):
            assert re.search(rf"(?<![\d.]){number:g}(?![\d.]*\d)", row), (symptom.name, number)
        if symptom.patience > 1:
            assert re.search(rf"{symptom.patience} (updates|rollouts)", row), symptom.name
    assert f"after {symptoms.RECOVERY} updates without it" in PAGE

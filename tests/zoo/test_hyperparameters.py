"""The settings that are shipped: every entry builds, says where its numbers come from, and is the one the Zoo reads."""

import argparse
import configparser
import json
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3.common.utils import FloatSchedule

from benchmarks import zoo_entries
from sb3_gipo import GIPO
from sb3_gipo.envs import metaworld_tasks
from sb3_gipo.zoo import hyperparameters, register
from tests.zoo.conftest import ROOT

FOLDER = ROOT / "rl_zoo_hyperparams"
ENTRIES = {name: yaml.safe_load((FOLDER / f"{name}.yml").read_text()) for name in ("gipo", "ppo")}
META_WORLD = [f"MetaWorld/{task}" for task in metaworld_tasks()]
REQUIRED = {
    "CartPole-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1", "LunarLander-v3",
    "LunarLanderContinuous-v3", "BipedalWalker-v3", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "atari", "default",
}  # fmt: skip


def distinct(entries: dict[str, dict]) -> list[str]:
    """One environment for each different entry, so that what 50 tasks share is built once."""
    seen: dict[str, str] = {}
    for name, entry in entries.items():
        seen.setdefault(yaml.safe_dump(entry), name)
    return list(seen.values())


def test_all_promised_environments_are_there() -> None:
    """Classic control, Box2D, MuJoCo, Atari; all 50 tasks of Meta-World for both algorithms, and PPO's file has no others."""
    assert set(ENTRIES["gipo"]) >= REQUIRED
    assert set(META_WORLD) <= set(ENTRIES["gipo"])
    assert list(ENTRIES["ppo"]) == META_WORLD


@pytest.mark.parametrize("algorithm", ["gipo", "ppo"])
def test_every_entry_says_where_its_numbers_come_from(algorithm: str) -> None:
    """A comment above it, or above the entry it repeats; nothing is left to fill in."""
    text = (FOLDER / f"{algorithm}.yml").read_text()
    assert not re.search(r"^# (MEASURED|TUNED)", text, flags=re.MULTILINE)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\S+:( &\S+)?$", line):
            above = lines[number - 1]
            assert above.startswith("# "), f"{algorithm}.yml, line {number + 1}: {line} has no comment above it"
    assert all(word in text for word in ("not measured", "seeds")) or algorithm == "ppo"


def test_measured_numbers_are_the_stored_ones() -> None:
    """What a comment says was measured is what the raw data give, and every environment that was measured says so."""
    records = json.loads((ROOT / "benchmarks" / "results" / "zoo_entries.json").read_text())
    said = {}
    for algorithm in ("gipo", "ppo"):
        text = (FOLDER / f"{algorithm}.yml").read_text()
        for line in re.findall(r"^# measured, .*$", text, flags=re.MULTILINE):
            env_id, seeds, steps, gipo, ppo = re.fullmatch(
                r"# measured, (\S+): (\d+) seeds, ([\d,]+) steps: GIPO (-?\d+), PPO (-?\d+)", line
            ).groups()
            said[env_id] = (int(seeds), int(steps.replace(",", "")), int(gipo), int(ppo))
    assert set(said) == {record["env"] for record in records}
    for env_id, (seeds, steps, *means) in said.items():
        for algorithm, mean in zip(("gipo", "ppo"), means, strict=True):
            runs = [record for record in records if (record["env"], record["algorithm"]) == (env_id, algorithm)]
            assert len({record["seed"] for record in runs}) == len(runs) == seeds
            assert {record["budget"] for record in runs} == {steps}
            assert np.mean([record["returns"][-1] for record in runs]) == pytest.approx(mean, abs=0.51), (env_id, algorithm)
            entry = ENTRIES[algorithm].get(env_id)
            assert entry is None or all(record["settings"] == entry for record in runs), f"{env_id}: not of these settings"


def test_the_table_of_the_docs_is_that_of_the_raw_data() -> None:
    """As ``benchmarks.zoo_entries --table`` prints it."""
    assert zoo_entries.table() in (ROOT / "docs" / "zoo.md").read_text()


@pytest.mark.parametrize(
    ("algorithm", "name"), [(algorithm, name) for algorithm in ENTRIES for name in distinct(ENTRIES[algorithm])]
)
def test_every_entry_builds(algorithm: str, name: str, tmp_path: Path) -> None:
    """RL Zoo makes environments and algorithm of it as they stand."""
    register()
    from rl_zoo3.exp_manager import ExperimentManager

    env_id = {"atari": "ALE/Pong-v5", "default": "InvertedPendulum-v5"}.get(name, name)
    assert env_id in gym.registry
    arguments = argparse.Namespace(algo=algorithm, env=env_id, n_timesteps=-1)
    manager = ExperimentManager(
        arguments, algorithm, env_id, str(tmp_path), eval_freq=-1, seed=1, verbose=0, log_interval=-1, device="cpu"
    )
    assert manager.config == str(FOLDER / f"{algorithm}.yml")
    model, _ = manager.setup_experiment()
    try:
        entry = ENTRIES[algorithm][name]
        assert isinstance(model, GIPO) == (algorithm == "gipo")
        assert model.n_envs == entry.get("n_envs", 1)
        for setting in (
            "n_steps",
            "batch_size",
            "gamma",
            "gae_lambda",
            "replay_capacity",
            "kernel",
            "kl_coef",
            "gradient_steps",
        ):
            assert setting not in entry or getattr(model, setting) == entry[setting]
        if str(entry.get("sigma")).startswith("lin_"):
            assert isinstance(model.sigma, FloatSchedule)
            assert model.sigma(1.0) == float(entry["sigma"][4:])
    finally:
        model.env.close()


def test_ours_are_read_only_where_the_zoo_has_none() -> None:
    """GIPO always; PPO on Meta-World; everything else is the Zoo's."""
    register()
    assert hyperparameters.conf_file("gipo", "CartPole-v1") == FOLDER / "gipo.yml"
    assert hyperparameters.conf_file("ppo", "MetaWorld/reach-v3") == FOLDER / "ppo.yml"
    assert hyperparameters.conf_file("ppo", "CartPole-v1") is None
    assert hyperparameters.conf_file("sac", "CartPole-v1") is None


def test_every_package_is_installed() -> None:
    """The list of packages in ``setup.cfg``, which cannot be found automatically, names all of them."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    there = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "sb3_gipo").rglob("__init__.py")}
    assert listed == there | {"sb3_gipo.zoo.hyperparams"}

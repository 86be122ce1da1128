"""What the README shows runs: its code, the demo, the benchmark of memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)]

# What a block takes for granted, and small numbers where it would train for long.
PRELUDE = """
import numpy as np, torch
from stable_baselines3.common.env_util import make_vec_env
from sb3_gipo import GIPO
env = make_vec_env("CartPole-v1", n_envs=2)
model = GIPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1).learn(64)
rng = np.random.default_rng(0)
obs, last_obs = rng.normal(size=(5, 2, 4)), rng.normal(size=(2, 4))
terminal_obs, actions, rewards = rng.normal(size=(1, 4)), np.ones((5, 2)), np.ones((5, 2))
terminated, truncated, log_probs = np.zeros((5, 2)), np.zeros((5, 2)), np.full((5, 2), -0.7)
truncated[2, 1] = 1
"""
SMALLER = {"60_000": "2_048", "50_000": "1_024", "100_000": "64", "n_steps=1024": "n_steps=256", "10_000_000": "256"}
# What a page says of a cluster, where there is none.
SMALLER |= {'ray_address="auto"': "n_steps=64", '"resources": {"simulator": 1}, ': "", "num_actors=64": "num_actors=2"}


def run(arguments: list[str], folder: Path, timeout: float = 200, codes: tuple[int, ...] = (0,)) -> str:
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode in codes, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_of_the_pages(number: int, tmp_path: Path) -> None:
    """Every Python block of the README and of the docs runs as it stands (with fewer steps)."""
    code = PRELUDE + BLOCKS[number]
    for shown, used in SMALLER.items():
        code = code.replace(shown, used)
    (tmp_path / "block.py").write_text(code)
    run(["block.py"], tmp_path)


def test_the_readme_has_code() -> None:
    """The blocks are found: the test above tests something."""
    assert len(BLOCKS) >= 5


@pytest.mark.slow
def test_demo_leaves_what_it_promises(tmp_path: Path) -> None:
    """The demo trains, evaluates before and after, and leaves model, normaliser, log, picture and (with OpenGL) video."""
    budget = ["--steps", "1000", "--n-envs", "1", "--eval-episodes", "5", "--video-episodes", "1", "--folder", "out"]
    printed = run([str(ROOT / "examples" / "metaworld_demo.py"), *budget], tmp_path)
    assert re.search(r"before +\d+%", printed)
    assert re.search(r"after +\d+%", printed)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.zip", "vecnormalize.pkl", "learning_curve.png", "evaluations.npz", "tensorboard"} <= left
    assert "video.mp4" in left or "apt-get install" in printed
    with np.load(tmp_path / "out" / "evaluations.npz") as evaluations:
        assert evaluations["successes"].shape == evaluations["results"].shape


@pytest.mark.slow
def test_distributed_trains(tmp_path: Path) -> None:
    """Actors in processes of Ray, started for it and ended with it; the model is left."""
    example = str(ROOT / "examples" / "distributed.py")
    printed = run([example, "--steps", "1024", "--actors", "2", "--env", "CartPole-v1"], tmp_path)
    steps, actors = re.search(
        r"^(\d+) steps by (\d) actors .* mean return of the last episodes: \d", printed, re.MULTILINE
    ).groups()
    assert (int(steps) >= 1024, actors) == (True, "2")
    assert (tmp_path / "distributed.zip").exists()


STALE_REPLAY = ROOT / "benchmarks" / "results" / "stale_replay.json"


def test_picture_of_stale_replay_from_the_stored_data(tmp_path: Path) -> None:
    """The stored runs make the picture, and say what the README says: PPO's clip leaves samples dead, GIPO does not."""
    example = str(ROOT / "examples" / "stale_replay.py")
    printed = run([example, "--from-data", str(STALE_REPLAY), "--folder", "out"], tmp_path)
    assert (tmp_path / "out" / "stale_replay.png").stat().st_size > 20_000
    dead = {line.split()[0]: float(line.split()[1]) for line in printed.splitlines() if line.startswith(("ppo_clip", "gipo"))}
    assert dead["ppo_clip"] > 0.1
    assert dead["gipo"] == 0.0


@pytest.mark.slow
def test_stale_replay_trains(tmp_path: Path) -> None:
    """The same from the beginning, for a few iterations: both runs, their data and the picture."""
    run([str(ROOT / "examples" / "stale_replay.py"), "--env", "Pendulum-v1", "--steps", "2000", "--folder", "out"], tmp_path)
    data = json.loads((tmp_path / "out" / "stale_replay.json").read_text())
    assert [(each["surrogate"], each["seed"], each["steps"]) for each in data["runs"]] == [
        ("ppo_clip", 0, [500, 1000, 1500, 2000]),
        ("gipo", 0, [500, 1000, 1500, 2000]),
    ]
    assert (tmp_path / "out" / "stale_replay.png").exists()


@pytest.mark.slow
def test_benchmark_of_the_callbacks(tmp_path: Path) -> None:
    """The benchmark runs, compares runs that agree bit for bit, and stores every pair (what they cost is not tested here)."""
    script = str(ROOT / "benchmarks" / "diagnostics_cost.py")
    budget = ["--env", "Pendulum-v1", "--steps", "2000", "--pairs", "1", "--output", "cost.json"]
    run([script, *budget], tmp_path, codes=(0, 1))
    rows = json.loads((tmp_path / "cost.json").read_text())["rows"]
    assert len(rows) == 4
    assert all(len(row["pairs_seconds"]) == 1 for row in rows)


def test_benchmark_of_memory(tmp_path: Path) -> None:
    """The stored bytes of a transition are at most 1.1 times its payload, for every kind that the benchmark prints."""
    printed = run([str(ROOT / "benchmarks" / "replay_memory.py"), "--rollouts", "2"], tmp_path)
    ratios = [float(line.split("|")[-2]) for line in printed.splitlines()[2:]]
    assert len(ratios) >= 7
    assert max(ratios) <= 1.1


@pytest.mark.slow
def test_benchmark_of_speed(tmp_path: Path) -> None:
    """A part of it runs and stores every measurement; how fast anything is is not tested."""
    part = ["-m", "benchmarks.speed", "learner", "--quick", "--no-compile", "--networks", "mlp64", "--threads", "1"]
    printed = run([*part, "--out", str(tmp_path)], ROOT)
    stored = json.loads((tmp_path / "learner.json").read_text())
    (row,) = stored["rows"]
    assert "SB3 PPO" in row["seconds"]
    assert all(name in printed for name in row["seconds"])
    assert all(seconds > 0 for variant in row["seconds"].values() for seconds in variant)


def test_help_of_the_benchmark_of_speed() -> None:
    """Names its parts; their first lines have percent signs, which argparse takes for formats."""
    printed = run(["-m", "benchmarks.speed", "--help"], ROOT)
    for part in ("learner", "end-to-end", "targets", "replay", "memory", "profile", "table", "all"):
        assert f"\n    {part}" in printed


def test_table_of_speed_is_that_of_the_stored_measurements() -> None:
    """README's figures are generated; by hand they cannot be changed."""
    run(["-m", "benchmarks.speed", "table", "--check"], ROOT)

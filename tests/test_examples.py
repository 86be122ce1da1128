"""What the README shows runs: its code, the demo, the benchmark of memory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)

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
SMALLER = {"60_000": "2_048", "100_000": "64", "n_steps=1024": "n_steps=256"}


def run(arguments: list[str], folder: Path, timeout: float = 200) -> str:
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_of_the_readme(number: int, tmp_path: Path) -> None:
    """Every Python block of the README runs as it stands (with fewer steps)."""
    code = PRELUDE + BLOCKS[number]
    for shown, used in SMALLER.items():
        code = code.replace(shown, used)
    (tmp_path / "block.py").write_text(code)
    run(["block.py"], tmp_path)


def test_the_readme_has_code() -> None:
    """The blocks are found: the test above tests something."""
    assert len(BLOCKS) >= 4


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


def test_benchmark_of_memory(tmp_path: Path) -> None:
    """The stored bytes of a transition are at most 1.1 times its payload, for every kind that the benchmark prints."""
    printed = run([str(ROOT / "benchmarks" / "replay_memory.py"), "--rollouts", "2"], tmp_path)
    ratios = [float(line.split("|")[-2]) for line in printed.splitlines()[2:]]
    assert len(ratios) >= 7
    assert max(ratios) <= 1.1

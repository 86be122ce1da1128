"""RL Zoo's own ``-i`` finds the replay beside a model and goes on with it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_gipo import GIPO

ROOT = Path(__file__).parent.parent


def zoo_train(folder: Path, *arguments: str) -> str:
    """Run RL Zoo's training with GIPO in PPO's place, as any user of the Zoo would run PPO."""
    environment = dict(os.environ, GIPO_IN_PLACE_OF="PPO", OMP_NUM_THREADS="1")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "peers" / "substitute"), str(ROOT)])
    (folder / "ppo.yml").write_text(
        "CartPole-v1:\n  n_envs: 2\n  n_timesteps: 256\n  policy: MlpPolicy\n  n_steps: 32\n  batch_size: 32\n  n_epochs: 1\n"
        "  normalize: true\n  sigma: lin_0.5\n  replay_capacity: 256\n"
    )
    command = [
        sys.executable,
        "-m",
        "rl_zoo3.train",
        "--algo",
        "ppo",
        "--env",
        "CartPole-v1",
        "-conf",
        "ppo.yml",
        "-f",
        "logs",
    ]
    done = subprocess.run(
        [*command, "--eval-freq", "-1", "--seed", "1", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_zoo_continues_with_replay_and_schedule(tmp_path: Path) -> None:
    """Train, save the replay, go on with ``-i``: the second run has the first one's rollouts and policy versions."""
    zoo_train(tmp_path, "-n", "128", "--save-replay-buffer")
    first = tmp_path / "logs" / "ppo" / "CartPole-v1_1"
    assert (first / "replay_buffer.pkl").is_file()
    printed = zoo_train(tmp_path, "-n", "64", "--save-replay-buffer", "-i", str(first / "CartPole-v1.zip"))
    assert re.search(r"Loading replay buffer", printed)
    second = GIPO.load(tmp_path / "logs" / "ppo" / "CartPole-v1_2" / "CartPole-v1.zip")
    assert second.policy_version == 2 + 1
    assert second.sigma(1.0) == 0.5
    second.load_replay_buffer(tmp_path / "logs" / "ppo" / "CartPole-v1_2" / "replay_buffer.pkl")
    assert [segment.newest_version for segment in second.replay_buffer.segments] == [0, 1, 2]

"""
SIGTERM to a driver and to Ray's own processes, as schedulers send it. Where the object store has ended Ray ends whoever uses
it at once, with status 1 and without a word: the driver must not, before its checkpoint is written.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.distributed.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, signal, sys, time
import ray
from stable_baselines3.common.callbacks import BaseCallback
from sb3_gipo.distributed import AsyncGIPO, published, ray_backend

folder, moment = sys.argv[1:]
ROLLOUT = 8192  # in shared memory: what is larger than 100 kB

def the_store_ends():
    (raylet,) = ray._private.worker._global_node.all_processes["raylet"]
    raylet.process.kill()
    raylet.process.wait()
    os.kill(os.getpid(), signal.SIGTERM)

class AtAStep(BaseCallback):
    def _on_step(self):
        if moment == "of what has arrived is told" and self.num_timesteps in (100, 3 * ROLLOUT - 100):
            time.sleep(5)  # until the next ones are finished, and arrive together
            if self.num_timesteps > ROLLOUT:
                print("now", flush=True)
                the_store_ends()
        return True

model = AsyncGIPO(
    "MlpPolicy", "CartPole-v1", num_actors=1, n_steps=ROLLOUT, batch_size=64, gradient_steps=1, replay_capacity=8 * ROLLOUT,
    device="cpu", checkpoint_path=folder, replay_ratio="max", max_queue=3,
)

make, wait = published.publish, ray_backend.ray.wait

def slow_to_make(*args):
    if moment == "a policy is about to be published" and model.num_timesteps >= 2 * ROLLOUT:
        print("now", flush=True)
        the_store_ends()
    return make(*args)

def with_a_result(*args, **kwargs):
    found = wait(*args, **kwargs)
    is_there = kwargs["timeout"] == 0 and found[0] and model.num_timesteps >= 2 * ROLLOUT
    if moment == "a rollout is about to be taken" and is_there:
        print("now", flush=True)
        the_store_ends()
    return found

published.publish, ray_backend.ray.wait = slow_to_make, with_a_result
model.learn(100 * ROLLOUT, callback=AtAStep())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", ["a policy is about to be published", "a rollout is about to be taken", "of what has arrived is told"]
)
def test_a_checkpoint_is_left_where_the_store_has_ended(tmp_path: Path, moment: str) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "checkpoints"), moment]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert "now" in ended.stdout, ended.stderr[-2000:]
    assert ended.returncode == 143, ended.stderr[-2000:]
    newest = Checkpoints(tmp_path / "checkpoints").newest()
    assert newest is not None
    assert f"Checkpoint: {newest}" in ended.stdout
    model = AsyncGIPO.resume(tmp_path / "checkpoints", "CartPole-v1")
    assert model.num_timesteps == len(model.replay_buffer) == model._pace.taken >= 2 * 8192

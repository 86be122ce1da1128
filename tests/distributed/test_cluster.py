"""A cluster of several nodes, all on this machine: where actors land, what is lost with a node, and who may end what."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

from sb3_gipo.distributed import AsyncEvalCallback, AsyncGIPO, backends, eval_callback, placement
from sb3_gipo.distributed.faults import ActorsFailedError
from sb3_gipo.distributed.placement import PlacementWarning, Places, demand, missing

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402  # where there is Ray

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "gradient_steps": 1, "replay_capacity": 16_384, "device": "cpu"}
STORE = 80_000_000  # bytes of shared memory, the least that Ray takes


class Noted(gym.Env[np.ndarray, Any]):
    """
    Writes down, in a file named after its process, on which node it is and how many steps it has made. A rollout of it is
    too large for Ray to send along with an answer: it stays on the node where it was made until it is taken.

    :param folder: for the file
    """

    observation_space = gym.spaces.Box(-1.0, 1.0, (2000,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, folder: Path) -> None:
        self._file, self._steps = os.open(folder / str(os.getpid()), os.O_CREAT | os.O_WRONLY), 0

    def _observation(self) -> np.ndarray:
        # always as long, and written over, so that it can be read at any time
        os.pwrite(self._file, f"{os.environ.get('NODE', 'learner'):8}{self._steps:12}".encode(), 0)
        return np.full(2000, self._steps % 2, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        return self._observation(), 1.0, False, self._steps % 8 == 0, {}


def actors(folder: Path) -> dict[int, tuple[str, int]]:
    """Of every process that lives, and is not this one: node and steps."""
    found = {}
    for path in folder.iterdir():
        number, written = int(path.name), path.read_text().split()
        if number != os.getpid() and Path(f"/proc/{number}").exists() and len(written) == 2:  # else not yet
            found[number] = written[0], int(written[1])
    return found


def nodes(folder: Path) -> list[str]:
    return sorted(node for node, _ in actors(folder).values())


def wait(until: Callable[[], Any], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def train(model: AsyncGIPO, until: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 90
    while not until():
        assert time.monotonic() < deadline, "it did not happen"
        model.learn(16, reset_num_timesteps=False)
        time.sleep(0.1)  # so that the replay holds all of it, however long it takes
    assert model.num_timesteps == len(model.replay_buffer)


def add(cluster: Cluster, name: str, **resources: float) -> Any:
    return cluster.add_node(num_cpus=2, resources=resources, env_vars={"NODE": name}, object_store_memory=STORE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A learner's node that has no CPU for anybody, and one called `spare` for what must not be disturbed."""
    folder = tempfile.mkdtemp(dir="/tmp", prefix="gipo")  # names of sockets are short
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder  # else other tests, in other processes, would find and join this cluster
    soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    add(cluster, "spare", spare=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    os.environ.pop("RAY_TMPDIR")
    if before is not None:
        os.environ["RAY_TMPDIR"] = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who failed is started again at once, who has no place is not silent for long, and no test leaves Ray to the next."""
    monkeypatch.setattr(backends, "BACK_OFF", 0.05)
    monkeypatch.setattr(backends, "MAKING_TAKES", 15.0)  # a process has imported torch by then, on a slow and busy machine too
    monkeypatch.setattr(placement, "SAID_AFTER", 1.0)
    yield
    ray.shutdown()


OTHER = """
import sys
from pathlib import Path
from stable_baselines3.common.callbacks import BaseCallback

from sb3_gipo.distributed import AsyncGIPO
from tests.distributed.test_cluster import SMALL, Noted

folder = Path(sys.argv[2])
settings = {"ray_address": sys.argv[1], "actor_resources": {"resources": {"spare": 1}}, **SMALL}
AsyncGIPO("MlpPolicy", lambda: Noted(folder), num_actors=1, **settings).learn(10**9)
"""


@pytest.fixture
def other_driver(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Another training on the same cluster, in a process of its own: the process, and what its actor writes down."""
    folder = tmp_path / "other"
    folder.mkdir()
    command = [sys.executable, "-c", OTHER, cluster.address, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield process, folder
    process.kill()
    process.wait()


def test_a_node_is_lost(cluster: Cluster, tmp_path: Path, other_driver: tuple[subprocess.Popen[bytes], Path]) -> None:
    """
    One actor on each node that has what is asked for. A node is lost, with what was finished there: training goes on with
    the other one, and it is said that one waits; a new node takes it. Another node is lost, and the new one has room for both.
    """
    ours = tmp_path / "ours"
    ours.mkdir()
    east, west = add(cluster, "east", simulator=1), add(cluster, "west", simulator=1)
    asked = {"num_cpus": 1, "resources": {"simulator": 1}, "scheduling_strategy": "SPREAD"}
    settings = {"ray_address": cluster.address, "actor_resources": asked, "hang_seconds": 60.0, **SMALL}
    model = AsyncGIPO("MlpPolicy", lambda: Noted(ours), num_actors=2, **settings)
    model._setup_learn(1)
    backend: Any = model._actors
    model._publish(backend)
    backend._keep_busy()
    wait(lambda: [steps for _, steps in actors(ours).values()] == [32, 32])  # two rollouts each, and not one is taken
    assert nodes(ours) == ["east", "west"]

    cluster.remove_node(east, allow_graceful=False)
    with pytest.warns(PlacementWarning, match="1 of 2 actors wait for a place.*1 simulator.*room for 1") as said:
        train(model, lambda: any(each.category is PlacementWarning for each in said))
    assert nodes(ours) == ["west"]
    facts = backend.facts()
    assert (facts.alive, facts.restarts, facts.lost_rollouts) == (1, 1, 2)

    add(cluster, "north", simulator=2)
    train(model, lambda: backend.facts().alive == 2)
    train(model, lambda: nodes(ours) == ["north", "west"])
    cluster.remove_node(west, allow_graceful=False)
    train(model, lambda: backend.facts().restarts == 2 and nodes(ours) == ["north", "north"])
    train(model, lambda: {segment.actor_id for segment in model.replay_buffer.segments[-4:]} == {0, 1})
    model.close()
    wait(lambda: not actors(ours), 10)
    assert not ray.is_initialized()

    process, theirs = other_driver
    wait(lambda: nodes(theirs) == ["spare"])
    ((_, steps),) = actors(theirs).values()
    wait(lambda: [True for _, later in actors(theirs).values() if later > steps + 64])  # more than wait to be taken
    process.send_signal(signal.SIGKILL)
    wait(lambda: not actors(theirs), 10)


def test_who_waits_for_a_place_does_not_hang(cluster: Cluster, tmp_path: Path) -> None:
    """However long the learner was away meanwhile."""
    add(cluster, "narrow", arm=1)
    settings = {"ray_address": cluster.address, "actor_resources": {"resources": {"arm": 1}}, "hang_seconds": 1.0, **SMALL}

    class Away(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            if self.num_timesteps == 16:
                time.sleep(backends.MAKING_TAKES + 1)

    model = AsyncGIPO("MlpPolicy", lambda: Noted(tmp_path), num_actors=2, **settings)
    with pytest.warns(PlacementWarning):
        model.learn(64, callback=Away())
    facts = model._actors.facts()
    assert (facts.alive, facts.hung, facts.restarts) == (1, 0, 0)
    model.close()


def test_an_evaluator_without_a_place(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told of, and not waited for at the end; training goes on."""
    monkeypatch.setattr(placement, "SAID_AFTER", 1.0)
    monkeypatch.setattr(eval_callback, "PLACE_SECONDS", 4.0)
    add(cluster, "small", robot=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)  # of the cluster that a machine is a node of
    settings = {"ray_address": "auto", "actor_resources": {"resources": {"robot": 1}}, **SMALL}
    model = AsyncGIPO("MlpPolicy", lambda: Noted(tmp_path), num_actors=1, **settings)
    callback = AsyncEvalCallback(lambda: Noted(tmp_path), eval_freq=16, verbose=0)
    with (
        pytest.warns(PlacementWarning, match="1 of 1 evaluators wait for a place.*1 robot.*others hold it"),
        pytest.warns(
            RuntimeWarning,
            match="(?s)training goes on.*At the end of the training it still had no place",
        ),
    ):
        model.learn(64, callback=callback)
    assert model.num_timesteps == 64
    assert callback.failures == 1
    model.close()


def test_what_no_node_has(cluster: Cluster, tmp_path: Path) -> None:
    """Is said soon; where nobody has a place, training ends with the same words, not with a hang."""
    settings = {
        "ray_address": cluster.address,
        "actor_resources": {"resources": {"simulatr": 2}},
        "hang_seconds": 1.0,
        **SMALL,
    }
    model = AsyncGIPO("MlpPolicy", lambda: Noted(tmp_path), num_actors=3, **settings)
    words = r"3 of 3 actors wait for a place. Each asks for 1 CPU, 2 simulatr; the nodes have .*no node has 2 simulatr"
    with pytest.warns(PlacementWarning, match=words), pytest.raises(ActorsFailedError, match=f"(?s){words}"):
        model.learn(64)
    assert not ray.is_initialized()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:{port}", "refused"),
        ("ray://127.0.0.1:{port}", "refused"),
        ("ray://cluster", "no port"),
        ("cluster", "Invalid address"),
        ("auto", "refused"),
    ],
)
def test_where_there_is_no_cluster(address: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said at once, with what may be given."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    address = address.format(port=closed_port())
    (tmp_path / "ray").mkdir()  # what "auto" finds was left behind by a cluster that is no more
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{closed_port()}")
    model = AsyncGIPO("MlpPolicy", "CartPole-v1", ray_address=address, **SMALL)
    with pytest.raises(ConnectionError, match=rf'(?s)ray_address="{address}".*{said}.*ray start --head'):
        model.learn(16)
    assert not ray.is_initialized()


def test_what_is_said_of_places() -> None:
    """What an actor asks for, what the nodes have, and what to do about it."""
    assert demand({"num_cpus": 0, "num_gpus": 1, "resources": {"sim": 2}, "max_retries": 0}) == {"GPU": 1, "sim": 2}
    small, large = {"CPU": 2.0, "memory": 8e9, "node:1": 1.0}, {"CPU": 8.0, "memory": 32e9, "sim": 1.0}
    alone = missing({"CPU": 4.0, "sim": 2.0}, 3, 4, [small, large])
    assert "3 of 4 actors wait" in alone
    assert "asks for 4 CPU, 2 sim; the nodes have 2 CPU; 8 CPU, 1 sim. None" in alone
    assert "no node has 2 sim)" in alone
    assert "(no node" not in missing({"CPU": 4.0, "sim": 1.0}, 1, 1, [small, {"CPU": 2.0, "sim": 1.0}, {"CPU": 8.0}])
    assert "room for 5, if" in missing({"CPU": 2.0}, 1, 6, [small, large])
    assert "32.0 GB memory" in missing({"memory": 4e9}, 1, 10, [large])
    assert "others hold it" in missing({"CPU": 2.0}, 1, 4, [small, large])
    assert "asks for nothing; the nodes have gone" in missing({}, 1, 1, [])
    assert "16 of 16 actors have no process yet. They ask for no resources" in missing({}, 16, 16, [small])


def test_said_once_and_ended_only_where_all_wait(recwarn: pytest.WarningsRecorder) -> None:
    """Each time that places are short; as long as one actor has a place the others may wait."""
    places = Places({"CPU": 1.0}, 2, patience=10.0, now=0.0)
    for now, waiting in [(0.9, 2), (1.1, 1), (5.0, 1), (99.0, 1), (100.0, 0), (101.1, 2), (109.0, 2)]:
        places.look(waiting, now, lambda: [{"CPU": 1.0}])
    assert len(recwarn) == 2
    with pytest.raises(ActorsFailedError, match="after 11 s without a place"):
        places.look(2, 111.0, lambda: [{"CPU": 1.0}])

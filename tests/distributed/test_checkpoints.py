"""What a killed run finds again: everything up to its latest checkpoint, nothing twice, whatever the moment of the kill."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.distributed.checkpoints import Checkpoints, claimed, model_in, replay_in
from sb3_gipo.distributed.faults import ActorsFailedError
from sb3_gipo.distributed.serial import SerialBackend
from sb3_gipo.distributed.signals import Signals

ROOT = Path(__file__).parent.parent.parent
SMALL: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 32,
    "gradient_steps": 4,
    "replay_capacity": 256,
    "seed": 3,
    "device": "cpu",
    "num_actors": 2,
    "normalize": True,
}


def serial(**kwargs: Any) -> AsyncGIPO:
    return AsyncGIPO("MlpPolicy", "CartPole-v1", **{**SMALL, "backend": "serial", **kwargs})


class Raises(BaseCallback):
    """At one step."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        super().__init__()
        self._at, self._error = at, error

    def _on_step(self) -> bool:
        if self.num_timesteps == self._at:
            raise self._error("as told")
        return True


def stored(model: AsyncGIPO, name: str) -> np.ndarray:
    assert model.replay_buffer is not None
    return np.asarray(model.replay_buffer.gather(name, np.arange(len(model.replay_buffer))))


def test_resume_takes_up_everything(tmp_path: Path) -> None:
    """Parameters, optimizer, replay with its draws and generator, versions, counters, statistics: as they were."""
    model = serial(checkpoint_path=tmp_path, replay_ratio=2.0, sigma="lin_0.5").learn(320)
    again = AsyncGIPO.resume(tmp_path, "CartPole-v1")
    for one, other in zip(model.policy.state_dict().values(), again.policy.state_dict().values(), strict=True):
        assert th.equal(one, other)
    ours, theirs = model.policy.optimizer.state_dict()["state"], again.policy.optimizer.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    assert all(th.equal(ours[key]["exp_avg"], theirs[key]["exp_avg"]) for key in ours)
    for name in ("num_timesteps", "policy_version", "n_gradient_steps", "_pace", "remaining_timesteps"):
        assert getattr(model, name) == getattr(again, name), name
    for name in ("observations", "actions", "log_probs", "policy_version", "draws"):
        assert (stored(model, name) == stored(again, name)).all(), name
    assert model.replay_buffer.rng.bit_generator.state == again.replay_buffer.rng.bit_generator.state
    assert (model.get_vec_normalize_env().obs_rms.mean == again.get_vec_normalize_env().obs_rms.mean).all()
    assert model.remaining_timesteps == 0


def test_a_run_that_fails_goes_on_to_its_original_end(tmp_path: Path) -> None:
    """Steps count from the checkpoint; schedules are those of one run; the actors see other episodes than before."""
    with pytest.raises(RuntimeError, match="as told"):
        serial(checkpoint_path=tmp_path, checkpoint_seconds=1e-9).learn(640, callback=Raises(400, RuntimeError))
    again = AsyncGIPO.resume(tmp_path, "CartPole-v1")
    assert (again.num_timesteps, again.policy_version, len(again.replay_buffer)) == (416, 12, 256)  # the whole rollout
    assert again.remaining_timesteps == 224
    before = stored(again, "observations")
    again.learn(again.remaining_timesteps, reset_num_timesteps=False)
    assert (again.num_timesteps, again.policy_version, again.remaining_timesteps) == (640, 19, 0)
    assert again._current_progress_remaining == pytest.approx(1 - 640 / 640)
    first = stored(again, "observations")[32:]  # the first 32 are from before
    assert not any(np.array_equal(first[0], row) for row in before)
    once_more = AsyncGIPO.resume(tmp_path, "CartPole-v1")  # the end is a checkpoint too
    assert (once_more.num_timesteps, once_more.remaining_timesteps) == (640, 0)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    """While one is under way the other is refused; when it has ended, another resumes it."""
    model = serial(checkpoint_path=tmp_path)
    with claimed(str(tmp_path)), pytest.raises(RuntimeError, match="Another run that is under way leaves its checkpoints"):
        model.learn(64)
    assert model.num_timesteps == 0
    model.learn(64)
    again = AsyncGIPO.resume(tmp_path, "CartPole-v1")
    assert again.learn(32, reset_num_timesteps=False).num_timesteps == 96


def test_nobody_is_waited_for_before_the_last_checkpoint(tmp_path: Path) -> None:
    """It is there before other callbacks are told of the end: one of them may wait for an evaluation."""
    there: list[Path | None] = []

    class Waits(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_training_end(self) -> None:
            there.append(Checkpoints(tmp_path).newest())

    serial(checkpoint_path=tmp_path).learn(96, callback=Waits())
    assert there == [tmp_path / "steps_96_version_3"]


def test_actors_that_fail_for_good_leave_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What had arrived is in it."""

    def drain(self: SerialBackend, wait: bool, at_most: int) -> Any:
        if self._actors[0].version == 8:
            raise ActorsFailedError("Actor 0 failed")
        return original(self, wait, at_most)

    original = SerialBackend.drain
    monkeypatch.setattr(SerialBackend, "drain", drain)
    with pytest.raises(ActorsFailedError):
        serial(checkpoint_path=tmp_path).learn(640)
    assert AsyncGIPO.resume(tmp_path, "CartPole-v1").num_timesteps == 9 * 32


def test_one_whole_checkpoint_is_always_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be written leaves the one before it; what a killed process left half-written is cleared away."""
    folder = Checkpoints(tmp_path)
    model = serial().learn(64)
    first = folder.write(model)
    model.learn(64, reset_num_timesteps=False)

    def full(path: Path) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model, "save_replay_buffer", full)
        with pytest.raises(OSError, match="No space"):
            folder.write(model)
    assert folder.newest() == first
    assert list(tmp_path.iterdir()) == [first]
    (tmp_path / ".steps_96_version_3.77.tmp").mkdir()  # of a process that is no more
    (tmp_path / "notes.txt").write_text("mine")
    second = folder.write(model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", second.name]
    assert model_in(second).exists()
    assert replay_in(second).exists()
    assert folder.newest() == second


def test_another_run_does_not_replace_it(tmp_path: Path) -> None:
    """A new run in the same folder is refused before it makes a step; the old one may go on."""
    serial(checkpoint_path=tmp_path).learn(64)
    with pytest.raises(ValueError, match=r"holds a checkpoint of another run(?s:.*)AsyncGIPO.resume"):
        serial(checkpoint_path=tmp_path).learn(64)
    model = AsyncGIPO.resume(tmp_path, "CartPole-v1")
    model.learn(64, reset_num_timesteps=False)
    model.learn(64, reset_num_timesteps=False)


def test_a_model_saved_on_the_way_does_not_replace_them(tmp_path: Path) -> None:
    """Loaded again it is another run: the checkpoints of the one that went on are worth more."""
    model = serial(checkpoint_path=tmp_path / "run").learn(64)
    model.save(tmp_path / "early")
    model.learn(64, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="another run"):
        AsyncGIPO.load(tmp_path / "early", env="CartPole-v1").learn(32)
    assert AsyncGIPO.resume(tmp_path / "run", "CartPole-v1").num_timesteps == 128


def test_the_newest_is_that_of_the_latest_policy(tmp_path: Path) -> None:
    """Steps may begin anew, versions do not."""
    for name in ("steps_640_version_20", "steps_64_version_22"):
        (tmp_path / name).mkdir()
    assert Checkpoints(tmp_path).newest() == tmp_path / "steps_64_version_22"


def test_training_goes_on_without_room_for_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is told of."""

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = serial(checkpoint_path=tmp_path)
    monkeypatch.setattr(model, "save_replay_buffer", full)
    with pytest.warns(RuntimeWarning, match="No checkpoint could be written"):
        model.learn(64)
    assert model.num_timesteps == 64


def test_a_place_where_nothing_can_be_written(tmp_path: Path) -> None:
    """Is refused before anything is trained."""
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file", tmp_path / "file" / "run", "/proc/run"):
        model = serial(checkpoint_path=path)
        with pytest.raises(ValueError, match=f"`checkpoint_path` is '{path}', where no checkpoint can be written"):
            model.learn(64)
        assert model.num_timesteps == 0


def test_nothing_to_resume(tmp_path: Path) -> None:
    """Is said, with what to do."""
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in"):
        AsyncGIPO.resume(tmp_path / "nowhere", "CartPole-v1")


@pytest.mark.parametrize(("name", "change"), [("model.zip", "cut off"), ("model.zip", "gone"), ("replay.pkl", "gone")])
def test_a_damaged_checkpoint(tmp_path: Path, name: str, change: str) -> None:
    """Is named, with what to do."""
    serial(checkpoint_path=tmp_path).learn(32)
    file = tmp_path / "steps_32_version_1" / name
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="steps_32_version_1' is damaged"):
        AsyncGIPO.resume(tmp_path, "CartPole-v1")


def test_checkpoints_are_left_while_an_update_is_waited_for(tmp_path: Path) -> None:
    """Where `replay_ratio` has no update due for long."""
    seen: list[int] = []

    class Looks(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(_steps(tmp_path))
            return True

    serial(checkpoint_path=tmp_path, checkpoint_seconds=1e-6, replay_ratio=1e-3).learn(320, callback=Looks())
    assert set(seen) >= {0, 32, 64, 256}


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize(("kind", "ends"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_signals_in_this_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: signal.Signals, ends: type[BaseException], stops: bool
) -> None:
    """
    A run with a folder for checkpoints saves itself: also where the signal comes in the middle of an update, which is made to
    its end. SIGTERM ends with a shell's code; afterwards the signals are as before.
    """
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    class Struck(AsyncGIPO):
        def _n_gradient_steps(self) -> int:
            if self.num_timesteps == 96 and not self._whole and not self.terminated:  # in `train`
                os.kill(os.getpid(), kind)
            return super()._n_gradient_steps()

    model = Struck("MlpPolicy", "CartPole-v1", **SMALL, backend="serial", checkpoint_path=tmp_path)
    with pytest.raises(ends) as ended:
        model.learn(96 if stops else 640)
    if kind == signal.SIGTERM:
        assert ended.value.code == 143
    else:
        said = capfd.readouterr()
        assert "Once more: at once" in said.err
        assert f"Checkpoint: {tmp_path / 'steps_96_version_3'}" in said.out
        assert ended.value.__context__ is None  # one traceback
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    again = AsyncGIPO.resume(tmp_path, "CartPole-v1")
    assert (again.num_timesteps, again.policy_version) == (96, 3)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_whatever_else_goes_wrong(tmp_path: Path, kind: signal.Signals) -> None:
    """An error after it, or because of it: who waits for the exit code of SIGTERM is told, with the error as its cause."""

    class Breaks(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 70:
                os.kill(os.getpid(), kind)
                raise ValueError("as told")
            return True

    with pytest.raises((SystemExit, KeyboardInterrupt)) as ended:
        serial(checkpoint_path=tmp_path).learn(640, callback=Breaks())
    assert isinstance(ended.value, SystemExit) == (kind == signal.SIGTERM)
    assert "as told" in str(ended.value.__context__)
    assert _steps(tmp_path) == 96


def test_resume_refuses_what_is_no_argument(tmp_path: Path) -> None:
    """As the constructor does."""
    serial(checkpoint_path=tmp_path).learn(64)
    with pytest.raises(TypeError, match="`num_actor` is no argument of AsyncGIPO; is `num_actors` meant"):
        AsyncGIPO.resume(tmp_path, "CartPole-v1", num_actor=8)
    assert AsyncGIPO.resume(tmp_path, "CartPole-v1", num_actors=1, learning_rate=1e-3).num_actors == 1


def test_actors_end_where_the_last_checkpoint_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a second Ctrl-C, say."""
    model = serial(checkpoint_path=tmp_path)
    model.learn(64)
    monkeypatch.setattr(Checkpoints, "write", lambda *_: _fail(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model.learn(640, callback=Raises(70, ValueError), reset_num_timesteps=False)
    assert model._actors is None


def test_nothing_is_no_checkpoint(tmp_path: Path) -> None:
    """A run that never had a rollout does not stand in the way of the next try."""
    model = serial(checkpoint_path=tmp_path, checkpoint_seconds=1e-6)
    with pytest.raises(RuntimeError, match="as told"):
        model.learn(640, callback=StopsAtTheStart())
    assert Checkpoints(tmp_path).newest() is None
    serial(checkpoint_path=tmp_path).learn(64)


class StopsAtTheStart(BaseCallback):
    """Before anything has arrived."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        raise RuntimeError("as told")


def _fail(error: type[BaseException]) -> None:
    raise error


def test_without_checkpoints_ctrl_c_is_as_ever() -> None:
    """Nothing is to be left: it ends the update under way."""

    class Struck(AsyncGIPO):
        def _n_gradient_steps(self) -> int:
            if not self._whole:
                os.kill(os.getpid(), signal.SIGINT)
            return super()._n_gradient_steps()

    model = Struck("MlpPolicy", "CartPole-v1", **SMALL, backend="serial")
    with pytest.raises(KeyboardInterrupt):
        model.learn(64)
    assert model.policy_version == 0


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_does_what_it_did(kind: signal.Signals) -> None:
    """The first one is taken note of; a handler for Ctrl-C that is not Python's own is left alone."""
    heard: list[str] = []
    before = signal.getsignal(kind)
    try:
        if kind == signal.SIGTERM:
            signal.signal(kind, lambda *_: heard.append("before"))
        signals = Signals()
        signals.listen()
        os.kill(os.getpid(), kind)
        assert signals.received == kind
        if kind == signal.SIGTERM:
            os.kill(os.getpid(), kind)
            assert heard == ["before"]
        else:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), kind)
        signals.stop()
        signal.signal(signal.SIGINT, lambda *_: heard.append("somebody's"))
        signals.listen()
        os.kill(os.getpid(), signal.SIGINT)
        signals.stop()
        assert heard[-1] == "somebody's"
    finally:
        signal.signal(kind, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


SCRIPT = """
import sys
from sb3_gipo.distributed import AsyncGIPO
folder, total = sys.argv[1], int(sys.argv[2])
try:
    model = AsyncGIPO.resume(folder, "CartPole-v1")
    print("resumed at", model.num_timesteps, flush=True)
    left = model.remaining_timesteps
except FileNotFoundError:
    small = {"n_steps": 32, "batch_size": 32, "gradient_steps": 2, "replay_capacity": 512, "device": "cpu"}
    model = AsyncGIPO("MlpPolicy", "CartPole-v1", checkpoint_path=folder, checkpoint_seconds=0.01, **small)
    left = total
model.learn(left, reset_num_timesteps=False)
"""


@pytest.mark.slow
def test_driver_killed_then_told_to_end(tmp_path: Path) -> None:
    """
    SIGKILL: the next one goes on from the latest checkpoint. SIGTERM, to it and to Ray's processes, as schedulers send it: it
    leaves a checkpoint of its last step, and ends.
    """
    pytest.importorskip("ray")
    folder = tmp_path / "checkpoints"
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", SCRIPT, str(folder), "2000000"]

    def run_until_it_has(steps: int, end: signal.Signals) -> tuple[int, str]:
        alone = {"env": environment, "start_new_session": True}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **alone) as driver:
            deadline = time.monotonic() + 90
            while _steps(folder) <= steps:
                assert driver.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            if end == signal.SIGTERM:
                os.killpg(driver.pid, end)
            else:
                driver.send_signal(end)
            said = driver.communicate(timeout=60)[0]
        return driver.returncode, said

    assert run_until_it_has(100, signal.SIGKILL)[0] == -signal.SIGKILL
    seen = _steps(folder)
    code, said = run_until_it_has(seen, signal.SIGTERM)
    assert code == 143
    assert f"resumed at {seen}\n" in said
    model = AsyncGIPO.resume(folder, "CartPole-v1")
    assert model.num_timesteps == _steps(folder) > seen
    assert model._pace.taken == model.num_timesteps  # transitions that arrived: none counted twice, none missing
    assert len(model.replay_buffer) == min(model.num_timesteps, 512)
    assert model.remaining_timesteps == 2_000_000 - model.num_timesteps


def _steps(folder: Path) -> int:
    newest = Checkpoints(folder).newest()
    return 0 if newest is None else int(newest.name.split("_")[1])

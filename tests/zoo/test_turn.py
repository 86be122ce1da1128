"""One at a time counts trials and begins one; nobody waits for ever, whatever becomes of who has the turn."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from sb3_gipo.zoo import turn
from sb3_gipo.zoo.turn import Turn

STORAGE = "postgresql://somewhere/studies"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn.tempfile, "gettempdir", lambda: str(tmp_path))


def is_free(tmp_path: Path) -> bool:
    (file,) = tmp_path.glob("sb3-gipo-study-*.lock")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def test_others_wait_but_not_while_a_trial_runs(tmp_path: Path) -> None:
    mine = Turn(STORAGE, "s")
    with mine.taken():
        assert not is_free(tmp_path)
        with mine.given_up():
            assert is_free(tmp_path)
        assert not is_free(tmp_path)
    assert is_free(tmp_path)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_trial_that_raises_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    mine = Turn(STORAGE, "s")
    with pytest.raises(error), mine.taken(), mine.given_up():
        raise error
    assert is_free(tmp_path)


def test_two_threads_of_control_are_never_inside_together() -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        mine = Turn(STORAGE, "s")
        with mine.taken():
            for _ in range(3):
                inside += 1
                most = max(most, inside)
                time.sleep(0.01)
                inside -= 1
                with mine.given_up():
                    time.sleep(0.01)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_the_turn_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        "import tempfile, time; tempfile.tempdir = " + repr(str(tmp_path)) + "\n"
        "from sb3_gipo.zoo.turn import Turn\n"
        f"with Turn({STORAGE!r}, 's').taken():\n    print('inside', flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        assert not is_free(tmp_path)
        process.kill()
    assert is_free(tmp_path)


def test_who_keeps_it_for_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "PATIENCE", 0.2)
    with Turn(STORAGE, "s").taken():
        mine, reached = Turn(STORAGE, "s"), False
        with mine.taken(), mine.given_up():
            reached = True
        assert reached
        assert not is_free(tmp_path)  # the other one still has it
    assert is_free(tmp_path)


def test_studies_do_not_wait_for_each_other_and_a_file_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = set()
    for storage, name in [
        ("sqlite:///s.db", "s"),
        (f"sqlite:///{tmp_path / 's.db'}", "s"),
        ("sqlite:///s.db", "t"),
        (STORAGE, "s"),
    ]:
        with Turn(storage, name).taken():
            files = set(tmp_path.glob("*.lock"))
    assert len(files) == 3

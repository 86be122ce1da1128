"""``sb3-gipo diagnose``: what it prints, what it writes, how it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_gipo import __version__
from sb3_gipo.cli import main
from sb3_gipo.diagnosis import page
from tests.diagnosis.written import GIPO, PPO, SLOW, write_events


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_events(tmp_path / "logs" / "my run", {**PPO, **SLOW, "health/[bold]": 1.0})
    return tmp_path / "logs"


def test_diagnose(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdict, answers, numbers with their keys, settings with reasons; the page lies in the log directory."""
    assert main(["diagnose", str(log)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for said in (
        *("my run", "switch: Steps are expensive", "Is interaction data scarce? yes", "Is replay stale? no"),
        *(
            "Does clipping zero out much of the gradient? no",
            "90.0 %  collection, share of an iteration's time (time/collect)",
        ),
        *("about 0.196  95th percentile of |log ratio| (train/approx_kl)", "last 20 % of the environment steps"),
        *('    replay_capacity="auto",\n', "sigma: GIPO's default", "health/[bold] was raised in 100.0 %"),
        f"Page with the plots: {log / 'diagnosis.html'}\n",
    ):
        assert said in out, said
    assert "\x1b" not in out
    html = (log / "diagnosis.html").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert str(log) in html


def test_output(log: Path, tmp_path: Path) -> None:
    """The page goes where it is asked for, and nowhere else."""
    assert main(["diagnose", str(log), "--output", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").exists()
    assert not (log / "diagnosis.html").exists()


def test_several_runs(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table above the runs; of many runs the table alone."""
    write_events(log / "second", GIPO)
    write_events(log / "other", {"epoch": 1.0})
    assert main(["diagnose", str(log)]) == 0
    out = capsys.readouterr().out
    assert out.index("2 runs") < out.index("switch: Steps") < out.index("keep: This is GIPO already")
    assert "Passed over: other: no SB3 key among epoch" in out
    for number in range(3):
        write_events(log / f"more {number}", PPO)
    assert main(["diagnose", str(log)]) == 0
    out = capsys.readouterr().out
    assert "5 runs" in out
    assert "Is replay stale?" not in out


def test_every_real_log(real_logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Off-policy, on-policy, with and without the callback, one by one: no log ends in a traceback."""
    for folder in sorted(path.parent for path in real_logs.rglob("progress.csv")):
        assert main(["diagnose", str(folder), "--output", str(tmp_path / "x.html")]) == 0
        assert folder.name in capsys.readouterr().out


@pytest.mark.parametrize("given", ["missing", "empty", "file"])
def test_refuses(tmp_path: Path, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, the reason on stderr, nothing written."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("words")
    before = sorted(os.listdir(tmp_path))
    assert main(["diagnose", str(tmp_path / given)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sb3-gipo: ")
    assert str(tmp_path / given) in err
    assert (sorted(os.listdir(tmp_path)), os.listdir(tmp_path / "empty")) == (before, [])


@pytest.mark.parametrize("output", ["missing/x.html", "folder", "/"])
def test_page_cannot_be_written(log: Path, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The verdict is printed all the same; exit code 2 says that the page is not there."""
    (tmp_path / "folder").mkdir()
    assert main(["diagnose", str(log), "--output", str(tmp_path / output)]) == 2
    out, err = capsys.readouterr()
    assert "switch: Steps are expensive" in out
    assert "Page with the plots" not in out
    assert "Give another place with --output FILE" in err
    assert sorted(os.listdir(tmp_path)) == ["folder", "logs"]


def test_nothing_written_when_drawing_fails(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is written when it is complete."""

    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(page, "draw", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        main(["diagnose", str(log)])
    assert os.listdir(log) == ["my run"]


def test_a_second_time(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page in the directory is no log: the answers are the same."""
    main(["diagnose", str(log)])
    first = capsys.readouterr().out
    main(["diagnose", str(log)])
    assert capsys.readouterr().out == first


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """As argparse ends them; no command at all is wrong input."""
    for arguments, code in ((["--version"], 0), (["--help"], 0), (["diagnose", "--help"], 0), ([], 2), (["diagnose"], 2)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
    assert f"sb3-gipo {__version__}\n" in capsys.readouterr().out


def test_as_a_module(log: Path) -> None:
    """``python -m sb3_gipo``, piped: no colour codes, nothing on stderr, the exit code of ``main``."""
    command = [sys.executable, "-m", "sb3_gipo", "diagnose"]
    done = subprocess.run([*command, str(log)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "switch: Steps are expensive" in done.stdout
    assert "\x1b" not in done.stdout
    assert subprocess.run([*command, str(log / "missing")], capture_output=True, check=False).returncode == 2

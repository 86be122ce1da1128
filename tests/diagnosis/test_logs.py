"""Every log that SB3 leaves can be read, also the ones that a killed or resumed run leaves."""

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.logger import Figure as LoggedFigure
from stable_baselines3.common.logger import HumanOutputFormat, configure
from torch.utils.tensorboard import SummaryWriter

from sb3_gipo.diagnosis.logs import NoLogError, Run, read_logs
from tests.diagnosis.written import RISING, write_events


def only_run(logdir: Path) -> Run:
    (run,) = read_logs(logdir).runs
    return run


def values(run: Run, key: str) -> dict[float, float]:
    return dict(zip(run.curves[key].steps.tolist(), run.curves[key].values.tolist(), strict=True))


def write_csv(folder: Path, *lines: str, end: str = "\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "progress.csv").write_text("\n".join(lines) + end)


# ---------------------------------------------------------------- real logs


def test_every_run_of_a_tree(real_logs: Path) -> None:
    """Runs are named by their folders and sorted; both formats of one folder are one run."""
    logs = read_logs(real_logs)
    names = ["a2c", "dqn", "gipo/CartPole-v1_1", "gipo/with callback", "ppo/CartPole-v1_1", "ppo/with callback"]
    assert [run.name for run in logs.runs] == names
    assert logs.skipped == []
    assert all(run.notes == () for run in logs.runs)


def test_csv_and_events_agree_and_complete_each_other(real_logs: Path, tmp_path: Path) -> None:
    """The same values come from either format, to float32; what TensorBoard is not told comes from the CSV."""
    folder = real_logs / "ppo" / "CartPole-v1_1"
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "progress.csv").write_bytes((folder / "progress.csv").read_bytes())
    (tmp_path / "events").mkdir()
    (events,) = folder.glob("events*")
    (tmp_path / "events" / events.name).write_bytes(events.read_bytes())
    csv, tensorboard = read_logs(tmp_path).runs
    both = only_run(folder)
    assert set(both.curves) == set(csv.curves) | set(tensorboard.curves)
    assert {"train/n_updates", "time/iterations"} <= set(csv.curves) - set(tensorboard.curves)
    for key, curve in tensorboard.curves.items():
        np.testing.assert_array_equal(curve.steps, csv.curves[key].steps)
        np.testing.assert_allclose(curve.values, csv.curves[key].values, rtol=1e-6)
    assert both.curves["time/fps"].steps.tolist() == list(range(64, 1281, 64))
    assert (both.first_step, both.last_step) == (64, 1280)


# ---------------------------------------------------------------- events


def test_later_wall_time_wins_for_the_same_step(tmp_path: Path) -> None:
    """A run killed at step 400 and resumed from 200: what the second log says replaces what the first one said."""
    write_events(tmp_path, {"train/loss": [1.0, 2.0, 3.0, 4.0]}, wall_time=1000.0)
    write_events(tmp_path, {"train/loss": [30.0, 40.0, 50.0]}, first=3, wall_time=2000.0)
    run = only_run(tmp_path)
    assert values(run, "train/loss") == {100: 1, 200: 2, 300: 30, 400: 40, 500: 50}
    assert run.notes == ()


def test_wall_time_decides_and_not_the_name_of_the_file(tmp_path: Path) -> None:
    """The file that sorts last was written first."""
    late = write_events(tmp_path, {"train/loss": [30.0]}, first=1, wall_time=2000.0)
    early = write_events(tmp_path, {"train/loss": [1.0]}, first=1, wall_time=1000.0)
    late.rename(tmp_path / "events.out.tfevents.0")
    early.rename(tmp_path / "events.out.tfevents.9")
    assert values(only_run(tmp_path), "train/loss") == {100: 30}


def test_what_a_resumed_run_undid_is_dropped(tmp_path: Path) -> None:
    """Resumed at step 200 with other steps between: the values beyond belong to a policy that was thrown away."""
    write_events(tmp_path, {"train/loss": [1.0, 2.0, 3.0, 4.0]}, wall_time=1000.0)
    writer = SummaryWriter(str(tmp_path), filename_suffix=".again")
    writer.add_scalar("train/loss", 25.0, 250, walltime=2000.0)
    writer.close()
    run = only_run(tmp_path)
    assert values(run, "train/loss") == {100: 1, 200: 2, 250: 25}
    assert run.notes == ("The steps go back in train/loss (a resumed run?): what was written later counts.",)


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_truncated_last_event(tmp_path: Path, cut: int) -> None:
    """A killed run leaves half a record: everything before it counts, and the reader is told."""
    path = write_events(tmp_path, {"train/loss": RISING})
    path.write_bytes(path.read_bytes()[:-cut])
    run = only_run(tmp_path)
    assert list(values(run, "train/loss").values()) == RISING[:-1]
    assert len(run.notes) == 1
    assert "the last record is cut off" in run.notes[0]


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    """NaN and infinities leave the curve, and a note says how many."""
    bad = {"train/loss": [1.0, float("nan"), 3.0, float("inf")], "train/std": [float("nan")] * 4, "time/fps": [1.0] * 4}
    write_events(tmp_path, bad)
    run = only_run(tmp_path)
    assert values(run, "train/loss") == {100: 1, 300: 3}
    assert "train/std" not in run.curves
    assert run.notes == (
        "train/loss: 2 of 4 values are not finite (NaN or infinite), left out.",
        "train/std: 4 of 4 values are not finite (NaN or infinite), left out.",
    )


def test_what_is_no_scalar_is_ignored(tmp_path: Path) -> None:
    """Histograms, images, texts and figures beside the scalars, as SB3's logger writes them."""
    from matplotlib.figure import Figure

    write_events(tmp_path, {"train/loss": RISING})
    logger = configure(str(tmp_path), ["tensorboard"])
    figure = Figure()
    figure.subplots().plot([1, 2])
    logger.record("lag/histogram", np.arange(10.0), exclude=HumanOutputFormat)
    logger.record("train/figure", LoggedFigure(figure, close=False))
    logger.record("train/text", "words")
    logger.dump(100)
    logger.close()
    writer = SummaryWriter(str(tmp_path))
    writer.add_image("train/image", np.zeros((3, 4, 4), np.uint8), 100)
    writer.close()
    assert set(only_run(tmp_path).curves) == {"train/loss"}


def test_bytes_that_are_no_events(tmp_path: Path) -> None:
    """An empty file and garbage beside a good log."""
    write_events(tmp_path, {"train/loss": RISING})
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    (tmp_path / "events.out.tfevents.2").write_bytes(b"garbage" * 100)
    assert list(values(only_run(tmp_path), "train/loss").values()) == RISING


# ---------------------------------------------------------------- CSV


def test_csv_by_hand(tmp_path: Path) -> None:
    """Empty cells are no values, words are no curve, ``nan`` is a value that is not finite, rows without a step go."""
    write_csv(
        tmp_path / "a b",
        "time/total_timesteps,train/loss,note,health/bad,eval/mean_reward",
        '100,1.5,"a, ""b""",False,',
        "100,,,,7",
        "200,nan,c,True,",
        ",9,d,True,9",
        "300,2.5,,True,8",
    )
    run = only_run(tmp_path)
    assert run.name == "a b"
    assert values(run, "train/loss") == {100: 1.5, 300: 2.5}
    assert values(run, "eval/mean_reward") == {100: 7, 300: 8}
    assert values(run, "health/bad") == {100: 0, 200: 1, 300: 1}
    assert set(run.curves) == {"train/loss", "health/bad", "eval/mean_reward"}
    assert run.notes == ("train/loss: 1 of 3 values are not finite (NaN or infinite), left out.",)


def test_half_written_last_line(tmp_path: Path) -> None:
    """``20`` may be the beginning of ``2000``: a line without its end is left out."""
    write_csv(tmp_path, "train/loss,time/total_timesteps", "1,100", "2,20", end="")
    run = only_run(tmp_path)
    assert values(run, "train/loss") == {100: 1}
    assert "the last line is cut off" in run.notes[0]


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    """Too many cells, too few, an open quote: the other rows count."""
    write_csv(tmp_path, "time/total_timesteps,train/loss", "100,1", "200,2,3,4", "300", "400,4")
    assert values(only_run(tmp_path), "train/loss") == {100: 1, 400: 4}
    write_csv(tmp_path, "time/total_timesteps,train/loss", "100,1,5", "200,2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert values(only_run(tmp_path), "train/loss") == {100: 1, 200: 2}  # not shifted by one
    write_csv(tmp_path, "time/total_timesteps,train/loss", '100,"1', "200,2")
    write_events(tmp_path, {"train/std": RISING})
    assert "could not be read as CSV" in only_run(tmp_path).notes[0]


def test_csv_without_steps(tmp_path: Path) -> None:
    """Rows that cannot be placed are no curve, and the reader is told."""
    write_csv(tmp_path, "train/loss", "1")
    write_events(tmp_path, {"train/std": RISING})
    run = only_run(tmp_path)
    assert set(run.curves) == {"train/std"}
    assert "has no column time/total_timesteps" in run.notes[0]


def test_csv_fills_in_what_events_lack(tmp_path: Path) -> None:
    """A resumed run begins its CSV anew: at the same step the events count, elsewhere both."""
    write_events(tmp_path, {"train/loss": [1.0, 2.0]})
    write_csv(tmp_path, "time/total_timesteps,train/loss,train/n_updates", "200,20,1", "300,30,2")
    run = only_run(tmp_path)
    assert values(run, "train/loss") == {100: 1, 200: 2, 300: 30}
    assert values(run, "train/n_updates") == {200: 1, 300: 2}
    assert run.notes == ()


# ---------------------------------------------------------------- directories


def test_nothing_there(tmp_path: Path) -> None:
    """Each error names what was given and what was looked for."""
    with pytest.raises(NoLogError, match="There is no directory"):
        read_logs(tmp_path / "missing")
    with pytest.raises(NoLogError, match=r"events\.out\.tfevents.*progress\.csv"):
        read_logs(tmp_path)
    path = write_events(tmp_path / "run", {"train/loss": RISING})
    with pytest.raises(NoLogError, match=r"is a file. Give the directory.*run'"):
        read_logs(path)


def test_logs_of_others_and_empty_ones_are_passed_over(tmp_path: Path) -> None:
    """A log without a key of SB3 is no run; alone it is an error that says what was found."""
    write_events(tmp_path / "other", {"epoch": RISING})
    write_csv(tmp_path / "empty", "", end="")
    write_csv(tmp_path / "header", "time/total_timesteps,train/loss")
    with pytest.raises(NoLogError, match="other: no SB3 key among epoch"):
        read_logs(tmp_path)
    write_events(tmp_path / "run", {"train/loss": RISING})
    logs = read_logs(tmp_path)
    assert [run.name for run in logs.runs] == ["run"]
    assert sorted(logs.skipped) == ["empty: no scalars.", "header: no scalars.", "other: no SB3 key among epoch."]


@pytest.mark.parametrize(("broken", "left"), [("events", {"train/std"}), ("progress.csv", {"train/loss"})])
def test_a_file_that_cannot_be_read(broken: str, left: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and the other logs count."""
    write_events(tmp_path / "good", {"train/loss": RISING})
    write_events(tmp_path / "bad", {"train/loss": RISING})
    write_csv(tmp_path / "bad", "time/total_timesteps,train/std", "100,1.0")
    opened = io.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).startswith(str(tmp_path / "bad" / broken)):
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(io, "open", refuse)  # what pathlib opens with; permissions do not hold for root
    good, bad = sorted(read_logs(tmp_path).runs, key=lambda run: run.name, reverse=True)
    assert (good.name, bad.name) == ("good", "bad")
    assert any("cannot be read (Permission denied)" in note for note in bad.notes)
    assert set(bad.curves) == left
    assert good.notes == ()


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """TensorBoard takes no such path: it is said, and the other logs count."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    write_events(tmp_path / "good", {"train/loss": RISING})
    for file in (tmp_path / "good").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    logs = read_logs(tmp_path)
    assert "good" in [run.name for run in logs.runs]
    assert len(logs.skipped) + len(logs.runs) == 2
    assert all("cannot be read (its path is not UTF-8)" in line for line in logs.skipped)


def test_a_name_too_long(tmp_path: Path) -> None:
    """No file system takes it: words, not a traceback."""
    with pytest.raises(NoLogError, match="cannot be a directory"):
        read_logs(tmp_path / ("x" * 300))


def test_links_are_followed_once(tmp_path: Path) -> None:
    """A link to a run is a run; a link back up does not loop."""
    write_events(tmp_path / "elsewhere" / "run", {"train/loss": RISING})
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "linked").symlink_to(tmp_path / "elsewhere" / "run")
    (tmp_path / "logs" / "up").symlink_to(tmp_path / "logs")
    assert only_run(tmp_path / "logs").name == "linked"


def test_the_directory_itself_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is that of the directory, also where it was given as ``.``."""
    write_events(tmp_path / "mine", {"train/loss": RISING})
    monkeypatch.chdir(tmp_path / "mine")
    assert only_run(Path(".")).name == "mine"


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    """It could be neither printed nor written: what cannot be shown is replaced."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    write_csv(Path(folder), "time/total_timesteps,train/loss", "100,1")
    assert only_run(tmp_path).name.encode("utf-8") == "caf\N{REPLACEMENT CHARACTER}".encode()

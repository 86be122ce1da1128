"""Reads every run below a directory: SB3's TensorBoard events and its ``progress.csv``."""

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # pandas ships no types
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]  # nor does tensorboard

EVENT_FILE = "events.out.tfevents"
CSV_FILE = "progress.csv"
CSV_STEPS = "time/total_timesteps"
# What SB3 itself writes: a log without any of these is of another program.
SB3_PREFIXES = ("rollout/", "time/", "train/", "eval/")
# Everything of the scalars (0), next to nothing of what is not used here.
SIZES = {"scalars": 0, "images": 1, "histograms": 1, "compressedHistograms": 1, "tensors": 1, "audio": 1}
# A TFRecord: 8 bytes of length, 4 of its checksum, the data, 4 of their checksum.
RECORD_HEADER, RECORD_FOOTER = 12, 4

FloatArray = np.ndarray[tuple[int], np.dtype[np.float64]]
# when it was written (wall-clock time, or the row), environment step, value
Point = tuple[float, float, float]


class NoLogError(ValueError):
    """There is nothing to diagnose; the message says what was looked for and where."""


class Curve(NamedTuple):
    """
    One logged quantity.

    :param steps: environment steps, ascending, none twice [T]
    :param values: finite [T]
    """

    steps: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class Run:
    """
    What one run logged.

    :param name: its folder, relative to the directory that was read
    :param folder: where it lies
    :param curves: key to curve, none empty
    :param notes: what a reader of the numbers should know about the log
    """

    name: str
    folder: Path
    curves: Mapping[str, Curve]
    notes: tuple[str, ...] = ()

    @property
    def last_step(self) -> float:
        """The last environment step at which anything was logged."""
        return max(float(curve.steps[-1]) for curve in self.curves.values())

    @property
    def span(self) -> float:
        """Environment steps of this log: of a run that began with it all, of a continued one those since."""
        longest = max(self.curves.values(), key=lambda curve: len(curve.steps)).steps
        # what is logged first has steps before it as well
        spacing = float(np.median(np.diff(longest))) if len(longest) > 1 else float(longest[0])
        return self.last_step - max(self.first_step - spacing, 0.0)

    @property
    def first_step(self) -> float:
        """The first environment step at which anything was logged."""
        return min(float(curve.steps[0]) for curve in self.curves.values())


class Logs(NamedTuple):
    """
    :param runs: at least one, sorted by name
    :param skipped: a line for each folder with a log that holds nothing of SB3
    """

    runs: list[Run]
    skipped: list[str]


def read_logs(logdir: Path) -> Logs:
    """
    Read every run below a directory. A run is a directory that holds TensorBoard events, a ``progress.csv`` or both.

    :param logdir: searched with all its subdirectories
    :return: the runs, and what was passed over
    :raises NoLogError: where there is no such directory, or nothing of SB3 in it
    """
    try:
        exists = logdir.exists()
    except OSError as error:  # a name that no file system takes
        raise NoLogError(f"{str(logdir)!r} cannot be a directory: {error.strerror}.") from error
    if not exists:
        raise NoLogError(f"There is no directory {str(logdir)!r}. Give the directory that SB3 logged into.")
    if not logdir.is_dir():
        raise NoLogError(f"{str(logdir)!r} is a file. Give the directory that holds the log, such as {str(logdir.parent)!r}.")
    runs: list[Run] = []
    skipped: list[str] = []
    for folder in _run_folders(logdir, skipped):
        run = _read_run(folder, logdir)
        if any(key.startswith(SB3_PREFIXES) for key in run.curves):
            runs.append(run)
        else:
            held = f"no SB3 key among {', '.join(sorted(run.curves)[:3])}" if run.curves else "no scalars"
            skipped.append(" ".join([f"{run.name}: {held}.", *run.notes]))
    if not runs:
        found = f" Found, but of no use: {'; '.join(skipped[:5])}." if skipped else ""
        raise NoLogError(
            f"{str(logdir)!r} holds no log of SB3. Looked for files named {EVENT_FILE}.* (TensorBoard) and {CSV_FILE} in it "
            f"and in all its subdirectories, with keys that start with {', '.join(SB3_PREFIXES)}.{found} Train with "
            f"tensorboard_log=..., or model.set_logger(configure(folder, ['csv', 'tensorboard']))."
        )
    return Logs(sorted(runs, key=lambda run: run.name), skipped)


def _run_folders(logdir: Path, skipped: list[str]) -> Iterator[Path]:
    """Every directory with a log; links are followed, each directory once."""
    seen: set[str] = set()

    def refused(error: OSError) -> None:
        skipped.append(f"{_printable(str(error.filename))}: cannot be read ({error.strerror}).")

    for folder, subfolders, files in os.walk(logdir, followlinks=True, onerror=refused):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        if any(name == CSV_FILE or EVENT_FILE in name for name in files):
            yield Path(folder)


def _read_run(folder: Path, logdir: Path) -> Run:
    name = str(folder.relative_to(logdir)) if folder != logdir else folder.resolve().name
    notes: list[str] = []
    logged: dict[str, list[Point]] = {}
    for path in folder.iterdir():
        if EVENT_FILE in path.name and path.is_file():
            for key, points in _tried(_read_events, path, notes).items():
                logged.setdefault(key, []).extend(points)
    values = {key: _last_said(points) for key, points in logged.items()}
    replaced = {key for key, points in logged.items() if len(values[key]) < len({step for _, step, _ in points})}
    if replaced:
        notes.append(
            f"The steps go back in {', '.join(sorted(replaced)[:3])} (a resumed run?): what was written later counts."
        )
    csv = folder / CSV_FILE
    for key, points in (_tried(_read_csv, csv, notes) if csv.is_file() else {}).items():
        # A resumed run starts its CSV anew and adds to its events: the CSV only fills in what the events lack.
        values[key] = {**_last_said(points), **values.get(key, {})}
    curves = {key: curve for key in sorted(values) if (curve := _curve(key, values[key], notes)) is not None}
    return Run(_printable(name), folder, curves, tuple(notes))


def _printable(name: str) -> str:
    """A name that is not UTF-8 could be neither printed nor written to a page."""
    return os.fsencode(name).decode("utf-8", "replace")


def _tried(read: Callable[[Path, list[str]], dict[str, list[Point]]], path: Path, notes: list[str]) -> dict[str, list[Point]]:
    """One file that cannot be read is no reason to leave out the others."""
    try:
        return read(path, notes)
    except (OSError, UnicodeError) as error:  # permissions; TensorBoard takes no path that is not UTF-8
        reason = error.strerror if isinstance(error, OSError) else "its path is not UTF-8"
        notes.append(f"{_printable(path.name)}: cannot be read ({reason}).")
        return {}


def _read_events(path: Path, notes: list[str]) -> dict[str, list[Point]]:
    if _is_cut_off(path):
        notes.append(
            f"{_printable(path.name)}: the last record is cut off (the run was killed, or is still writing); what is before "
            "it counts."
        )
    accumulator = event_accumulator.EventAccumulator(str(path), size_guidance=SIZES)
    try:
        accumulator.Reload()
    except Exception as error:  # the protocol-buffer parser's own, for bytes that are no event: what came before is kept
        notes.append(f"{_printable(path.name)}: could not be read to its end ({type(error).__name__}).")
    tags = accumulator.Tags()[event_accumulator.SCALARS]
    return {tag: [(e.wall_time, float(e.step), e.value) for e in accumulator.Scalars(tag)] for tag in tags}


def _is_cut_off(path: Path) -> bool:
    """Whether the file ends inside a record."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            length = int.from_bytes(file.read(8), "little")
            position += RECORD_HEADER + length + RECORD_FOOTER
    return position > size


def _read_csv(path: Path, notes: list[str]) -> dict[str, list[Point]]:
    text = path.read_bytes().decode("utf-8", "replace").replace("\0", "")
    whole, _, rest = text.rpartition("\n")
    if rest.strip():
        notes.append(f"{path.name}: the last line is cut off (the run was killed, or is still writing) and left out.")
    if not whole.strip():
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # a first row longer than the header is cut
            how = {"dtype": str, "keep_default_na": False, "index_col": False, "on_bad_lines": "skip"}
            table = pd.read_csv(io.StringIO(whole + "\n"), **how)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        notes.append(f"{path.name}: could not be read as CSV ({error}).")
        return {}
    if CSV_STEPS not in table:
        notes.append(f"{path.name}: has no column {CSV_STEPS}, so its rows cannot be placed.")
        return {}
    steps = pd.to_numeric(table[CSV_STEPS], errors="coerce").to_numpy(dtype=float)
    return {str(key): column for key in table if key != CSV_STEPS and (column := _column(table[key], steps))}


def _column(cells: pd.Series, steps: FloatArray) -> list[Point]:
    """The cells that hold something; nothing of a column of words."""
    cells = cells.fillna("").str.strip().replace({"True": "1", "False": "0"})
    held = (cells != "").to_numpy() & np.isfinite(steps)
    numbers = pd.to_numeric(cells[held], errors="coerce").to_numpy(dtype=float)
    words = cells[held][np.isnan(numbers)]
    if not words.str.lower().isin(["nan", "+nan", "-nan"]).all():
        return []
    return [(float(row), steps[row], number) for row, number in zip(np.flatnonzero(held), numbers.tolist(), strict=True)]


def _last_said(points: Iterable[Point]) -> dict[float, float]:
    """
    Value of each step. Where a run was resumed, its log goes back: what was logged later then replaces what had been logged
    from that step on.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: point[0]):
        while kept and kept[-1][1] >= point[1]:
            kept.pop()
        kept.append(point)
    return {step: value for _, step, value in kept}


def _curve(key: str, values: Mapping[float, float], notes: list[str]) -> Curve | None:
    """The finite values in the order of their steps, if there are any."""
    finite = sorted((step, value) for step, value in values.items() if np.isfinite(value))
    if len(finite) < len(values):
        notes.append(f"{key}: {len(values) - len(finite)} of {len(values)} values are not finite (NaN or infinite), left out.")
    if not finite:
        return None
    steps, numbers = np.array(finite, dtype=np.float64).T
    return Curve(steps, numbers)

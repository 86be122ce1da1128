"""Of the processes that work on a study, one at a time decides whether it has trials enough, and begins another if not."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

# Counting and beginning take a moment. Who keeps the turn for longer (stopped, or showing the Zoo's plots) has lost it: better
# a trial too many than a search that stands still.
PATIENCE = 30.0  # seconds
SQLITE = "sqlite:///"


class Turn:
    """
    Optuna counts the trials, and then begins one: two processes that end their trials at the same time both count before the
    other has begun, and the study gets a trial too many. So a process keeps the others from counting from the end of a trial
    until the next one is begun. Holds for one user's processes on one machine, also where one of them is killed.

    :param storage: of the study, an address of a database or a file
    :param study_name: its name
    """

    def __init__(self, storage: str, study_name: str) -> None:
        user = os.getuid() if hasattr(os, "getuid") else ""
        if storage.startswith(SQLITE):  # one file, whatever folder a process is in
            storage = str(Path(storage.removeprefix(SQLITE)).resolve())
        mark = hashlib.sha256(f"{storage}\n{study_name}".encode()).hexdigest()[:16]
        self._lock = FileLock(Path(tempfile.gettempdir()) / f"sb3-gipo-study-{user}-{mark}.lock")

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A context in which trials are counted and begun; at its end the others may."""
        self._take()
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def given_up(self) -> Iterator[None]:
        """A context inside :meth:`taken` in which a trial runs, and the others may count."""
        self._lock.release()
        try:
            yield
        finally:
            self._take()

    def _take(self) -> None:
        with suppress(Timeout):
            self._lock.acquire(timeout=PATIENCE)

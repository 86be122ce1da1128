"""SIGTERM and Ctrl-C, which wait for the end of what is under way, so that there is a checkpoint to be left."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TERMINATED = 128 + signal.SIGTERM  # exit code, as of a shell
_INTERRUPTED = "\nCtrl-C: ends as soon as what is under way is done, and leaves a checkpoint. Once more: at once.\n"


@contextmanager
def unheard_by_what_begins() -> Iterator[None]:
    """Processes that this thread begins meanwhile, and theirs, do not hear SIGTERM; here it is heard at the end of it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heard_by_what_begins() -> None:
    """From now on by what this thread begins, such as simulators, which are ended by it."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


class Signals:
    """
    The first SIGTERM or Ctrl-C is taken note of; the second one does what it did before. A handler for Ctrl-C that somebody
    else has set is left alone.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """From now on. Where this is not the main thread, which alone may, nothing changes."""
        kinds = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            kinds.append(signal.SIGINT)
        try:
            self._before = {kind: signal.signal(kind, self._take_note) for kind in kinds}
        except ValueError:
            self._before = {}

    def stop(self) -> None:
        """What was there before is there again."""
        while self._before:
            kind, before = self._before.popitem()
            signal.signal(kind, signal.SIG_DFL if before is None else before)

    def end_if_received(self) -> None:
        """
        :raises SystemExit: after SIGTERM
        :raises KeyboardInterrupt: after Ctrl-C
        """
        if self.received == signal.SIGTERM:
            raise SystemExit(TERMINATED)
        if self.received is not None:
            raise KeyboardInterrupt

    def _take_note(self, kind: int, _: object) -> None:
        self.stop()
        self.received = kind
        if kind == signal.SIGINT:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, _INTERRUPTED.encode())  # `print` may be under way

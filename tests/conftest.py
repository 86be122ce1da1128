"""What every test shares: one torch thread, so that results repeat and tests can run side by side; and Ctrl-C."""

import signal

import pytest
import torch as th
from hypothesis import settings

th.set_num_threads(1)
settings.register_profile("default", deadline=None)
settings.load_profile("default")
# a shell's job in the background (`make test &`) is born deaf to Ctrl-C, and so would be every process that the tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    th.set_num_threads(1)

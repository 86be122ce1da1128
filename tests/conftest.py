"""What every test shares: one torch thread, so that results repeat and tests can run side by side."""

import pytest
import torch as th
from hypothesis import settings

th.set_num_threads(1)
settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    th.set_num_threads(1)

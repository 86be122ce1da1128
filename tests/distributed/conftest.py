"""What tests with real processes of Ray share."""

from collections.abc import Iterator

import pytest

from sb3_gipo.distributed import backends


@pytest.fixture(scope="module")
def small_ray() -> Iterator[None]:
    """One for all tests of a file."""
    import ray

    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who failed is started again at once."""
    monkeypatch.setattr(backends, "BACK_OFF", 0.05)

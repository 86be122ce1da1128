"""What the property tests draw from, and how far apart two numbers may be."""

import numpy as np
import torch as th
from hypothesis import settings
from hypothesis import strategies as st

PROPERTY = settings(deadline=None, max_examples=60)
DTYPES = [th.float32, th.float64]

LOG_RATIOS = st.one_of(
    st.floats(-50.0, 50.0),
    st.floats(-2.0, 2.0),
    st.sampled_from(
        [0.0, 1e-8, -1e-8, 0.18, 0.19, -0.22, -0.23, 19.999, -19.999, 20.0, -20.0, 20.001, -20.001, 50.0, -50.0, 1e4]
    ),
)
ADVANTAGES = st.one_of(
    st.floats(-5.0, 5.0).filter(lambda a: a == 0 or abs(a) > 1e-10),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-6, -1e-6, 1e3, -1e3]),
)
SAMPLES = st.lists(st.tuples(LOG_RATIOS, ADVANTAGES), min_size=1, max_size=12)
WIDTHS = st.one_of(st.floats(0.05, 10.0), st.sampled_from([1e-3, 0.2, 0.5, 1.0, 2.0, 100.0]))

Samples = list[tuple[float, float]]


def as_tensors(samples: Samples, dtype: th.dtype) -> tuple[th.Tensor, th.Tensor]:
    """Log-ratios and advantages [B]."""
    log_ratio, advantages = zip(*samples, strict=True)
    return th.tensor(log_ratio, dtype=dtype), th.tensor(advantages, dtype=dtype)


def assert_close(got: th.Tensor | np.ndarray, expected: np.ndarray, scale: np.ndarray | float = 0.0) -> None:
    """
    Agreement to 1e-6, relative where numbers are large.

    float32 gets 1e-5 relative: one rounding of an exponent of 20 alone moves its exponential by 20 * 6e-8.

    :param scale: size of what was added up, where summands may cancel
    """
    got = th.as_tensor(got)
    rtol = 1e-5 if got.dtype == th.float32 else 1e-6
    difference = np.abs(got.double().numpy() - expected)
    allowed = 1e-6 + rtol * np.maximum(scale, np.abs(expected))
    assert np.all(difference <= allowed), f"got {got}, expected {expected}, off by {difference}, allowed {allowed}"

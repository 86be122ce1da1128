"""Logs written out by hand, where certain numbers are needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from sb3_gipo.diagnosis.logs import Curve, Run

# A curve as its values, logged at the steps 100, 200, ...; a number stands for a constant curve.
Values = Sequence[float] | float
LENGTH, SPACING = 20, 100

RISING = [float(value) for value in range(LENGTH)]
FLAT = [*RISING[: LENGTH // 2], *[10.0] * (LENGTH // 2)]
FALLING = [*RISING[:12], *[12.0] * 4, *[4.0] * 4]
PPO = {"train/clip_fraction": 0.05, "train/clip_range": 0.2, "train/approx_kl": 0.005, "rollout/ep_rew_mean": RISING}
SLOW = {"time/fps": 100.0, "time/collect": 9.0, "time/update": 1.0}
CHEAP = {"time/fps": 5000.0, "time/collect": 0.2, "time/update": 0.6}
GIPO = {
    "train/sigma": 0.5,
    "replay/size": 8192.0,
    "replay/rollouts": 8.0,
    "replay/reuse_mean": 12.0,
    "lag/abs_log_rho_p95": 0.9,
    "lag/old_frac": 0.5,
    "utilization/old_share": 0.4,
    "utilization/dead_frac": 0.01,
    "utilization/suppressed_frac": 0.02,
    "train/clip_fraction": 0.5,
    "rollout/ep_rew_mean": RISING,
    "time/fps": 400.0,
    "time/collect": 4.0,
    "time/targets": 1.0,
    "time/update": 5.0,
}


def run_of(values: Mapping[str, Values], name: str = "run") -> Run:
    """A run that logged these curves."""
    curves = {}
    for key, curve in values.items():
        held = np.full(LENGTH, curve) if isinstance(curve, (int, float)) else np.array(curve, dtype=float)
        curves[key] = Curve(SPACING * np.arange(1.0, len(held) + 1), held)
    return Run(name, Path(name), curves)


def write_events(folder: Path, values: Mapping[str, Values], *, first: int = 1, wall_time: float | None = None) -> Path:
    """A TensorBoard log in a file of its own; steps begin at ``first * SPACING``."""
    before = set(folder.glob("*")) if folder.exists() else set()
    writer = SummaryWriter(str(folder), filename_suffix=f".{len(before)}")
    for key, curve in values.items():
        for number, value in enumerate([curve] * LENGTH if isinstance(curve, (int, float)) else curve):
            writer.add_scalar(key, value, SPACING * (first + number), walltime=wall_time)
    writer.close()
    (path,) = set(folder.glob("*")) - before
    return path

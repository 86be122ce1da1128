"""Callbacks that make visible whether stale data still teach, and say what is wrong with a run: for GIPO and for PPO."""

from sb3_gipo.callbacks.health import HealthCallback, HealthReport, HealthWarning
from sb3_gipo.callbacks.utilization import UtilizationCallback

__all__ = ["HealthCallback", "HealthReport", "HealthWarning", "UtilizationCallback"]

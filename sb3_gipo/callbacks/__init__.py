"""Callbacks that make visible whether stale data still teach, for GIPO and for PPO."""

from sb3_gipo.callbacks.utilization import UtilizationCallback

__all__ = ["UtilizationCallback"]

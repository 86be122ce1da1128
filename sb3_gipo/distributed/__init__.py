"""Asynchronous actors and a learner; see :class:`AsyncGIPO`."""

from sb3_gipo.distributed.async_gipo import AsyncGIPO

__all__ = ["AsyncGIPO"]

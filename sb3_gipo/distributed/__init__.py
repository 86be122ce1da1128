"""Asynchronous actors and a learner; see :class:`AsyncGIPO`."""

from sb3_gipo.distributed.async_gipo import AsyncGIPO
from sb3_gipo.distributed.eval_callback import AsyncEvalCallback
from sb3_gipo.distributed.faults import ActorFailedWarning, ActorsFailedError
from sb3_gipo.distributed.lag_watch import LagGrowsWarning

__all__ = ["ActorFailedWarning", "ActorsFailedError", "AsyncEvalCallback", "AsyncGIPO", "LagGrowsWarning"]

"""Chooses where the actors run."""

import dataclasses
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from sb3_gipo.distributed.backend import Backend
from sb3_gipo.distributed.faults import Supervisor
from sb3_gipo.distributed.serial import SerialBackend
from sb3_gipo.distributed.signals import unheard_by_what_begins

if TYPE_CHECKING:
    from sb3_gipo.distributed.async_gipo import AsyncGIPO

BACK_OFF, LONGEST_BACK_OFF, MAKING_TAKES = 1.0, 60.0, 300.0  # seconds


def make(model: "AsyncGIPO") -> Backend:
    """
    :param model: with its arguments
    :return: its actors
    :raises ImportError: without Ray, where it is asked for
    """
    plan = model._plan()
    if model.backend == "serial":
        return SerialBackend(plan, model.num_actors, model.lag)
    try:
        from sb3_gipo.distributed.ray_backend import RayBackend
    except ImportError as error:
        raise ImportError(
            "Asynchronous actors need Ray: pip install 'sb3-gipo[ray]'. Without it there is `backend=\"serial\"`, which "
            "collects in this process."
        ) from error
    supervisor = Supervisor(
        model.num_actors,
        patience=model.max_failures,
        back_off=BACK_OFF,
        longest_back_off=LONGEST_BACK_OFF,
        hang_after=model.hang_seconds,
        making_takes=MAKING_TAKES,
        now=time.monotonic(),
    )
    # what arrives when is chance already: here nobody counts on torch's random numbers
    plan = dataclasses.replace(plan, on_arrays=True)
    # Where its object store has ended Ray ends who has something there, at once and without a word: no checkpoint is left.
    with nullcontext() if model.checkpoint_path is None else unheard_by_what_begins():
        return RayBackend(plan, model.num_actors, model.max_queue, supervisor, model.ray_address, model.actor_resources)

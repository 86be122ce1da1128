"""What all callbacks that look at updates have in common."""

import warnings
import weakref
from abc import abstractmethod

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_gipo.callbacks.observers import Observer, observer_of
from sb3_gipo.learner.observed import ObservedUpdate


class UpdateCallback(BaseCallback):
    """
    Sees every update of GIPO, PPO, MaskablePPO and RecurrentPPO once, when it is over: at the start of the next rollout, or at
    the end of training.

    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    """

    def __init__(self, verbose: int = 0) -> None:
        super().__init__(verbose)
        self._seen = 0
        self._sees_rollouts = False
        self._watched: weakref.ref[BaseAlgorithm] | None = None

    def _init_callback(self) -> None:
        self._observer: Observer = observer_of(self.model)
        self._observer.begin()
        if self._watched is None or self._watched() is not self.model:
            self._on_new_model()
        self._watched = weakref.ref(self.model)
        latest = self._observer.latest()
        self._seen = 0 if latest is None else latest.number
        self._sees_rollouts = False

    def _on_rollout_start(self) -> None:
        self._sees_rollouts = True
        self._look()

    def _on_step(self) -> bool:
        if not self._sees_rollouts:
            self._sees_rollouts = True  # say it once
            warnings.warn(
                f"{type(self).__name__} sees no updates inside of a callback that calls it now and then (EveryNTimesteps, "
                "EvalCallback): SB3 does not tell such callbacks of rollouts. Put it beside that callback, in the list.",
                UserWarning,
                stacklevel=2,
            )
        return True

    def _on_rollout_end(self) -> None:
        self._observer.watch()

    def _on_training_end(self) -> None:
        self._look()

    def _look(self) -> None:
        update = self._observer.latest()
        if update is not None and update.number != self._seen:
            self._seen = update.number
            self._on_update(update)

    def _on_new_model(self) -> None:  # nothing to forget, unless a subclass says so
        """The callback is used for another model than before, or for the first."""

    @abstractmethod
    def _on_update(self, update: ObservedUpdate) -> None:
        """
        :param update: that is over since the last call
        """

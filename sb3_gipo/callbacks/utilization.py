"""``UtilizationCallback``: how stale the data are and how much of them moves the policy, in the log."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common import logger as sb3_logger

from sb3_gipo import settings
from sb3_gipo.callbacks.metrics import (
    Metrics,
    metrics_by_age,
    overall_metrics,
    policy_gradient_norms,
    split_by_age,
    stored_by_age,
)
from sb3_gipo.callbacks.watching import UpdateCallback
from sb3_gipo.learner.observed import ObservedUpdate
from sb3_gipo.learner.samples import as_numbers, update_metrics
from sb3_gipo.ops.utilization import EPS_C, EPS_W
from sb3_gipo.replay_algorithm import ReplayOnPolicyAlgorithm

# Only TensorBoard can show these, or only there they do not drown everything else.
PICTURES = ("stdout", "log", "json", "csv")
DETAILS = ("stdout", "log")
# Without a replay these are zeros, or what another line says already: not for the table on the screen.
SAID_ALREADY = {
    *(f"lag/version_gap_{name}" for name in ("mean", "min", "max")),
    *("lag/old_frac", "utilization/old_share", "utilization/dead_frac_if_clipped", "utilization/suppressed_frac"),
    *("utilization/trust_below_0.1", "utilization/trust_below_0.5", "replay/replayed_frac", "train/kl_previous"),
}


class UtilizationCallback(UpdateCallback):
    """
    Log how far the learner has moved from the data, and how much of the data still moves it (paper, C.3 and C.4), overall and
    by age. One line for a run you already have::

        PPO("MlpPolicy", env, tensorboard_log="logs").learn(1_000_000, callback=UtilizationCallback())

    Works for GIPO and for unmodified SB3 PPO, MaskablePPO and RecurrentPPO. The run stays the same bit for bit. Every key is
    described in ``docs/metrics.md``. Like all of SB3's ``train/`` keys, those of an update appear with the log of the next
    iteration.

    :param histogram_freq: updates between two histograms by age and norms of the policy gradient by age; 0: none
    :param figure_freq: updates between two pictures of the multiplier against the ratio; 0: none
    :param by_age: log the quantities for each bucket of the version gap too, where a replay gives more than one
    :param eps_w: multipliers in (0, ``eps_w``) count as suppressed
    :param eps_c: contributions ``|w A|`` below ``eps_c`` count as near zero
    :param verbose: Verbosity level: 0 for no output, 1 for info messages, 2 for debug messages
    :raises ValueError: for a frequency that is not a whole number of at least 0, or a threshold that is not above 0
    """

    def __init__(
        self,
        histogram_freq: int = 10,
        figure_freq: int = 40,
        by_age: bool = True,
        eps_w: float = EPS_W,
        eps_c: float = EPS_C,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        settings.check_at_least("histogram_freq", histogram_freq, 0, integer=True)
        settings.check_at_least("figure_freq", figure_freq, 0, integer=True)
        settings.check_above("eps_w", eps_w, 0)
        settings.check_above("eps_c", eps_c, 0)
        self.histogram_freq = histogram_freq
        self.figure_freq = figure_freq
        self.by_age = by_age
        self.eps_w = eps_w
        self.eps_c = eps_c
        self._rollout_start = 0.0
        self._clock: tuple[float, float] | None = None  # when the latest rollout began and when it ended

    def _on_new_model(self) -> None:
        self._clock = None

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        self._rollout_start = time.perf_counter()

    def _on_rollout_end(self) -> None:
        self._clock = self._rollout_start, time.perf_counter()
        super()._on_rollout_end()

    def _on_update(self, update: ObservedUpdate) -> None:
        if isinstance(self.model, ReplayOnPolicyAlgorithm):
            old_threshold = self.model.old_threshold
            self._log_replay(self.model, update)
        else:
            old_threshold = 0
            self._log_clipped(update)
        if (self.eps_w, self.eps_c) != (EPS_W, EPS_C):
            self._log(update_metrics(update.samples, old_threshold, self.eps_w, self.eps_c))
        self._log(overall_metrics(update), quiet="ratio/")
        if self.by_age and bool((update.samples.version_gap > 0).any()):  # of one age everything is said already
            self._log_by_age(metrics_by_age(update.samples, self.eps_w, self.eps_c))
        if not bool(th.isfinite(update.samples.log_ratio).all()):
            return  # there is nothing to draw of a policy that has broken
        if self.histogram_freq and update.number % self.histogram_freq == 0:
            self._log_histograms(update)
            self._try(self._log_gradient_norms, update)
        if self.figure_freq and update.number % self.figure_freq == 0:
            self._try(self._log_figure, update, old_threshold)

    def _try(self, log: Callable[..., None], *args: Any) -> None:
        """What needs the user's own policy or surrogate again, outside of training, may fail: that must not end the run."""
        try:
            log(*args)
        except Exception as error:
            warnings.warn(
                f"UtilizationCallback goes on without {log.__name__.removeprefix('_log_').replace('_', ' ')} of update "
                f"{self._seen}: {type(error).__name__}: {error}",
                UserWarning,
                stacklevel=2,
            )

    def _log_clipped(self, update: ObservedUpdate) -> None:
        """What GIPO logs by itself."""
        model: Any = self.model
        for key, value in update.metrics.items():
            self.logger.record(key, value, exclude=DETAILS if key in SAID_ALREADY else None)
        size = model.rollout_buffer.buffer_size * model.n_envs
        self.logger.record("replay/reuse_mean", len(update.samples.version_gap) / size)
        if self._clock is not None:
            started, ended = self._clock
            self.logger.record("time/collect", ended - started)
            self.logger.record("time/update", time.perf_counter() - ended)

    def _log_replay(self, model: ReplayOnPolicyAlgorithm, update: ObservedUpdate) -> None:
        if model.replay_buffer is None or len(model.replay_buffer) == 0:
            return
        overall, by_age = stored_by_age(model.replay_buffer, version=update.number - 1)
        self._log({f"replay/{name}": value for name, value in overall.items()})
        if self.by_age:
            self._log_by_age(by_age)

    def _log_histograms(self, update: ObservedUpdate) -> None:
        self.logger.record("lag/version_gap", update.samples.version_gap.cpu(), exclude=PICTURES)
        for label, samples in split_by_age(update.samples):
            self.logger.record(f"by_age/log_ratio/{label}", samples.log_ratio.float().cpu(), exclude=PICTURES)
            self.logger.record(f"by_age/multiplier/{label}", samples.multiplier.float().cpu(), exclude=PICTURES)

    def _log_gradient_norms(self, update: ObservedUpdate) -> None:
        norms = policy_gradient_norms(update.last, update.surrogate, self.model.policy)
        self._log_by_age({label: {"policy_grad_norm": norm} for label, norm in norms.items()})

    def _log_figure(self, update: ObservedUpdate, old_threshold: int) -> None:
        from sb3_gipo.callbacks.figure import draw_multiplier  # matplotlib is slow to import and not needed to train

        name = type(self.model).__name__
        figure = draw_multiplier(update, old_threshold, f"{name}, update {update.number}, {self.model.num_timesteps} steps")
        self.logger.record("utilization/multiplier", sb3_logger.Figure(figure, close=True), exclude=PICTURES)

    def _log_by_age(self, described: dict[str, Metrics]) -> None:
        named = {f"by_age/{name}/{label}": value for label, part in described.items() for name, value in part.items()}
        self._log(named, quiet="by_age/")

    def _log(self, metrics: Metrics, quiet: str | None = None) -> None:
        """:param quiet: keys that begin so are not printed"""
        has_ages = isinstance(self.model, ReplayOnPolicyAlgorithm)
        for key, value in as_numbers(metrics).items():
            is_quiet = (quiet is not None and key.startswith(quiet)) or (key in SAID_ALREADY and not has_ages)
            self.logger.record(key, value, exclude=DETAILS if is_quiet else None)

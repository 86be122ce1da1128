"""``HealthCallback``: says in words what is wrong with a run, since when, and what to change."""

import math
import pathlib
import sys
import warnings
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_gipo.callbacks.observers import Arrays
from sb3_gipo.callbacks.symptoms import BROKEN_STEP, SYMPTOMS, Sighting, TroubleEpisodes
from sb3_gipo.callbacks.watching import UpdateCallback
from sb3_gipo.learner.objective import NonFiniteUpdateError
from sb3_gipo.learner.observed import ObservedUpdate
from sb3_gipo.learner.samples import as_numbers
from sb3_gipo.ops.losses import k3_divergence
from sb3_gipo.ops.ratios import trust_summary
from sb3_gipo.ops.utilization import quantile
from sb3_gipo.replay_algorithm import ReplayOnPolicyAlgorithm
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.recorder import NonFiniteStepError, step_arrays
from sb3_gipo.rollouts.replay_file import writable
from sb3_gipo.rollouts.types import Observation, map_observation, observation_parts

NAMES: tuple[str, ...] = tuple(symptom.name for symptom in SYMPTOMS)
# A constant reward is trouble when it was all that so many episodes (or, where episodes do not end, steps) had to offer.
ENOUGH_EPISODES, ENOUGH_STEPS = 20, 50_000
PACKAGES = ("sb3_gipo", "stable_baselines3", "sb3_contrib")
_NON_FINITE = next(symptom for symptom in SYMPTOMS if symptom.name == "non_finite")


class HealthWarning(UserWarning):
    """Something is wrong with a run; the message says what, since when, and what to change."""


class HealthReport(NamedTuple):
    """The beginning of one episode of trouble."""

    symptom: str  # one of ``HealthCallback.symptoms``
    message: str  # what is wrong, since when, and what to change
    since_timesteps: int  # environment steps when it was first seen
    timesteps: int  # environment steps now
    batch: pathlib.Path | None  # where the offending minibatch or step was saved


class HealthCallback(UpdateCallback):
    """
    Watch a run of GIPO, PPO, MaskablePPO or RecurrentPPO, and warn (:class:`HealthWarning`) when something is wrong with it:
    once for each episode of trouble, with the numbers, since when, and what to change. Also in the log: ``health/<symptom>``
    (1 while it lasts) and the words as text ``health/report``. A run that is watched stays the same bit for bit.

    The symptoms: ``non_finite``, ``no_reward_signal``, ``kl_runaway``, ``sigma_too_narrow``, ``sigma_too_wide``,
    ``heavy_ratio_tail``, ``utilization_collapse``, ``replay_too_old``, ``entropy_collapse``, ``value_not_explaining``. Their
    thresholds and remedies are in ``docs/metrics.md``. What follows from another symptom is not reported beside it.

    :param save_path: folder for the offending minibatch (or step, where an environment returned what is not finite) of each
        report, as ``.npz``; ``None``: nothing is saved
    :param on_report: called with each :class:`HealthReport`
    :param stop_on: names of symptoms that end the training, with the model as it then is
    :param ignore: names of symptoms not to look for
    :param verbose: 0: no output but the warnings; 1: also say when an episode is over
    :raises ValueError: for a name that is not one of the symptoms
    """

    symptoms = NAMES

    def __init__(
        self,
        save_path: str | pathlib.Path | None = None,
        on_report: Callable[[HealthReport], None] | None = None,
        stop_on: Collection[str] = (),
        ignore: Collection[str] = (),
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        _check_names("stop_on", stop_on)
        _check_names("ignore", ignore)
        self.save_path = None if save_path is None else pathlib.Path(save_path)
        self.on_report = on_report
        self.stop_on = frozenset(stop_on)
        self.ignore = frozenset(ignore)
        self.reports: list[HealthReport] = []
        self._must_stop = False
        self._guards_itself = False
        self._normalizer = Normalizer(None)
        self._on_new_model()

    # ---------------------------------------------------------------- events

    def _on_new_model(self) -> None:
        self.reports = []
        self._episodes = TroubleEpisodes(tuple(symptom for symptom in SYMPTOMS if symptom.name not in self.ignore))
        self._rewards = RewardSignal()
        self._first_entropy: float | None = None

    def _on_training_start(self) -> None:
        self._must_stop = False
        self._observer.on_failure(self._on_failure)
        self._normalizer = Normalizer(self.training_env)
        self._guards_itself = isinstance(self.model, ReplayOnPolicyAlgorithm)

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        self._rewards.start_rollout()
        last_obs = self.model._last_obs
        if not self._guards_itself and last_obs is not None:
            self._check("an observation", last_obs)

    def _on_step(self) -> bool:
        if not self._guards_itself:
            self._check_step()
        if not self._rewards.varies:
            rewards = self._normalizer.raw_reward(self.locals["rewards"])
            self._rewards.see(rewards, self.locals["dones"], self.locals["infos"])
        return super()._on_step() and not self._must_stop

    # ---------------------------------------------------------------- what is looked at

    def _on_update(self, update: ObservedUpdate) -> None:
        numbers = self._numbers(update)
        before = set(self._episodes.active)
        for sighting in self._episodes.see(numbers, update.number, self.model.num_timesteps):
            failed = update.failed if sighting.name == _NON_FINITE.name else {}
            self._report(sighting, failed or update.last.arrays)
        for name in self._episodes.names:
            self.logger.record(f"health/{name}", int(name in self._episodes.active), exclude=("stdout", "log"))
        if self.verbose >= 1:
            for name in sorted(before - self._episodes.active):
                print(f"HealthCallback: {name} is over after {self.model.num_timesteps} timesteps.")

    def _numbers(self, update: ObservedUpdate) -> dict[str, float]:
        """Everything that symptoms are judged by: what was logged of this update, and a few more."""
        logged = {
            key: float(value)
            for key, value in self.logger.name_to_value.items()
            if key.startswith("train/") and isinstance(value, (int, float, np.number))
        }
        samples = update.samples
        more = {
            "train/kl_previous": k3_divergence(samples.start_log_ratio).mean(),
            "start_log_ratio_p95": quantile(samples.start_log_ratio.abs(), 0.95),
            "utilization/trust_below_0.1": trust_summary(samples.multiplier, samples.log_ratio).below_a_tenth,
        }
        numbers = logged | update.metrics | as_numbers(more)
        numbers["minibatches"] = len(update.grad_norms) + logged.get("train/skipped_steps", 0.0)
        if self._rewards.undecided:  # without any reward all else follows from that: first see whether there is one
            numbers = {key: value for key, value in numbers.items() if not math.isfinite(value)}
        numbers["no_reward"] = float(self._rewards.teaches_nothing)
        numbers["reward"] = self._rewards.constant or 0.0
        # With some actions forbidden, how much choice is left depends on the state; of squashed actions SB3 logs an estimate
        # that says nothing of their standard deviation.
        masked = hasattr(getattr(self.model, "rollout_buffer", None), "action_masks")
        if "train/entropy_loss" in logged and not masked and not self.model.policy.squash_output:
            entropy = -logged["train/entropy_loss"]
            self._first_entropy = entropy if self._first_entropy is None else self._first_entropy
            numbers["relative_entropy"] = relative_entropy(entropy, self._first_entropy, self.model.action_space)
        return numbers

    def _check_step(self) -> None:
        """SB3's own algorithms train on what is not finite, or fail later and elsewhere; GIPO refuses it by itself."""
        # the raw ones: what VecNormalize makes of an infinite number may be finite
        self._check("an observation", self._normalizer.latest_observation(self.locals["new_obs"]))
        self._check("a reward", self._normalizer.raw_reward(self.locals["rewards"]))
        if self.locals["dones"].any():
            for index, info in enumerate(self.locals["infos"]):
                # only those that are bootstrapped from
                terminal = info.get("terminal_observation") if info.get("TimeLimit.truncated", False) else None
                if terminal is not None:
                    rows = map_observation(lambda part: np.asarray(part)[None], terminal)
                    self._check("a terminal observation", rows, first=index)

    def _check(self, what: str, value: Observation, first: int = 0) -> None:
        """:param first: environment of the first row"""
        for part in observation_parts(value):
            if part.dtype.kind == "f" and not np.isfinite(part).all():
                index = first + int(np.flatnonzero(~np.isfinite(part.reshape(len(part), -1)).all(axis=1))[0])
                words = f"environment {index}: the environment returned {what} that is not finite"
                self._report_non_finite(words, BROKEN_STEP, step_arrays(self.locals, index))

    def _on_failure(self, error: Exception, arrays: Arrays) -> None:
        """An exception is about to end the run: of a step or an update that was not finite, or of something else."""
        if isinstance(error, NonFiniteStepError):
            self._report_non_finite(error.summary, BROKEN_STEP, arrays)
        elif isinstance(error, NonFiniteUpdateError):
            self._report_non_finite(str(error), _NON_FINITE.remedy, arrays)
        elif not all(bool(th.isfinite(parameter).all()) for parameter in self.model.policy.parameters()):
            self._report_non_finite("the parameters of the policy are not finite any more", _NON_FINITE.remedy, arrays)

    # ---------------------------------------------------------------- what is said

    def _report_non_finite(self, what: str, remedy: str, arrays: Arrays) -> None:
        """Outside of the round of updates, because the run may not see another."""
        update, timesteps = self._seen + 1, self.model.num_timesteps
        if self._episodes.tell(_NON_FINITE.name, update, timesteps):
            what = f"non-finite values: {what[0].lower()}{what[1:].rstrip('.')}"
            self._report(Sighting(_NON_FINITE.name, what, remedy, update, timesteps), arrays)

    def _report(self, sighting: Sighting, arrays: Arrays) -> None:
        message = (
            f"{sighting.what[0].upper()}{sighting.what[1:]}. Since step {sighting.since_timesteps:,} "
            f"(update {sighting.since_update}). What to do: {sighting.remedy}"
        )
        saved = None
        if self.save_path is not None and arrays:
            try:
                saved = self._save(sighting.name, arrays)
                message += f" The data are in {saved}."
            except OSError as error:  # a full disk is no reason to end the training too
                message += f" The data could not be saved in {self.save_path}: {error}."
        report = HealthReport(sighting.name, message, sighting.since_timesteps, self.model.num_timesteps, saved)
        self.reports.append(report)
        waiting = self.logger.name_to_value.get("health/report")  # of the same round, or not yet dumped
        self.logger.record("health/report", f"{waiting} || {message}" if waiting else message, exclude=("stdout", "log"))
        self._must_stop |= sighting.name in self.stop_on
        if self.on_report is not None:
            self.on_report(report)
        warnings.warn(message, HealthWarning, stacklevel=_level_of_the_user())

    def _save(self, name: str, arrays: Arrays) -> pathlib.Path:
        assert self.save_path is not None
        path = self.save_path / f"{name}_{self.model.num_timesteps}_steps.npz"
        as_numpy: dict[str, Any] = {
            key: value.detach().cpu().numpy() if isinstance(value, th.Tensor) else value for key, value in arrays.items()
        }
        with writable(path, "npz") as file:
            np.savez_compressed(file, **as_numpy)  # type: ignore[arg-type]  # NumPy's own arguments have other types
        return path


def _level_of_the_user() -> int:
    """Where a warning should point: the first line above ours and SB3's, where ``learn`` was called."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in PACKAGES:
        frame, level = frame.f_back, level + 1
    return level


class RewardSignal:
    """Whether the rewards of a run can tell one action from another."""

    def __init__(self) -> None:
        self.constant: float | None = None  # the one reward since it last varied
        self.varies = False  # in this rollout
        self._episodes = self._steps = 0  # with nothing but that reward
        self._ever_ended = False  # any episode, before its time

    @property
    def undecided(self) -> bool:
        """Whether nothing but zeros was seen, and not enough of them to say so."""
        return self.constant == 0.0 and not self.varies and not self.teaches_nothing

    @property
    def teaches_nothing(self) -> bool:
        """Whether enough was seen, and it was the same reward at every step."""
        enough = self._episodes >= ENOUGH_EPISODES or self._steps >= ENOUGH_STEPS
        return enough and not self.varies

    def start_rollout(self) -> None:
        """A rollout begins."""
        self.varies = False

    def see(self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """
        :param rewards: raw, of one step [N]
        :param dones: whether an episode ended [N]
        :param infos: of the step [N]
        """
        if self.constant is None:
            self.constant = float(rewards[0])
        self._steps += len(rewards)
        if dones.any():
            self._episodes += int(dones.sum())
            if not self._ever_ended:
                ended = zip(dones, infos, strict=True)
                self._ever_ended = any(done and not info.get("TimeLimit.truncated", False) for done, info in ended)
        # where the reward is the same at every step but an episode can end early, its length is what is learnt (a solved
        # CartPole then sees no end any more); of zero any number of steps is the same
        self.varies = bool((rewards != self.constant).any()) or (self._ever_ended and self.constant != 0.0)
        if self.varies:
            self.constant, self._episodes, self._steps = None, 0, 0


def relative_entropy(entropy: float, first: float, space: spaces.Space[Any]) -> float:
    """
    How much choice a policy has left.

    :param entropy: of the action distribution, in nats
    :param first: the same at the beginning of the run
    :param space: of the actions
    :return: discrete: part of the largest entropy that is possible; continuous: standard deviation (geometric mean over
        dimensions) as part of the one it began with
    """
    if isinstance(space, spaces.Box):
        return math.exp(min((entropy - first) / max(int(np.prod(space.shape)), 1), 50.0))
    if isinstance(space, spaces.Discrete):
        largest = math.log(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        largest = float(np.log(space.nvec).sum())
    else:
        assert isinstance(space, spaces.MultiBinary)
        largest = math.log(2.0) * float(np.prod(space.shape))
    return entropy / largest if largest > 0 else 1.0


def _check_names(argument: str, names: Collection[str]) -> None:
    if isinstance(names, str):
        raise ValueError(f"`{argument}` is {names!r}; give a collection of names, such as [{names!r}].")
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise ValueError(f"`{argument}` names {', '.join(unknown)}; the symptoms are {', '.join(NAMES)}.")

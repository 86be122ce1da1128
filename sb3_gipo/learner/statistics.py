"""What an update did, gathered on the device and reduced when it is over."""

from collections.abc import Callable

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo.learner.objective import ObjectiveSettings, ObjectiveTerms
from sb3_gipo.learner.observed import ObservedUpdate, batch_arrays, last_minibatch
from sb3_gipo.learner.samples import UpdateSamples, as_numbers, update_metrics
from sb3_gipo.learner.step import StepOutcome
from sb3_gipo.ops.losses import k3_divergence
from sb3_gipo.rollouts.types import ReplayBatch

# scalars of a minibatch that are logged as their mean over the update, and their logger keys
_MEANS = {
    "policy_loss": "policy_gradient_loss",
    "value_loss": "value_loss",
    "entropy_loss": "entropy_loss",
    "loss": "loss",
}


class UpdateStatistics:
    """
    Keeps what every minibatch left behind and reduces it once, at the end of ``train()``.

    :param old_threshold: version gap from which a sample counts as old
    """

    def __init__(self, old_threshold: int) -> None:
        self._old_threshold = old_threshold
        self._outcomes: list[tuple[StepOutcome, th.Tensor]] = []  # with the version gaps of the minibatch
        self._epoch_start = 0
        self._last: tuple[ReplayBatch, ObjectiveTerms] | None = None
        self._last_skipped: ReplayBatch | None = None

    def start_epoch(self) -> None:
        """As in PPO, ``train/approx_kl`` is the divergence during the last epoch."""
        self._epoch_start = len(self._outcomes)

    def add(self, outcome: StepOutcome, batch: ReplayBatch) -> None:
        """
        :param outcome: of one minibatch
        :param batch: that minibatch
        """
        self._outcomes.append((outcome, batch.version_gap))
        if outcome.finite is False:
            self._last_skipped = batch
        else:  # on a GPU it is not known yet whether it was finite
            self._last = batch, outcome.terms

    def settle(self) -> None:
        """Wait for the device and set aside the minibatches whose gradient was not finite."""
        flags = [outcome.finite for outcome, _ in self._outcomes]
        waiting = [flag for flag in flags if isinstance(flag, th.Tensor)]
        if not waiting:
            return
        known = iter(th.stack(waiting).tolist())
        finite = [next(known) if isinstance(flag, th.Tensor) else flag for flag in flags]
        self._outcomes = [
            (outcome._replace(finite=flag), gap) for flag, (outcome, gap) in zip(finite, self._outcomes, strict=True)
        ]
        if not finite[-1] and self._last is not None:
            self._last_skipped = self._last[0]

    @property
    def skipped_steps(self) -> int:
        """Minibatches whose gradient was not finite, as far as that is settled."""
        return sum(outcome.finite is False for outcome, _ in self._outcomes)

    @property
    def any_step(self) -> bool:
        """Whether any minibatch changed the parameters, or was about to when the update was stopped; once settled."""
        return self.skipped_steps < len(self._outcomes)

    @property
    def last_loss(self) -> float:
        """Loss of the latest minibatch that counts."""
        return float(self._counted()[-1][0].terms.loss)

    def _counted(self, start: int = 0) -> list[tuple[StepOutcome, th.Tensor]]:
        return [kept for kept in self._outcomes[start:] if kept[0].finite is not False]

    def observed(self, number: int, policy: ActorCriticPolicy, how: ObjectiveSettings) -> ObservedUpdate:
        """
        :param number: of updates so far
        :param policy: that was trained
        :param how: the terms of the loss
        :return: what this update leaves behind, reduced to what is logged of it
        """
        self.settle()
        assert self._last is not None
        counted = self._counted()
        samples = _samples([(outcome.terms, gap) for outcome, gap in counted])
        norms = [outcome.grad_norm for outcome, _ in counted if outcome.grad_norm is not None]
        grad_norms = th.stack(norms) if norms else th.zeros(0)
        means = {
            f"train/{key}": th.stack([getattr(outcome.terms, name) for outcome, _ in counted]).mean()
            for name, key in _MEANS.items()
        }
        ratios = [outcome.terms.log_ratio for outcome, _ in counted]
        means["train/clip_fraction"] = _mean_of_means(ratios, lambda x: ((x.exp() - 1).abs() > how.clip_range).float())
        last_epoch = [outcome.terms.start_log_ratio for outcome, _ in self._counted(self._epoch_start)]
        if last_epoch:
            means["train/approx_kl"] = _mean_of_means(last_epoch, k3_divergence)
        if norms:
            means["train/grad_norm"] = grad_norms.mean()
        return ObservedUpdate(
            number=number,
            samples=samples,
            metrics=as_numbers(means | update_metrics(samples, self._old_threshold)),
            surrogate=how.surrogate,
            clip_range=float(how.clip_range),
            grad_norms=grad_norms,
            last=last_minibatch(policy, *self._last, how),
            failed={} if self._last_skipped is None else batch_arrays(self._last_skipped),
        )


def _mean_of_means(minibatches: list[th.Tensor], function: Callable[[th.Tensor], th.Tensor]) -> th.Tensor:
    """PPO logs the mean over minibatches of their means; computed for all of them at once."""
    pieces = th.split(function(th.cat(minibatches)), [len(minibatch) for minibatch in minibatches])
    return th.stack([piece.mean() for piece in pieces]).mean()


def _samples(parts: list[tuple[ObjectiveTerms, th.Tensor]]) -> UpdateSamples:
    """One entry for each ratio: with a ratio for each dimension, an advantage and a gap count D times."""

    def ratios(values: list[th.Tensor]) -> th.Tensor:
        joined = th.cat(values)
        spread = joined.unsqueeze(1) if multiplier.dim() > joined.dim() else joined
        return spread.expand_as(multiplier).flatten()

    multiplier = th.cat([terms.multiplier for terms, _ in parts])
    version_gap = th.cat([gap for _, gap in parts])
    return UpdateSamples(
        multiplier=multiplier.flatten(),
        advantages=ratios([terms.advantages for terms, _ in parts]),
        log_ratio=ratios([terms.log_ratio for terms, _ in parts]),
        ratio_gap=ratios([version_gap]),
        joint_log_ratio=th.cat([terms.joint_log_ratio for terms, _ in parts]),
        start_log_ratio=th.cat([terms.start_log_ratio for terms, _ in parts]),
        version_gap=version_gap,
    )

"""What an update did, gathered on the device and reduced when it is over."""

from collections import defaultdict

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_gipo.learner.objective import ObjectiveSettings, ObjectiveTerms
from sb3_gipo.learner.observed import ObservedUpdate, batch_arrays, last_minibatch
from sb3_gipo.learner.samples import UpdateSamples, as_numbers, update_metrics
from sb3_gipo.rollouts.types import ReplayBatch


class UpdateStatistics:
    """
    Collects detached tensors of every minibatch and reduces them once, at the end of ``train()``.

    :param old_threshold: version gap from which a sample counts as old
    """

    def __init__(self, old_threshold: int) -> None:
        self._old_threshold = old_threshold
        self._scalars: dict[str, list[th.Tensor]] = defaultdict(list)
        self._samples: dict[str, list[th.Tensor]] = defaultdict(list)
        self._last: tuple[ReplayBatch, ObjectiveTerms] | None = None
        self._last_skipped: ReplayBatch | None = None
        self.skipped_steps = 0

    def start_epoch(self) -> None:
        """Forget the divergence of the epoch before: as in PPO, ``train/approx_kl`` is that of the last one."""
        self._scalars["approx_kl"].clear()

    def add(self, terms: ObjectiveTerms, batch: ReplayBatch) -> None:
        """
        :param terms: of one minibatch
        :param batch: that minibatch
        """
        named = {"policy_gradient_loss": terms.policy_loss, "value_loss": terms.value_loss, "entropy_loss": terms.entropy_loss}
        named.update({"clip_fraction": terms.clip_fraction, "approx_kl": terms.approx_kl, "loss": terms.loss})
        for name, value in named.items():
            self._scalars[name].append(value.detach())
        # one entry for each ratio: with a ratio for each dimension, an advantage and a gap count D times
        ratios = {"multiplier": terms.multiplier, "log_ratio": terms.log_ratio}
        ratios.update({"advantages": terms.advantages, "ratio_gap": batch.version_gap})
        for name, value in ratios.items():
            spread = value.unsqueeze(1) if terms.multiplier.dim() > value.dim() else value
            self._samples[name].append(spread.expand_as(terms.multiplier).flatten().detach())
        self._samples["joint_log_ratio"].append(terms.joint_log_ratio.detach())
        self._samples["start_log_ratio"].append(terms.start_log_ratio)
        self._samples["version_gap"].append(batch.version_gap)
        self._last = batch, terms

    def skip(self, batch: ReplayBatch) -> None:
        """
        :param batch: minibatch whose gradient was not finite
        """
        self.skipped_steps += 1
        self._last_skipped = batch

    def add_gradient(self, norm: th.Tensor) -> None:
        """
        :param norm: of the gradient of one minibatch, before clipping
        """
        self._scalars["grad_norm"].append(norm.detach())

    @property
    def any_step(self) -> bool:
        """Whether any minibatch changed the parameters, or was about to when the update was stopped."""
        return bool(self._samples["version_gap"])

    @property
    def last_loss(self) -> float:
        """Loss of the latest minibatch."""
        return float(self._scalars["loss"][-1])

    def observed(self, number: int, policy: ActorCriticPolicy, how: ObjectiveSettings) -> ObservedUpdate:
        """
        :param number: of updates so far
        :param policy: that was trained
        :param how: the terms of the loss
        :return: what this update leaves behind, reduced to what is logged of it
        """
        assert self._last is not None
        samples = UpdateSamples(**{name: th.cat(parts) for name, parts in self._samples.items()})
        means = {f"train/{name}": th.stack(parts).mean() for name, parts in self._scalars.items() if parts}
        norms = self._scalars["grad_norm"]
        return ObservedUpdate(
            number=number,
            samples=samples,
            metrics=as_numbers(means | update_metrics(samples, self._old_threshold)),
            surrogate=how.surrogate,
            clip_range=how.clip_range,
            grad_norms=th.stack(norms) if norms else th.zeros(0),
            last=last_minibatch(policy, *self._last, how),
            failed={} if self._last_skipped is None else batch_arrays(self._last_skipped),
        )

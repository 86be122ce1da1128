"""What an update did, gathered on the device and reduced when it is over."""

from collections import defaultdict

import torch as th

from sb3_gipo.learner.objective import ObjectiveTerms
from sb3_gipo.ops.losses import k3_divergence
from sb3_gipo.ops.surrogates import LOG_RATIO_BOUND, importance_ratio
from sb3_gipo.ops.utilization import lag, utilization


class UpdateStatistics:
    """
    Collects detached tensors of every minibatch and reduces them once, at the end of ``train()``.

    :param old_threshold: version gap from which a sample counts as old
    """

    def __init__(self, old_threshold: int) -> None:
        self._old_threshold = old_threshold
        self._scalars: dict[str, list[th.Tensor]] = defaultdict(list)
        self._samples: dict[str, list[th.Tensor]] = defaultdict(list)
        self.skipped_steps = 0

    def start_epoch(self) -> None:
        """Forget the divergence of the epoch before: as in PPO, ``train/approx_kl`` is that of the last one."""
        self._scalars["approx_kl"].clear()

    def add(self, terms: ObjectiveTerms, version_gap: th.Tensor) -> None:
        """
        :param terms: of one minibatch
        :param version_gap: of its samples [B]
        """
        named = {"policy_gradient_loss": terms.policy_loss, "value_loss": terms.value_loss, "entropy_loss": terms.entropy_loss}
        named.update({"clip_fraction": terms.clip_fraction, "approx_kl": terms.approx_kl, "loss": terms.loss})
        for name, value in named.items():
            self._scalars[name].append(value.detach())
        # one entry for each ratio: with a ratio for each dimension, an advantage and a gap count D times
        ratios = {"multiplier": terms.multiplier, "log_ratio": terms.log_ratio}
        ratios.update({"advantages": terms.advantages, "ratio_gap": version_gap})
        for name, value in ratios.items():
            spread = value.unsqueeze(1) if terms.multiplier.dim() > value.dim() else value
            self._samples[name].append(spread.expand_as(terms.multiplier).flatten().detach())
        self._samples["joint"].append(terms.joint_log_ratio.detach())
        self._samples["gap"].append(version_gap)

    def add_gradient(self, norm: th.Tensor) -> None:
        """
        :param norm: of the gradient of one minibatch, before clipping
        """
        self._scalars["grad_norm"].append(norm.detach())

    @property
    def any_step(self) -> bool:
        """Whether any minibatch changed the parameters, or was about to when the update was stopped."""
        return bool(self._samples["joint"])

    @property
    def last_loss(self) -> float:
        """Loss of the latest minibatch."""
        return float(self._scalars["loss"][-1])

    def reduce(self) -> dict[str, float]:
        """
        :return: logger key and value
        """
        logged = {f"train/{name}": th.stack(parts).mean() for name, parts in self._scalars.items() if parts}
        samples = {name: th.cat(parts) for name, parts in self._samples.items()}
        old = samples["ratio_gap"] > self._old_threshold
        used = utilization(samples["multiplier"], samples["advantages"], old)._asdict()
        if not bool(old.any()):  # of no old samples there is nothing to say
            del used["ess_old"], used["ess_eff_old"]
        trust = samples["multiplier"] / importance_ratio(samples["log_ratio"])
        used["trust_mean"] = trust.clamp(max=1.0).mean()  # PPO's ratio may be above the bound of this one
        logged.update({f"utilization/{name}": value for name, value in used.items()})
        late = lag(samples["gap"], samples["joint"], self._old_threshold)._asdict()
        logged.update({f"lag/{name}": value for name, value in late.items()})
        logged["replay/replayed_frac"] = (samples["gap"] > 0).float().mean()
        logged["train/kl_behaviour"] = k3_divergence(samples["joint"]).mean()
        logged["train/clamped_frac"] = (samples["log_ratio"].abs() > LOG_RATIO_BOUND).float().mean()
        values = th.stack([value.double() for value in logged.values()]).tolist()
        return dict(zip(logged, values, strict=True))

"""The numbers of a run that the three questions are answered from: means over the end of the run."""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from sb3_gipo.diagnosis.logs import Curve, Run

# The paper's summaries are means over the last 20 % of the environment steps (paper, C.4).
WINDOW = 0.2
# Which keys give an algorithm away; the first that fits.
GIPO_KEYS = ("train/sigma", "replay/size")
PPO_KEYS = ("train/clip_fraction", "train/clip_range")
OFF_POLICY_KEYS = ("train/critic_loss", "train/actor_loss", "rollout/exploration_rate", "train/ent_coef")
ON_POLICY_KEYS = ("train/explained_variance", "train/value_loss", "train/policy_loss")
# Where the learning curve is read, best first: returns of many episodes, then rarer evaluations, then success.
CURVES = ("rollout/ep_rew_mean", "eval/mean_reward", "rollout/success_rate", "eval/success_rate")
# A rise counts from this part of the range between the lowest and the highest value of the whole run.
RISE = 0.05
# A window of fewer logged values than this has no mean worth comparing.
ENOUGH = 3
USED_UP = "times a step is used, then thrown away"

Algorithm = Literal["GIPO", "PPO", "on-policy", "off-policy", "unknown"]
Direction = Literal["rising", "flat", "falling"]
Kind = Literal["measured", "estimate", "at most"]


class Number(NamedTuple):
    """
    A number behind an answer.

    :param label: in words
    :param value: mean over the window
    :param key: the logged key or keys it comes from
    :param share: whether it lies between 0 and 1 and reads best in percent
    :param kind: whether it was logged, estimated from what was logged, or is an upper bound
    """

    label: str
    value: float
    key: str
    share: bool = False
    kind: Kind = "measured"

    @property
    def text(self) -> str:
        """The value as it is printed."""
        small = abs(self.value) < 100
        said = f"{100 * self.value:.1f} %" if self.share else f"{self.value:.3g}" if small else f"{self.value:,.0f}"
        return said if self.kind == "measured" else f"{'at most' if self.kind == 'at most' else 'about'} {said}"


class Trend(NamedTuple):
    """
    Where the learning curve goes at the end of a run.

    :param key: of the curve
    :param direction: rising or falling where the mean of the last window differs from that of the window before it by
        ``RISE`` of the whole range and by more than the values scatter inside the two windows
    :param before: mean over the window before the last
    :param last: mean over the last window
    :param change: their difference as a part of the range of the whole run
    """

    key: str
    direction: Direction
    before: float
    last: float
    change: float


class Age(NamedTuple):
    """
    Samples of one age.

    :param label: the version gaps, such as ``2-3``
    :param oldest: the largest of them
    :param frac: share of the samples
    :param share: part of the contributions
    """

    label: str
    oldest: int
    frac: float
    share: float


@dataclass(frozen=True)
class Facts:
    """
    What is known of a run; ``None`` where the log does not say. Means over the window.

    :param algorithm: that wrote the log, as far as its keys tell
    :param replays: whether old rollouts are used again
    :param trend: of the learning curve
    :param collect_share: part of an iteration's time that goes into collection
    :param fps: environment steps per second
    :param uses: how often a step was drawn or passed over in training
    :param drift: 95th percentile of the absolute log-ratio
    :param old_frac: share of old samples
    :param old_share: part of the contributions that comes from old samples
    :param dead: share of samples without a policy gradient
    :param suppressed: share of samples with next to none
    :param if_clipped: share of the same samples that PPO's clip would leave without
    :param clip_fraction: share of ratios beyond PPO's clip range, whatever the advantage
    :param sigma: trust width
    :param size: transitions in the replay
    :param rollouts: rollouts in the replay
    :param ages: how many samples of each age there were and what they contributed, youngest first
    :param iterations: that logged an update
    :param divergence: from the policy at the start of an update
    :param symptoms: the ``health/`` flags that were raised, each with the share of the iterations
    """

    algorithm: Algorithm
    replays: bool
    trend: Trend | None = None
    collect_share: Number | None = None
    fps: Number | None = None
    uses: Number | None = None
    drift: Number | None = None
    old_frac: Number | None = None
    old_share: Number | None = None
    dead: Number | None = None
    suppressed: Number | None = None
    if_clipped: Number | None = None
    clip_fraction: Number | None = None
    sigma: Number | None = None
    size: Number | None = None
    rollouts: Number | None = None
    ages: tuple[Age, ...] = ()
    iterations: int = 0
    divergence: Number | None = None
    symptoms: tuple[Number, ...] = ()


def window_start(run: Run, windows: int = 1) -> float:
    """
    :param run: a run
    :param windows: how many windows before the end
    :return: the environment step after which the window begins
    """
    # a log of one step still has a window, which holds it
    return run.last_step - windows * WINDOW * (run.span or 1.0)


def window_mean(run: Run, key: str) -> float | None:
    """
    :param run: a run
    :param key: of a curve
    :return: its mean over the last ``WINDOW`` of the run's environment steps; ``None`` where nothing was logged there
    """
    values = _between(run.curves.get(key), window_start(run), np.inf)
    return float(values.mean()) if len(values) else None


def estimated_drift(divergence: np.ndarray) -> np.ndarray:
    """
    For a small divergence the log-ratio is about normal with variance ``2 KL``, so that 95 % of it lie within 1.96 deviations.

    :param divergence: ``train/approx_kl`` [...]; below 0, where its estimate can fall, counts as 0
    :return: 95th percentile of the absolute log-ratio [...], by estimate
    """
    drift: np.ndarray = 1.96 * np.sqrt(2 * np.maximum(divergence, 0.0))
    return drift


def gather(run: Run) -> Facts:
    """
    :param run: a run
    :return: what its log says
    """

    def number(label: str, key: str, share: bool = False) -> Number | None:
        mean = window_mean(run, key)
        return None if mean is None else Number(label, mean, key, share)

    return Facts(
        algorithm=_algorithm(run),
        replays="replay/size" in run.curves,
        trend=_trend(run),
        collect_share=_collect_share(run),
        fps=number("environment steps per second", "time/fps"),
        uses=_uses(run),
        drift=number("95th percentile of |log ratio|", "lag/abs_log_rho_p95") or _drift_from_divergence(run),
        old_frac=number("old samples, share of their number", "lag/old_frac", share=True),
        old_share=number("old samples, share of what moves the policy", "utilization/old_share", share=True),
        dead=number("samples without a policy gradient", "utilization/dead_frac", share=True),
        suppressed=number("samples with a weight below 0.01", "utilization/suppressed_frac", share=True),
        if_clipped=number("samples that PPO's clip would take it from", "utilization/dead_frac_if_clipped", share=True),
        clip_fraction=number("ratios beyond the clip range", "train/clip_fraction", share=True),
        sigma=number("trust width sigma", "train/sigma"),
        size=number("transitions in the replay", "replay/size"),
        rollouts=number("rollouts in the replay", "replay/rollouts"),
        ages=_ages(run),
        iterations=max((len(curve.steps) for key, curve in run.curves.items() if key.startswith("train/")), default=0),
        divergence=number("divergence of one update", "train/approx_kl"),
        symptoms=tuple(
            flag for key in run.curves if key.startswith("health/") if (flag := number(key, key, True)) and flag.value > 0
        ),
    )


def _algorithm(run: Run) -> Algorithm:
    known: tuple[tuple[Algorithm, tuple[str, ...]], ...] = (
        ("GIPO", GIPO_KEYS),
        ("PPO", PPO_KEYS),
        ("off-policy", OFF_POLICY_KEYS),
        ("on-policy", ON_POLICY_KEYS),
    )
    return next((name for name, keys in known if any(key in run.curves for key in keys)), "unknown")


def _between(curve: Curve | None, start: float, end: float) -> np.ndarray:
    """Values logged after ``start``, up to and with ``end``."""
    if curve is None:
        return np.zeros(0)
    values: np.ndarray = curve.values[(curve.steps > start) & (curve.steps <= end)]
    return values


def _trend(run: Run) -> Trend | None:
    """The first learning curve with enough values at the end of the run."""
    for key in CURVES:
        last = _between(run.curves.get(key), window_start(run), np.inf)
        before = _between(run.curves.get(key), window_start(run, 2), window_start(run))
        if min(len(last), len(before)) < ENOUGH:
            continue
        change = float(last.mean() - before.mean())
        spread = float(np.ptp(run.curves[key].values))
        scatter = float(np.sqrt((last.var() + before.var()) / 2))
        moved = abs(change) > max(RISE * spread, scatter)
        direction: Direction = "flat" if not moved else "rising" if change > 0 else "falling"
        return Trend(key, direction, float(before.mean()), float(last.mean()), change / spread if spread else 0.0)
    return None


def _collect_share(run: Run) -> Number | None:
    collect, update = window_mean(run, "time/collect"), window_mean(run, "time/update")
    if collect is None or update is None:
        return None
    targets = window_mean(run, "time/targets") or 0.0
    total = collect + update + targets
    share = collect / total if total > 0 else 0.0
    return Number("collection, share of an iteration's time", share, "time/collect", share=True)


def _uses(run: Run) -> Number | None:
    """With a replay what it counted; without one the epochs of an iteration, which are passes over the same rollout."""
    drawn = window_mean(run, "replay/reuse_mean")
    if drawn is not None:
        stays = "replay/size" in run.curves
        return Number("times a stored step was drawn so far" if stays else USED_UP, drawn, "replay/reuse_mean")
    updates, iterations = run.curves.get("train/n_updates"), run.curves.get("time/iterations")
    if updates is None or iterations is None:
        return None
    steps, first, second = np.intersect1d(updates.steps, iterations.steps, return_indices=True)
    rounds = float(np.ptp(iterations.values[second])) if len(steps) else 0.0
    if rounds == 0:
        return None
    passes = np.ptp(updates.values[first]) / rounds
    return Number(USED_UP, float(passes), "train/n_updates")


def _drift_from_divergence(run: Run) -> Number | None:
    divergence = window_mean(run, "train/approx_kl")
    if divergence is None:
        return None
    drift = float(estimated_drift(np.array(divergence)))
    return Number("95th percentile of |log ratio|", drift, "train/approx_kl", kind="estimate")


def _ages(run: Run) -> tuple[Age, ...]:
    """From ``by_age/frac/<label>`` and ``by_age/share/<label>``, where a label is ``0`` or ``2-3``."""
    ages: dict[int, Age] = {}
    for key in run.curves:
        gaps = re.fullmatch(r"by_age/frac/((\d+)(?:-(\d+))?)", key)
        if gaps is None:
            continue
        label, youngest, oldest = gaps.groups()
        frac, share = window_mean(run, key), window_mean(run, f"by_age/share/{label}")
        if frac is not None and share is not None:
            ages[int(youngest)] = Age(label, int(oldest or youngest), frac, share)
    return tuple(ages[youngest] for youngest in sorted(ages))

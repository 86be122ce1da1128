"""
What can be wrong with a run, judged from the numbers of one update, and in which words that is said.

Pure functions: numbers in, words out. Thresholds lie well outside of what healthy runs show (``docs/metrics.md`` says where).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

Numbers = Mapping[str, float]

# Healthy runs stay below; runs with a learning rate 1000 times too high are far above.
KL_RUNAWAY = 0.5  # train/kl_previous, with KL_RUNAWAY_LOG_RATIO: one far sample alone can make a mean large
KL_RUNAWAY_LOG_RATIO = 1.0  # 95th percentile of |log rho| to the policy at the start of the update
KL_DISASTER = 20.0  # ... from which one update is enough: after it a policy may be dead, and then no longer moves at all
HEAVY_TAIL = 3.0  # lag/abs_log_rho_p95: one sample in 20 is off by a factor of 20
USELESS = 0.4  # dead + suppressed part of the samples
NARROW = 0.4  # utilization/trust_below_0.1
HELD = 0.05  # sigma and tail: one-sided trust holds a policy inside a few sigma, where few samples are doubted
NARROW_LOG_RATIO = 1.0  # ... while the tail is no longer than this: the data are near, only sigma says they are far
WIDE = 0.95  # utilization/trust_mean, while the tail is longer than WIDE_LOG_RATIO
WIDE_LOG_RATIO = 1.5
ENTROPY = 0.02  # see `relative_entropy`
OLD_FRAC, OLD_SHARE = 0.3, 0.25  # old samples are so many, but give less than this part of their number
EXPLAINED = 0.05  # train/explained_variance
SKIPPED = 0.5  # part of the minibatches without a finite gradient
# What may follow from something worse is said only when that had the time to show.
PATIENCE_WITH_WHAT_FOLLOWS = 6
# Trouble comes in bursts: it is over when it has been gone for this many updates in a row.
RECOVERY = 10


class Symptom(NamedTuple):
    """One kind of trouble."""

    name: str
    says: Callable[[Numbers], str | None]  # what is wrong, with the numbers; ``None``: nothing
    remedy: str
    patience: int = 3  # updates in a row before it is said
    explains: tuple[str, ...] = ()  # what follows from it and need not be said too
    urgent: Callable[[Numbers], bool] | None = None  # when not to wait


def _no_reward(numbers: Numbers) -> str | None:
    if not numbers.get("no_reward"):
        return None
    ending = "" if numbers["reward"] == 0 else " and no episode ended early"
    return f"no reward signal: every reward was {numbers['reward']:g}{ending}, so that no action is better than another"


def _kl_runaway(numbers: Numbers) -> str | None:
    divergence, tail = numbers.get("train/kl_previous", 0.0), numbers.get("start_log_ratio_p95", 0.0)
    if not (divergence > KL_RUNAWAY and tail > KL_RUNAWAY_LOG_RATIO):
        return None
    return (
        f"KL runaway: one update moves the policy by a divergence of {divergence:.3g} (train/kl_previous; healthy: "
        "below 0.1), so that it trains on actions it would hardly take any more"
    )


def _disaster(numbers: Numbers) -> bool:
    return numbers.get("train/kl_previous", 0.0) > KL_DISASTER


def _heavy_tail(numbers: Numbers) -> str | None:
    tail = numbers.get("lag/abs_log_rho_p95", 0.0)
    if not tail > HEAVY_TAIL:
        return None
    return f"heavy ratio tail: one sample in 20 has |log rho| above {tail:.3g} (lag/abs_log_rho_p95; healthy: below 2)"


def _collapse(numbers: Numbers) -> str | None:
    dead, suppressed = numbers.get("utilization/dead_frac", 0.0), numbers.get("utilization/suppressed_frac", 0.0)
    if not dead + suppressed > USELESS:
        return None
    return (
        f"utilization collapse: {dead + suppressed:.0%} of the samples move nothing ({dead:.0%} have no gradient at all, "
        f"{suppressed:.0%} hardly any; utilization/dead_frac, suppressed_frac; healthy: below 25% in all)"
    )


def _narrow(numbers: Numbers) -> str | None:
    sigma, doubted = numbers.get("train/sigma"), numbers.get("utilization/trust_below_0.1", 0.0)
    tail = numbers.get("lag/abs_log_rho_p95", 0.0)
    if sigma is None:
        return None
    if sigma < HELD and 0 < tail < HELD:
        return (
            f"sigma too narrow: with sigma = {sigma:.3g} the policy stays where its data are (95% of |log rho| are below "
            f"{tail:.3g}): it can hardly move"
        )
    if not (doubted > NARROW and tail < NARROW_LOG_RATIO):
        return None
    return (
        f"sigma too narrow: with sigma = {sigma:.3g}, {doubted:.0%} of the samples have a trust weight below 0.1, though the "
        f"data are near (95% of |log rho| are below {tail:.3g}): the policy can hardly move"
    )


def _wide(numbers: Numbers) -> str | None:
    sigma, trusted = numbers.get("train/sigma"), numbers.get("utilization/trust_mean", 0.0)
    tail = numbers.get("lag/abs_log_rho_p95", 0.0)
    if sigma is None or not (trusted > WIDE and tail > WIDE_LOG_RATIO):
        return None
    return (
        f"sigma too wide: with sigma = {sigma:.3g} the mean trust weight is {trusted:.2f}, though one sample in 20 has |log "
        f"rho| above {tail:.3g}: nothing is damped"
    )


def _entropy(numbers: Numbers) -> str | None:
    entropy = numbers.get("relative_entropy", 1.0)
    if not entropy < ENTROPY:
        return None
    return (
        f"entropy collapse: the policy has hardly any choice left ({abs(max(entropy, 0.0)):.1%} of a uniform choice, or of "
        "the standard deviation it began with), so that it no longer finds anything better"
    )


def _old(numbers: Numbers) -> str | None:
    old, share = numbers.get("lag/old_frac", 0.0), numbers.get("utilization/old_share", 0.0)
    if not (old > OLD_FRAC and share < OLD_SHARE * old):
        return None
    return (
        f"replay too old: {old:.0%} of the samples are old, but only {share:.0%} of what moves the policy comes from them "
        "(lag/old_frac, utilization/old_share)"
    )


def _unexplained(numbers: Numbers) -> str | None:
    explained = numbers.get("train/explained_variance", 1.0)
    if not explained < EXPLAINED:  # not a number where the returns do not vary: nothing is to be explained
        return None
    return (
        f"value function not explaining: it explains {explained:.2f} of the variance of the returns "
        "(train/explained_variance; 1 is all, 0 is no better than their mean), so advantages are mostly noise"
    )


def _non_finite(numbers: Numbers) -> str | None:
    bad = sorted(key for key, value in numbers.items() if key.startswith(("train/", "lag/")) and not abs(value) < float("inf"))
    bad = [key for key in bad if key != "train/explained_variance"]
    if bad:
        return f"non-finite values: {', '.join(bad)}"
    skipped = numbers.get("train/skipped_steps", 0.0)
    if skipped > SKIPPED * numbers.get("minibatches", float("inf")):
        return f"non-finite values: {skipped:.0f} minibatches of this update had no finite gradient and were skipped"
    return None


BROKEN_STEP = (
    "The number came from the environment, not from the learner: find the action that led there (`VecCheckNan`), and have the "
    "simulator end such an episode, or repair or limit what it returns. Training on it destroys the policy."
)

SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "non_finite",
        _non_finite,
        "Lower `learning_rate`; look for NaN or huge numbers in observations and rewards (`VecCheckNan` finds the action that "
        "led there), and normalise them (`VecNormalize`).",
        patience=1,
        explains=("kl_runaway", "heavy_ratio_tail", "utilization_collapse", "value_not_explaining", "entropy_collapse"),
    ),
    Symptom(
        "no_reward_signal",
        _no_reward,
        "Check the reward function and its scale; where rewards are rare, shape them, make the first goals easier, or explore "
        "more (`ent_coef`, `use_sde=True`).",
        explains=("value_not_explaining", "entropy_collapse"),
    ),
    Symptom(
        "kl_runaway",
        _kl_runaway,
        "Lower `learning_rate` (by 10 at first), then the number of minibatches (`n_epochs`, `gradient_steps`); `target_kl` "
        "stops an update that goes too far; `VecNormalize` helps where rewards or observations are large. With GIPO also keep "
        "`sigma` at 1 or below, and `kl_coef` above 0 where trust is symmetric.",
        patience=2,
        urgent=_disaster,
        explains=("heavy_ratio_tail", "utilization_collapse", "replay_too_old", "entropy_collapse", "value_not_explaining"),
    ),
    Symptom(
        "sigma_too_narrow",
        _narrow,
        "Raise `sigma`: begin with its default, 0.3, then take about half of the lag/abs_log_rho_p95 that you see.",
        explains=("utilization_collapse", "replay_too_old"),
    ),
    Symptom(
        "sigma_too_wide",
        _wide,
        "Lower `sigma`: begin with its default, 0.3; values above 1 rarely damp anything. Keep `kl_coef` above 0 where trust "
        "is symmetric.",
        patience=2,
    ),
    Symptom(
        "heavy_ratio_tail",
        _heavy_tail,
        "Keep less (`replay_capacity`, `max_policy_lag`), take fewer or smaller steps (`gradient_steps`, `learning_rate`), or "
        "hold the policy closer to its data (`kl_coef`).",
        patience=PATIENCE_WITH_WHAT_FOLLOWS,
        explains=("replay_too_old",),
    ),
    Symptom(
        "utilization_collapse",
        _collapse,
        'With PPO-clip: take fewer epochs or a lower `learning_rate`, or use GIPO (`surrogate="gipo"`), which damps such '
        "samples instead of dropping them. With GIPO: raise `sigma`, or keep less (`replay_capacity`).",
        patience=PATIENCE_WITH_WHAT_FOLLOWS,
    ),
    Symptom(
        "replay_too_old",
        _old,
        "Keep less (`replay_capacity`, `max_policy_lag`): the oldest rollouts cost time and teach nothing. Or slow the policy "
        "down (`learning_rate`, `kl_coef`), so that they stay useful.",
        patience=PATIENCE_WITH_WHAT_FOLLOWS,
    ),
    Symptom(
        "entropy_collapse",
        _entropy,
        "Raise `ent_coef`, lower `learning_rate`, or start with more noise (`policy_kwargs={'log_std_init': ...}`). Where the "
        "task is solved, this is no trouble.",
        patience=PATIENCE_WITH_WHAT_FOLLOWS,
    ),
    Symptom(
        "value_not_explaining",
        _unexplained,
        "Normalise rewards (`VecNormalize`), raise `vf_coef`, `max_grad_norm` or the size of the value network; check that "
        "the observation says what the return depends on.",
        patience=10,
    ),
)


class Sighting(NamedTuple):
    """A symptom that is to be spoken of now."""

    name: str
    what: str
    remedy: str
    since_update: int
    since_timesteps: int


class TroubleEpisodes:
    """
    Turns what is seen update by update into episodes of trouble: each is spoken of once, when it has lasted, and is over when
    it has been gone for ``RECOVERY`` updates.

    :param symptoms: what to look for, causes before what follows from them
    """

    def __init__(self, symptoms: tuple[Symptom, ...] = SYMPTOMS) -> None:
        self._symptoms = symptoms
        self._streaks: dict[str, _Streak] = {symptom.name: _Streak() for symptom in symptoms}
        self.active: set[str] = set()
        self._told: set[str] = set()  # since the latest update

    def tell(self, name: str, update: int, timesteps: int) -> bool:
        """
        Begin or prolong an episode at once, between two updates.

        :param name: of the symptom
        :param update: the update to come
        :param timesteps: environment steps so far
        :return: whether it is to be spoken of: it is looked for, and the episode is new
        """
        if name not in self._streaks:
            return False
        is_new = name not in self.active
        self.active.add(name)
        self._told.add(name)
        return is_new

    @property
    def names(self) -> tuple[str, ...]:
        """What is looked for."""
        return tuple(self._streaks)

    def see(self, numbers: Numbers, update: int, timesteps: int) -> list[Sighting]:
        """
        :param numbers: of one update
        :param update: its number
        :param timesteps: environment steps so far
        :return: what begins to be trouble with it; what follows from an active cause waits until that is over
        """
        begun: list[Sighting] = []
        explained: set[str] = set()
        told, self._told = self._told, set()
        for symptom in self._symptoms:
            what, streak = symptom.says(numbers), self._streaks[symptom.name]
            streak.count(what is not None or symptom.name in told, update, timesteps)
            if symptom.name in self.active and streak.absent >= RECOVERY:
                self.active.discard(symptom.name)
            lasts = streak.present >= symptom.patience or (symptom.urgent is not None and symptom.urgent(numbers))
            if what is not None and lasts and symptom.name not in self.active | explained:
                self.active.add(symptom.name)
                begun.append(Sighting(symptom.name, what, symptom.remedy, *streak.since))
            if symptom.name in self.active:
                explained |= set(symptom.explains)
        return begun


class _Streak:
    """How many updates in a row a symptom was there, or was not."""

    def __init__(self) -> None:
        self.present = 0
        self.absent = 0
        self.since = (0, 0)  # update and timesteps of the first

    def count(self, is_present: bool, update: int, timesteps: int) -> None:
        if not is_present:
            self.present, self.absent = 0, self.absent + 1
            return
        if self.present == 0:
            self.since = update, timesteps
        self.present, self.absent = self.present + 1, 0

"""What the answers come to: a verdict and settings, each with its reason."""

import inspect
from typing import Literal, NamedTuple

from sb3_gipo import defaults
from sb3_gipo.callbacks.symptoms import HEAVY_TAIL, KL_RUNAWAY, SYMPTOMS
from sb3_gipo.diagnosis.facts import Facts, gather
from sb3_gipo.diagnosis.logs import Run
from sb3_gipo.diagnosis.questions import FULL_PART, STALE_DRIFT, Answers, answer, part_of_old
from sb3_gipo.gipo import GIPO

DEFAULT_SIGMA: float = inspect.signature(GIPO).parameters["sigma"].default
AUTOMATIC = f"{defaults.AUTO_REPLAY_ROLLOUTS} rollouts, at least {defaults.AUTO_REPLAY_TRANSITIONS:,} transitions"
# exp(-2^2 / 2) = 0.135: what a sample at the 95th percentile of the drift weighs when sigma is half of that.
DEVIATIONS_AT_P95 = 2.0
# Below, one minibatch's drift is outside; above, exp(sigma^2 / 2) lets the largest multiplier pass 1.6 (paper, lemma 5.3).
SIGMA_RANGE = (0.2, 1.0)
# The drift of two runs with other seeds differs by more than this: not worth a change.
SIGMA_TOLERANCE = 1.25
# A quarter of what their number would give: these samples cost time and memory, and hardly move anything.
GIVES_NOTHING = 0.25
# An age group with fewer samples than this is too small to be judged.
ENOUGH_OF_AN_AGE = 0.01
# Four fifths of the time on one side: then the other side is nearly free.
LOPSIDED = 0.8

# A run with fewer updates in its log has not shown anything yet.
ENOUGH_ITERATIONS = 5
# Trouble that was there in half of the last iterations is the state of the run, not an episode.
MOSTLY = 0.5

Word = Literal[
    "mend first",
    "switch",
    "worth a trial",
    "little to gain",
    "measure first",
    "keep",
    "adjust",
    "does not apply",
    "cannot tell",
]

MEASURE = """\
from sb3_gipo import UtilizationCallback

model.learn(total_timesteps, callback=UtilizationCallback())  # your PPO stays as it is
"""


class Setting(NamedTuple):
    """
    :param name: of an argument of GIPO
    :param value: as it is written in Python
    :param reason: in a sentence
    """

    name: str
    value: str
    reason: str


class Diagnosis(NamedTuple):
    """
    :param run: that was read
    :param facts: what its log says
    :param answers: to the three questions
    :param word: the verdict
    :param why: in a sentence or two
    :param settings: recommended, empty where GIPO does not apply
    :param measure: code that measures what is missing, empty where nothing is
    """

    run: Run
    facts: Facts
    answers: Answers
    word: Word
    why: str
    settings: tuple[Setting, ...]
    measure: str = ""

    @property
    def snippet(self) -> str:
        """The settings as code to copy; empty where there are none."""
        if not self.settings:
            return ""
        lines = [f"    {setting.name}={setting.value}," for setting in self.settings]
        head = "from sb3_gipo import GIPO  # was: from stable_baselines3 import PPO\n\n"
        kept = "policy,  # as before, and so are all other arguments\n    # (action masks and recurrent policies: not yet)"
        if self.facts.algorithm == "GIPO":
            head = "from sb3_gipo import GIPO\n\n"
            kept = "policy,  # as before, and so are all other arguments"
        return "\n".join([f"{head}model = GIPO(", f"    {kept}", "    env,", *lines, ")\n"])


def diagnose(run: Run) -> Diagnosis:
    """
    :param run: as read from its log
    :return: facts, answers, verdict and settings
    """
    facts = gather(run)
    answers = answer(facts)
    if facts.algorithm in ("GIPO", "PPO"):
        trouble = _trouble(facts)
        if trouble:
            why = f"The run is not well, and no other setting helps before that is mended. {' '.join(trouble)}"
            return Diagnosis(run, facts, answers, "mend first", why, ())
        if facts.iterations < ENOUGH_ITERATIONS:
            why = f"Only {facts.iterations} updates are logged: train for longer, or see why the run ended so soon."
            return Diagnosis(run, facts, answers, "cannot tell", why, ())
    if facts.algorithm == "GIPO":
        settings, changes = _settings_of_gipo(facts, answers)
        word, why = _verdict_on_settings(facts, changes)
        return Diagnosis(run, facts, answers, word, why, settings)
    if facts.algorithm != "PPO":
        return Diagnosis(run, facts, answers, *_other_algorithm(facts), ())
    word, why, lacks = _verdict_on_switching(facts, answers)
    settings = () if word == "little to gain" else _settings_for_ppo(facts)
    return Diagnosis(run, facts, answers, word, why, settings, MEASURE if lacks else "")


def _trouble(facts: Facts) -> list[str]:
    """What ``HealthCallback`` flagged at the end of the run, or would have, with its advice; causes first."""
    flagged = {symptom.key.removeprefix("health/") for symptom in facts.symptoms if symptom.value >= MOSTLY}
    if facts.divergence is not None and facts.divergence.value > KL_RUNAWAY:
        flagged.add("kl_runaway")
    if facts.drift is not None and facts.drift.kind == "measured" and facts.drift.value > HEAVY_TAIL:
        flagged.add("heavy_ratio_tail")
    told, explained = [], set[str]()
    for symptom in SYMPTOMS:
        if symptom.name in flagged and symptom.name not in explained:
            told.append(f"{symptom.name.replace('_', ' ').capitalize()}: {symptom.remedy}")
            explained |= set(symptom.explains)
    return told


def _other_algorithm(facts: Facts) -> tuple[Word, str]:
    if facts.algorithm == "off-policy":
        return "does not apply", "The log is of an off-policy algorithm, which replays already. GIPO takes the place of PPO."
    if facts.algorithm == "on-policy":
        return "does not apply", (
            "The log is of an on-policy algorithm other than PPO. GIPO takes PPO's arguments: train PPO on the task, then "
            "diagnose its log."
        )
    return "cannot tell", "The log has no train/ keys of PPO or GIPO: give the directory that PPO logged into."


def _verdict_on_switching(facts: Facts, answers: Answers) -> tuple[Word, str, bool]:
    """The verdict, why, and whether ``UtilizationCallback`` would tell more."""
    scarce, clipping = answers.scarce.word, answers.clipping.word
    exact = clipping == "yes" and answers.clipping.numbers[0].kind == "measured"
    clipped = " Clipping also leaves much of each batch without a gradient." if clipping == "yes" else ""
    if scarce == "yes":
        why = f"Steps are expensive and the policy still gains from them, yet PPO throws each away after one update.{clipped}"
        return "switch", why, False
    if scarce == "cannot tell":
        untimed = facts.collect_share is None
        remedies = ["add UtilizationCallback() and train on"] if untimed else []
        if facts.trend is None:
            remedies.append("train for longer, with SB3's Monitor around the environment (make_vec_env adds it)")
        why = f"Whether data are scarce decides, and the log does not tell: {'; '.join(remedies)}.{clipped}"
        return "measure first", why, untimed
    if clipping == "yes":
        why = "Data are not scarce; but much of each batch is without a gradient, which GIPO's weight leaves it."
        return "worth a trial", why, not exact
    if clipping == "cannot tell":
        return (
            "measure first",
            "Data are not scarce; whether clipping costs much is not logged: add UtilizationCallback().",
            True,
        )
    why = "Data are not scarce, and clipping leaves most of the gradient: to run PPO for longer is simpler than any change."
    return "little to gain", f"{why} Where the number of steps counts and not their time, try GIPO at its defaults.", False


def _settings_for_ppo(facts: Facts) -> tuple[Setting, ...]:
    sigma = Setting(
        "sigma", str(DEFAULT_SIGMA), "GIPO's default; PPO's log cannot measure replayed data: diagnose GIPO's own log"
    )
    uses = f", instead of {facts.uses.value:.3g} passes in one update" if facts.uses else ""
    return (
        sigma,
        Setting("replay_capacity", '"auto"', f"{AUTOMATIC}: each step is drawn from in several updates{uses}"),
        Setting("gradient_steps", "None", "up to four times PPO's minibatches of a rollout: old data are worth more passes"),
        Setting("kl_coef", "None", "0: one-sided trust holds the policy near its data; 0.1 with the symmetric weight"),
    )


# ---------------------------------------------------------------- a run of GIPO


def _verdict_on_settings(facts: Facts, changes: list[str]) -> tuple[Word, str]:
    if changes:
        return "adjust", f"This is GIPO already. {'; '.join(changes).capitalize()}.{_work(facts)}"
    if facts.replays and facts.drift is None:
        return "cannot tell", "This is GIPO already, but its drift is not logged at the end of the run: train for longer."
    return "keep", f"This is GIPO already, and nothing in the log speaks against its settings.{_work(facts)}"


def _settings_of_gipo(facts: Facts, answers: Answers) -> tuple[tuple[Setting, ...], list[str]]:
    """
    The settings, and those of them that are changes. Neither ``gradient_steps`` nor ``kl_coef`` is logged: to name them here
    would undo what was chosen.
    """
    scarce = answers.scarce.word == "yes"
    changes: list[str] = []
    lost = answers.clipping.word == "yes"
    settings: tuple[Setting, ...] = _sigma(facts, lost, changes), _capacity(facts, scarce, changes)
    if facts.sigma is None and facts.replays:
        settings = (
            Setting("surrogate", '"gipo"', "damps stale samples by their distance instead of cutting them off"),
            *settings,
        )
    return settings, changes


def _sigma(facts: Facts, lost: bool, changes: list[str]) -> Setting:
    """Wider where the tail is cut off and much is lost with it; narrower where the tail is let in and the return falls."""
    now = facts.sigma.value if facts.sigma else None
    kept = DEFAULT_SIGMA if now is None else float(f"{now:.3g}")
    if not facts.replays or facts.drift is None:
        return Setting("sigma", str(kept), "the drift of replayed data is not measured: left as it is")
    if facts.drift.value < STALE_DRIFT:
        return Setting("sigma", str(kept), f"the drift is small ({facts.drift.text}): the width hardly matters, left as it is")
    low, high = SIGMA_RANGE
    fitting = round(min(max(facts.drift.value / DEVIATIONS_AT_P95, low), high), 2)
    reason = f"half of the 95th percentile of |log ratio| ({facts.drift.text}), where a sample then weighs 0.14"
    if fitting == high:
        reason = (
            f"the 95th percentile of |log ratio| ({facts.drift.text}) asks for more than {high:g}, beyond which variance grows"
        )
    falling = facts.trend is not None and facts.trend.direction == "falling"
    if now is not None and fitting > now * SIGMA_TOLERANCE and not lost:
        # the policy drifts the further the wider the weight: no reason to chase it
        reason = f"the tail of the drift ({facts.drift.text}) is damped, and little of the gradient is lost with it"
        return Setting("sigma", str(kept), reason)
    if now is None or fitting > now * SIGMA_TOLERANCE:
        changes.append(
            f'use surrogate="gipo" with sigma={fitting}: the surrogate of this run has no width'
            if now is None
            else f"raise sigma to {fitting} (it is {kept})"
        )
        return Setting("sigma", str(fitting), reason)
    if falling and fitting * SIGMA_TOLERANCE < now:
        changes.append(f"lower sigma from {kept} to {fitting}: the learning curve falls, and {kept} lets the tail in")
        return Setting("sigma", str(fitting), reason)
    return Setting("sigma", str(kept), f"samples at the 95th percentile of |log ratio| ({facts.drift.text}) still count")


def _capacity(facts: Facts, scarce: bool, changes: list[str]) -> Setting:
    if not facts.replays or facts.size is None or facts.rollouts is None or facts.rollouts.value < 1:
        if scarce and not facts.replays:
            changes.append('set replay_capacity="auto": data are scarce, and there is no replay')
            return Setting("replay_capacity", '"auto"', "data are scarce: use each step for longer")
        return Setting("replay_capacity", '"auto"' if facts.replays else "None", "as it is")
    rollout, rollouts = facts.size.value / facts.rollouts.value, round(facts.rollouts.value)
    wanted, part = _useful_rollouts(facts), part_of_old(facts)
    # one change at a time: under a wider sigma old samples count for more
    if wanted is not None and wanted < rollouts and not changes:
        changes.append(f"keep {wanted} rollouts instead of {rollouts}: older ones hardly contribute")
        return Setting(
            "replay_capacity", str(round(wanted * rollout)), f"{wanted} rollouts: older samples give next to nothing"
        )
    if scarce and part is not None and part >= FULL_PART:
        changes.append(f"keep {2 * rollouts} rollouts instead of {rollouts}: old samples count in full, and data are scarce")
        return Setting(
            "replay_capacity", str(round(2 * rollouts * rollout)), f"{2 * rollouts} rollouts: old samples count in full"
        )
    automatic = defaults.replay_capacity(round(rollout)) // round(rollout)
    if rollouts < automatic:
        return Setting("replay_capacity", '"auto"', f"{AUTOMATIC}, the default ({rollouts} rollouts stored at the end)")
    value = '"auto"' if rollouts == automatic else str(round(rollouts * rollout))
    return Setting("replay_capacity", value, f"as it is ({rollouts} rollouts stored)")


def _useful_rollouts(facts: Facts) -> int | None:
    """How many rollouts hold samples that contribute; ``None`` where all do, or the log does not say."""
    judged = [age for age in facts.ages if age.frac >= ENOUGH_OF_AN_AGE]
    if judged:
        useful = [age for age in judged if age.share >= GIVES_NOTHING * age.frac]
        if not useful or useful[-1] is judged[-1]:
            return None
        return useful[-1].oldest + 1
    part = part_of_old(facts)
    if part is None or part >= GIVES_NOTHING or facts.rollouts is None:
        return None
    return max(round(facts.rollouts.value / 2), 1)


def _work(facts: Facts) -> str:
    """A remark on ``gradient_steps``, whose value is not logged, where one side takes nearly all of the time."""
    share = facts.collect_share.value if facts.collect_share else 0.5
    if share >= LOPSIDED:
        return (
            f" Collection takes {100 * share:.0f} % of the time: a larger gradient_steps costs little, try twice what it is."
        )
    if share <= 1 - LOPSIDED:
        return f" Collection takes only {100 * share:.0f} % of the time: a smaller gradient_steps makes the run faster."
    return ""

"""What ``tune`` leaves behind: a table, a picture, and the winner's settings with where they come from."""

import csv
import importlib.metadata
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import TrialState

from sb3_gipo import __version__
from sb3_gipo.zoo import study
from sb3_gipo.zoo.plan import Plan

# Name of the candidate that is no trial: the settings that were searched from.
AS_CONFIGURED = "as_configured"
PACKAGES = ("stable-baselines3", "rl_zoo3", "torch", "gymnasium")


def mean_and_error(scores: list[float]) -> tuple[float, float]:
    """
    :param scores: one for each seed
    :return: mean, standard error (not a number with one seed)
    """
    error = np.std(scores, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else np.nan
    return float(np.mean(scores)), float(error)


def write(plan: Plan, found: optuna.Study, candidates: dict[str, dict[str, Any]], scores: dict[str, list[float]]) -> None:
    """
    Write ``results.csv``, ``report.md``, ``winner.yml`` and ``tuning.png``, and print the table.

    :param plan: what was asked for
    :param found: finished study
    :param candidates: settings by name
    :param scores: mean return of the last evaluation, one for each seed, by name
    """
    with (plan.folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["candidate", "seed", "score"])
        writer.writerows([name, seed, score] for name in scores for seed, score in zip(plan.seeds, scores[name], strict=True))
    ranking = sorted(scores, key=lambda name: -np.mean(scores[name]))
    report = _report(plan, found, ranking, scores)
    (plan.folder / "report.md").write_text(report)
    winner = ranking[0]
    (plan.folder / "winner.yml").write_text(
        _origin(plan, found, winner, scores[winner]) + yaml.safe_dump({plan.env_id: candidates[winner]})
    )
    _draw(plan, found, ranking, scores)
    print(f"\n{report}\nIn {plan.folder}: winner.yml (for -conf, or to copy), report.md, results.csv, tuning.png")


def _report(plan: Plan, found: optuna.Study, ranking: list[str], scores: dict[str, list[float]]) -> str:
    values = {f"trial_{trial.number}": trial.value for trial in study.best_trials(found, plan.n_best)}
    lines = [
        f"# {plan.algorithm} on {plan.env_id}",
        "",
        f"Mean return of the last evaluation ({plan.eval_episodes} episodes) after {plan.n_timesteps:,} steps, "
        f"{_fresh(plan)}; the study had {_counts(found)}.",
        "",
        "| candidate | fresh seeds | standard error | in the study |",
        "| --- | --- | --- | --- |",
    ]
    for name in ranking:
        mean, error = mean_and_error(scores[name])
        value = values.get(name)
        spread = f"{error:.1f}" if np.isfinite(error) else "one seed"
        lines.append(f"| {name} | {mean:.1f} | {spread} | {'' if value is None else f'{value:.1f}'} |")
    return "\n".join([*lines, "", _verdict(ranking, scores), ""])


def _fresh(plan: Plan) -> str:
    return f"{len(plan.seeds)} fresh seeds" if len(plan.seeds) > 1 else "1 fresh seed"


def _verdict(ranking: list[str], scores: dict[str, list[float]]) -> str:
    winner = ranking[0]
    if winner == AS_CONFIGURED:
        return "Winner: the settings as they were. No trial did better on fresh seeds."
    gain = np.subtract(scores[winner], scores[AS_CONFIGURED])  # seed by seed: they share goals and initial networks
    mean, error = mean_and_error(gain.tolist())
    words = f"{'more than' if mean > 2 * error else 'not'} twice the standard error of {error:.1f}"
    if not np.isfinite(error):
        words = "of one seed: no more than a lead"
    return f"Winner: {winner}, {mean:.1f} above the settings as they were ({words})."


def _counts(found: optuna.Study) -> str:
    states = [trial.state for trial in found.get_trials(deepcopy=False)]
    named = ((TrialState.COMPLETE, "completed"), (TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed or lost"))
    return ", ".join(f"{states.count(state)} {name}" for state, name in named) + " trials"


def _origin(plan: Plan, found: optuna.Study, winner: str, scores: list[float]) -> str:
    mean, error = mean_and_error(scores)
    versions = ", ".join([f"sb3-gipo {__version__}", *(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)])
    spread = f"standard error {error:.1f}" if np.isfinite(error) else "one seed"
    return (
        f"# Found by `sb3_gipo.zoo tune`: {winner} of {_counts(found)} of {plan.n_timesteps:,} steps.\n"
        f"# Seeds {plan.seeds[0]}-{plan.seeds[-1]}: {mean:.1f}, {spread}.\n# {versions}.\n"
    )


def _draw(plan: Plan, found: optuna.Study, ranking: list[str], scores: dict[str, list[float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    trials = [trial for trial in found.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if trial.value is not None]
    numbers, values = [trial.number for trial in trials], [trial.value for trial in trials]
    left.plot(numbers, values, "o", alpha=0.6, label="trial")
    left.step(numbers, np.maximum.accumulate(np.array(values, dtype=float)), where="post", label="best so far")
    left.set(xlabel="trial", ylabel="mean return", title=f"{plan.algorithm} on {plan.env_id}: search")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend()
    for row, name in enumerate(reversed(ranking)):
        mean, error = mean_and_error(scores[name])
        right.errorbar([mean], [row], xerr=[np.nan_to_num(error)], fmt="s", color="C0", capsize=4)
        right.plot(scores[name], [row] * len(scores[name]), "o", color="C0", alpha=0.35)
    right.set(xlabel="mean return", title=f"{_fresh(plan)}, mean and standard error")
    right.set_yticks(range(len(ranking)), list(reversed(ranking)))
    figure.savefig(plan.folder / "tuning.png", dpi=150)

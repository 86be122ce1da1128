"""
``tune``: search hyperparameters in several processes, then try the best on fresh seeds before naming a winner.

The best of many noisy trials is mostly the luckiest one. So the study only nominates: the best trials and the settings as they
were are trained anew with seeds no trial had, and the winner is named by those runs alone.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from huggingface_sb3 import EnvironmentName
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sb3_gipo.zoo import study, winners
from sb3_gipo.zoo.plan import EVALUATIONS, Plan, parse
from sb3_gipo.zoo.processes import Job, last_lines, run_all

# Workers that are killed and started again before a search is given up.
MAX_RESTARTS = 20
# A shell's own code for a program ended by Ctrl-C.
INTERRUPTED = 130
AS_CONFIGURED = winners.AS_CONFIGURED


def main(arguments: Sequence[str], program: str) -> int:
    """
    :param arguments: of the command
    :param program: how it was called
    :return: exit code
    """
    plan = parse(arguments, program)
    try:
        tune(plan)
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.")
        return INTERRUPTED
    return 0


def tune(plan: Plan) -> None:
    """
    Search, try, name a winner.

    :param plan: what is asked for
    :raises SystemExit: where it cannot be done
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    candidates = {AS_CONFIGURED: plan.base}
    write_candidate(plan, AS_CONFIGURED, plan.base)
    found = search(plan)
    for trial in study.best_trials(found, plan.n_best):
        name = f"trial_{trial.number}"
        candidates[name] = plan.base | study.yaml_settings(plan.algorithm, trial.params)
        write_candidate(plan, name, candidates[name])
    try_candidates(plan, candidates)
    scores = {name: [score_of(plan, name, seed) for seed in plan.seeds] for name in candidates}
    winners.write(plan, found, candidates, scores)


def search(plan: Plan) -> optuna.Study:
    """
    Run workers until the study has its number of trials. A worker that is killed costs its trial; another takes its place.

    :param plan: what is asked for
    :return: finished study
    :raises SystemExit: where it cannot be finished, or is of other trials
    """
    found = _open(plan)
    options = ["-optimize", "--storage", plan.storage, "--study-name", plan.study_name, "--no-optim-plots"]
    options += ["-conf", str(candidate_file(plan, AS_CONFIGURED)), "--n-evaluations", str(plan.n_evaluations)]
    jobs = []
    for worker in range(min(plan.n_jobs, max(plan.n_trials - study.n_finished(found), 0))):
        folder = plan.folder / "search" / f"worker_{worker}"
        # no seed: workers with the same one, here or on another machine, would draw the same trials
        command = plan.train(*options, "--max-total-trials", str(plan.n_trials), "-f", str(folder))
        jobs.append(Job(command, folder / "output.txt"))
    with _progress() as progress:
        task = progress.add_task(f"search, {plan.n_jobs} processes", total=plan.n_trials)

        def look() -> None:
            study.fail_lost_trials(found)
            progress.update(task, completed=study.n_finished(found))

        look()
        codes = run_all(jobs, plan.n_jobs, look, MAX_RESTARTS)
        look()
    failed = [job for job, code in zip(jobs, codes, strict=True) if code != 0]
    if failed and study.n_finished(found) < plan.n_trials:
        raise SystemExit(f"The search broke off; the end of {failed[0].log}:\n\n{last_lines(failed[0].log)}")
    if not study.best_trials(found, 1):
        raise SystemExit(f"None of {study.n_finished(found)} trials was completed: give them more steps, or --pruner none.")
    return found


def _open(plan: Plan) -> optuna.Study:
    """The study, new or to go on with; its trials must be comparable."""
    study.create_tables(plan.storage)
    found = optuna.create_study(
        storage=study.open_storage(plan.storage), study_name=plan.study_name, direction="maximize", load_if_exists=True
    )
    asked = json.loads(json.dumps(_request(plan, plan.base)))
    before = found.user_attrs.get("tune")
    if before is not None and before != asked:
        differing = ", ".join(sorted(name for name in asked if before.get(name) != asked[name]))
        raise SystemExit(
            f"The study {plan.study_name!r} is of other trials (different: {differing}). Repeat the command it was begun "
            "with, or begin another with --study-name."
        )
    if before is None and found.get_trials(deepcopy=False):
        raise SystemExit(f"The study {plan.study_name!r} was not begun by `tune`; begin another with --study-name.")
    found.set_user_attr("tune", asked)
    return found


def _request(plan: Plan, settings: dict[str, Any]) -> dict[str, Any]:
    """What a result depends on, beside the seed."""
    return {
        "algorithm": plan.algorithm,
        "environment": plan.env_id,
        "settings": {name: value for name, value in settings.items() if name != "n_timesteps"},
        "n_timesteps": plan.n_timesteps,
        "eval_episodes": plan.eval_episodes,
        "options": list(plan.rest),
    }


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def write_candidate(plan: Plan, name: str, settings: dict[str, Any]) -> None:
    """
    :param plan: what is asked for
    :param name: of a candidate
    :param settings: of it, for a file that RL Zoo reads
    """
    file = candidate_file(plan, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({plan.env_id: settings}))


def candidate_file(plan: Plan, name: str) -> Path:
    """
    :param plan: what is asked for
    :param name: of a candidate
    :return: its settings
    """
    return plan.folder / "candidates" / f"{name}.yml"


def run_folder(plan: Plan, name: str, seed: int) -> Path:
    """
    :param plan: what is asked for
    :param name: of a candidate
    :param seed: of the run
    :return: where the Zoo leaves it
    """
    return plan.folder / "runs" / name / f"seed_{seed}"


def try_candidates(plan: Plan, candidates: dict[str, dict[str, Any]]) -> None:
    """
    Train every candidate with every fresh seed; runs of the same settings that are there already are kept.

    :param plan: what is asked for
    :param candidates: by name
    :raises SystemExit: where a run failed
    """
    jobs = []
    for name, settings in candidates.items():
        request = json.dumps(_request(plan, settings))
        for seed in plan.seeds:
            folder = run_folder(plan, name, seed)
            file = folder / "request.json"
            if finished(plan, name, seed) and file.is_file() and file.read_text() == request:
                continue
            shutil.rmtree(folder, ignore_errors=True)  # stopped, or of other settings
            folder.mkdir(parents=True)
            file.write_text(request)
            options = ["-conf", str(candidate_file(plan, name)), "--seed", str(seed), "-f", str(folder)]
            options += ["--eval-freq", str(max(plan.n_timesteps // EVALUATIONS, 1))]
            jobs.append(Job(plan.train(*options), folder / "output.txt"))
    with _progress() as progress:
        task = progress.add_task("fresh seeds", total=len(candidates) * len(plan.seeds))

        def look() -> None:
            done = [finished(plan, name, seed) for name in candidates for seed in plan.seeds]
            progress.update(task, completed=sum(done))

        look()
        codes = run_all(jobs, plan.n_jobs, look)
        look()
    failed = [job for job, code in zip(jobs, codes, strict=True) if code != 0]
    if failed:
        end = last_lines(failed[0].log)
        raise SystemExit(f"{len(failed)} of {len(jobs)} runs failed; the end of {failed[0].log}:\n\n{end}")
    if not all(finished(plan, name, seed) for name in candidates for seed in plan.seeds):
        raise SystemExit("A run was stopped before its end. The same command goes on from here.")


def finished(plan: Plan, name: str, seed: int) -> bool:
    """
    :param plan: what is asked for
    :param name: of a candidate
    :param seed: of a run
    :return: whether the Zoo has trained it to the end: with all evaluations, the model is saved last
    """
    folder = _zoo_folder(plan, name, seed)
    if not (folder / f"{EnvironmentName(plan.env_id)}.zip").is_file() or not (folder / "evaluations.npz").is_file():
        return False
    with np.load(folder / "evaluations.npz") as evaluations:
        return len(evaluations["timesteps"]) >= EVALUATIONS


def score_of(plan: Plan, name: str, seed: int) -> float:
    """
    :param plan: what is asked for
    :param name: of a candidate
    :param seed: of a finished run
    :return: mean return of its last evaluation within the steps asked for: a longer rollout ends later, and is no advantage
    """
    with np.load(_zoo_folder(plan, name, seed) / "evaluations.npz") as evaluations:
        within = max(int(np.sum(evaluations["timesteps"] <= plan.n_timesteps)), 1)
        return float(evaluations["results"][within - 1].mean())


def _zoo_folder(plan: Plan, name: str, seed: int) -> Path:
    return run_folder(plan, name, seed) / plan.algorithm / f"{EnvironmentName(plan.env_id)}_1"

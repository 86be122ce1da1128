"""
``tune``: search hyperparameters in several processes, then try the best on fresh seeds before naming a winner.

The best of many noisy trials is mostly the luckiest one. So the study only nominates: the best trials and the settings as they
were are trained anew with seeds no trial had, and the winner is named by those runs alone.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import optuna
import yaml
from huggingface_sb3 import EnvironmentName
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sb3_gipo.zoo import hyperparameters, meta_world, study, winners
from sb3_gipo.zoo.processes import Job, last_lines, run_all

# Rounds of workers before a study that does not get to its number of trials is given up.
MAX_ROUNDS = 5
AS_CONFIGURED = "as_configured"
EVALUATIONS = 5


@dataclass(frozen=True)
class Plan:
    """
    What is asked for.

    :param algorithm: as RL Zoo names it
    :param env_id: of gymnasium
    :param n_timesteps: of a trial and of a run that tries a candidate
    :param n_trials: of the whole study, pruned ones included
    :param n_jobs: processes at once
    :param n_best: trials that are tried again
    :param seeds: of those runs
    :param eval_episodes: of each evaluation
    :param storage: of the study
    :param folder: for everything that is left behind
    :param conf: settings that are searched from, by environment
    :param rest: further options of RL Zoo's ``train``
    """

    algorithm: str
    env_id: str
    n_timesteps: int
    n_trials: int
    n_jobs: int
    n_best: int
    seeds: Sequence[int]
    eval_episodes: int
    storage: str
    study_name: str
    folder: Path
    conf: Path
    rest: Sequence[str]

    def train(self, *options: str) -> list[str]:
        """
        :param options: of this call
        :return: command that trains
        """
        command = [sys.executable, "-m", "sb3_gipo.zoo", "train", "--algo", self.algorithm, "--env", self.env_id]
        return [*command, "-n", str(self.n_timesteps), "--eval-episodes", str(self.eval_episodes), *self.rest, *options]


def main(arguments: Sequence[str], program: str) -> int:
    """
    :param arguments: of the command
    :param program: how it was called
    :return: exit code
    """
    plan = parse(arguments, program)
    plan.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = search(plan)
    candidates = write_candidates(plan, found)
    try_candidates(plan, candidates)
    scores = {name: [score_of(plan, name, seed) for seed in plan.seeds] for name in candidates}
    winners.write(plan, found, candidates, scores)
    return 0


def parse(arguments: Sequence[str], program: str) -> Plan:
    """
    :param arguments: of the command
    :param program: how it was called
    :return: plan
    :raises SystemExit: for what cannot be
    """
    parser = argparse.ArgumentParser(
        prog=program, allow_abbrev=False, description=__doc__.split("\n\n")[0], epilog="Further options are those of `train`."
    )
    parser.add_argument("--algo", default="gipo", help="algorithm (default: gipo)")
    parser.add_argument("--env", required=True, help="environment")
    parser.add_argument("-n", "--n-timesteps", type=_positive, required=True, help="environment steps of a trial")
    parser.add_argument("--max-total-trials", type=_positive, default=50, help="trials of the whole study (default: 50)")
    parser.add_argument("--jobs", type=_positive, default=2, help="processes at once (default: 2)")
    parser.add_argument("--top", type=_positive, default=5, help="trials to try again (default: 5)")
    parser.add_argument("--seeds", type=_positive, default=3, help="fresh seeds to try each with (default: 3)")
    parser.add_argument("--first-seed", type=int, default=10_000, help="first of them (default: 10000)")
    parser.add_argument("--eval-episodes", type=_positive, default=5, help="episodes of an evaluation (default: 5)")
    parser.add_argument("--storage", help="of the study (default: an SQLite file in the folder)")
    parser.add_argument("--study-name", help="(default: algorithm and environment)")
    parser.add_argument("-f", "--log-folder", type=Path, default=Path("logs"), help="(default: logs)")
    parser.add_argument("-conf", "--conf-file", type=Path, help="YAML file to start from (default: as `train`)")
    ours, rest = parser.parse_known_args(meta_world.as_ids(arguments))
    if ours.env not in gym.registry:
        parser.error(f"{ours.env} is not registered with gymnasium")
    name = f"{ours.algo}_{EnvironmentName(ours.env)}"
    folder = (ours.log_folder / f"tune_{name}").resolve()
    return Plan(
        ours.algo,
        ours.env,
        ours.n_timesteps,
        ours.max_total_trials,
        ours.jobs,
        ours.top,
        [ours.first_seed + index for index in range(ours.seeds)],
        ours.eval_episodes,
        ours.storage or f"sqlite:///{folder / 'study.db'}",
        ours.study_name or name,
        folder,
        (ours.conf_file or _default_conf(ours.algo, ours.env, parser)).resolve(),
        rest,
    )


def _positive(text: str) -> int:
    number = int(float(text))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _default_conf(algorithm: str, env_id: str, parser: argparse.ArgumentParser) -> Path:
    import rl_zoo3

    file = hyperparameters.conf_file(algorithm, env_id) or Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algorithm}.yml"
    if not file.is_file():
        parser.error(f"there are no settings for --algo {algorithm}; give a file with -conf")
    return file


def entry(conf: Path, env_id: str) -> dict[str, Any]:
    """
    :param conf: settings by environment
    :param env_id: of gymnasium
    :return: the entry that RL Zoo takes for it
    :raises SystemExit: where there is none
    """
    from rl_zoo3.exp_manager import ExperimentManager

    entries = hyperparameters.read(conf)
    names = [env_id, *(["atari"] if ExperimentManager.is_atari(env_id) else []), "default"]
    for name in names:
        if name in entries:
            return dict(entries[name])
    raise SystemExit(f"{conf} has no entry for {env_id} and no default.")


def search(plan: Plan) -> optuna.Study:
    """
    Run workers until the study has its number of trials. A worker that is killed costs its trial; another takes its place.

    :param plan: what is asked for
    :return: finished study
    :raises SystemExit: where the workers end without new trials
    """
    from sb3_gipo.zoo.experiment import create_tables

    if not plan.storage.endswith(".log"):
        create_tables(plan.storage)
    found = optuna.create_study(
        storage=study.open_storage(plan.storage), study_name=plan.study_name, direction="maximize", load_if_exists=True
    )
    options = ["-optimize", "--storage", plan.storage, "--study-name", plan.study_name, "-conf", str(plan.conf)]
    options += ["--max-total-trials", str(plan.n_trials), "--no-optim-plots"]
    if "--n-evaluations" not in plan.rest:
        options += ["--n-evaluations", str(EVALUATIONS)]
    with _progress() as progress:
        task = progress.add_task(f"search, {plan.n_jobs} processes", total=plan.n_trials)

        def look() -> None:
            progress.update(task, completed=study.n_finished(found))

        for round_number in range(MAX_ROUNDS):
            study.fail_lost_trials(found)
            before = study.n_finished(found)
            if before >= plan.n_trials:
                break
            jobs = []
            for worker in range(min(plan.n_jobs, plan.n_trials - before)):
                # a seed for each: workers with one seed would draw the same trials
                seed = before * 1000 + round_number * 100 + worker
                folder = plan.folder / "search" / f"worker_{worker}"
                jobs.append(Job(plan.train(*options, "--seed", str(seed), "-f", str(folder)), folder / "output.txt"))
            codes = run_all(jobs, plan.n_jobs, look)
            look()
            if study.n_finished(found) == before and any(codes):
                raise SystemExit(f"The search got nowhere; the end of {jobs[0].log}:\n\n{last_lines(jobs[0].log)}")
    if not study.best_trials(found, 1):
        raise SystemExit(f"None of {study.n_finished(found)} trials was completed: give them more steps, or --pruner none.")
    return found


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def write_candidates(plan: Plan, found: optuna.Study) -> dict[str, dict[str, Any]]:
    """
    :param plan: what is asked for
    :param found: finished study
    :return: settings of each candidate by its name; each is also a file that RL Zoo reads
    """
    base = entry(plan.conf, plan.env_id)
    candidates = {AS_CONFIGURED: base}
    for trial in study.best_trials(found, plan.n_best):
        candidates[f"trial_{trial.number}"] = base | study.yaml_settings(plan.algorithm, trial.params)
    for name, settings in candidates.items():
        file = candidate_file(plan, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({plan.env_id: settings}))
    return candidates


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
    Train every candidate with every fresh seed; runs that are there already are kept.

    :param plan: what is asked for
    :param candidates: by name
    :raises SystemExit: where a run failed
    """
    jobs = []
    for name in candidates:
        for seed in plan.seeds:
            folder = run_folder(plan, name, seed)
            if finished(plan, name, seed):
                continue
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
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
        raise SystemExit(
            f"{len(failed)} of {len(jobs)} runs failed; the end of {failed[0].log}:\n\n{last_lines(failed[0].log)}"
        )


def finished(plan: Plan, name: str, seed: int) -> bool:
    """
    :param plan: what is asked for
    :param name: of a candidate
    :param seed: of a run
    :return: whether the Zoo has trained it to the end: it saves the model then
    """
    return (_zoo_folder(plan, name, seed) / f"{EnvironmentName(plan.env_id)}.zip").is_file()


def score_of(plan: Plan, name: str, seed: int) -> float:
    """
    :param plan: what is asked for
    :param name: of a candidate
    :param seed: of a finished run
    :return: mean return of its last evaluation, as the study's
    """
    with np.load(_zoo_folder(plan, name, seed) / "evaluations.npz") as evaluations:
        return float(evaluations["results"][-1].mean())


def _zoo_folder(plan: Plan, name: str, seed: int) -> Path:
    return run_folder(plan, name, seed) / plan.algorithm / f"{EnvironmentName(plan.env_id)}_1"

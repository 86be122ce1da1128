"""What ``tune`` is asked for: its command line."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from huggingface_sb3 import EnvironmentName

from sb3_gipo.zoo import asynchronous, hyperparameters, meta_world, space, study

EVALUATIONS = 5
# SB3 seeds environment i with `seed + i`: seeds this far apart share no environments.
SEED_STEP = 1000
# Options of `train` that `tune` sets itself.
OWN_OPTIONS = (
    "--seed", "-i", "--trained-agent", "-optimize", "--optimize-hyperparameters", "--n-trials", "--n-jobs", "--trial-id",
    "-uuid", "--uuid", "--eval-freq", "--track", "--optimization-log-path",
)  # fmt: skip
DESCRIPTION = "Search hyperparameters in several processes, then try the best on fresh seeds before naming a winner."


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
    :param n_evaluations: of a trial, after each of which it may be pruned
    :param storage: of the study
    :param study_name: of the study
    :param folder: for everything that is left behind
    :param base: settings that are searched from
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
    n_evaluations: int
    storage: str
    study_name: str
    folder: Path
    base: dict[str, Any]
    rest: Sequence[str]

    def train(self, *options: str) -> list[str]:
        """
        :param options: of this call
        :return: command that trains
        """
        command = [sys.executable, "-m", "sb3_gipo.zoo", "train", "--algo", self.algorithm, "--env", self.env_id]
        return [*command, "-n", str(self.n_timesteps), "--eval-episodes", str(self.eval_episodes), *self.rest, *options]


def parse(arguments: Sequence[str], program: str) -> Plan:
    """
    :param arguments: of the command
    :param program: how it was called
    :return: plan
    :raises SystemExit: for what cannot be
    """
    parser = _parser(program)
    ours, rest = parser.parse_known_args(meta_world.as_ids(arguments))
    taken = [option for option in (given.partition("=")[0] for given in rest) if option in OWN_OPTIONS]
    if taken:
        parser.error(f"{taken[0]} cannot be given: `tune` sets it itself")
    if ours.algo == asynchronous.NAME:
        parser.error(asynchronous.NOT_SEARCHED)
    for package in ours.gym_packages:
        importlib.import_module(package)
    if ours.env not in gym.registry:
        parser.error(f"{ours.env} is not registered with gymnasium (--gym-packages imports what registers it)")
    name = ours.study_name or f"{ours.algo}_{EnvironmentName(ours.env)}"
    folder = (ours.log_folder / f"tune_{name}").resolve()
    if ours.storage is None and "?" in str(folder):
        parser.error(
            f"{folder} cannot be part of a database's address because of its question mark: give --storage, or another -f"
        )
    conf = ours.conf_file or _default_conf(ours.algo, ours.env, parser)
    if conf.suffix not in (".yml", ".yaml") or not conf.is_file():
        parser.error(f"{conf} is not a YAML file that is there")
    # the number of steps the settings are found for: schedules reach their end with it
    base = _entry(conf, ours.env) | (ours.hyperparams or {}) | {"n_timesteps": ours.n_timesteps}
    _hint(ours.algo, ours.n_timesteps, base.get("n_envs", 1))
    return Plan(
        ours.algo,
        ours.env,
        ours.n_timesteps,
        ours.max_total_trials,
        ours.jobs,
        ours.top,
        [ours.first_seed + SEED_STEP * index for index in range(ours.seeds)],
        ours.eval_episodes,
        ours.n_evaluations,
        study.address(ours.storage or f"sqlite:///{folder / 'study.db'}"),
        name,
        folder,
        base,
        [*rest, *(["--gym-packages", *ours.gym_packages] if ours.gym_packages else [])],
    )


def _parser(program: str) -> argparse.ArgumentParser:
    from rl_zoo3.utils import StoreDict

    parser = argparse.ArgumentParser(
        prog=program, allow_abbrev=False, description=DESCRIPTION, epilog="Further options are those of `train`."
    )
    parser.add_argument("--algo", default="gipo", help="algorithm (default: gipo)")
    parser.add_argument("--env", required=True, help="environment")
    parser.add_argument("-n", "--n-timesteps", type=_positive, required=True, help="environment steps of a trial")
    parser.add_argument("--max-total-trials", type=_positive, default=50, help="trials of the whole study (default: 50)")
    parser.add_argument("--jobs", type=_positive, default=2, help="processes at once (default: 2)")
    parser.add_argument("--top", type=_positive, default=5, help="trials to try again (default: 5)")
    parser.add_argument("--seeds", type=_positive, default=3, help="fresh seeds to try each with (default: 3)")
    parser.add_argument("--first-seed", type=int, default=10_000, help=f"first of them, {SEED_STEP} apart (default: 10000)")
    parser.add_argument("--eval-episodes", type=_positive, default=5, help="episodes of an evaluation (default: 5)")
    parser.add_argument("--n-evaluations", type=_positive, default=EVALUATIONS, help="of a trial (default: 5)")
    parser.add_argument("--storage", help="of the study (default: an SQLite file in the folder)")
    parser.add_argument("--study-name", help="(default: algorithm and environment)")
    parser.add_argument("-f", "--log-folder", type=Path, default=Path("logs"), help="(default: logs)")
    parser.add_argument("-conf", "--conf-file", type=Path, help="YAML file to start from (default: as `train`)")
    parser.add_argument(
        "-params", "--hyperparams", nargs="+", action=StoreDict, help="settings to start from, over the file's"
    )
    parser.add_argument("--gym-packages", nargs="+", default=[], help="packages that register environments")
    return parser


def _hint(algorithm: str, n_timesteps: int, n_envs: int) -> None:
    longest = 2**space.LONGEST_ROLLOUT_POW * n_envs
    if algorithm in hyperparameters.OURS and n_timesteps < 5 * longest:
        print(
            f"Trials of {n_timesteps} steps are short: a rollout may be drawn as long as {longest} steps, and its policy is "
            "hardly trained when it is scored. Take more steps (-n) or fewer environments (-params n_envs:1)."
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


def _entry(conf: Path, env_id: str) -> dict[str, Any]:
    """The entry that RL Zoo takes for an environment."""
    from rl_zoo3.exp_manager import ExperimentManager

    entries = hyperparameters.read(conf)
    names = [env_id, *(["atari"] if ExperimentManager.is_atari(env_id) else []), "default"]
    for name in names:
        if name in entries:
            return dict(entries[name])
    raise SystemExit(f"{conf} has no entry for {env_id} and no default.")

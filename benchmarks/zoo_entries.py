"""
What ``rl_zoo_hyperparams/`` gives: GIPO with ours beside PPO with RL Zoo's (on Meta-World with ours), fresh seeds.

    python -m benchmarks.zoo_entries                      # all below, both algorithms, 3 seeds: hours
    python -m benchmarks.zoo_entries --only CartPole-v1   # one environment
    python -m benchmarks.zoo_entries --table              # of the stored runs

Every run is RL Zoo's own ``train``; its score is the mean return of the last evaluation (20 episodes; on Meta-World 10, with
goals never trained on). Stored runs are not repeated.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rl_zoo3
import yaml
from huggingface_sb3 import EnvironmentName

import sb3_gipo.envs  # noqa: F401  # ids of Meta-World
from sb3_gipo.zoo import hyperparameters
from sb3_gipo.zoo.processes import Job, last_lines, run_all

RESULTS = Path(__file__).parent / "results" / "zoo_entries.json"
SEEDS = (20_000, 20_100, 20_200)
ALGORITHMS = ("gipo", "ppo")
# Steps of each: the Zoo's own, or as many as were affordable.
STEPS = {
    "CartPole-v1": 100_000,
    "Pendulum-v1": 100_000,
    "MountainCarContinuous-v0": 20_000,
    "MountainCar-v0": 100_000,
    "Acrobot-v1": 100_000,
    "LunarLander-v3": 100_000,
    "LunarLanderContinuous-v3": 100_000,
    "HalfCheetah-v5": 50_000,
    "Hopper-v5": 50_000,
    "MetaWorld/faucet-open-v3": 60_000,
    "MetaWorld/coffee-button-v3": 60_000,
    "MetaWorld/door-lock-v3": 60_000,
    "MetaWorld/drawer-close-v3": 60_000,
}
EVALUATIONS = 5


def settings_file(algorithm: str, env_id: str, folder: Path) -> Path:
    """
    :param algorithm: as RL Zoo names it
    :param env_id: of gymnasium
    :param folder: for a file of our own, where the Zoo only has an older version of an environment of MuJoCo
    :return: file to read the settings from
    """
    ours = hyperparameters.conf_file(algorithm, env_id)
    zoo = Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algorithm}.yml"
    if ours is not None:
        return ours
    entries = hyperparameters.read(zoo)
    if env_id in entries:
        return zoo
    file = folder / f"{algorithm}_{env_id}.yml"
    file.write_text(yaml.safe_dump({env_id: entries[env_id.replace("-v5", "-v4")]}))
    return file


def job(algorithm: str, env_id: str, seed: int, folder: Path) -> Job:
    """
    :param algorithm: as RL Zoo names it
    :param env_id: of gymnasium
    :param seed: of the run
    :param folder: for everything it leaves behind
    :return: one run of RL Zoo's ``train``
    """
    run = folder / f"{algorithm}_{EnvironmentName(env_id)}_{seed}"
    episodes = 10 if env_id.startswith("MetaWorld") else 20
    command = [sys.executable, "-m", "sb3_gipo.zoo", "train", "--algo", algorithm, "--env", env_id, "--seed", str(seed)]
    command += ["-n", str(STEPS[env_id]), "--eval-freq", str(STEPS[env_id] // EVALUATIONS), "--eval-episodes", str(episodes)]
    return Job([*command, "-conf", str(settings_file(algorithm, env_id, folder)), "-f", str(run)], run / "output.txt")


def outcome(algorithm: str, env_id: str, seed: int, folder: Path) -> dict[str, Any]:
    """
    :param algorithm: as RL Zoo names it
    :param env_id: of gymnasium
    :param seed: of the run
    :param folder: of :func:`job`
    :return: settings and evaluations of a finished run
    """
    name = EnvironmentName(env_id)
    run = folder / f"{algorithm}_{name}_{seed}" / algorithm / f"{name}_1"
    with np.load(run / "evaluations.npz") as evaluations:
        record: dict[str, Any] = {
            "steps": evaluations["timesteps"].tolist(),
            "returns": evaluations["results"].mean(axis=1).round(2).tolist(),
        }
        if "successes" in evaluations:
            record["success"] = evaluations["successes"].mean(axis=1).tolist()
    config = (run / name / "config.yml").read_text()
    entry = dict(yaml.unsafe_load(config))  # an OrderedDict, written by the run itself
    return {"algorithm": algorithm, "env": env_id, "seed": seed, "budget": STEPS[env_id], "settings": entry, **record}


def stored() -> list[dict[str, Any]]:
    """
    :return: records of finished runs
    """
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else []


def run(env_ids: Sequence[str], jobs_at_once: int) -> None:
    """
    Train what is not stored, store each run as it ends.

    :param env_ids: environments to run
    :param jobs_at_once: processes at once
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = {(record["algorithm"], record["env"], record["seed"]) for record in stored()}
        wanted = [(a, e, s) for e in env_ids for s in SEEDS for a in ALGORITHMS if (a, e, s) not in done]
        pending = dict(enumerate(wanted))
        jobs = [job(*each, folder) for each in wanted]

        def look() -> None:
            for index, each in list(pending.items()):
                run_folder = jobs[index].log.parent / each[0]
                if list(run_folder.glob("*_1/*.zip")) and list(run_folder.glob(f"*_1/{EnvironmentName(each[1])}.zip")):
                    records = [*stored(), outcome(*each, folder)]
                    lines = ",\n".join(json.dumps(record) for record in records)
                    RESULTS.write_text(f"[\n{lines}\n]\n")
                    print(*each, records[-1]["returns"], flush=True)
                    del pending[index]

        codes = run_all(jobs, jobs_at_once, look)
        look()
        for failed, code in zip(jobs, codes, strict=True):
            if code != 0:
                print(f"{failed.command} ended with {code}:\n{last_lines(failed.log)}", file=sys.stderr)


def table() -> str:
    """
    :return: scores of the stored runs, Markdown
    """
    records = stored()
    lines = ["| environment | steps | GIPO | PPO |", "| --- | --- | --- | --- |"]
    for env_id in dict.fromkeys(record["env"] for record in records):
        cells = []
        for algorithm in ALGORITHMS:
            runs = [record for record in records if record["env"] == env_id and record["algorithm"] == algorithm]
            last = [record["returns"][-1] for record in runs]
            text = f"{np.mean(last):.0f} ({', '.join(f'{value:.0f}' for value in last)})" if last else ""
            if last and "success" in runs[0]:
                text += f", success {np.mean([record['success'][-1] for record in runs]):.0%}"
            cells.append(text)
        budget = next(record["budget"] for record in records if record["env"] == env_id)
        lines.append(f"| {env_id} | {budget:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS), metavar="ENV")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: 2)")
    parser.add_argument("--table", action="store_true", help="only print the table of the stored runs")
    arguments = parser.parse_args()
    if not arguments.table:
        run(arguments.only, arguments.jobs)
    print(table())


if __name__ == "__main__":
    main()

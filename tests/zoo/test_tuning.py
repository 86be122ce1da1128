"""Searches in several processes: they share a storage, survive a kill, prune what breaks, and name a winner on fresh seeds."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import TrialState

from sb3_gipo.zoo import register, study, winners
from tests.zoo.conftest import command, environment, run

register()
SETTINGS = "CartPole-v1:\n  n_envs: 2\n  n_timesteps: 500\n  policy: MlpPolicy\n"
SEARCH = ["train", "--algo", "gipo", "--env", "CartPole-v1", "-conf", "settings.yml", "-n", "500", "-optimize"]
SEARCH += ["--n-evaluations", "2", "--eval-episodes", "2", "--no-optim-plots", "--study-name", "s"]


# One process, settings from the test's folder.
TUNE = ["tune", "--env", "CartPole-v1", "-conf", "settings.yml", "--jobs", "1"]


def load(folder: Path) -> optuna.Study:
    return optuna.load_study(storage=f"sqlite:///{folder / 'study.db'}", study_name="s")


@pytest.mark.slow
def test_workers_share_a_storage_and_one_may_be_killed(installed: Path, tmp_path: Path) -> None:
    """
    Three workers started at once on a storage that is not there yet; one is killed in a trial. The others finish all
    of theirs, the lost trial is marked as failed by the next worker that starts, and a trial can be trained from the study.
    """
    (tmp_path / "settings.yml").write_text(SETTINGS)
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    workers = [
        subprocess.Popen(
            command(*SEARCH, "--storage", storage, "--n-trials", "3", "--seed", str(seed), "-f", f"logs{seed}"),
            cwd=tmp_path, env=environment(installed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for seed in range(3)
    ]  # fmt: skip
    victim = workers[0]
    deadline = time.monotonic() + 150
    running: list[str] = []
    while time.monotonic() < deadline and not any(name.endswith(f":{victim.pid}") for name in running):
        assert victim.poll() is None
        time.sleep(0.05)
        if (tmp_path / "study.db").exists() and "s" in _names(storage):
            running = [str(t.user_attrs.get(study.PROCESS)) for t in load(tmp_path).get_trials(states=(TrialState.RUNNING,))]
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    for worker in workers[1:]:
        _, errors = worker.communicate(timeout=200)
        assert worker.returncode == 0, errors.decode()[-3000:]
    mine = [t for t in load(tmp_path).trials if str(t.user_attrs[study.PROCESS]).endswith(f":{victim.pid}")]
    # still running for the storage, unless a worker that took longer to start has marked it already
    lost = [t.number for t in mine if t.state in (TrialState.RUNNING, TrialState.FAIL)]
    assert len(lost) == 1
    others = [t for t in load(tmp_path).trials if t not in mine]
    assert len(others) == 6
    assert all(t.state in study.FINISHED for t in others)
    run(installed, tmp_path, *SEARCH, "--storage", storage, "--n-trials", "1", "--seed", "9")
    assert load(tmp_path).trials[lost[0]].state == TrialState.FAIL
    # the Zoo's own way to train with what a trial found (it takes 0 for "none")
    number = next(t.number for t in others if t.number > 0)
    arguments = ["train", "--algo", "gipo", "--env", "CartPole-v1", "-conf", "settings.yml", "-n", "64", "--eval-freq", "-1"]
    run(installed, tmp_path, *arguments, "--storage", storage, "--study-name", "s", "--trial-id", str(number), "-f", "final")
    config = dict(yaml.unsafe_load((tmp_path / "final/gipo/CartPole-v1_1/CartPole-v1/config.yml").read_text()))
    expected = study.yaml_settings("gipo", load(tmp_path).trials[number].params)
    assert {name: config[name] for name in expected} == expected


# A worker whose first trial ends when three are running, as the others' do; between counting and beginning passes some time.
IN_STEP = """
import sys, time
import optuna
import rl_zoo3.exp_manager
from sb3_gipo.zoo import main

begin = optuna.Study.ask

def ask(study, *args):
    time.sleep(0.3)
    return begin(study, *args)

def objective(manager, trial):
    while len(trial.study.get_trials(deepcopy=False)) < 3:
        time.sleep(0.05)
    return 1.0

optuna.Study.ask = ask
rl_zoo3.exp_manager.ExperimentManager.objective = objective
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_workers_that_end_their_trials_at_once_begin_none_too_many(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yml").write_text(SETTINGS)
    (tmp_path / "worker.py").write_text(IN_STEP)
    arguments = [*SEARCH, "--storage", f"sqlite:///{tmp_path / 'study.db'}", "--max-total-trials", "5"]
    workers = [
        subprocess.Popen(
            [sys.executable, "worker.py", *arguments, "-f", f"logs{number}"],
            cwd=tmp_path, env=environment(installed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for number in range(3)
    ]  # fmt: skip
    for worker in workers:
        _, errors = worker.communicate(timeout=200)
        assert worker.returncode == 0, errors.decode()[-3000:]
    trials = load(tmp_path).trials
    assert len({t.user_attrs[study.PROCESS] for t in trials}) == 3
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 5


def _names(storage: str) -> list[str]:
    try:
        return optuna.get_all_study_names(storage)
    except Exception:  # its tables are being made at this moment
        return []


BROKEN = """
import os
import gymnasium as gym, numpy as np

class Broken(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, how="reward"):
        self.how = how

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.how == "dies" and self.steps == 7:
            os._exit(3)
        broken = self.how == "reward" and self.steps == 7
        return np.zeros(2, np.float32), float("nan") if broken else 1.0, False, self.steps == 10, {}

gym.register("Broken-v0", Broken)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(["--env-kwargs", "how:'reward'"], id="numbers in training"),
        pytest.param(["--env-kwargs", "how:'no'", "--eval-env-kwargs", "how:'reward'"], id="numbers in evaluation"),
        pytest.param(["--env-kwargs", "how:'dies'", "--vec-env", "subproc"], id="environments that die"),
    ],
)
def test_trials_that_break_are_pruned(installed: Path, tmp_path: Path, how: list[str]) -> None:
    """Each is pruned, the search goes on to its end, and says that no trial was completed instead of breaking off."""
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "settings.yml").write_text("Broken-v0:\n  n_timesteps: 200\n  policy: MlpPolicy\n")
    arguments = ["train", "--algo", "gipo", "--env", "Broken-v0", "-conf", "settings.yml", "-optimize", "--n-evaluations", "1"]
    arguments += [
        "--gym-packages",
        "broken",
        "--storage",
        f"sqlite:///{tmp_path / 'study.db'}",
        "--study-name",
        "s",
        "--n-trials",
        "2",
        *how,
    ]
    printed = run(
        installed,
        tmp_path,
        *arguments,
        "--no-optim-plots",
        code=1,
        PYTHONPATH=os.pathsep.join([str(installed), str(tmp_path)]),
    )
    assert "No trial was completed" in printed
    assert "Traceback" not in printed.split("No trial was completed")[-1]
    assert [t.state for t in load(tmp_path).trials] == [TrialState.PRUNED] * 2


@pytest.mark.slow
def test_tune_names_a_winner_on_fresh_seeds(installed: Path, tmp_path: Path) -> None:
    """Search, fresh seeds, winner with its origin, table and picture; the same command again has nothing left to do."""
    (tmp_path / "settings.yml").write_text(SETTINGS)
    arguments = ["tune", "--env", "CartPole-v1", "-conf", "settings.yml", "-n", "500", "--max-total-trials", "3", "--top", "1"]
    arguments += ["--seeds", "2", "--first-seed", "70", "--eval-episodes", "2", "--pruner", "none", "-params", "gamma:0.97"]
    run(installed, tmp_path, *arguments)
    folder = tmp_path / "logs" / "tune_gipo_CartPole-v1"
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = list(dict.fromkeys(row["candidate"] for row in rows))
    assert names[0] == "as_configured"
    assert len(names) == 2
    assert [int(row["seed"]) for row in rows] == [70, 1070, 70, 1070]
    # the score is what the run's own file of evaluations says of the last one within the steps asked for
    for row in rows:
        run_folder = folder / "runs" / row["candidate"] / f"seed_{row['seed']}" / "gipo" / "CartPole-v1_1"
        with np.load(run_folder / "evaluations.npz") as evaluations:
            last = max(index for index, steps in enumerate(evaluations["timesteps"]) if index == 0 or steps <= 500)
            assert float(row["score"]) == evaluations["results"][last].mean()
    means = {name: np.mean([float(row["score"]) for row in rows if row["candidate"] == name]) for name in names}
    winner = max(means, key=means.__getitem__)
    text = (folder / "winner.yml").read_text()
    assert text.startswith(f"# Found by `sb3_gipo.zoo tune`: {winner} of 3 completed")
    assert "Seeds 70-1070" in text
    candidates = {name: yaml.safe_load((folder / "candidates" / f"{name}.yml").read_text()) for name in names}
    assert yaml.safe_load(text) == candidates[winner]
    assert candidates["as_configured"]["CartPole-v1"] == {
        "n_envs": 2,
        "n_timesteps": 500,
        "policy": "MlpPolicy",
        "gamma": 0.97,
    }
    found = optuna.load_study(storage=f"sqlite:///{folder / 'study.db'}", study_name="gipo_CartPole-v1")
    (best,) = study.best_trials(found, 1)
    assert names[1] == f"trial_{best.number}"
    assert candidates[names[1]]["CartPole-v1"]["gamma"] == 1 - best.params["one_minus_gamma"]  # what was drawn comes first
    assert best.value == max(t.value for t in found.trials)
    assert len(np.unique(iio.imread(folder / "tuning.png"))) > 5
    assert f"Winner: {winner}" in (folder / "report.md").read_text().replace("the settings as they were.", "as_configured")
    began = {path: path.stat().st_mtime_ns for path in folder.rglob("evaluations.npz")}
    run(installed, tmp_path, *arguments)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("evaluations.npz")} == began
    # other trials are not added to it, nor their runs taken for its own
    printed = run(installed, tmp_path, *[{"500": "600"}.get(argument, argument) for argument in arguments], code=1)
    assert "of other trials (different: n_timesteps)" in printed
    # what it found can be trained from
    run(
        installed, tmp_path, "train", "--algo", "gipo", "--env", "CartPole-v1", "-conf", str(folder / "winner.yml"), "-n", "64"
    )


@pytest.mark.slow
def test_tune_goes_on_when_a_worker_is_killed(installed: Path, tmp_path: Path) -> None:
    """The only worker is killed in its first trial: another takes its place, and the search has all trials asked for."""
    (tmp_path / "settings.yml").write_text(SETTINGS)
    arguments = [*TUNE, "-n", "300", "--max-total-trials", "2", "--top", "1", "--seeds", "1"]
    arguments += ["--eval-episodes", "1", "--n-evaluations", "1"]
    process = subprocess.Popen(
        command(*arguments, "--study-name", "s"),
        cwd=tmp_path, env=environment(installed), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    killed = None
    while killed is None and time.monotonic() < deadline:
        time.sleep(0.05)
        assert process.poll() is None
        folder = tmp_path / "logs" / "tune_s"
        if (folder / "study.db").exists() and "s" in _names(f"sqlite:///{folder / 'study.db'}"):
            running = load(folder).get_trials(states=(TrialState.RUNNING,))
            owners = [trial.user_attrs[study.PROCESS] for trial in running if study.PROCESS in trial.user_attrs]
            killed = int(owners[0].rpartition(":")[2]) if owners else None
    if killed is None:
        process.terminate()
        pytest.fail(f"no trial was begun: {process.communicate()[0]}")
    os.kill(killed, signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    states = [trial.state for trial in load(folder).trials]
    assert states[0] == TrialState.FAIL
    assert len([state for state in states if state in study.FINISHED]) == 2
    assert "of one seed: no more than a lead" in output or "Winner: the settings as they were" in output


@pytest.mark.slow
def test_tune_says_why_it_cannot(installed: Path, tmp_path: Path) -> None:
    """An environment that is not there, settings that are not there, workers that break."""
    assert "not registered" in run(installed, tmp_path, "tune", "--env", "Nothing-v0", "-n", "10", code=2)
    assert "--seed cannot be given" in run(installed, tmp_path, "tune", "--env", "CartPole-v1", "-n", "9", "--seed=1", code=2)
    assert "no settings for --algo sax" in run(
        installed, tmp_path, "tune", "--algo", "sax", "--env", "CartPole-v1", "-n", "9", code=2
    )
    (tmp_path / "settings.yml").write_text(
        "CartPole-v1:\n  n_timesteps: 500\n  policy: MlpPolicy\n  env_wrapper: no.such.Wrapper\n"
    )
    arguments = [*TUNE, "-n", "100", "--max-total-trials", "1"]
    printed = run(installed, tmp_path, *arguments, code=1)
    assert "The search broke off" in printed
    assert "No module named 'no'" in printed


def test_a_lost_trial_is_one_whose_process_is_gone(tmp_path: Path) -> None:
    """Of this machine and not alive; what runs here, runs elsewhere or does not say where it runs is left alone."""
    found = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (study.this_process(), f"{study.this_machine()}:{ended.pid}", f"elsewhere:{ended.pid}", None):
        trial = found.ask()
        if name is not None:
            trial.set_user_attr(study.PROCESS, name)
    assert study.fail_lost_trials(found) == 1
    running, failed = TrialState.RUNNING, TrialState.FAIL
    assert [trial.state for trial in found.trials] == [running, failed, running, running]


def test_a_journal_in_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made, and the path is whole: in a relative one Optuna waits for ever for the lock of a process that was killed."""
    monkeypatch.chdir(tmp_path)
    path = study.address("new/study.log")
    assert Path(path) == tmp_path / "new" / "study.log"
    optuna.create_study(storage=study.open_storage(path), study_name="s")
    assert Path(path).is_file()
    assert study.address("sqlite:///x.db") == "sqlite:///x.db"


def test_best_trials_are_different_ones(tmp_path: Path) -> None:
    """Highest value first, parameters not twice, only completed ones."""
    found = optuna.create_study(direction="maximize")
    number = optuna.distributions.FloatDistribution(0, 10)
    for x, value in ((1.0, 5.0), (2.0, 9.0), (2.0, 7.0), (3.0, -1.0)):
        found.add_trial(optuna.trial.create_trial(params={"x": x}, distributions={"x": number}, value=value))
    found.add_trial(optuna.trial.create_trial(params={"x": 4.0}, distributions={"x": number}, state=TrialState.PRUNED))
    assert [trial.value for trial in study.best_trials(found, 5)] == [9.0, 5.0, -1.0]
    assert study.n_finished(found) == 5


def test_mean_and_error() -> None:
    """Standard error of the mean, by hand; none with one seed."""
    mean, error = winners.mean_and_error([1.0, 3.0, 5.0])
    assert (mean, error) == (3.0, pytest.approx(2 / np.sqrt(3)))
    assert np.isnan(winners.mean_and_error([2.0])[1])

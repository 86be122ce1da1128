"""
Builds every contestant once on every task, in a process of its own: settings that an algorithm refuses, or with which it
would never learn, are told before anything is trained. Configurations come as JSON lines; of each that will not do, its
number and the error go out as a JSON line.
"""

import json
import subprocess
import sys
from typing import Any

from sb3_gipo.studies.checking import StudyError
from sb3_gipo.studies.plan import Run

MARK = "\x1f"  # before our lines: environments print what they like


def check_buildable(runs: list[Run]) -> None:
    """
    :param runs: to be made
    :raises StudyError: for the first configurations that cannot be built
    """
    one_of_each = list({(run.task, run.regime, run.contestant): run for run in runs}.values())
    if not one_of_each:
        return
    lines = "\n".join(json.dumps(run.configuration) for run in one_of_each)
    done = subprocess.run([sys.executable, "-m", __name__], input=lines, capture_output=True, text=True, check=False)
    errors = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if errors:
        # one setting is often wrong in the same way on every task
        told = {f"{one_of_each[number].contestant}: {error}": one_of_each[number].task for number, error in reversed(errors)}
        said = "\n".join(f"- {error} (on {task})" for error, task in reversed(told.items()))
        raise StudyError(f"Nothing was run, because these cannot be built:\n{said}")
    if done.returncode != 0:
        raise StudyError(f"Nothing was run, because the contestants cannot be built:\n{done.stderr[-2000:]}")


def main() -> int:
    """:return: exit code: 0"""
    from sb3_gipo.studies.contestants import make_envs, make_model

    envs: dict[str, Any] = {}
    for number, line in enumerate(sys.stdin):
        run = json.loads(line)
        run["evaluations"]["episodes"] = 1
        key = json.dumps([run["task"], run["n_envs"], run["normalize"]])
        try:
            if key not in envs:
                for pair in envs.values():
                    for env in pair:
                        env.close()
                envs = {key: make_envs(run)}
            check_learns(make_model(run, envs[key][0]), run["steps"])
        except Exception as error:
            said = str(error) if isinstance(error, StudyError) else f"{type(error).__name__}: {error}"
            # on a line of its own, whatever an environment has printed
            print("\n" + MARK + json.dumps([number, said]), flush=True)
    return 0


def check_learns(model: Any, steps: int) -> None:
    """
    :param model: of SB3, nothing learnt yet
    :param steps: of its run
    :raises StudyError: where the run ends before its first gradient step
    """
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
    from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

    # a run ends within the rollout that reaches its steps: of that one nothing is learnt
    if isinstance(model, OnPolicyAlgorithm) and model.n_steps * model.n_envs >= steps:
        raise StudyError(
            f"it would never learn: its first update comes after a rollout of n_steps * n_envs = {model.n_steps} * "
            f"{model.n_envs} = {model.n_steps * model.n_envs} steps, and the run ends at {steps}. Give it less n_steps, or "
            "the study more steps."
        )
    if isinstance(model, OffPolicyAlgorithm):
        # it learns between rollouts of train_freq; of one that is counted in episodes nobody knows the length
        frequency = model.train_freq
        steps_each = (
            frequency.frequency if isinstance(frequency, TrainFreq) and frequency.unit == TrainFrequencyUnit.STEP else 1
        )
        rollout = model.n_envs * steps_each
        first = rollout * (model.learning_starts // rollout + 1)
        if first >= steps:
            raise StudyError(
                f"it would never learn: with a learning_starts of {model.learning_starts} its first update comes after step "
                f"{first}, and the run ends at {steps}. Give it less learning_starts, or the study more steps."
            )


if __name__ == "__main__":
    raise SystemExit(main())

"""
Builds every contestant once on every task, in a process of its own: settings that an algorithm refuses are told before
anything is trained. Configurations come as JSON lines; of each that cannot be built, its number and the error go
out as a JSON line.
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
    firsts = list({(run.task, run.regime, run.contestant): run for run in runs}.values())
    if not firsts:
        return
    lines = "\n".join(json.dumps(run.configuration) for run in firsts)
    done = subprocess.run([sys.executable, "-m", __name__], input=lines, capture_output=True, text=True, check=False)
    errors = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith(MARK)]
    if errors:
        # one setting is often wrong in the same way on every task
        told = {f"{firsts[number].contestant}: {error}": firsts[number].task for number, error in reversed(errors)}
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
            make_model(run, envs[key][0])
        except Exception as error:
            # on a line of its own, whatever an environment has printed
            print("\n" + MARK + json.dumps([number, f"{type(error).__name__}: {error}"]), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

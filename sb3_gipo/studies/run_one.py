"""
One run of a study, in a process of its own: ``python -m sb3_gipo.studies.run_one FOLDER`` reads ``run.json`` there, trains,
and leaves ``record.json`` or ``failure.json``, whole or not at all.
"""

import argparse
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo.callbacks import UtilizationCallback
from sb3_gipo.callbacks.observers import is_clipped
from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.pages import write_json
from sb3_gipo.studies import folder
from sb3_gipo.studies.contestants import find_algorithm, make_envs, make_model
from sb3_gipo.studies.plan import fingerprint, title
from sb3_gipo.studies.provenance import hardware, versions
from sb3_gipo.studies.recording import RunRecorder
from sb3_gipo.studies.traces import Traces

ORPHANED = 3
WATCH_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: arguments without the program's name; ``None``: those of the process
    :return: exit code: 0 where there is a record, 1 after a failure
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_gipo.studies.run_one", description="One run of a study.")
    parser.add_argument("folder", type=Path, help="with its run.json")
    parser.add_argument("--parent", type=int, help="process without which the run ends")
    arguments = parser.parse_args(argv)
    if arguments.parent is not None:
        threading.Thread(target=_watch, args=(arguments.parent,), daemon=True).start()
    # Where the parent of an earlier one was killed, that one may need a moment to notice.
    with folder.locked(arguments.folder, wait=True):
        return make(arguments.folder)


def make(here: Path) -> int:
    """
    :param here: folder of the run
    :return: 0 where there is a record, 1 after a failure
    """
    configuration = folder.read(here / folder.CONFIGURATION)
    if configuration is None:
        print(f"There is no {folder.CONFIGURATION} in {here}.", file=sys.stderr)
        return 1
    done = folder.read(here / folder.RECORD)
    if done is not None and done.get("fingerprint") == fingerprint(configuration):
        return 0
    try:
        record = carry_out(configuration, here / folder.PROGRESS)
        write_json(here / folder.RECORD, record)
    except Exception as error:
        lines = traceback.format_exc()
        print(lines, file=sys.stderr)
        folder.fail(here, configuration, f"{type(error).__name__}: {error}", "\n".join(lines.splitlines()[-30:]))
        return 1
    return 0


def carry_out(configuration: dict[str, Any], progress: Path | None = None) -> dict[str, Any]:
    """
    Train and evaluate.

    :param configuration: of the run
    :param progress: file for the steps so far
    :return: its record
    """
    th.set_num_threads(1)  # as many runs at once as there are cores
    begun, start = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
    made_with = versions(find_algorithm(configuration["algorithm"]["class"]))  # before the files can change
    env, eval_env = make_envs(configuration)
    model = make_model(configuration, env)
    recorder = _recorder(eval_env, configuration, progress)
    _train(model, recorder, configuration["steps"])
    training_seconds = recorder.training_seconds
    if isinstance(model, AsyncGIPO):
        model.close()
    env.close()
    eval_env.close()
    return {
        "fingerprint": fingerprint(configuration),
        **configuration,
        "versions": made_with,
        "hardware": hardware(model.device),
        "started": begun,
        "evaluations": recorder.evaluations,
        "planned_evaluations": configuration["evaluations"],
        "traces": recorder.traces.intervals(),
        "training_seconds": round(training_seconds, 3),
        "wall_seconds": round(time.perf_counter() - start, 3),
    }


def _recorder(eval_env: VecEnv, configuration: dict[str, Any], progress: Path | None) -> RunRecorder:
    how = configuration["evaluations"]
    return RunRecorder(eval_env, how["at"], how["episodes"], how["seed"], Traces(), progress, title(configuration))


def _train(model: BaseAlgorithm, recorder: RunRecorder, steps: int) -> None:
    model.set_logger(Logger(folder=None, output_formats=[recorder.traces]))
    callbacks: list[BaseCallback] = [recorder]
    if type(model).__module__.partition(".")[0] != "sb3_gipo" and is_clipped(model):
        # what GIPO logs by itself
        callbacks.append(UtilizationCallback(histogram_freq=0, figure_freq=0, by_age=False))
    model.learn(steps, callback=callbacks)


def _watch(parent: int) -> None:
    """A run that nobody waits for would be made a second time beside itself by the next call."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(ORPHANED)


if __name__ == "__main__":
    raise SystemExit(main())

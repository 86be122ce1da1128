"""
One line for each run of a study, for those whose runs are not stored whole: what ``leads.jsonl`` has.

    python -m benchmarks.data_efficiency.records leads.yaml FOLDER >> benchmarks/results/data_efficiency/leads.jsonl

The first argument is the name to store, the second the folder that ``sb3-gipo compare`` was given.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sb3_gipo.studies.traces import TAIL


def line(study: str, record: dict[str, Any]) -> dict[str, Any]:
    """
    :param study: name of its file
    :param record: ``record.json`` of a run
    :return: who ran where, means of its evaluations, seconds of training, and the tail of the ratio between evaluations
    """
    algorithm, evaluations = record["algorithm"], record["evaluations"]
    return {
        "study": study,
        "contestant": algorithm["name"],
        "class": algorithm["class"],
        "task": record["task"]["name"],
        "seed": record["seed"],
        "n_envs": record["n_envs"],
        "settings": algorithm["settings"],
        "steps": [each["steps"] for each in evaluations],
        "returns": [round(float(np.mean(each["returns"])), 2) for each in evaluations],
        "successes": [round(float(np.mean(each["successes"])), 3) if each["successes"] else None for each in evaluations],
        "abs_log_rho_p95": [round(each["mean"][TAIL], 3) if TAIL in each["mean"] else None for each in record["traces"]],
        "seconds": record["training_seconds"],
        "versions": record["versions"],
    }


def main() -> None:
    """Print the lines."""
    study, folder = sys.argv[1:]
    for file in sorted(Path(folder).glob("runs/*/record.json")):
        print(json.dumps(line(study, json.loads(file.read_text()))))


if __name__ == "__main__":
    main()

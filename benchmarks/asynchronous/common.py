"""What the parts share: where numbers are kept and what goes with them."""

import argparse
import json
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.speed.common import machine, source_digest, versions

RESULTS = Path("benchmarks/results/asynchronous")
PACKAGES = ("ray", "mujoco", "metaworld")


def store(part: str, args: argparse.Namespace, found: dict[str, Any]) -> Path:
    """
    :param part: names the file
    :param args: of the command line
    :param found: a JSON object
    :return: the file
    """
    path: Path = args.out / f"{part}.json"
    # where an interpreter lies on this machine helps nobody
    words = ["PATH" if before.endswith("-python") else word for before, word in pairwise(["", *sys.argv[1:]])]
    facts = {
        "part": part,
        "command": shlex.join(["python", "-m", "benchmarks.asynchronous", *words]),
        "quick": args.quick,
        "machine": machine(),
        "versions": versions(*PACKAGES),
        "source": source_digest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, **found}, indent=1) + "\n")
    return path

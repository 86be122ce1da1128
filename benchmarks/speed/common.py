"""What the parts share: turns, statistics, tables, the machine, and where the numbers are kept."""

import argparse
import hashlib
import json
import os
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("benchmarks/results/speed")
SEED = 0
Rows = list[dict[str, Any]]
Result = TypeVar("Result")


# -------------------------------------------------------------------- measuring


def timed(function: Callable[[], Any]) -> float:
    """:return: wall-clock seconds of one call"""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def take_turns(contestants: dict[str, Callable[[], Result]], rounds: int) -> dict[str, list[Result]]:
    """
    Every contestant once in each round, the order reversed from round to round.

    :param contestants: what to call, by name
    :param rounds: how often each is called
    :return: what each call returned, by name: index ``i`` of all lists is round ``i``
    """
    measured: dict[str, list[Result]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            measured[name].append(contestants[name]())
    return measured


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """
    Call a function in a fresh interpreter, so that thread counts, caches and memory of one measurement are not another's.

    :param function: at the top level of a module
    :return: what it returned
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def last_cores(count: int) -> list[int]:
    """:return: the last ones that this process may use; the first serves interrupts and whoever else pins himself"""
    return sorted(os.sched_getaffinity(0))[-count:]


def use_cores(count: int) -> None:
    """:param count: this process, and torch in it, runs on so many cores"""
    import torch as th

    os.sched_setaffinity(0, last_cores(count))
    th.set_num_threads(count)
    refuse_fallback()


def refuse_fallback() -> None:
    """GIPO warns where it cannot compile and goes on without; here that ends the run: eager is not to pass for compiled."""
    warnings.filterwarnings("error", message=".*compile=True", category=UserWarning)


# -------------------------------------------------------------------- tables


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """:return: of each round"""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """:return: median, and smallest to largest in brackets"""
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """:return: a Markdown table"""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


# -------------------------------------------------------------------- keeping


def machine() -> dict[str, Any]:
    """:return: CPU model, cores, memory and system"""
    info = Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "ram_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "os": platform.platform(),
    }


def versions(*further: str) -> dict[str, str]:
    """
    :param further: packages to name beside those that every part uses, where they are installed
    :return: version of Python and of each package
    """
    found = {"python": platform.python_version()}
    for package in ("torch", "stable-baselines3", "sb3-gipo", "numpy", "gymnasium", *further):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def source_digest() -> str:
    """:return: of the package's code: numbers of the same version but another digest are of another state of the work"""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "sb3_gipo").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def store(part: str, args: argparse.Namespace, rows: Rows, keys: Sequence[str], packages: Sequence[str] = ()) -> Path:
    """
    Write the measurements of a part. Rows of the same machine, versions and code that were not measured now stay, so that a
    part may be measured piece by piece.

    :param part: names the file
    :param args: of the command line
    :param rows: JSON objects, every measurement in them
    :param keys: entries of a row that say what was measured
    :param packages: used beside the usual ones
    :return: the file
    """
    path: Path = args.out / f"{part}.json"
    facts = {
        "quick": args.quick,
        "machine": machine(),
        "versions": versions(*packages),
        "source": source_digest(),
        "seed": SEED,
    }
    # where an interpreter lies on this machine helps nobody
    words = ["PATH" if before == "--sbx-python" else word for before, word in pairwise(["", *sys.argv[1:]])]
    command = shlex.join(["python", "-m", "benchmarks.speed", *words])
    rows = [{**row, "command": command} for row in rows]
    if path.exists():
        before = json.loads(path.read_text())
        measured = [[row[key] for key in keys] for row in rows]
        if all(before[name] == fact for name, fact in facts.items()):
            rows = [row for row in before["rows"] if [row[key] for key in keys] not in measured] + rows
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"part": part, **facts, "rows": rows}, indent=1) + "\n")
    return path


def load(part: str, folder: Path) -> dict[str, Any] | None:
    """:return: what :func:`store` wrote, ``None`` where there is nothing"""
    path = folder / f"{part}.json"
    return json.loads(path.read_text()) if path.exists() else None

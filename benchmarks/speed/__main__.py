"""
How fast GIPO is beside Stable-Baselines3's PPO (and SBX's, in JAX). From the root of a clone:

    python -m benchmarks.speed learner      # gradient samples/s of train(), 20 minutes with compiled variants
    python -m benchmarks.speed end-to-end   # environment steps/s of learn(); --sbx-python PATH: an interpreter with SBX
    python -m benchmarks.speed targets      # recomputing values, log-probabilities and V-trace of all that is stored
    python -m benchmarks.speed replay       # bytes, insert and sample rates of the replay; status 1 above 1.1 of the payload
    python -m benchmarks.speed memory       # resident memory over 200 iterations; status 1 where it is not flat
    python -m benchmarks.speed profile      # where the time of a collection and of an update goes
    python -m benchmarks.speed all          # all of these, one after the other, each in a process of its own
    python -m benchmarks.speed table        # writes README's performance tables from the stored numbers (--check: compares)

Each part prints a Markdown table and leaves every single measurement in ``benchmarks/results/speed/<part>.json``. ``--quick``
makes everything so small that the figures mean nothing, to see that it runs; it writes to a folder of its own.

What is compared takes turns: in a round every contestant does the same unit of work once, in the next round in reverse order.
Figures are medians over rounds, a ratio is the median of the ratios within the rounds, in brackets the smallest and the
largest. First calls (imports, compilation) never count. Close what else runs on the machine.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.speed import end_to_end, learner, memory, profiling, replay, table, targets
from benchmarks.speed.common import RESULTS

PARTS = {
    "learner": learner,
    "end-to-end": end_to_end,
    "targets": targets,
    "replay": replay,
    "memory": memory,
    "profile": profiling,
}


def run_all(args: argparse.Namespace) -> int:
    """:return: 1 where a part failed; the others run all the same"""
    worst = 0
    for part in PARTS:
        print(f"\n## {part}\n", flush=True)
        command = [sys.executable, "-m", "benchmarks.speed", part, "--out", str(args.out)]
        command += ["--quick"] * args.quick + ["--no-compile"] * args.no_compile
        if part == "end-to-end" and args.sbx_python:
            command += ["--sbx-python", args.sbx_python]
        worst = max(worst, abs(subprocess.run(command, check=False).returncode))
    return int(worst > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="part", required=True)
    for name, module in {**PARTS, "table": table}.items():
        # argparse formats the text: a percent sign stands for itself only as two
        command = commands.add_parser(name, help=(module.__doc__ or "").strip().splitlines()[0].replace("%", "%%"))
        module.add_options(command)
        command.set_defaults(function=module.run)
    everything = commands.add_parser("all", help="All parts, each in a process of its own.")
    everything.add_argument("--sbx-python", metavar="PATH", help="an interpreter with SBX, for end-to-end")
    everything.set_defaults(function=run_all)
    for name, command in commands.choices.items():
        command.add_argument("--out", type=Path, help=f"folder of the JSON files (default: {RESULTS})")
        if name != "table":
            command.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
            command.add_argument("--no-compile", action="store_true", help="leave out what is compiled, a minute each")
    args = parser.parse_args()
    if args.out is None:
        is_quick = getattr(args, "quick", False)
        args.out = Path(tempfile.gettempdir()) / "sb3-gipo-speed-quick" if is_quick else RESULTS
    status: int = args.function(args)
    return status


if __name__ == "__main__":
    sys.exit(main())

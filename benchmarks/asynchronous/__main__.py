"""
Asynchronous actors (:class:`sb3_gipo.distributed.AsyncGIPO`): how fast, and how hard to kill. From the root of a clone:

    python -m benchmarks.asynchronous throughput   # env steps/s with two actors beside GIPO with two environments
    python -m benchmarks.asynchronous actors       # 1, 4 and 16 actors, each waiting for a simulator of 5 ms a step
    python -m benchmarks.asynchronous peers        # beside RLlib's APPO; --rllib-python PATH: an interpreter that has it
    python -m benchmarks.asynchronous regimes      # lag of a busy learner's data with 16 actors and with 2
    python -m benchmarks.asynchronous chaos        # killed, hanging, raising and slow actors; the driver killed and resumed
    python -m benchmarks.asynchronous all          # the first four, one after the other, each in a process of its own

Each part prints a Markdown table and leaves every single measurement in ``benchmarks/results/asynchronous/``. ``--quick``
makes everything so small that the figures mean nothing, to see that it runs; it writes to a folder of its own. What is
compared takes turns; figures are medians over rounds, a ratio is the median of the ratios within the rounds, in brackets the
smallest and the largest. Close what else runs on the machine.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.asynchronous import actors, chaos, peers, regimes, throughput
from benchmarks.asynchronous.common import RESULTS

PARTS = {"throughput": throughput, "actors": actors, "peers": peers, "regimes": regimes, "chaos": chaos}
TIMED = ("throughput", "actors", "peers", "regimes")


def run_all(args: argparse.Namespace) -> int:
    """:return: 1 where a part failed; the others run all the same"""
    worst = 0
    for part in TIMED:
        print(f"\n## {part}\n", flush=True)
        command = [sys.executable, "-m", "benchmarks.asynchronous", part, "--out", str(args.out)] + ["--quick"] * args.quick
        if part == "peers":
            for option in ("rllib_python", "sample_factory_python"):
                value = getattr(args, option)
                command += [f"--{option.replace('_', '-')}", value] if value else []
        worst = max(worst, abs(subprocess.run(command, check=False).returncode))
    return int(worst > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.asynchronous", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="part", required=True)
    for name, module in PARTS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").strip().splitlines()[0])
        module.add_options(command)
        command.set_defaults(function=module.run)
    everything = commands.add_parser("all", help="Those that measure time, each in a process of its own.")
    peers.add_interpreters(everything)
    everything.set_defaults(function=run_all)
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, help=f"folder of the JSON files (default: {RESULTS})")
        command.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    if args.out is None:
        args.out = Path(tempfile.gettempdir()) / "sb3-gipo-asynchronous-quick" if args.quick else RESULTS
    status: int = args.function(args)
    return status


if __name__ == "__main__":
    sys.exit(main())

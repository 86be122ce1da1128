"""README's performance tables, generated from the stored measurements."""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.speed import end_to_end, memory, replay, targets
from benchmarks.speed.common import Rows, load, markdown, ratios, spread

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
PARTS = ("learner", "end-to-end", "targets", "replay", "memory")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where README is not what the data say")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))


def run(args: argparse.Namespace) -> int:
    text = args.readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        print(f"{args.readme} must contain the line {BEGIN} and below it the line {END}, each once.", file=sys.stderr)
        return 1
    found = {part: load(part, args.out) for part in PARTS}
    missing = [part for part, data in found.items() if data is None]
    if missing:
        print(f"No measurements of {', '.join(missing)} in {args.out}; run these parts first.", file=sys.stderr)
        return 1
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    wanted = f"{before}{BEGIN}\n{section({part: data for part, data in found.items() if data})}\n{END}{after}"
    if wanted == text:
        return 0
    if args.check:
        print(f"{args.readme} differs from the data; write it with `python -m benchmarks.speed table`.", file=sys.stderr)
        return 1
    args.readme.write_text(wanted)
    return 0


def section(found: dict[str, dict[str, Any]]) -> str:
    """:return: all tables, with the machines and versions they come from"""
    parts = [
        *dict.fromkeys(origin(data) for data in found.values()),
        "Update: gradient samples/s of `train()` on the same rollout; times SB3 PPO, median (smallest-largest) over rounds.",
        learner_table(found["learner"]["rows"]),
        "End to end: environment steps/s of `learn()`, times SB3 PPO.",
        end_to_end_table(found["end-to-end"]["rows"]),
        *beside_sbx(found["end-to-end"]["rows"]),
        "Targets: values, log-probabilities and V-trace of the rollouts that 100 minibatches of 256 draw from (at most 26,000 "
        "transitions, however many are stored), MLP 256x256; share of an iteration that also collects 1,000 steps of "
        "reach-v3.",
        targets_table(found["targets"]["rows"]),
        "Replay: bytes kept of each transition beside its payload, transitions inserted and sampled in a second.",
        replay_table(found["replay"]["rows"]),
        f"Resident memory over {memory.ITERATIONS} iterations after a warm-up of {memory.WARM_UP}: "
        + ", ".join(f"{row['variant']} {memory.growth(row):+.2%}" for row in found["memory"]["rows"])
        + ".",
    ]
    return "\n\n".join(parts)


def origin(data: dict[str, Any]) -> str:
    """:return: one line: machine and versions"""
    facts = data["machine"]
    named = ("python", "torch", "stable-baselines3", "numpy")
    versions = ", ".join(f"{name} {data['versions'][name]}" for name in named)
    tiny = " `--quick`: these figures mean nothing." if data["quick"] else ""
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['ram_gb']} GB; {versions}.{tiny}"


def learner_table(rows: Rows) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    lines = []
    for row in rows:
        ppo = row["seconds"]["SB3 PPO"]
        cells = [spread(ratios(ppo, row["seconds"][name])) if name in row["seconds"] else "" for name in names[1:]]
        where = str(row["threads"]) + ("" if row["device"] == "cpu" else f", {row['device']}")
        lines.append([row["title"], where, f"{row['samples'] / statistics.median(ppo):,.0f}", *cells])
    return markdown(["network", "threads", "SB3 PPO, samples/s", *names[1:]], lines)


def end_to_end_table(rows: Rows) -> str:
    names = sorted({name for row in rows for name in row["units"]} - {"SB3 PPO"}, key=lambda name: ("SBX" in name, name))
    lines = []
    for row in rows:
        ppo = end_to_end.column(row, "SB3 PPO", "seconds")
        rate = statistics.median(unit["steps"] / unit["seconds"] for unit in row["units"]["SB3 PPO"])
        cells = [
            spread(ratios(ppo, end_to_end.column(row, name, "seconds"))) if name in row["units"] else "" for name in names
        ]
        fastest = "GIPO compiled" if "GIPO compiled" in row["units"] else "GIPO"
        inside = end_to_end.column(row, fastest, "environment_seconds")
        share = f"{statistics.median(ratios(inside, end_to_end.column(row, fastest, 'seconds'))):.0%}" if inside[0] else ""
        lines.append([end_to_end.title(row), str(row["cores"]), f"{rate:,.0f}", *cells, share])
    return markdown(["", "cores", "SB3 PPO, steps/s", *names, "compiled GIPO's time inside the environment"], lines)


def beside_sbx(rows: Rows) -> list[str]:
    """:return: a sentence on every task that SBX took part in"""
    sentences = []
    for row in (row for row in rows if "SBX PPO" in row["units"]):
        sbx = end_to_end.column(row, "SBX PPO", "seconds")
        times = [
            f"{name} {spread(ratios(sbx, end_to_end.column(row, name, 'seconds')))}"
            for name in row["units"]
            if name.startswith("GIPO")
        ]
        sentences.append(f"Times SBX PPO on {end_to_end.title(row)}: {', '.join(times)}.")
    return sentences


def targets_table(rows: Rows) -> str:
    lines = []
    for row in rows:
        for name, seconds in row["targets_seconds"].items():
            share = statistics.median(targets.shares(row, name)[1])
            median = statistics.median(seconds)
            lines.append([f"{row['size']:,}", name, f"{1e3 * median:,.0f}", f"{share:.0%}", targets.each(row, name)])
    return markdown(["stored", "update", "targets of an iteration, ms", "share of it", "targets of all, µs each"], lines)


def replay_table(rows: Rows) -> str:
    lines = []
    for row in rows:
        if row["skipped"]:
            continue
        rates = [f"{replay.rate(row, what) / 1e3:,.0f}k" for what in ("insert", "sample")]
        lines.append([row["kind"], f"{row['size']:,}", f"{row['bytes'] / row['payload']:.3f}", *rates])
    return markdown(["transition", "stored", "bytes / payload", "inserted/s", "sampled/s"], lines)

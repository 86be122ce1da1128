"""
The replay: bytes per transition against the payload, insert and sample rates, for states and images.

The payload is that of ``benchmarks/replay_memory.py``. A ring is filled once, which does not count (the system hands out its
memory then), then every rollout in it is replaced (always from the same one, which lies in the processor's cache, as one does
that was just collected). After that, 200 minibatches of 256 are drawn, as for one update, and all columns gathered; the
permutation of all that is stored, once for each such draw, is in it.
"""

import argparse
import statistics
from typing import Any

import numpy as np
from gymnasium import spaces

from benchmarks.replay_memory import LIMIT, payload
from benchmarks.speed.common import SEED, Rows, in_own_process, markdown, spread, store, timed, use_cores

SIZES = (1_000, 10_000, 100_000, 1_000_000)
LARGEST = 2 * 10**9  # bytes; what is above is skipped
EPISODE = 500
BATCH_SIZE = 256
BATCHES = 200  # minibatches of one timing
KINDS: dict[str, tuple[spaces.Box, spaces.Space[Any]]] = {
    "state (39 floats, Box 4)": (spaces.Box(-1, 1, (39,)), spaces.Box(-1, 1, (4,))),
    "image (84 x 84 x 4 uint8, Discrete)": (spaces.Box(0, 255, (84, 84, 4), np.uint8), spaces.Discrete(6)),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="stored transitions, multiples of 500")
    parser.add_argument("--rounds", type=int, default=7)


def run(args: argparse.Namespace) -> int:
    sizes, rounds = ([2 * EPISODE], 2) if args.quick else (args.sizes, args.rounds)
    rows: Rows = []
    for kind, (observation_space, action_space) in KINDS.items():
        for size in sizes:
            raw = payload(observation_space, action_space)
            row: dict[str, Any] = {"kind": kind, "size": size, "payload": raw, "skipped": size * raw > LARGEST}
            if not row["skipped"]:
                row.update(in_own_process(measure, kind, size, rounds))
            rows.append(row)
            store("replay", args, rows, ("kind", "size"))
    print(table(rows))
    return int(any(row["bytes"] / row["payload"] > LIMIT for row in rows if not row["skipped"]))


def measure(kind: str, size: int, rounds: int) -> dict[str, Any]:
    """:return: bytes per transition; seconds of replacing everything, and of drawing minibatches, in every round"""
    use_cores(1)
    from sb3_gipo.rollouts.replay import RolloutReplayBuffer

    assert size % EPISODE == 0, f"{size} is no multiple of {EPISODE}"
    replay = RolloutReplayBuffer(size, *KINDS[kind], seed=SEED)
    rollout = episode(*KINDS[kind])

    def fill() -> None:
        for _ in range(size // EPISODE):
            replay.add(rollout)

    def draw() -> None:
        for positions in replay.sample(BATCHES, min(BATCH_SIZE, size)):
            for name in columns:
                replay.gather(name, positions)

    columns = ["observations", "actions", "rewards", "terminated", "truncated", "log_probs", "policy_version"]
    first = timed(fill)
    insert = [timed(fill) for _ in range(rounds)]
    draw()
    sample = [timed(draw) for _ in range(rounds)]
    return {
        "bytes": replay.nbytes / len(replay),
        "first_fill_seconds": first,
        "insert_seconds": insert,
        "sampled": BATCHES * min(BATCH_SIZE, size),
        "sample_seconds": sample,
    }


def episode(observation_space: spaces.Box, action_space: spaces.Space[Any]) -> Any:
    """:return: a rollout of one environment: one episode, cut short at its end by a time limit, as in Meta-World"""
    from sb3_gipo.rollouts.types import Rollout, action_dtype, observation_dtype

    rng = np.random.default_rng(SEED)
    truncated = np.zeros((EPISODE, 1), dtype=bool)
    truncated[-1] = True

    def noise(length: int) -> np.ndarray:
        numbers = rng.integers(0, 2, size=(length, 1, *observation_space.shape), dtype=np.uint8)
        return numbers.astype(observation_dtype(observation_space))

    return Rollout(
        observations=noise(EPISODE),
        actions=rng.integers(0, 2, size=(EPISODE, 1, *(action_space.shape or ()))).astype(action_dtype(action_space)),
        rewards=np.zeros((EPISODE, 1), dtype=np.float32),
        terminated=np.zeros_like(truncated),
        truncated=truncated,
        log_probs=np.zeros((EPISODE, 1), dtype=np.float32),
        last_observations=noise(1)[0],
        terminal_observations=noise(1)[0],
        policy_version=np.zeros((EPISODE, 1), dtype=np.int32),
    )


def table(rows: Rows) -> str:
    """:return: one line for each kind and size"""
    lines = []
    for row in rows:
        cells = [row["kind"], f"{row['size']:,}", str(row["payload"])]
        if row["skipped"]:
            lines.append([*cells, f"skipped: above {LARGEST / 1e9:.0f} GB", "", "", ""])
            continue
        inserted = [row["size"] / seconds / 1e3 for seconds in row["insert_seconds"]]
        sampled = [row["sampled"] / seconds / 1e3 for seconds in row["sample_seconds"]]
        ratio = f"{row['bytes'] / row['payload']:.3f}"
        lines.append([*cells, f"{row['bytes']:.1f}", ratio, spread(inserted, ",.0f"), spread(sampled, ",.0f")])
    header = ["transition", "stored", "payload, bytes", "kept, bytes", "ratio", "inserted, 1000/s", "sampled, 1000/s"]
    return markdown(header, lines)


def rate(row: dict[str, Any], what: str) -> float:
    """:return: transitions per second, ``what`` being ``insert`` or ``sample``"""
    count = row["size"] if what == "insert" else row["sampled"]
    return float(count / statistics.median(row[f"{what}_seconds"]))

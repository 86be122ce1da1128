"""The driver is killed, and resumed from its checkpoint, several times."""

import argparse
import inspect
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.asynchronous import evidence
from benchmarks.asynchronous.common import store
from benchmarks.asynchronous.driver import Spec
from benchmarks.asynchronous.evidence import journal, print_wrong, read, steps_of
from benchmarks.asynchronous.hosting import end, prepare, start, wait_for_steps
from benchmarks.speed.common import SEED, markdown
from sb3_gipo.distributed import AsyncGIPO

LENGTH = 64
CHECKPOINT_SECONDS = 5.0
LIFE = 10.0, 20.0  # seconds between the first rollout that arrives and the end of the driver
SLACK = 30.0  # seconds that an iteration and writing a checkpoint may take
SETTINGS: dict[str, Any] = {
    "num_actors": 2,
    "rollout_length": LENGTH,
    "batch_size": 64,
    "gradient_steps": 4,
    "seed": SEED,
    "device": "cpu",
}


def run(folder: Path, args: argparse.Namespace) -> bool:
    """:return: whether all is right"""
    needed = {"checkpoint_path", "checkpoint_seconds"}
    if not hasattr(AsyncGIPO, "resume") or not needed <= set(inspect.signature(AsyncGIPO.__init__).parameters):
        print("The driver is not killed: this version has no `AsyncGIPO(checkpoint_path=...)` and `AsyncGIPO.resume`.")
        return True
    total = LENGTH * (150 if args.quick else 2400)
    # all of it stays, so that in the end every step can be accounted for
    settings = {**SETTINGS, "replay_capacity": total + 64 * LENGTH}
    spec = Spec(total, {}, 0, 0, settings, CHECKPOINT_SECONDS)
    found = kill_and_resume(prepare(folder, spec), args.kills, total)
    store("chaos_driver", args, {"settings": settings, "total": total, "checkpoint_seconds": CHECKPOINT_SECONDS, **found})
    return print_verdict(found)


def kill_and_resume(folder: Path, kills: int, total: int) -> dict[str, Any]:
    """
    :param folder: prepared
    :param kills: of the driver; after the last one it may finish
    :param total: steps to train
    :return: what was done, what has become of the steps, and what is wrong
    """
    lives: list[dict[str, Any]] = []
    chance = random.Random(SEED)
    for generation in range(kills + 1):
        driver = start(folder)
        try:
            wait_for(folder, driver, generation)
            if generation < kills:
                time.sleep(chance.uniform(*LIFE))
                until_checkpoint(folder, driver)
            else:
                driver.wait(1800)
            killed = driver.poll() is None
        finally:
            end(driver)
        lives.append({"killed": killed, "code": driver.returncode, "ended": time.time(), "left": evidence.left_over(folder)})
    return {"lives": lives, **account(folder, lives, total)}


def wait_for(folder: Path, driver: subprocess.Popen[bytes], generation: int, seconds: float = 180.0) -> None:
    """:raises RuntimeError: where the driver ends or nothing arrives"""
    wait_for_steps(folder, driver, seconds)
    deadline = time.monotonic() + seconds
    while not (journal(folder)["generation"] == generation).any():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Driver {generation} did not go on:\n{(folder / 'output').read_text()[-4000:]}")
        time.sleep(0.1)


def until_checkpoint(folder: Path, driver: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    """Wait for the first one: before it there is nothing to resume from."""
    deadline = time.monotonic() + seconds
    while driver.poll() is None and time.monotonic() < deadline:
        if (folder / "checkpoint").exists() and any((folder / "checkpoint").iterdir()):
            return
        time.sleep(0.1)


def account(folder: Path, lives: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """
    :param folder: of all drivers
    :param lives: how each ended
    :param total: steps that were asked for
    :return: for each resumption how much went back, and what is in the replay beside what should be
    """
    entries = journal(folder)
    resumed = [read(folder / f"generation-{generation}.json") for generation in range(len(lives))]
    should_be, resumptions, wrong = np.zeros((0, 2), np.int64), [], []
    for generation, life in enumerate(lives):
        at = resumed[generation]["num_timesteps"]
        if generation > 0:
            lost, age = len(should_be) - at, age_of(entries, should_be, at, lives[generation - 1]["ended"])
            resumptions.append({"at": at, "arrived_before": len(should_be), "went_back": lost, "seconds": age})
            if lost < 0 or age > CHECKPOINT_SECONDS + SLACK:
                wrong.append(f"driver {generation} went on at {at} of {len(should_be)} steps, {age:.0f} seconds back")
        # what arrived after the checkpoint is gone with its driver, and nothing that came before it
        should_be = np.concatenate([should_be[:at], steps_of(entries[entries["generation"] == generation])])
        if life["killed"] != (generation < len(lives) - 1):
            wrong.append(f"driver {generation} ended by itself with status {life['code']}, see its output (`--keep`)")
        if life["left"]:
            wrong.append(f"{life['left']} actors outlived driver {generation}")
    path = folder / "replay.npy"
    replay = np.load(path) if path.exists() else np.zeros((0, 2), np.int64)
    there, wanted = (set(map(tuple, each.tolist())) for each in (replay, should_be))
    counts = {"in_replay": len(replay), "should_be": len(should_be), "asked_for": total}
    counts |= {"twice": len(replay) - len(there), "missing": len(wanted - there), "unknown": len(there - wanted)}
    counts["num_timesteps"] = read(folder / "end.json")["num_timesteps"] if path.exists() else 0
    wrong += [f"{counts[name]} steps are {name}" for name in ("twice", "missing", "unknown") if counts[name]]
    if not total <= counts["num_timesteps"] == len(replay) < total + LENGTH * SETTINGS["num_actors"] * 2:
        wrong.append(f"{counts['num_timesteps']} steps by the model, {len(replay)} in the replay, {total} were asked for")
    return {"resumptions": resumptions, "steps": counts, "wrong": wrong}


def age_of(entries: np.ndarray, should_be: np.ndarray, at: int, ended: float) -> float:
    """:return: seconds from the arrival of the first step that went back to the end of the driver; 0: none did"""
    if at >= len(should_be):
        return 0.0
    number, step = should_be[at]
    first = entries[(entries["number"] == number) & (entries["first"] == step)]
    return float(ended - first["time"].max()) if len(first) else float("inf")


def print_verdict(found: dict[str, Any]) -> bool:
    """:return: whether all is right, after a table"""
    lines = [
        [str(number), f"{each['arrived_before']:,}", f"{each['at']:,}", f"{each['went_back']:,}", f"{each['seconds']:.1f}"]
        for number, each in enumerate(found["resumptions"], 1)
    ]
    header = ["kill of the driver", "steps that had arrived", "resumed at", "steps that went back", "seconds that went back"]
    print("\n" + markdown(header, lines))
    steps = found["steps"]
    print(
        f"\nIn the replay at the end: {steps['in_replay']:,} steps of {steps['should_be']:,} that should be there; "
        f"{steps['twice']} twice, {steps['missing']} missing, {steps['unknown']} that should not be."
    )
    return print_wrong(found["wrong"])

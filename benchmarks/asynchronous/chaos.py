"""
Actors are killed at random, hang, raise and are slow; then the driver itself is killed and resumed.

First part: every few seconds an actor is ended by SIGKILL, any but one, whose memory is watched; of twelve environments that
are made one hangs, one raises and one is slow. The run is to finish; of what an environment had finished nothing may be
missing, nothing may be there twice; the counters of the run are to say what was done to it; memory is to be flat. Second part:
the driver is ended by SIGKILL and resumed from its checkpoint, three times; what is in the replay at the end is to be what had
arrived when a checkpoint was written and what arrived after the last resumption, each step once. Status 1 where one of these
is not so.
"""

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.asynchronous import evidence, resumption
from benchmarks.asynchronous.common import store
from benchmarks.asynchronous.driver import Spec
from benchmarks.asynchronous.envs import Made, made
from benchmarks.asynchronous.evidence import read
from benchmarks.asynchronous.hosting import end, prepare, start, wait_for_steps
from benchmarks.asynchronous.processes import descendants, is_actor, running
from benchmarks.speed.common import SEED

TROUBLES, REPEAT = {"3": "hangs", "6": "raises", "9": "slow"}, 12
LENGTH = 64
WIDTH = 512  # numbers in an observation: a rollout is larger than 100 kB, from where on Ray has it in shared memory
SURVIVOR = 1  # the first one that an actor makes: it is let live, to see how its memory goes
BETWEEN_KILLS = 3.0, 8.0  # seconds
SAMPLE_SECONDS = 5.0
SETTLES = 180.0  # seconds after the last kill, at most
SETTINGS: dict[str, Any] = {
    "num_actors": 4,
    "rollout_length": LENGTH,
    "batch_size": 64,
    "gradient_steps": 4,
    "replay_capacity": 16_384,
    "hang_seconds": 15.0,
    "max_failures": 50,
    "seed": SEED,
    "device": "cpu",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=600, help="of the first part")
    parser.add_argument("--parts", nargs="+", choices=("actors", "driver"), default=["actors", "driver"])
    parser.add_argument("--kills", type=int, default=3, help="of the driver, in the second part")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave what the processes wrote in this new folder")


def run(args: argparse.Namespace) -> int:
    right = True
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        top = Path(args.keep or temporary)
        if "actors" in args.parts:
            found = mistreat(prepare(top / "actors", spec_of_actors()), 45 if args.quick else args.seconds)
            store(
                "chaos_actors",
                args,
                {"settings": SETTINGS, "width": WIDTH, "between_kills": BETWEEN_KILLS, "seed": SEED, **found},
            )
            right &= evidence.print_verdict(found)
        if "driver" in args.parts:
            right &= resumption.run(top / "driver", args)
    return int(not right)


def spec_of_actors() -> Spec:
    """:return: a run that ends when it is told to"""
    return Spec(total=10**9, troubles=TROUBLES, repeat=REPEAT, at=5 * LENGTH - 20, settings=SETTINGS, width=WIDTH)


class Monkey:
    """
    :param environments: folder of their books
    """

    def __init__(self, environments: Path) -> None:
        self._environments, self._random = environments, random.Random(SEED)
        self.killed: list[dict[str, Any]] = []

    def kill(self) -> bool:
        """End an actor whose environment has begun and will not get into trouble itself; false where there is none now."""
        past, now = {SURVIVOR, *(each["number"] for each in self.killed)}, running()
        victims = [
            each
            for each in made(self._environments).values()
            if each.number not in past and each.steps > 0 and is_well(each) and each.pid in now and is_actor(now[each.pid])
        ]
        if not victims:
            return False
        victim = self._random.choice(victims)
        os.kill(victim.pid, signal.SIGKILL)
        self.killed.append({"number": victim.number, "pid": victim.pid, "time": time.time()})
        return True

    def next_in(self) -> float:
        """:return: seconds until the next one"""
        return self._random.uniform(*BETWEEN_KILLS)


def is_well(environment: Made) -> bool:
    """:return: whether it does not end by itself"""
    return environment.trouble in (None, "slow")


def mistreat(folder: Path, seconds: float) -> dict[str, Any]:
    """
    :param folder: prepared
    :param seconds: for which actors are killed
    :return: what was done, what the run says of it, and what is wrong, with the memory meanwhile
    """
    driver, monkey, memory = start(folder), Monkey(folder / "environments"), []
    try:
        wait_for_steps(folder, driver)
        begin = next_sample = time.monotonic()
        next_kill = begin + monkey.next_in()
        while driver.poll() is None and time.monotonic() < begin + seconds:
            if time.monotonic() >= next_kill and monkey.kill():
                next_kill = time.monotonic() + monkey.next_in()
            if time.monotonic() >= next_sample:
                memory.append({"seconds": round(time.monotonic() - begin, 1), **sample(folder, driver.pid)})
                next_sample += SAMPLE_SECONDS
            time.sleep(0.1)
        settled = settles(folder, driver, monkey)
        (folder / "stop").touch()
        code = driver.wait(120)
        left = evidence.left_over(folder)
    finally:
        end(driver)
    return evidence.of_actors(folder, monkey.killed, memory, LENGTH, {"code": code, "settled": settled, "left": left})


def settles(folder: Path, driver: subprocess.Popen[bytes], monkey: Monkey) -> bool:
    """Wait until all that failed are started again: whether that came about."""
    deadline = time.monotonic() + SETTLES
    while driver.poll() is None and time.monotonic() < deadline:
        time.sleep(1.0)
        environments = made(folder / "environments").values()
        happened = sum(each.happened for each in environments if not is_well(each)) + len(monkey.killed)
        pending = any(not is_well(each) and not each.happened for each in environments)
        now = running()
        alive = sum(each.pid in now and is_actor(now[each.pid]) for each in environments)
        status = read(folder / "status.json")
        if status["restarts"] == happened and not pending and alive == SETTINGS["num_actors"]:
            return True
    return False


def sample(folder: Path, pid: int) -> dict[str, Any]:
    """:return: bytes of the driver, of the actor that is let live, of Ray's own processes, and in the object store"""
    now, children = running(), descendants(pid)
    status, survivor = read(folder / "status.json"), made(folder / "environments")[SURVIVOR].pid
    rays_own = ("gcs_server", "raylet", "agent", "monitor", "log_")
    return {
        "driver": now[pid].rss if pid in now else 0,
        "actor": now[survivor].rss if survivor in now else 0,
        "ray": sum(each.rss for each in children if any(name in each.title.split(" --")[0] for name in rays_own)),
        "object_store": status["object_store_bytes"],
        "actors": sum(is_actor(each) for each in children),
        "num_timesteps": status["num_timesteps"],
    }

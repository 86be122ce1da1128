"""What the files of a run prove: what was done to it, what it says of it, and what has become of every step."""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.asynchronous.driver import ENTRY
from benchmarks.asynchronous.envs import made
from benchmarks.asynchronous.processes import is_actor, running
from benchmarks.speed.common import markdown

SERIES = ("driver", "actor", "ray", "object_store")
FLAT = 0.05  # growth over the second half, beside its mean, or of so many bytes
FLAT_BYTES = 8 * 2**20


def read(path: Path) -> Any:
    """:return: what a JSON file holds"""
    return json.loads(path.read_text())


def journal(folder: Path) -> np.ndarray:
    """:return: what arrived, :data:`ENTRY` for each rollout"""
    path = folder / "journal"
    content = path.read_bytes() if path.exists() else b""
    return np.frombuffer(content[: len(content) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)


def left_over(folder: Path, seconds: float = 15.0) -> int:
    """
    :param folder: of a run whose driver has ended
    :param seconds: that its actors may take to end too
    :return: how many have not
    """
    pids = {each.pid for each in made(folder / "environments").values()}
    deadline = time.monotonic() + seconds
    while True:
        now = running()
        left = sum(pid in now and is_actor(now[pid]) for pid in pids)
        if left == 0 or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def steps_of(entries: np.ndarray) -> np.ndarray:
    """:return: number of the environment and of its step, for each step that arrived [B, 2], in the order of arrival"""
    if not len(entries):
        return np.zeros((0, 2), np.int64)
    return np.concatenate([np.stack(np.broadcast_arrays(e["number"], e["first"] + np.arange(e["steps"])), 1) for e in entries])


def of_actors(
    folder: Path, killed: list[dict[str, Any]], memory: list[dict[str, Any]], length: int, ending: dict[str, Any]
) -> dict[str, Any]:
    """
    :param folder: of the run
    :param killed: by whom it was mistreated
    :param memory: in the course of it
    :param length: steps of a rollout
    :param ending: ``code``: exit status; ``settled``: whether all failed actors were started again before; ``left``: actors
        that were there after it
    :return: all of that, and what is wrong
    """
    environments = made(folder / "environments")
    fate = {
        name: [n for n, each in environments.items() if each.trouble == name and each.happened] for name in ("raises", "hangs")
    }
    victims = [each["number"] for each in killed]
    failed = [*victims, *fate["raises"], *fate["hangs"]]
    steps = steps_of(journal(folder))
    missing = {number: environments[number].steps - int((steps[:, 0] == number).sum()) for number in failed}
    end = read(folder / "end.json") if (folder / "end.json").exists() else read(folder / "status.json")
    found = {
        **ending,
        "done": {
            "killed": len(victims),
            "raised": len(fate["raises"]),
            "hung": len(fate["hangs"]),
            "slow": sum(each.trouble == "slow" for each in environments.values()),
            "half_made": sum(steps > 0 for steps in missing.values()),
            "between_rollouts": sum(steps == 0 for steps in missing.values()),
            "environments": len(environments),
        },
        "said": end,
        "steps": {
            "arrived": len(steps),
            "twice": len(steps) - len(np.unique(steps, axis=0)),
            "holes": holes(steps),
            "of_half_made_rollouts": sum(missing.values()),
            "of_finished_rollouts_lost": sum(handed_over(steps, length) for steps in missing.values()),
        },
        "kills": killed,
        "memory": memory,
        "slopes": slopes(memory),
    }
    return {**found, "wrong": wrong_with_actors(found)}


def handed_over(missing: int, length: int) -> int:
    """
    :param missing: steps that an environment made and that did not arrive
    :param length: of a rollout
    :return: how many of them its actor had certainly handed over: those of a rollout after which it began another. Killed
        between the last step of one and handing it over it was in the middle of it
    """
    return max(missing - 1, 0) // length * length


def holes(steps: np.ndarray) -> int:
    """:return: steps before the latest one of their environment that did not arrive"""
    different = np.unique(steps, axis=0)
    return sum(int(different[different[:, 0] == number, 1].max()) + 1 for number in np.unique(steps[:, 0])) - len(different)


def wrong_with_actors(found: dict[str, Any]) -> list[str]:
    """:return: sentences, none where all is right"""
    done, said, steps = found["done"], found["said"], found["steps"]
    # who died between two rollouts had begun the next one or not
    lost_at_most = done["half_made"] + done["between_rollouts"]
    claims = {
        f"the run ended with status {found['code']}, not 0": found["code"] == 0,
        "not all actors were started again in the end": found["settled"],
        f"{found['left']} actors outlived the run": found["left"] == 0,
        f"{said['died']} died by the counters, {done['killed']} were killed": said["died"] == done["killed"],
        f"{said['raised']} raised by the counters, {done['raised']} did": said["raised"] == done["raised"],
        f"{said['hung']} hung by the counters, {done['hung']} did": said["hung"] == done["hung"],
        f"{said['restarts']} restarts by the counters, {done['killed'] + done['raised'] + done['hung']} failures": (
            said["restarts"] == done["killed"] + done["raised"] + done["hung"]
        ),
        f"{said['lost_rollouts']} lost rollouts by the counters, {done['half_made']} to {lost_at_most} were half-made": (
            done["half_made"] <= said["lost_rollouts"] <= lost_at_most
        ),
        f"{said['num_timesteps']} steps by the model, {steps['arrived']} arrived": said["num_timesteps"] == steps["arrived"],
        f"{steps['twice']} steps arrived twice": steps["twice"] == 0,
        f"{steps['holes']} steps are missing among those that arrived": steps["holes"] == 0,
        f"{steps['of_finished_rollouts_lost']} steps of finished rollouts are lost": steps["of_finished_rollouts_lost"] == 0,
        **{f"memory of {name} is not flat": slope["flat"] for name, slope in found["slopes"].items() if name in SERIES},
    }
    return [sentence for sentence, is_right in claims.items() if not is_right]


def slopes(memory: list[dict[str, Any]]) -> dict[str, Any]:
    """:return: of the second half, for each series: bytes a minute, their mean, and whether that is flat"""
    half = memory[len(memory) // 2 :]
    if len(half) < 4:
        return {}
    minutes = [each["seconds"] / 60 for each in half]
    found = {}
    for name in SERIES:
        values = [float(each[name]) for each in half]
        slope, _ = statistics.linear_regression(minutes, values)
        growth, mean = slope * (minutes[-1] - minutes[0]), statistics.mean(values)
        flat = growth <= max(FLAT * mean, FLAT_BYTES)
        found[name] = {"bytes_per_minute": slope, "mean": mean, "flat": flat}
    return found


def print_verdict(found: dict[str, Any]) -> bool:
    """:return: whether all is right, after a table"""
    done, said, steps = found["done"], found["said"], found["steps"]
    rows = [
        ["killed (SIGKILL)", str(done["killed"]), f"died: {said['died']}"],
        ["raised", str(done["raised"]), f"raised: {said['raised']}"],
        ["hung", str(done["hung"]), f"hung: {said['hung']}"],
        ["failed, in all", str(done["killed"] + done["raised"] + done["hung"]), f"restarts: {said['restarts']}"],
        ["of these in the middle of a rollout", str(done["half_made"]), f"lost_rollouts: {said['lost_rollouts']}"],
        ["steps that arrived", f"{steps['arrived']:,}", f"num_timesteps: {said['num_timesteps']:,}"],
        ["steps that arrived twice, or are missing among them", f"{steps['twice']}, {steps['holes']}", ""],
        ["steps of finished rollouts that are lost", str(steps["of_finished_rollouts_lost"]), ""],
    ]
    print(markdown(["what was done, by the books of the environments", "", "what the run says"], rows))
    lines = [
        [name, f"{slope['mean'] / 2**20:.0f}", f"{slope['bytes_per_minute'] / 2**20:+.2f}"]
        for name, slope in found["slopes"].items()
    ]
    print("\n" + markdown(["memory, second half", "mean, MB", "slope, MB a minute"], lines))
    return print_wrong(found["wrong"])


def print_wrong(wrong: list[str]) -> bool:
    """:return: whether nothing is wrong"""
    print(
        "\n" + ("Wrong:\n" + "\n".join(f"- {sentence}" for sentence in wrong) if wrong else "All as it should be."), flush=True
    )
    return not wrong

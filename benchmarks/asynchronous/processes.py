"""What ``/proc`` knows of processes: who is whose child, whether one lives, and how much memory it has."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One that runs now."""

    pid: int
    parent: int
    title: str  # its command line; Ray writes there what a worker is doing
    rss: int  # bytes


def running() -> dict[int, Process]:
    """:return: all processes, by their numbers"""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, IndexError):  # it ended meanwhile
                title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                state, parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                rss = int((folder / "statm").read_text().split()[1]) * PAGE
                if state != "Z":
                    found[int(folder.name)] = Process(int(folder.name), int(parent), title, rss)
    return found


def descendants(pid: int) -> list[Process]:
    """
    :param pid: of a process
    :return: its children, their children and so on, without itself
    """
    everyone = running()
    found: list[Process] = []
    parents = {pid}
    while parents:
        children = [each for each in everyone.values() if each.parent in parents]
        found += children
        parents = {each.pid for each in children}
    return found


def is_actor(process: Process) -> bool:
    """:return: whether it is one of Ray's workers with an actor in it"""
    return process.title.startswith("ray::RemoteActor")


def lives(pid: int) -> bool:
    """:return: whether it runs; who has ended and waits for its parent does not"""
    return pid in running()

"""Joins a cluster of Ray, or starts one for this process."""

import logging
import os
import pathlib
import socket
from typing import Any

import ray
from ray.exceptions import RayError

REACH_SECONDS = 10.0  # to try whether there is anybody at an address
_STORE = "object_store_memory"


class Session:
    """
    Of Ray in this process.

    :param address: with which it was begun here, to be ended with the last who uses it
    :param is_ours: false where somebody else has begun it, who will end it
    """

    def __init__(self, address: str | None, is_ours: bool) -> None:
        self.address, self.is_ours = address, is_ours
        self.users = 0
        self._driver = _driver()

    def goes_on(self) -> bool:
        """:return: false where somebody has ended it, and maybe begun another"""
        return ray.is_initialized() and _driver() == self._driver


_session: Session | None = None  # the latest


def connect(address: str | None) -> Session:
    """
    Begin a session of Ray, or share the one there is.

    :param address: of a running cluster, as in ``AsyncGIPO``; ``None``: one for this process
    :return: for :func:`leave`
    :raises ConnectionError: in words
    """
    global _session
    if not ray.is_initialized():
        _begin(address)
        _session = Session(address, is_ours=True)
    elif _session is None or not _session.goes_on():
        _session = Session(address, is_ours=False)
    elif _session.is_ours and _session.address is None and address is not None:
        raise ConnectionError(
            f'`ray_address` is "{address}", but actors of this process run on this machine, in a session of Ray that another '
            "model without `ray_address` has begun, and a process has one session. `close()` the other model first, or give "
            "both of them the address."
        )
    _session.users += 1
    return _session


def leave(session: Session) -> None:
    """
    :param session: from :func:`connect`; its last user ends it
    """
    session.users -= 1
    if session.is_ours and session.users == 0 and session.goes_on():
        ray.shutdown()


def _driver() -> str:
    """:return: of this process, in the present session"""
    context: Any = ray.get_runtime_context()
    return f"{context.get_node_id()} {context.get_job_id()}"  # jobs are numbered anew where a cluster begins


def _begin(address: str | None) -> None:
    """:raises ConnectionError: in words"""
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:  # of our own, even where a cluster runs on this machine
        ray.init("local", **quiet)
        return
    try:
        _reach(address)
        ray.init(address, **quiet)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ConnectionError(
            f'No Ray cluster could be joined at `ray_address="{address}"`: {error}\n"auto" and "host:port", as `ray start '
            "--head` printed it (port 6379), are for a machine that `ray start` has made a node of the cluster; "
            '"ray://host:10001" is for any other (pip install "ray[client]"). Without `ray_address` the actors run on this '
            "machine. `ray status` says what runs; the versions of Ray and Python, and the token of a guarded cluster "
            "(`RAY_AUTH_MODE=token`), must be the same on all machines."
        ) from error


def _reach(address: str) -> None:
    """:raises OSError: where nobody answers; without a try Ray goes on trying for a quarter of an hour"""
    if address == "auto":  # what Ray will take it for, see the documentation of `ray.init`
        latest = pathlib.Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
        address = os.environ.get("RAY_ADDRESS") or (latest.read_text().strip() if latest.exists() else "auto")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") and not (host and port.isdigit()):
        raise ValueError("it has no port.")
    if host and port.isdigit():  # what else is no address Ray says itself, and soon
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()


def store_megabytes() -> float:
    """:return: of shared memory in use, on all machines"""
    size, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    return float(size.get(_STORE, 0.0) - free.get(_STORE, 0.0)) / 1e6


def resources_of_nodes() -> list[dict[str, float]]:
    """:return: what each machine has, in all"""
    nodes: Any = ray.nodes  # without types
    return [node["Resources"] for node in nodes() if node["Alive"]]

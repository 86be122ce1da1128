"""With what a run was made: versions and hardware."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch as th

import sb3_gipo

PACKAGES = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "numpy", "metaworld", "mujoco", "jax")


def versions(algorithm: type) -> dict[str, str]:
    """
    :param algorithm: its class; the packages that it and its parents are from are named too
    :return: of Python, the packages that are installed, this one with its sources, and its commit where it is a clone
    """
    found = {"python": platform.python_version(), "sb3_gipo": sb3_gipo.__version__, "sb3_gipo sources": sources()}
    commit = _git("rev-parse", "HEAD")
    if commit:
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", str(Path(sb3_gipo.__file__).parent))
        found["sb3_gipo commit"] = commit + (" with changes" if changed else "")
    found |= {package: version for package in PACKAGES if (version := _version(package))}
    return found | _versions_of_parents(algorithm)


def sources(folder: Path | None = None) -> str:
    """
    :param folder: of a package; ``None``: this one
    :return: a short text that is the same where its Python files are, whatever the version says
    """
    folder = folder or Path(sb3_gipo.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda each: each.relative_to(folder).as_posix()):
        # newlines as Python sees them: a checkout on another system is the same
        code = path.read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{path.relative_to(folder).as_posix()} {len(code)}\n".encode() + code)
    return digest.hexdigest()[:12]


def _versions_of_parents(algorithm: type) -> dict[str, str]:
    """Of all packages that have a part in a class, as they say it themselves; not of a file of the user's, which says none."""
    packages = (each.__module__.partition(".")[0] for each in algorithm.__mro__)
    return {name: str(sys.modules[name].__version__) for name in packages if hasattr(sys.modules.get(name), "__version__")}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def hardware(device: th.device) -> dict[str, Any]:
    """
    :param device: of the model
    :return: processor, cores that may be used, threads of torch, platform, and what the model is on
    """
    return {
        "cpu": _processor(),
        "cores": cores(),
        "threads": th.get_num_threads(),
        "platform": platform.platform(),
        "device": th.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def cores() -> int:
    """:return: number of cores that this process may use"""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    folder = Path(sb3_gipo.__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

"""Off-screen rendering for MuJoCo environments: which OpenGL to use, and what to say when there is none."""

from __future__ import annotations

import ctypes.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INSTALL_HINT = (
    "Off-screen rendering needs an OpenGL library and found none that works. On Debian or Ubuntu: "
    "`apt-get install libegl1 libgl1` and set MUJOCO_GL=egl (a GPU is not needed), or "
    "`apt-get install libosmesa6` and set MUJOCO_GL=osmesa. Training needs neither: leave render_mode and MUJOCO_GL alone."
)


def headless_backend() -> str | None:
    """
    Choose MuJoCo's OpenGL backend where the user did not.

    :return: ``"egl"`` or ``"osmesa"`` on Linux where one is installed (a display may be stale, and is not needed), None where
        MuJoCo's own choice is right: ``MUJOCO_GL`` is set, there is only a display, or the system is not Linux.
    :raises RuntimeError: if neither library is installed; the message says what to install.
    """
    if os.environ.get("MUJOCO_GL") or not sys.platform.startswith("linux"):
        return None
    # The choice is final in one process (PyOpenGL binds to it), so look for the library before trying the backend.
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            return backend
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return None
    raise RuntimeError(INSTALL_HINT)


@contextmanager
def opengl_context() -> Iterator[None]:
    """
    Surround the creation of a rendering context: choose the backend, and explain a failure.

    ``MUJOCO_GL`` is only set for the duration, and only where the user left it unset.

    :raises RuntimeError: if the context cannot be created; the message says what to install.
    """
    before = os.environ.get("MUJOCO_GL")
    backend = headless_backend()
    if backend is not None:
        os.environ["MUJOCO_GL"] = backend
    try:
        yield
    except Exception as exc:
        used = os.environ.get("MUJOCO_GL") or "not set"
        raise RuntimeError(f"{INSTALL_HINT} (MUJOCO_GL: {used}; {type(exc).__name__}: {exc})") from exc
    finally:
        if backend is not None:
            os.environ.pop("MUJOCO_GL", None)
            if before is not None:
                os.environ["MUJOCO_GL"] = before

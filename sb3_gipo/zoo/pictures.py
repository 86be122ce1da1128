"""RL Zoo's plots end in a window; where there is none, or where asked to, they are kept as files."""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

DEFAULT_FOLDER = Path("plots")


@contextmanager
def kept(command: str, arguments: Sequence[str]) -> Iterator[list[str]]:
    """
    For the duration, figures are written to files where they are shown: with ``--pictures FOLDER`` there, without a display to
    ``plots``. A display shows them as ever.

    :param command: its name begins the names of the files
    :param arguments: of the command
    :return: arguments without ours
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--pictures", type=Path)
    ours, rest = parser.parse_known_args(list(arguments))
    if {"-h", "--help"} & set(rest):
        print("  --pictures FOLDER     where to keep the figures as PNG (without a display: plots)\n")
    import matplotlib
    from matplotlib import pyplot as plt
    from matplotlib.backends import BackendFilter, backend_registry

    interactive = matplotlib.get_backend().lower() in backend_registry.list_builtin(BackendFilter.INTERACTIVE)
    folder = ours.pictures or (None if interactive else DEFAULT_FOLDER)
    show = plt.show

    def keep_and_show(*args: Any, **kwargs: Any) -> None:
        if folder is not None:
            save_figures(folder, command)
        if interactive:
            show(*args, **kwargs)

    with mock.patch.object(plt, "show", keep_and_show):
        yield rest
    if folder is not None:
        save_figures(folder, command)
    plt.close("all")


def save_figures(folder: Path, command: str) -> None:
    """
    :param folder: made where it is not there
    :param command: begins the name of each file, followed by the title of its figure
    """
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for label in plt.get_figlabels():
        name = re.sub(r"[^\w.-]+", "_", f"{command}_{label}")
        plt.figure(label).savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
        print(f"Picture: {folder / f'{name}.png'}")
    plt.close("all")

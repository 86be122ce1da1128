"""RL Zoo's plots end in a window; where there is none, or where asked to, they are kept as files."""

import argparse
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

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
    from matplotlib.backends.registry import BackendFilter, backend_registry

    names: list[str] = backend_registry.list_builtin(BackendFilter.INTERACTIVE)  # type: ignore[no-untyped-call]
    interactive = matplotlib.get_backend().lower() in names
    folder = ours.pictures or (None if interactive else DEFAULT_FOLDER)
    show = plt.show

    def keep_and_show(*args: Any, **kwargs: Any) -> None:
        if folder is not None:
            save_figures(folder, command)
        if interactive:
            show(*args, **kwargs)
        plt.close("all")

    with mock.patch.object(plt, "show", keep_and_show), mock.patch.object(pickle, "load", _load_single_runs_too):
        yield rest
    if folder is not None:
        save_figures(folder, command)
    plt.close("all")


_load = pickle.load


def _load_single_runs_too(file: Any) -> Any:
    """`all_plots` writes what a single run gave as a number; `plot_from_file` passes that over, and breaks where it is all."""
    results = _load(file)
    if not isinstance(results, dict):
        return results
    for runs in results.values():
        for gathered in runs.values() if isinstance(runs, dict) else ():
            if isinstance(gathered, dict) and "last_evals" in gathered:
                gathered["last_evals"] = np.atleast_1d(gathered["last_evals"])
    return results


def save_figures(folder: Path, command: str) -> None:
    """
    :param folder: made where it is not there
    :param command: begins the name of each file, followed by the title of its figure
    """
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for number in plt.get_fignums():
        figure = plt.figure(number)
        title = figure.get_label() or f"figure_{number}"
        name = re.sub(r"[^\w.-]+", "_", f"{command}_{title}")
        figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
        print(f"Picture: {folder / f'{name}.png'}")

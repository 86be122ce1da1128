"""Where the settings of an algorithm for an environment are read from when no ``-conf`` is given."""

from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).parent.parent
# Of an installed package, and of a checkout of the repository.
FOLDERS = (PACKAGE / "zoo" / "hyperparams", PACKAGE.parent / "rl_zoo_hyperparams")
# Algorithms of ours: the Zoo has no settings for them. Those of the first serve the others, where they have no entry.
OURS = ("gipo", "async_gipo")


def folder() -> Path:
    """
    :return: where ``gipo.yml`` is
    :raises FileNotFoundError: where the package was installed without it
    """
    for candidate in FOLDERS:
        if (candidate / "gipo.yml").is_file():
            return candidate
    raise FileNotFoundError(
        f"gipo.yml is not in {' or '.join(map(str, FOLDERS))}: install sb3-gipo again, or pass -conf FILE."
    )


def conf_file(algorithm: str, env_id: str) -> Path | None:
    """
    :param algorithm: as RL Zoo names it
    :param env_id: of gymnasium
    :return: our file where it is the one to read; ``None``: the Zoo's own
    """
    file = folder() / f"{algorithm}.yml"
    if file.is_file() and env_id in read(file):
        return file
    return folder() / f"{OURS[0]}.yml" if algorithm in OURS else None


def read(file: Path) -> dict[str, Any]:
    """
    :param file: in RL Zoo's format
    :return: settings by environment
    """
    with file.open() as stream:
        settings: dict[str, Any] = yaml.safe_load(stream)
    return settings

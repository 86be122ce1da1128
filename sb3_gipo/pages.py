"""Files that are there whole or not at all."""

import errno
import json
import os
from pathlib import Path
from typing import Any


def write_page(path: Path, page: str, *, synced: bool = True) -> None:
    """
    Written beside its place and moved there in one step: there is the old page or the new one, never half of one.

    :param path: of the file; an existing one is replaced
    :param page: its content; what no encoding knows (half of a character, in the message of an error) is written as an escape
    :param synced: whether it is on the disk before it is moved, so that a loss of power too leaves one of both;
        not worth the wait for what is written every few seconds and told to whoever looks
    :raises OSError: where it cannot be written
    """
    if not path.name:
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(page)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Any, *, synced: bool = True) -> None:
    """
    As :func:`write_page`, in standard JSON: numbers that are not finite are refused, every reader of JSON can read it.

    :param path: of the file; an existing one is replaced
    :param content: of lists, mappings, texts, numbers, truth values and ``None``
    :param synced: as there
    """
    write_page(path, json_text(content), synced=synced)


def json_text(content: Any) -> str:
    """
    :param content: of lists, mappings, texts, numbers, truth values and ``None``
    :return: as :func:`write_json` writes it
    :raises ValueError: for a number that is not finite
    """
    return json.dumps(content, indent=1, allow_nan=False) + "\n"

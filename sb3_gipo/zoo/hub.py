"""
RL Zoo's commands for the Hugging Face Hub: what they write names commands that know GIPO.

RL Zoo 2.9.2 was written for older packages of Hugging Face than it allows: it asks ``huggingface_sb3`` for
``generate_metadata``, which has an underscore in 3.2, and expects an error of ``requests`` where a file is not there. Both are
given to it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from sb3_gipo.zoo import meta_world

CARD = (
    ("python -m rl_zoo3.", "python -m sb3_gipo.zoo "),
    ("pip install rl_zoo3", 'pip install "sb3-gipo[zoo]"'),
)


@contextmanager
def adapted() -> Iterator[None]:
    """For the duration, see the module."""
    import huggingface_hub.repocard
    import huggingface_sb3.push_to_hub
    from huggingface_hub.errors import EntryNotFoundError
    from requests.exceptions import HTTPError

    save, load = huggingface_hub.repocard.metadata_save, huggingface_sb3.load_from_hub

    def metadata_save(path: str | Path, data: Any) -> None:
        card = Path(path)
        text = card.read_text(encoding="utf-8")
        if "gipo" in text.lower() or meta_world.PREFIX in text:
            for theirs, ours in CARD:
                text = text.replace(theirs, ours)
            card.write_text(text, encoding="utf-8")
        save(path, data)

    def load_from_hub(*args: Any, **kwargs: Any) -> str:
        try:
            path: str = load(*args, **kwargs)
        except EntryNotFoundError as error:  # the Zoo expects that of an older huggingface_hub
            raise HTTPError(str(error)) from error
        return path

    module = sys.modules["huggingface_sb3.push_to_hub"]  # by that name the package itself has a function

    def generate_metadata(*args: Any) -> dict[str, Any]:
        metadata: dict[str, Any] = module._generate_metadata(*args).to_dict()
        return metadata

    metadata_of = getattr(module, "generate_metadata", generate_metadata)
    with (
        mock.patch.object(module, "generate_metadata", metadata_of, create=True),
        mock.patch.object(huggingface_hub.repocard, "metadata_save", metadata_save),
        mock.patch.object(huggingface_sb3, "load_from_hub", load_from_hub),
    ):
        yield

"""What a report is made of, and how that becomes Markdown or a page."""

import html
import re
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import NamedTuple

from sb3_gipo.studies.plots import Picture

TEMPLATE = "report.html.jinja"


class Heading(NamedTuple):
    """
    :param level: 1 to 4
    :param text: of it
    """

    level: int
    text: str


class Paragraph(NamedTuple):
    """
    :param text: of it
    :param tone: ``"soft"`` for remarks
    """

    text: str
    tone: str = ""


class Banner(NamedTuple):
    """
    :param word: the outcome
    :param title: the same in more words
    :param text: what to do
    """

    word: str
    title: str
    text: str


class Bullets(NamedTuple):
    """
    :param items: lines
    """

    items: Sequence[str]


class Table(NamedTuple):
    """
    :param head: names of the columns
    :param rows: of texts; all but the first column are numbers, aligned to the right, unless ``wordy``
    :param wordy: columns are texts
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    wordy: bool = False


class Code(NamedTuple):
    """
    :param text: of it
    """

    text: str


Block = Heading | Paragraph | Banner | Bullets | Table | Code | Picture


def markdown(blocks: Iterable[Block], plots: str) -> str:
    """
    :param blocks: of the report
    :param plots: folder of the pictures, from the report
    :return: as Markdown
    """
    return "\n\n".join(_markdown(block, plots) for block in blocks) + "\n"


def _markdown(block: Block, plots: str) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_plain(block.text)}"
    if isinstance(block, Paragraph):
        return _plain(block.text)
    if isinstance(block, Banner):
        return f"> **{_plain(block.title)}.** {_plain(block.text)}"
    if isinstance(block, Bullets):
        return "\n".join(f"- {_plain(item)}" for item in block.items)
    if isinstance(block, Code):
        return f"```sh\n{block.text}\n```"
    if isinstance(block, Picture):
        return f"![{_plain(block.title)}]({plots}/{block.name}.svg)\n\n{_plain(block.caption)}"
    rule = ["---"] + ["---" if block.wordy else "---:"] * (len(block.head) - 1)
    rows = [block.head, rule, *block.rows]
    return "\n".join("| " + " | ".join(each if row is rule else _cell(each) for each in row) + " |" for row in rows)


def _plain(text: str) -> str:
    """Names from the study are texts, not Markdown: what would start a tag, a link or a formula is shown as it is."""
    # an underscore inside of a word is one
    escaped = re.sub(r"[\[*`$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", html.escape(text, quote=False))
    return escaped.replace("\n", " ")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def page(title: str, blocks: Sequence[Block]) -> str:
    """
    :param title: of the report
    :param blocks: of it
    :return: as one HTML page that needs nothing else
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(title=title, blocks=[(type(block).__name__, block) for block in blocks])

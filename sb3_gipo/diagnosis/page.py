"""Writes diagnoses as one HTML page that needs nothing else: styles, plots and text are in the file."""

import base64
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from sb3_gipo.diagnosis import facts, questions
from sb3_gipo.diagnosis.plots import draw
from sb3_gipo.diagnosis.verdict import Diagnosis

TEMPLATE = "page.html.jinja"
# More runs than this are folded in the page, so that the table above them stays the first thing to see.
UNFOLDED = 3


def render(title: str, diagnoses: Sequence[Diagnosis], skipped: Sequence[str] = ()) -> str:
    """
    :param title: what was read
    :param diagnoses: of its runs, at least one
    :param skipped: a line for each log that was passed over
    :return: the page
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        title=title,
        diagnoses=diagnoses,
        skipped=skipped,
        now=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        unfolded=len(diagnoses) <= UNFOLDED,
        window=f"{100 * facts.WINDOW:.0f} %",
        draw=draw,
        embed=_embed,
        thresholds=questions,
    )


def _embed(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"

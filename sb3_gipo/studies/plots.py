"""Draws the curves of a study as SVG, with matplotlib's objects: nothing global is touched, no window is opened."""

import io
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, PercentFormatter

from sb3_gipo import look
from sb3_gipo.look import BLUE, GREEN, GREY, ORANGE, RED
from sb3_gipo.studies import statistics
from sb3_gipo.studies.analysis import LEVELS, Band, RegimeAnalysis, sampling_of
from sb3_gipo.studies.curves import Curves, Floats
from sb3_gipo.studies.plan import Study, slug
from sb3_gipo.studies.wording import percent, target_words

# Dashes beyond the colours.
COLOURS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
WIDTH, HEIGHT = 4.6, 3.0
LOOK: dict[str, Any] = {
    **look.LOOK,
    "legend.fontsize": 8,
    "svg.fonttype": "none",  # letters, not outlines: a tenth of the size, and they can be searched
    "font.family": ["sans-serif"],
    "text.parse_math": False,  # names are no formulas: two dollars in one would be
}


class Picture(NamedTuple):
    """
    :param name: of its file, which no other picture of the report has
    :param title: of the plot
    :param caption: what is drawn, and the numbers for who cannot see it
    :param svg: the drawing
    """

    name: str
    title: str
    caption: str
    svg: str


def looks_of(study: Study) -> dict[str, dict[str, Any]]:
    """
    :param study: that was read
    :return: of each contestant its colour and dashes, the same in all plots
    """
    return {
        each.name: {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k // len(COLOURS) % len(DASHES)]}
        for k, each in enumerate(study.contestants)
    }


def draw_task(study: Study, analysis: RegimeAnalysis, task: str) -> Picture | None:
    """
    :param study: that was read
    :param analysis: of a regime
    :param task: its name
    :return: learning curves, and success where the environment tells of it; ``None`` without a finished run
    """
    curves = {name: its[task] for name, its in analysis.curves.items() if task in its}
    if not curves:
        return None
    succeeds = {name: each for name, each in curves.items() if each.successes is not None}
    with style.context(LOOK, after_reset=True):
        figure = Figure(figsize=(WIDTH * (2 if succeeds else 1), HEIGHT), layout="constrained")
        axes = figure.subplots(1, 2 if succeeds else 1, squeeze=False)[0]
        lines = _fans(axes[0], study, curves, {name: each.returns for name, each in curves.items()})
        axes[0].set_ylabel("return of an episode")
        target = _target(study, analysis, task)
        if target is not None:
            axes[0].axhline(target, color=GREY, linewidth=1, linestyle=":", zorder=1)
        if succeeds:
            _fans(axes[1], study, succeeds, {name: each.successes for name, each in succeeds.items()})  # type: ignore[misc]
            axes[1].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes[1].set_ylim(-0.03, 1.03)
            axes[1].set_ylabel("episodes with success")
        _legend(axes[0], lines)
        ends = "; ".join(f"{name} ends at {its.final.point:.4g}" for name, its in analysis.tasks[task].items())
        dotted = "" if target is None else f" Dotted: {target_words(study)}, {target:.4g}."
        what = f"Thick lines: interquartile mean over seeds{_interval(study, 'bands')}, thin lines single runs"
        caption = f"{task}: return over environment steps. {what}.{dotted} {ends}."
        return _picture(figure, f"{slug(analysis.regime)}--task--{slug(task)}", task, caption)


def draw_aggregate(study: Study, analysis: RegimeAnalysis) -> Picture | None:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: the score over all tasks against steps, gradient steps and time
    """
    if not analysis.bands:
        return None
    looks = looks_of(study)
    budgets = {task.steps for task in study.tasks if task.name in analysis.counted}
    with style.context(LOOK, after_reset=True):
        figure = Figure(figsize=(WIDTH * 2.6, HEIGHT), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True)
        lines: dict[str, Line2D] = {}
        for name, band in analysis.bands.items():
            first = band.steps if len(budgets) == 1 else band.share
            for each, x in zip(axes, (first, band.gradient_steps, band.seconds / 60), strict=True):
                line = _fan(each, x, band, looks[name])
                if line is not None:
                    lines.setdefault(name, line)
        axes[0].set_ylabel("score (0: low, 1: high of the task)")
        labels = ("environment steps" if len(budgets) == 1 else "part of the budget", "gradient steps", "minutes of training")
        for each, label in zip(axes, labels, strict=True):
            each.set_xlabel(label)
            if label != "minutes of training":
                each.xaxis.set_major_formatter(EngFormatter(sep=""))
        if len(budgets) > 1:
            axes[0].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _legend(axes[0], lines)
        ends = "; ".join(f"{name} ends at {analysis.aggregate[name].final.point:.3f}" for name in analysis.bands)
        what = f"Lines: interquartile mean over tasks and seeds{_interval(study, 'bands')}"
        caption = f"Score over environment steps, gradient steps and minutes. {what}. {ends}."
        return _picture(figure, f"{slug(analysis.regime)}--aggregate", "All tasks together", caption)


def draw_profiles(study: Study, analysis: RegimeAnalysis) -> Picture | None:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: performance profiles
    """
    if not analysis.profiles:
        return None
    looks = looks_of(study)
    with style.context(LOOK, after_reset=True):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes = figure.subplots()
        lines = {}
        for name, (points, low, high) in analysis.profiles.items():
            (lines[name],) = axes.plot(LEVELS, points, **looks[name])
            axes.fill_between(LEVELS, low, high, color=looks[name]["color"], alpha=0.15, linewidth=0)
        axes.set_xlabel("score at the end (0: low, 1: high of the task)")
        axes.set_ylabel("runs above that score")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        _legend(axes, lines)
        said = "; ".join(f"{name}: {percent(round(its[0][25], 2))} above 0.5" for name, its in analysis.profiles.items())
        caption = f"Lines: part of the runs that end above a score, the higher the better{_interval(study, 'bands')}. {said}."
        return _picture(figure, f"{slug(analysis.regime)}--profile", "Performance profile", caption)


def draw_improvement(study: Study, analysis: RegimeAnalysis) -> Picture | None:
    """
    :param study: that was read
    :param analysis: of a regime
    :return: probability that a run of the candidate beats one of each other contestant
    """
    if not analysis.improvement:
        return None
    looks = looks_of(study)
    with style.context(LOOK, after_reset=True):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.45 * len(analysis.improvement)), layout="constrained")
        axes = figure.subplots()
        for row, (name, its) in enumerate(analysis.improvement.items()):
            each = its["final"]
            axes.plot([each.low, each.high], [row, row], color=looks[name]["color"], linewidth=5, alpha=0.4)
            axes.plot([each.point], [row], marker="o", color=looks[name]["color"])
        axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(analysis.improvement)), list(analysis.improvement))
        axes.set_ylim(-0.6, len(analysis.improvement) - 0.4)
        axes.invert_yaxis()
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel(f"{study.candidate} ends higher than")
        said = "; ".join(f"{name}: {percent(round(its['final'].point, 2))}" for name, its in analysis.improvement.items())
        what = f"share of the pairs of runs in which that of {study.candidate} ends higher than that of the other"
        caption = f"Dots: {what}{_interval(study, 'bars')}; dotted: 50 %, no difference. {said}."
        return _picture(figure, f"{slug(analysis.regime)}--improvement", "Probability of improvement", caption)


def _interval(study: Study, drawn: str) -> str:
    """What shows the intervals, which a single seed has not."""
    return f", {drawn} its {percent(study.decision.confidence)} interval" if len(study.seeds) > 1 else ""


def _target(study: Study, analysis: RegimeAnalysis, task: str) -> float | None:
    found = analysis.savings.get(study.candidate)
    targets = [] if found is None else [each.target for each in found.counted if each.task == task]
    return targets[0] if targets else None


def _fans(axes: Axes, study: Study, curves: dict[str, Curves], values: dict[str, Floats]) -> dict[str, Line2D]:
    """For each contestant its runs as thin lines, their interquartile mean, which is returned, and its interval."""
    looks, sampling = looks_of(study), sampling_of(study)
    lines = {}
    for name, each in values.items():
        grid = curves[name].grid
        for run in each:
            axes.plot(grid, run, color=looks[name]["color"], linewidth=0.5, alpha=0.35)
        score, low, high = statistics.iqm_band([each], sampling)
        (lines[name],) = axes.plot(grid, score, **looks[name])
        axes.fill_between(grid, low, high, color=looks[name]["color"], alpha=0.15, linewidth=0)
    axes.set_xlabel("environment steps")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return lines


def _fan(axes: Axes, x: Floats, band: Band, style_of_line: dict[str, Any]) -> Line2D | None:
    if not np.isfinite(x).all():
        return None
    (line,) = axes.plot(x, band.score, **style_of_line)
    axes.fill_between(x, band.low, band.high, color=style_of_line["color"], alpha=0.15, linewidth=0)
    return line


def _legend(axes: Axes, lines: dict[str, Line2D]) -> None:
    """Named afterwards: matplotlib leaves out of a legend what begins with an underscore."""
    legend = axes.legend(list(lines.values()), ["?"] * len(lines), loc="best")
    for text, name in zip(legend.get_texts(), lines, strict=True):
        text.set_text(name)


def _picture(figure: Figure, name: str, title: str, caption: str) -> Picture:
    buffer = io.StringIO()
    # names of clip paths come from this: on one page no two drawings may share them, and a second report is the same
    with style.context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = buffer.getvalue()
    return Picture(name, title, caption, drawing[drawing.index("<svg") :])

"""Draws the curves of a run as SVG, with matplotlib's objects: nothing global is touched, no window is opened."""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from sb3_gipo.diagnosis.facts import Facts, estimated_drift, window_start
from sb3_gipo.diagnosis.logs import Curve, Run
from sb3_gipo.diagnosis.questions import PAPER_DRIFT, STALE_DRIFT
from sb3_gipo.look import BLUE, GREEN, GREY, LOOK, ORANGE, RED

SIZE = (4.4, 2.7)
# More points than this are not to be told apart at this size, and make the page large.
MOST_POINTS = 400

# label, colour
Look = tuple[str, str]


class Picture(NamedTuple):
    """
    :param title: of the plot
    :param alt: what it shows, for who cannot see it
    :param svg: the drawing
    """

    title: str
    alt: str
    svg: bytes


def draw(run: Run, facts: Facts) -> list[Picture]:
    """
    :param run: a run
    :param facts: what its log says
    :return: the plots for which there is anything to plot
    """
    # a matplotlibrc of the user (LaTeX, dark backgrounds) would not suit the page
    with style.context(LOOK, after_reset=True):
        plots = (_returns, _success, _utilization, _drift, _old_samples, _ages, _time)
        return [picture for plot in plots if (picture := plot(run, facts)) is not None]


def _returns(run: Run, facts: Facts) -> Picture | None:
    looks = {"rollout/ep_rew_mean": ("training episodes", BLUE), "eval/mean_reward": ("evaluation", ORANGE)}
    return _lines(run, "Learning curve", "mean return of an episode", looks)


def _success(run: Run, facts: Facts) -> Picture | None:
    looks = {"rollout/success_rate": ("training episodes", BLUE), "eval/success_rate": ("evaluation", ORANGE)}
    return _lines(run, "Success", "episodes with success", looks, percent=True)


def _utilization(run: Run, facts: Facts) -> Picture | None:
    looks = {
        "utilization/dead_frac": ("no gradient", RED),
        "utilization/suppressed_frac": ("weight below 0.01", ORANGE),
        "utilization/near_zero_frac": ("moves next to nothing", GREY),
    }
    if facts.algorithm == "PPO":
        looks["train/clip_fraction"] = ("beyond the clip range", BLUE)
    return _lines(run, "Samples lost to the update", "share of the samples", looks, percent=True)


def _drift(run: Run, facts: Facts) -> Picture | None:
    drift, label = run.curves.get("lag/abs_log_rho_p95"), "measured"
    divergence = run.curves.get("train/approx_kl")
    if drift is None and divergence is not None:
        drift, label = Curve(divergence.steps, estimated_drift(divergence.values)), "estimate from approx_kl"
    if drift is None or not (drift.values > 0).any():  # a logarithmic axis has no zero
        return None
    curves = {**run.curves, "lag/abs_log_rho_p95": drift}
    looks = {"lag/abs_log_rho_p95": (label, BLUE)}

    def references(axes: Axes) -> None:
        axes.set_yscale("log", nonpositive="mask")
        low, high = axes.get_ylim()
        # both regimes of the paper in sight, with room for their names
        axes.set_ylim(min(low, 0.07), max(high, 3.0))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda drift, _: f"{drift:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        for name, drift in {**PAPER_DRIFT, "threshold": STALE_DRIFT}.items():
            axes.axhline(drift, color=GREY, linewidth=1, linestyle="-" if name == "threshold" else ":", zorder=1)
            label = f"stale from {drift}" if name == "threshold" else f"{drift}: {name}, paper"
            _name_line(axes, drift, label)

    return _lines(replace(run, curves=curves), "Drift", "95th percentile of |log ratio|", looks, finish=references)


def _name_line(axes: Axes, height: float, name: str) -> None:
    """Above the line, at the right end, readable where a curve passes."""
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.7}
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "bottom", "ha": "right"}
    axes.annotate(name, (0.99, height), **place, color=GREY, fontsize=8, bbox=behind, zorder=3)


def _old_samples(run: Run, facts: Facts) -> Picture | None:
    if not facts.replays:
        return None
    looks = {"lag/old_frac": ("of the number", GREY), "utilization/old_share": ("of what moves the policy", BLUE)}
    return _lines(run, "Old samples", "part of old samples", looks, percent=True)


def _ages(run: Run, facts: Facts) -> Picture | None:
    if len(facts.ages) < 2:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(facts.ages))
    axes.bar(places - 0.2, [age.frac for age in facts.ages], 0.4, color="#c4c9d1", label="of the number")
    axes.bar(places + 0.2, [age.share for age in facts.ages], 0.4, color=BLUE, label="of what moves the policy")
    axes.set_xticks(places, [age.label for age in facts.ages])
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("age in policy versions (mean over the end of the run)")
    axes.set_ylabel("part of each age")
    axes.legend(loc="best", fontsize=8)
    said = "; ".join(f"age {age.label}: {age.frac:.0%} of the samples, {age.share:.0%} of what moves" for age in facts.ages)
    return Picture("By age", f"Bars. {said}.", _svg(figure))


def _time(run: Run, facts: Facts) -> Picture | None:
    parts = {"time/collect": ("collection", BLUE), "time/targets": ("targets", GREEN), "time/update": ("update", ORANGE)}
    parts = {key: look for key, look in parts.items() if key in run.curves}
    if "time/collect" not in parts or "time/update" not in parts:
        return _lines(run, "Speed", "environment steps per second", {"time/fps": ("steps per second", BLUE)})
    # where all of them were logged
    steps = run.curves["time/collect"].steps
    for key in parts:
        steps = np.intersect1d(steps, run.curves[key].steps)
    if len(steps) < 2:
        return None
    seconds = [run.curves[key].values[np.isin(run.curves[key].steps, steps)] for key in parts]
    thinned = [_thin(Curve(steps, values)) for values in seconds]
    figure, axes = _axes(run)
    labels, colors = zip(*parts.values(), strict=True)
    axes.stackplot(thinned[0].steps, *(curve.values for curve in thinned), labels=labels, colors=colors, alpha=0.85)
    # room for the legend above the areas
    axes.set_ylim(0, 1.2 * float(np.sum([curve.values for curve in thinned], axis=0).max()) or 1.0)
    axes.set_ylabel("seconds of an iteration")
    axes.legend(loc="upper left", ncols=len(parts), fontsize=8)
    said = ", ".join(f"{label} {values.mean():.3g} s" for label, values in zip(labels, seconds, strict=True))
    return Picture("Time of an iteration", f"Stacked areas. Means over the run: {said}.", _svg(figure))


def _lines(
    run: Run,
    title: str,
    unit: str,
    looks: Mapping[str, Look],
    *,
    percent: bool = False,
    finish: Callable[[Axes], None] | None = None,
) -> Picture | None:
    """Curves over environment steps; ``None`` where none was logged."""
    held = {key: look for key, look in looks.items() if key in run.curves}
    if not held:
        return None
    figure, axes = _axes(run)
    for key, (label, color) in held.items():
        curve = _thin(run.curves[key])
        few = len(curve.steps) < 15
        axes.plot(curve.steps, curve.values, label=label, color=color, marker="o" if few else None, markersize=3)
    axes.set_ylabel(unit)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.set_ylim(bottom=0)
    if finish is not None:
        finish(axes)
    axes.legend(loc="best", fontsize=8)
    said = "; ".join(f"{label} ({key}) ends at {run.curves[key].values[-1]:.3g}" for key, (label, _) in held.items())
    return Picture(title, f"Lines of {unit} over environment steps: {said}.", _svg(figure))


def _axes(run: Run) -> tuple[Figure, Axes]:
    """Empty axes over the steps of the run, with the window shaded that the numbers are means of."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.axvspan(window_start(run), run.last_step, color="#f3f4f6", zorder=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("environment steps")
    return figure, axes


def _thin(curve: Curve) -> Curve:
    """Means of neighbours, where there are more points than can be told apart."""
    if len(curve.steps) <= MOST_POINTS:
        return curve
    parts = np.array_split(np.arange(len(curve.steps)), MOST_POINTS)
    steps, values = (np.array([numbers[part].mean() for part in parts]) for numbers in curve)
    return Curve(steps, values)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()

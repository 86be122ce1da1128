"""Multiplier against ratio, over the ratios that the update really met: one picture of what moves the policy."""

import numpy as np
import torch as th
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_gipo.learner.observed import ObservedUpdate

POSITIVE, NEGATIVE = "#1b6ca8", "#c0392b"
FRESH, OLD = "#b9c4cc", "#e3b778"
# of log rho: what lies beyond is drawn at the border
FARTHEST = 6.0


def draw_multiplier(update: ObservedUpdate, old_threshold: int, title: str) -> Figure:
    """
    :param update: whose surrogate and ratios are drawn
    :param old_threshold: version gap above which a sample counts as old
    :param title: of the picture
    :return: the multiplier ``w`` for positive and for negative advantages as curves over ``rho`` (logarithmic), and behind
        them the share of the drawn ratios, fresh and old; drawn without pyplot, so that no global state is touched
    """
    log_ratio = update.samples.log_ratio.float().cpu().numpy()
    old = (update.samples.ratio_gap > old_threshold).cpu().numpy()
    reach = float(np.clip(np.quantile(np.abs(log_ratio), 0.999) * 1.2, 0.5, FARTHEST))
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    density = figure.add_subplot()
    curves = density.twinx()
    _draw_density(density, np.clip(log_ratio, -reach, reach), old, reach)
    grid = th.linspace(-reach, reach, 801)
    for sign, colour, label in ((1.0, POSITIVE, "multiplier, A > 0"), (-1.0, NEGATIVE, "multiplier, A < 0")):
        multiplier = update.surrogate(grid, th.full_like(grid, sign)).multiplier
        curves.plot(
            grid.numpy(), multiplier.numpy(), color=colour, label=label, linestyle="-" if sign > 0 else "--", linewidth=2
        )
    curves.set_ylim(bottom=0.0)
    curves.set_ylabel("multiplier w")
    density.set_xlim(-reach, reach)
    ticks = _ratio_ticks(reach)
    density.set_xticks(np.log(ticks), [f"{tick:g}" for tick in ticks])
    density.set_xlabel(r"importance ratio $\rho$ (logarithmic)")
    density.set_ylabel("share of the drawn ratios")
    handles = [*density.get_legend_handles_labels()[0], *curves.get_legend_handles_labels()[0]]
    curves.legend(handles=handles, loc="upper left", fontsize=8, framealpha=0.9)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_density(axis: Axes, log_ratio: np.ndarray, old: np.ndarray, reach: float) -> None:
    edges = np.linspace(-reach, reach, 61).tolist()
    parts = {"fresh data": (log_ratio[~old], FRESH), "old data": (log_ratio[old], OLD)}
    shown = {label: part for label, part in parts.items() if len(part[0])}
    axis.hist(
        [values for values, _ in shown.values()],
        bins=edges,
        weights=[np.full(len(values), 1.0 / len(log_ratio)) for values, _ in shown.values()],
        stacked=True,
        color=[colour for _, colour in shown.values()],
        label=list(shown),
    )


def _ratio_ticks(reach: float) -> list[float]:
    """Round ratios that lie in the picture."""
    if reach <= 1.0:
        candidates = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 2.0, 2.5]
    else:
        candidates = [0.0025, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 400.0]
    return [tick for tick in candidates if abs(np.log(tick)) <= reach]

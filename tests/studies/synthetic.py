"""Studies whose results are known, without training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_gipo.pages import write_json
from sb3_gipo.studies import folder as room
from sb3_gipo.studies.curves import Curves
from sb3_gipo.studies.plan import Run, Study, fingerprint
from sb3_gipo.studies.reading import make_study


def study(**changes: Any) -> Study:
    """Two tasks, GIPO and PPO, five seeds, ten evaluations up to step 1000."""
    content: dict[str, Any] = {
        "steps": 1000,
        "seeds": 5,
        "evaluations": {"number": 10, "episodes": 2},
        "statistics": {"reps": 200, "last": 1},
        "tasks": [{"id": "CartPole-v1", "name": name, "low": 0, "high": 100} for name in ("lift", "push")],
        "algorithms": {"GIPO": {"algorithm": "gipo"}, "PPO": {"algorithm": "ppo"}},
    }
    return make_study(Path("known.yaml"), {**content, **changes})


def curves(returns: Sequence[Sequence[float]], budget: float = 100.0, successes: Any = None) -> Curves:
    """Runs with these returns at equal distances from step 0 to the budget."""
    values = np.array(returns, dtype=float)
    grid = np.linspace(0, budget, values.shape[1])
    same = np.broadcast_to(grid, values.shape)
    return Curves(tuple(range(len(values))), grid, values, successes, same, same)


def record(run: Run, returns: Sequence[float], **changes: Any) -> dict[str, Any]:
    """Of a run that had these mean returns."""
    at = [0, *run.configuration["evaluations"]["at"]]
    evaluations = [
        {
            "steps": step,
            "gradient_steps": 2 * step,
            "seconds": step / 100,
            "returns": [value - 1, value + 1],
            "successes": [value > 50, value > 60],
            "lengths": [10, 10],
        }
        for step, value in zip(at, returns, strict=True)
    ]
    traces = [
        {"until": step, "mean": {"train/approx_kl": 0.01, "lag/abs_log_rho_p95": 0.2}, "max": {}, "not_finite": {}}
        for step in at[1:]
    ]
    made_with = {"versions": {"python": "3"}, "hardware": {"cpu": "x", "cores": 2, "threads": 1, "platform": "y"}}
    return {
        "fingerprint": fingerprint(run.configuration),
        **run.configuration,
        **made_with,
        "evaluations": evaluations,
        "planned_evaluations": run.configuration["evaluations"],
        "traces": traces,
        "wall_seconds": 1.0,
        **changes,
    }


def write(folder: Path, of: Study, returns: Callable[[Run], Sequence[float] | None]) -> None:
    """Records of all runs for which there are returns."""
    for run in of.runs():
        values = returns(run)
        if values is not None:
            here = room.place(folder, run)
            here.mkdir(parents=True, exist_ok=True)
            write_json(here / room.CONFIGURATION, run.configuration)
            write_json(here / room.RECORD, record(run, values))


def line(run: Run, full_at: float, noise: float = 1.0, top: float = 80.0) -> list[float]:
    """A straight line to 80 at this step, on to the top and level from there, a little different for every seed."""
    at = np.array([0, *run.configuration["evaluations"]["at"]])
    shift = noise * (run.seed // 1000 - 2) / 2
    return [float(value) for value in np.minimum(80 * at / full_at, top) + shift]

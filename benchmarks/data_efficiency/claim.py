"""
Study A, stale data: the differences that no report has, with the statistics of ``sb3-gipo compare``.

    python -m benchmarks.data_efficiency.claim

A report compares its candidate, and has the runs of one study. ``compare`` does not put ``paper_claim.yaml`` and its
confirmation together: the width of the trust weight, which the other surrogates do not have but carry among their arguments,
is 0.5 in the one and 0.2 in the other.
"""

import json
from pathlib import Path

import numpy as np

from sb3_gipo.studies.curves import Floats, area, curves_of, final
from sb3_gipo.studies.statistics import Sampling, differences

RESULTS = Path(__file__).parents[1] / "results" / "data_efficiency"
TASKS = ("door-open-v3", "handle-press-v3", "reach-v3")
FIRST, FRESH = "paper_claim", "paper_claim_confirm"
NO_PENALTY, NO_PENALTY_FRESH = "paper_claim_no_penalty", "paper_claim_no_penalty_confirm"
TABLES = (
    ((FIRST,), "gipo-0.2", ("ppo-clip", "sapo", "no-clip")),
    ((FIRST, FRESH), "gipo-0.2", ("ppo-clip", "sapo", "no-clip")),
    ((FIRST,), "gipo-one-sided-0.3", ("ppo-clip",)),
    ((FIRST,), "gipo-0.5", ("gipo-0.5-without-v-trace",)),
    ((FIRST,), "ppo-clip", ("ppo-clip-without-v-trace",)),
    ((NO_PENALTY,), "gipo-0.2", ("ppo-clip", "sapo", "no-clip", "gipo-0.5")),
    ((NO_PENALTY_FRESH,), "gipo-0.2", ("ppo-clip", "sapo", "no-clip")),
    ((NO_PENALTY, NO_PENALTY_FRESH), "gipo-0.2", ("ppo-clip", "sapo", "no-clip")),
)
HIGH, LAST = 5000.0, 2  # return that counts as 1; evaluations whose mean is the final result
SAMPLING = Sampling(reps=20_000)


def scores(studies: tuple[str, ...], contestant: str) -> tuple[Floats, Floats]:
    """
    :param studies: whose runs count
    :param contestant: as in the names of the runs' folders
    :return: scores at the end and areas, ``[seeds, tasks]`` each
    """
    ends, areas = [], []
    for task in TASKS:
        name = f"{task}--stale--{contestant}--seed-*/record.json"
        files = [file for study in studies for file in sorted((RESULTS / study / "runs").glob(name))]
        records = [json.loads(file.read_text()) for file in files]
        curves = curves_of(records, [0, *records[0]["planned_evaluations"]["at"]])
        ends.append(final(curves.returns, LAST) / HIGH)
        areas.append(area(curves.grid, curves.returns) / HIGH)
    return np.stack(ends, axis=1), np.stack(areas, axis=1)


def main() -> None:
    """Print the differences of the scores at the end and of the areas."""
    for studies, candidate, names in TABLES:
        own, others = scores(studies, candidate), {name: scores(studies, name) for name in names}
        found = [differences(own[which], {name: its[which] for name, its in others.items()}, SAMPLING) for which in (0, 1)]
        for name in names:
            said = " | ".join(f"{each[name].point:.3f} ({each[name].low:.3f} to {each[name].high:.3f})" for each in found)
            print(f"| {candidate} - {name} | {len(own[0])} seeds of {' and '.join(studies)} | {said} |")


if __name__ == "__main__":
    main()

"""
Study A with the penalty on all ten seeds: how far GIPO 0.2 is above the others, from the runs of ``paper_claim.yaml`` and
``paper_claim_confirm.yaml``, with the statistics of ``sb3-gipo compare``.

    python -m benchmarks.data_efficiency.ten_seeds

``compare`` itself does not put the two together: the width of the trust weight, which the others do not have but carry among
their arguments, is 0.5 in the one study and 0.2 in the other.
"""

import json
from pathlib import Path

import numpy as np

from sb3_gipo.studies.curves import Floats, area, curves_of, final
from sb3_gipo.studies.statistics import Sampling, differences

RESULTS = Path(__file__).parents[1] / "results" / "data_efficiency"
TASKS = ("door-open-v3", "handle-press-v3", "reach-v3")
CANDIDATE, OTHERS = "gipo-0.2", ("ppo-clip", "sapo", "no-clip")
HIGH, LAST = 5000.0, 2  # return that counts as 1; evaluations whose mean is the final result
SAMPLING = Sampling(reps=20_000)


def scores(contestant: str) -> tuple[Floats, Floats]:
    """
    :param contestant: as in the names of the runs' folders
    :return: scores at the end and areas, ``[10 seeds, tasks]`` each
    """
    ends, areas = [], []
    for task in TASKS:
        files = [
            file
            for study in ("paper_claim", "paper_claim_confirm")
            for file in sorted((RESULTS / study / "runs").glob(f"{task}--stale--{contestant}--seed-*/record.json"))
        ]
        records = [json.loads(file.read_text()) for file in files]
        curves = curves_of(records, [0, *records[0]["planned_evaluations"]["at"]])
        ends.append(final(curves.returns, LAST) / HIGH)
        areas.append(area(curves.grid, curves.returns) / HIGH)
    return np.stack(ends, axis=1), np.stack(areas, axis=1)


def main() -> None:
    """Print the rows of the table."""
    own = scores(CANDIDATE)
    others = {name: scores(name) for name in OTHERS}
    found = [differences(own[which], {name: its[which] for name, its in others.items()}, SAMPLING) for which in (0, 1)]
    for name in OTHERS:
        said = " | ".join(f"{each[name].point:.3f} ({each[name].low:.3f} to {each[name].high:.3f})" for each in found)
        print(f"| {name} | {len(own[0])} seeds | {said} |")


if __name__ == "__main__":
    main()

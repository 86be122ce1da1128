"""
Pairs of runs that differ in one thing: the tables of "Further leads" in the README, from the stored runs.

    python -m benchmarks.data_efficiency.pairs
"""

import json
from pathlib import Path

import numpy as np

RUNS = Path(__file__).parents[1] / "results" / "data_efficiency" / "leads.jsonl"
HIGH = {"Hopper-v5": 3500.0, "Walker2d-v5": 4000.0}  # return that counts as 1; Meta-World's is 5000
NOT_LEARNT = ("leads.yaml", "Walker2d-v5")
DRAWS = 10_000
LEADS = ("leads.yaml", "leads_together.yaml", "leads_average.yaml")
AVERAGE, ITERATION = "average of policies at the centre", "trust around the iteration's policy"
TRIED_AGAIN = {  # and in which study, on fresh seeds
    "targets anew four times": "leads_together.yaml",
    "sigma_neg 0.15": "leads_together.yaml",
    AVERAGE: "leads_average.yaml",
}
CHAINS = (
    ("leads.yaml", "traces across rollouts", "GIPO"),
    ("leads.yaml", "traces across rollouts of 256", "rollouts of 256"),
    ("leads_many_envs.yaml", "traces across rollouts", "GIPO"),
    ("leads_locomotion.yaml", "traces across rollouts of 256", "rollouts of 256"),
)
Scores = dict[tuple[str, str, str, int], np.ndarray]  # by study, contestant, task and seed: after step 0


def scores() -> Scores:
    """:return: of every stored run"""
    runs = map(json.loads, RUNS.read_text().splitlines())
    return {
        (run["study"], run["contestant"], run["task"], run["seed"]): np.array(run["returns"][1:])
        / HIGH.get(run["task"], 5000.0)
        for run in runs
        if (run["study"], run["task"]) != NOT_LEARNT
    }


def interval(differences: np.ndarray) -> str:
    """:return: mean with its 95 % interval, bootstrap over pairs"""
    rng = np.random.default_rng(0)
    low, high = np.percentile(rng.choice(differences, (DRAWS, len(differences))).mean(axis=1), [2.5, 97.5])
    return f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def compared(found: Scores, study: str, changed: str, base: str) -> tuple[str, np.ndarray]:
    """:return: row of a table, and the difference in area of every pair"""
    pairs = [
        (found[key], found[(study, base, *key[2:])])
        for key in sorted(found)
        if key[:2] == (study, changed) and (study, base, *key[2:]) in found
    ]
    area = np.array([[one.mean(), other.mean()] for one, other in pairs])
    end = np.mean([one[-2:].mean() - other[-2:].mean() for one, other in pairs])
    difference = area[:, 0] - area[:, 1]
    means = " | ".join(f"{mean:.3f}" for mean in area.mean(axis=0))
    return f"| {changed} | {len(pairs)} | {means} | {interval(difference)} | {end:+.3f} |", difference


def main() -> None:
    """Print the tables."""
    found = scores()
    for study in LEADS:
        names = dict.fromkeys(key[1] for key in found if key[0] == study and key[1] != "GIPO")
        rows = [compared(found, study, name, "GIPO") for name in names]
        print("\n".join(row for row, _ in sorted(rows, key=lambda row: -row[1].mean())), end="\n\n")
    for name, again in TRIED_AGAIN.items():
        both = np.concatenate([compared(found, study, name, "GIPO")[1] for study in ("leads.yaml", again)])
        print(f"{name}: {len(both)} pairs: {interval(both)}", end="\n\n")
    _, difference = compared(found, "leads.yaml", AVERAGE, ITERATION)
    print(f"{AVERAGE} - {ITERATION}: {len(difference)} pairs: {interval(difference)}", end="\n\n")
    chains = [compared(found, *setting) for setting in CHAINS]
    print("\n".join(row for row, _ in chains))
    all_pairs = np.concatenate([differences for _, differences in chains])
    print(f"{len(all_pairs)} pairs: {interval(all_pairs)}, {np.mean(all_pairs > 0):.0%} above 0")


if __name__ == "__main__":
    main()

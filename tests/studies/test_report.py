"""The report of studies whose results are known: numbers, words, a page that needs nothing else."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sb3_gipo.pages import write_json
from sb3_gipo.studies import folder as room
from sb3_gipo.studies.plan import Run, Study
from sb3_gipo.studies.report import Report, write_report
from sb3_gipo.studies.verdict import EARLY, STAY, SWITCH, UNKNOWN
from tests import html
from tests.studies.synthetic import line, record, study, write

COSTS = {"steps_per_hour": 100, "money_per_hour": 20, "currency": "EUR"}


class Page(html.Page):
    """Drawings are part of the page: their elements may close themselves."""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def speeds(gipo: float, ppo: float) -> Any:
    return lambda run: line(run, gipo if run.contestant == "GIPO" else ppo)


def reported(folder: Path, of: Study, returns: Any) -> Report:
    write(folder, of, returns)
    return write_report(of, folder, "sb3-gipo compare known.yaml --folder x")


def test_switch(tmp_path: Path) -> None:
    """GIPO is where PPO ends at step 400, PPO at 800: about twice as fast, with what that saves; files say the same."""

    def returns(run: Run) -> list[float]:
        return line(run, 400, top=95) if run.contestant == "GIPO" else line(run, 800)

    report = reported(tmp_path, study(decision=COSTS), returns)
    verdict = report.verdicts["default"]
    assert verdict.outcome == SWITCH
    ratio = report.analyses["default"].savings["GIPO"].ratio
    assert ratio.low > 1.3
    assert ratio.point == pytest.approx(2.0, abs=0.05)
    for said in (
        "Switch to GIPO",
        "steps fewer",
        "At 100 steps an hour that saves",
        "at 20 EUR an hour",
        "better than PPO on lift, push",
    ):
        assert said in verdict.text
    saved = report.analyses["default"].savings["GIPO"].saved_steps.point
    assert saved == pytest.approx(800, abs=30)  # 400 on each of two tasks
    assert f"{saved / 100 * 20:,.0f} EUR" in verdict.text
    success = report.analyses["default"].success["lift"]
    # half way GIPO is at 95, above both thresholds of success in every run; PPO is at 50, above one in some and none in others
    assert success["halfway"].candidate == (1.0, 1.0, 1.0)
    assert success["halfway"].difference.low >= 0.5
    assert success["end"].difference == (0.0, 0.0, 0.0)
    numbers = json.loads((tmp_path / "summary.json").read_text())
    assert numbers["regimes"]["default"]["verdict"]["outcome"] == "switch"
    assert numbers["regimes"]["default"]["savings"]["GIPO"]["ratio"]["point"] == ratio.point
    assert numbers["runs"] == {"finished": 20, "failed": {}, "missing": [], "of other settings": []}
    page = Page((tmp_path / "report.html").read_text())
    for text in ((tmp_path / "report.md").read_text(), page.text):
        for said in ("lift", "push", "Stability", "sb3-gipo compare known.yaml --folder x", "IQM"):
            assert said in text
        assert text.index("Switch to GIPO") < text.index("What was compared") < text.rindex("Switch to GIPO")
        assert "Nothing: all runs are finished." in text


def test_do_not_switch(tmp_path: Path) -> None:
    """The other way round: and on no task does GIPO end higher."""
    verdict = reported(tmp_path, study(), speeds(900, 400)).verdicts["default"]
    assert verdict.outcome == STAY
    assert "Do not switch" in verdict.text
    assert "an hour" not in verdict.text


def test_too_early(tmp_path: Path) -> None:
    """Seeds that differ more than the contestants."""

    def returns(run: Run) -> list[float]:
        speed = {"GIPO": (200, 350, 500, 800, 950), "PPO": (300, 450, 600, 750, 900)}[run.contestant]
        return line(run, speed[run.seed // 1000], 0.0)

    report = reported(tmp_path, study(), returns)
    ratio = report.analyses["default"].savings["GIPO"].ratio
    assert ratio.low < 1.3
    assert ratio.high > 1
    assert report.verdicts["default"].outcome == EARLY
    assert "more seeds" in report.verdicts["default"].text


def test_never_and_worse(tmp_path: Path) -> None:
    """A task on which GIPO learns nothing is named, counts as 0, and stands as never."""

    def returns(run: Run) -> list[float]:
        if run.contestant == "GIPO" and run.task == "push":
            return line(run, 1e9, 0.0)
        return line(run, 400 if run.contestant == "GIPO" else 800)

    report = reported(tmp_path, study(seeds=2), returns)
    verdict = report.verdicts["default"]
    assert verdict.worse == ("push",)
    assert "clearly worse than PPO on push" in verdict.text
    assert "GIPO never reaches PPO's result on push" in verdict.text
    assert "With 2 seeds the intervals mean little" in verdict.text
    assert re.search(r"\| GIPO \| push \| .*\| never .*\| 0.00", (tmp_path / "report.md").read_text())
    assert json.loads((tmp_path / "summary.json").read_text())["regimes"]["default"]["savings"]["GIPO"]["never"] == ["push"]


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    """No address to load from, well-formed drawings with names of their own, at most 2 MB; names are not markup."""
    tasks = [{"id": "CartPole-v1", "name": f"<b>{k}</b>|*", "low": 0, "high": 100} for k in range(7)]
    contestants = {
        "GIPO": {"algorithm": "gipo"},
        "<script>alert(1)</script>": {"algorithm": "ppo"},
        "SAC": {"algorithm": "sac"},
        "TD3": {"algorithm": "td3"},
    }
    of = study(tasks=tasks, algorithms=contestants, evaluations={"number": 20, "episodes": 2}, statistics={"reps": 100})
    reported(tmp_path, of, lambda run: line(run, 500 + 50 * len(run.contestant)))
    text = (tmp_path / "report.html").read_text()
    assert len(text) < 2_000_000
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert "script" not in tags
    assert tags.count("svg") == 3 + 7
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"url\((?!#)", text)
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    names: list[str] = []
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        names += set(re.findall(r'<clipPath id="([^"]+)"', drawing))
    assert len(names) == len(set(names))
    lines = (tmp_path / "report.md").read_text()
    assert "<script>" not in lines
    for link in re.findall(r"\]\(([^)]+)\)", lines):
        assert (tmp_path / link).is_file()


def test_the_same_report_twice(tmp_path: Path) -> None:
    """To the last byte."""
    of = study()
    reported(tmp_path, of, speeds(400, 800))
    names = ("report.md", "report.html", "summary.json")
    before = [(tmp_path / name).read_bytes() for name in names]
    write_report(of, tmp_path, "sb3-gipo compare known.yaml --folder x")
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_missing_runs(tmp_path: Path) -> None:
    """Seeds that are not on all tasks do not count in what is over tasks; they are named; failures are told."""
    of = study()

    def returns(run: Run) -> list[float] | None:
        return None if (run.contestant, run.task, run.seed) == ("GIPO", "push", 2001) else line(run, 500)

    write(tmp_path, of, returns)
    (lost,) = (run for run in of.runs() if returns(run) is None)
    report = write_report(of, tmp_path, "x")
    analysis = report.analyses["default"]
    assert report.results.missing == [lost]
    assert analysis.aggregate["GIPO"].seeds == (1, 1001, 3001, 4001)
    assert analysis.tasks["lift"]["GIPO"].seeds == of.seeds
    assert any("seed 2001" in note for note in analysis.notes)
    room.place(tmp_path, lost).mkdir()
    room.fail(room.place(tmp_path, lost), lost.configuration, "ValueError: no", "...")
    report = write_report(of, tmp_path, "x")
    assert "push--gipo--seed-2001 failed: ValueError: no" in (tmp_path / "report.md").read_text()
    assert analysis.stability["PPO"].failed == 0
    assert report.analyses["default"].stability["GIPO"].failed == 1


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    """However far apart: its interval has no width."""
    verdict = reported(tmp_path, study(seeds=1), speeds(200, 900)).verdicts["default"]
    assert verdict.outcome == EARLY
    assert (verdict.worse, verdict.better) == ((), ())
    assert "With one seed there are no intervals" in verdict.text
    assert "clearly" not in verdict.text


@pytest.mark.parametrize("there", ["nothing", "baseline", "one task", "one run each"])
def test_few_runs(tmp_path: Path, there: str) -> None:
    """A report of what is there, however little."""
    of = study(regimes=["lag_0"], algorithms={name: {"algorithm": "gipo"} for name in ("GIPO", "PPO")}, baseline="PPO")

    def returns(run: Run) -> list[float] | None:
        kept = {
            "nothing": False,
            "baseline": run.contestant == "PPO",
            "one task": run.task == "lift",
            "one run each": run.seed == 1,
        }[there]
        return line(run, 500) if kept else None

    report = reported(tmp_path, of, returns)
    expected = UNKNOWN if there in ("nothing", "baseline") else EARLY
    assert report.verdicts["lag_0"].outcome == expected
    assert ("This is of 1 of the 2 tasks" in report.verdicts["lag_0"].text) is (there == "one task")
    Page((tmp_path / "report.html").read_text())


def test_bounds_from_the_study(tmp_path: Path) -> None:
    """Where a task does not say what is low and high, the lowest and highest return are; the report says so."""
    report = reported(tmp_path, study(tasks=["CartPole-v1"]), lambda run: line(run, 500, 0.0))
    assert json.loads((tmp_path / "summary.json").read_text())["bounds"] == {"CartPole-v1": [0.0, 80.0]}
    assert report.analyses["default"].aggregate["PPO"].final == (1.0, 1.0, 1.0)
    assert "the lowest and highest of this study" in (tmp_path / "report.md").read_text()


def test_runs_that_ran_away_are_counted(tmp_path: Path) -> None:
    """With how."""
    of = study(seeds=1)
    write(tmp_path, of, lambda run: line(run, 500))
    (run, *_) = of.runs()
    traces = [{"until": 1000, "mean": {"train/approx_kl": 7.0}, "max": {}, "not_finite": {}}]
    write_json(room.place(tmp_path, run) / room.RECORD, record(run, line(run, 500), traces=traces))
    report = write_report(of, tmp_path, "x")
    assert len(report.analyses["default"].stability["GIPO"].ran_away) == 1
    assert "lift, seed 1: train/approx_kl was 7 over the last 20%" in (tmp_path / "report.md").read_text()

"""The page: one well-formed file that needs nothing else, written whole or not at all."""

import base64
import os
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from sb3_gipo import pages
from sb3_gipo.diagnosis import Diagnosis, diagnose, read_logs, render
from sb3_gipo.diagnosis.facts import gather
from sb3_gipo.diagnosis.logs import Curve, Run
from sb3_gipo.diagnosis.plots import draw
from sb3_gipo.pages import write_page
from tests.diagnosis.written import GIPO, PPO, RISING, SLOW, run_of
from tests.html import Page

HOSTILE = '<script>alert("1")</script>&'


def pictures(parsed: Page) -> list[str]:
    """Titles of the axes and the like cannot be read from paths; that each is a drawing with something in it can."""
    found = []
    for image in parsed.all("img"):
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/svg+xml;base64"
        root = ElementTree.fromstring(base64.b64decode(data, validate=True))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 10
        assert image["alt"]
        found.append(str(image["alt"]))
    return found


def everything() -> Diagnosis:
    """A run of GIPO with all that can be plotted, a symptom and a note."""
    by_age = {f"by_age/{name}/{label}": 0.5 for name in ("frac", "share") for label in ("0", "1")}
    more = {"rollout/success_rate": 0.5, "eval/mean_reward": RISING, "health/symptom": 1.0}
    run = run_of({**GIPO, **by_age, **more})
    return diagnose(Run(run.name, run.folder, run.curves, ("the note",)))


def test_self_contained() -> None:
    """Well formed; no script, no style sheet, nothing that is fetched."""
    parsed = Page(render("title", [everything()]))
    assert {"script", "link", "iframe", "object", "base"}.isdisjoint(tag for tag, _ in parsed.elements)
    assert "url(" not in parsed.text
    assert "@import" not in parsed.text
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") or name in ("srcset", "style") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/svg+xml;base64,"))


def test_what_stands_in_it() -> None:
    """Verdict, answers with numbers and keys, snippet, reasons, symptoms, notes, window and thresholds."""
    found = everything()
    parsed = Page(render("/the/log", [found], ["skipped one"]))
    for said in (
        *("/the/log", "the note", "skipped one", found.word.capitalize(), found.why, "last 20 %"),
        *(answer.why for answer in found.answers),
        *(f"{number.label}{number.key}" for answer in found.answers for number in answer.numbers),
        *(number.text for answer in found.answers for number in answer.numbers),
        *(setting.reason for setting in found.settings),
        "health/symptom was raised in 100.0 % of the iterations",
        "collection takes at least 50 % of an iteration",
        "from a 95th percentile of |log ratio| of 0.37",
        "from 20 % of the samples",
    ):
        assert said in parsed.words, said
    assert found.snippet in parsed.text
    assert len(parsed.all("details")) == 0


def test_plots_of_gipo() -> None:
    """One of each kind, in their order, with the numbers in words for who cannot see them."""
    alts = pictures(Page(render("title", [everything()])))
    titles = [picture.title for picture in draw(everything().run, everything().facts)]
    assert titles[:4] == ["Learning curve", "Success", "Samples lost to the update", "Drift"]
    assert titles[4:] == ["Old samples", "By age", "Time of an iteration"]
    assert len(alts) == len(titles)
    assert "training episodes (rollout/ep_rew_mean) ends at 19" in alts[0]
    assert "age 1: 50% of the samples" in alts[5]
    assert "collection 4 s, targets 1 s, update 5 s" in alts[6]


def test_plots_of_ppo() -> None:
    """Of a plain log: the drift by estimate, the bound of the dead fraction, the speed."""
    alts = pictures(Page(render("title", [diagnose(run_of({**PPO, "time/fps": 900.0}))])))
    assert len(alts) == 4
    assert "beyond the clip range (train/clip_fraction) ends at 0.05" in alts[1]
    assert "estimate from approx_kl (lag/abs_log_rho_p95) ends at 0.196" in alts[2]
    assert "steps per second (time/fps) ends at 900" in alts[3]


def test_plots_of_odd_curves() -> None:
    """One point, zeros on a log axis, times logged at different steps, thousands of points: nothing fails, nothing is huge."""
    one = run_of({"rollout/ep_rew_mean": [1.0], "train/approx_kl": [0.0], "train/clip_fraction": [0.0]})
    assert [picture.title for picture in draw(one, gather(one))] == ["Learning curve", "Samples lost to the update"]
    apart = run_of({**PPO, "time/collect": [1.0], "time/update": [1.0]})
    assert "Time of an iteration" not in [picture.title for picture in draw(apart, gather(apart))]
    steps = np.arange(1.0, 50_001)
    long = Run("long", Path("long"), {"rollout/ep_rew_mean": Curve(steps, np.sin(steps))})
    (picture,) = draw(long, gather(long))
    assert len(picture.svg) < 100_000
    nothing = run_of({"time/total_episodes": 1.0})
    assert "None of the curves that are plotted was logged" in Page(render("title", [diagnose(nothing)])).text


def test_nothing_global_is_touched() -> None:
    """The user's matplotlib is as it was, and its settings do not reach the page."""
    with mpl.rc_context({"text.usetex": True, "axes.grid": False}):
        before = dict(mpl.rcParams)
        draw(everything().run, everything().facts)
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_many_runs(runs: int) -> None:
    """Several: a table with a link to each; many are folded."""
    diagnoses = [diagnose(run_of({**PPO, **SLOW}, name=f"run {number}")) for number in range(runs)]
    parsed = Page(render("title", diagnoses))
    targets = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert targets == [f"run-{number}" for number in range(1, runs + 1)]
    assert [link["href"] for link in parsed.all("a")] == ([f"#{target}" for target in targets] if runs > 1 else [])
    assert len(parsed.all("details")) == (5 if runs == 5 else 0)
    assert all(f"run {number}" in parsed.text for number in range(runs))


def test_hostile_names_are_escaped() -> None:
    """Of the run, the keys, the notes, the folder: all are text."""
    run = run_of({**PPO, f"health/{HOSTILE}": 1.0}, name=HOSTILE)
    hostile = diagnose(Run(run.name, run.folder, run.curves, (HOSTILE,)))
    html = render(HOSTILE, [hostile, hostile], [HOSTILE])
    parsed = Page(html)
    assert "<script" not in html
    assert parsed.all("script") == []
    # title, heading; twice each: table, heading, note, symptom; passed over
    assert parsed.text.count(HOSTILE) == 2 + 2 * 4 + 1


def test_real_logs(real_logs: Path) -> None:
    """Every real log makes a page whose pictures can be decoded."""
    logs = read_logs(real_logs)
    parsed = Page(render(str(real_logs), [diagnose(run) for run in logs.runs]))
    alts = pictures(parsed)
    assert len([alt for alt in alts if "mean return" in alt]) == len(logs.runs)


# ---------------------------------------------------------------- writing


def test_an_existing_page_is_replaced(tmp_path: Path) -> None:
    """Nothing else is left in the folder, and others may read the page as they may any new file."""
    path = tmp_path / "diagnosis.html"
    write_page(path, "old")
    write_page(path, "new \N{GREEK SMALL LETTER SIGMA}")
    assert path.read_text(encoding="utf-8") == "new \N{GREEK SMALL LETTER SIGMA}"
    assert os.listdir(tmp_path) == ["diagnosis.html"]
    other = tmp_path / "other"
    other.write_text("")
    assert path.stat().st_mode == other.stat().st_mode


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writing fails, the old page stands and no leftover lies beside it."""
    path = tmp_path / "diagnosis.html"
    write_page(path, "old")

    def fail(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(pages.os, "replace", fail)
    with pytest.raises(OSError, match="no room"):
        write_page(path, "new")
    monkeypatch.undo()
    assert (os.listdir(tmp_path), path.read_text()) == (["diagnosis.html"], "old")


def test_half_of_a_character(tmp_path: Path) -> None:
    """As the message of an error may have it: escaped, no reason to write nothing."""
    write_page(tmp_path / "page.html", "no file '\udcff'")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == r"no file '\udcff'"

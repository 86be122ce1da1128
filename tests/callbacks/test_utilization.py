"""``UtilizationCallback``: which keys, when, where, and what pictures."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_gipo.callbacks import UtilizationCallback
from tests.callbacks.runs import learn, make

ALL = ["ppo", "maskable", "recurrent", "gipo"]
EVERYWHERE = {
    "lag/version_gap_mean", "lag/version_gap_max", "lag/old_frac", "lag/abs_log_rho_p95",
    "utilization/dead_frac", "utilization/suppressed_frac", "utilization/near_zero_frac", "utilization/old_share",
    "utilization/trust_mean", "utilization/trust_below_0.1", "utilization/trust_below_0.5", "utilization/ess_eff",
    "ratio/pos_p50", "ratio/neg_max", "train/kl_behaviour", "train/kl_previous", "train/grad_norm", "train/grad_norm_max",
    "replay/reuse_mean", "time/collect", "time/update",
}  # fmt: skip


@pytest.mark.parametrize("kind", ALL)
def test_keys_of_every_algorithm(kind: str) -> None:
    """One line, and every algorithm logs the same quantities under the same names, all of them finite numbers."""
    dumps = learn(make(kind), UtilizationCallback(histogram_freq=0, figure_freq=0))
    assert set(dumps[-2]) >= EVERYWHERE  # the dump after the last update has no rollout in it
    assert not any(key.startswith(("utilization", "by_age", "lag")) for key in dumps[0])  # nothing was updated yet
    numbers = {key: value for key, value in dumps[-1].items() if key.startswith(("utilization", "by_age", "lag", "ratio"))}
    assert all(np.isfinite(value) for value in numbers.values())


def test_ages_of_a_replay() -> None:
    """A replay of four rollouts holds the ages 0, 1, 2-3; what is stored, drawn and contributed is told for each."""
    model = make("gipo", replay_capacity=256)
    last = learn(model, UtilizationCallback(histogram_freq=1, figure_freq=0), iterations=6)[-1]
    for name in ("frac", "share", "dead_frac", "ess_eff", "trust_mean", "kl_behaviour", "reuse_mean", "policy_grad_norm"):
        labels = {key.rsplit("/", 1)[1] for key in last if key.startswith(f"by_age/{name}/")}
        assert labels == {"0", "1", "2-3"}, name
    assert [last[f"by_age/stored_frac/{label}"] for label in ("0", "1", "2-3")] == [0.25, 0.25, 0.5]
    assert last["replay/version_gap_mean"] == 1.5
    assert last["replay/version_gap_max"] == 3
    # 48 minibatches of 16 from 256: each is drawn 3 times an update; the newest was there for one, the next for two
    assert last["by_age/reuse_mean/0"] == pytest.approx(3, abs=0.5)
    assert last["by_age/reuse_mean/1"] > last["by_age/reuse_mean/0"]
    assert last["by_age/kl_behaviour/2-3"] > last["by_age/kl_behaviour/0"]


def test_frequencies() -> None:
    """Histograms and pictures come when they are due, and 0 means never."""
    dumps = learn(make("ppo"), UtilizationCallback(histogram_freq=2, figure_freq=3), iterations=7)[1:]
    assert ["lag/version_gap" in dump for dump in dumps] == [False, True] * 3 + [False]
    assert ["utilization/multiplier" in dump for dump in dumps] == [False, False, True] * 2 + [False]
    dumps = learn(make("gipo"), UtilizationCallback(histogram_freq=0, figure_freq=0, by_age=False), iterations=3)
    assert not any(key.startswith("by_age") or key in ("lag/version_gap", "utilization/multiplier") for key in dumps[-1])


@pytest.mark.parametrize("kind", ["ppo", "gipo"])
def test_thresholds(kind: str) -> None:
    """With thresholds that everything is below, everything that is not dead is suppressed, and all is near zero."""
    last = learn(make(kind), UtilizationCallback(eps_w=1e9, eps_c=1e9))[-1]
    assert last["utilization/near_zero_frac"] == 1.0
    assert last["utilization/suppressed_frac"] == pytest.approx(1 - last["utilization/dead_frac"])
    assert kind == "ppo" or last["by_age/near_zero_frac/0"] == 1.0


@pytest.mark.parametrize("kind", ALL)
def test_every_output_of_sb3_takes_it(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """TensorBoard gets scalars, histograms and pictures; the table, CSV and JSON what they can hold."""
    model = make(kind)
    model.set_logger(configure(str(tmp_path), ["stdout", "log", "csv", "json", "tensorboard"]))
    learn_for = 4 * model.n_steps * model.n_envs
    model.learn(learn_for, callback=UtilizationCallback(histogram_freq=1, figure_freq=1))
    model.logger.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    assert {"utilization/dead_frac", "ratio/pos_p50", "by_age/policy_grad_norm/0"} <= set(tags["scalars"])
    assert ("by_age/dead_frac/0" in tags["scalars"]) == (kind == "gipo")  # of one age everything is said already
    assert {"lag/version_gap", "by_age/log_ratio/0", "by_age/multiplier/0"} <= set(tags["histograms"])
    assert tags["images"] == ["utilization/multiplier"]
    picture = events.Images("utilization/multiplier")[-1]
    assert picture.width > 300
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "dead_frac" in printed
    assert "by_age" not in printed
    with (tmp_path / "progress.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["utilization/dead_frac"]) >= 0
    assert "utilization/multiplier" not in last
    assert "by_age/policy_grad_norm/0" in json.loads((tmp_path / "progress.json").read_text().splitlines()[-1])


def test_picture_shows_the_surrogate_and_the_ratios() -> None:
    """Curves are the multipliers of PPO for both signs, and the bars add up to all ratios."""
    model = make("gipo", surrogate="ppo_clip", old_threshold=1)
    dumps = learn(model, UtilizationCallback(figure_freq=1), iterations=5)
    figure = dumps[-1]["utilization/multiplier"].figure
    density, curves = figure.axes
    above, below = curves.lines
    for line, sign in ((above, 1.0), (below, -1.0)):
        ratio = np.exp(line.get_xdata())
        clipped = ratio > 1.2001 if sign > 0 else ratio < 0.7999
        inside = ratio < 1.1999 if sign > 0 else ratio > 0.8001
        assert np.all(line.get_ydata()[clipped] == 0.0)
        assert line.get_ydata()[inside] == pytest.approx(ratio[inside], rel=1e-4)
    heights = [patch.get_height() for container in density.containers for patch in container]
    assert sum(heights) == pytest.approx(1.0, abs=1e-3)
    assert len(density.containers) == 2  # fresh and old
    assert "GIPO" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"histogram_freq": -1}, "histogram_freq"),
        ({"figure_freq": 1.5}, "figure_freq"),
        ({"eps_w": 0.0}, "eps_w"),
        ({"eps_c": float("nan")}, "eps_c"),
    ],
    ids=str,
)
def test_bad_arguments(kwargs: dict[str, Any], words: str) -> None:
    """Refused at once, by name."""
    with pytest.raises(ValueError, match=words):
        UtilizationCallback(**kwargs)


def test_no_wide_table() -> None:
    """SB3's table cannot hold two keys that look alike once they are cut: none of ours is cut."""
    dumps = learn(make("gipo"), UtilizationCallback(histogram_freq=1))
    for key in dumps[-1]:
        if not key.startswith(("by_age", "ratio")):
            assert len(key.partition("/")[2]) <= 30, key

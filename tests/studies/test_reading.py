"""A study file: what it means, and what is said of one that will not do."""

import datetime
import inspect
import json
import math
import re
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml
from stable_baselines3 import SAC

from sb3_gipo import GIPO, defaults
from sb3_gipo.studies.checking import StudyError, as_number
from sb3_gipo.studies.contestants import argument_defaults, find_algorithm, package_defaults
from sb3_gipo.studies.plan import Decision, Evaluations, Statistics, Study, fingerprint
from sb3_gipo.studies.reading import make_study, read_study

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "compare.yaml"
PAGE = ROOT / "docs" / "compare.md"
BENCHMARKS = ROOT / "benchmarks"
SMALL = """
steps: 2e5
seeds: 3
n_envs: 4
tasks: [MetaWorld/reach-v3, {id: HalfCheetah-v5, low: 0, high: 5000, steps: 1000}]
algorithms:
  GIPO: &gipo {algorithm: gipo, sigma: 3e-1}
  clip: {<<: *gipo, surrogate: ppo_clip, regimes: false}
  PPO tuned: {algorithm: ppo, learning_rate: lin_3e-4, gamma: 0.9, n_envs: 2}
  SAC: {algorithm: sb3_contrib.tqc.tqc:TQC, normalize: false, buffer_size: 1e5}
"""


def changed(**changes: Any) -> Study:
    return make_study(Path("s.yaml"), {**yaml.safe_load(SMALL), **changes})


def test_what_it_means(tmp_path: Path) -> None:
    """Defaults, spaced seeds, numbers that YAML takes for texts, goals of evaluation, gamma of the normaliser."""
    (tmp_path / "s.yaml").write_text(SMALL)
    study = read_study(tmp_path / "s.yaml")
    assert study.seeds == (1, 1001, 2001)
    assert (study.baseline, study.candidate) == ("PPO tuned", "GIPO")
    reach, cheetah = study.tasks
    assert (reach.name, reach.kwargs, reach.eval_kwargs) == (
        "reach-v3",
        {"stagger": True},
        {"split": "eval", "stagger": False},
    )
    assert (reach.bounds, reach.steps, cheetah.steps) == ((0.0, 5000.0), 200_000, 1000)
    gipo, clip, ppo, tqc = study.contestants
    assert gipo.settings == {"sigma": 0.3}
    assert clip.settings == {"sigma": 0.3, "surrogate": "ppo_clip"}
    assert (ppo.n_envs, ppo.normalize) == (2, {"norm_obs": True, "norm_reward": True, "gamma": 0.9})
    assert (tqc.label, tqc.normalize, tqc.settings) == ("TQC", None, {"buffer_size": 100_000})
    assert study.grid(reach)[:2] == [10_000, 20_000]
    kwargs = {"kwargs": {"reward_scale": "1e-1"}, "eval_kwargs": {"sizes": ["2e2"], "split": "eval"}}
    (task,) = changed(tasks=[{"id": "A-v0", **kwargs}]).tasks
    assert (task.kwargs, task.eval_kwargs) == (
        {"reward_scale": 0.1},
        {"reward_scale": 0.1, "sizes": [200], "split": "eval"},
    )
    assert len(study.runs()) == 3 * 2 * 4
    assert len({run.slug for run in study.runs()}) == 24


def test_runs_of_a_seed_come_before_those_of_the_next() -> None:
    """So that an early report has something of everything."""
    assert [run.seed for run in changed().runs()] == [1] * 8 + [1001] * 8 + [2001] * 8


def test_regimes() -> None:
    """Of ours by name, or settings of one's own; who does not take part keeps its settings."""
    algorithms = yaml.safe_load(SMALL)["algorithms"]
    gipo = {name: algorithms[name] for name in ("GIPO", "clip")}
    study = changed(algorithms=gipo, regimes=["fresh", "stale"])
    (fresh, _), (stale, clip) = (
        [run.configuration for run in study.runs() if (run.regime, run.task, run.seed) == (name, "reach-v3", 1)]
        for name in ("fresh", "stale")
    )
    assert (fresh["n_envs"], stale["n_envs"], clip["n_envs"]) == (16, 2, 4)
    assert fresh["algorithm"]["settings"] == {**stale["algorithm"]["settings"]}
    assert "n_steps" not in clip["algorithm"]["settings"]
    own = changed(algorithms=gipo, regimes={"mine": {"n_steps": "1e2", "gamma": 0.5}})
    (run, *_) = own.runs()
    assert run.configuration["algorithm"]["settings"]["n_steps"] == 100
    assert run.configuration["normalize"]["gamma"] == 0.5
    assert run.slug == "reach-v3--mine--gipo--seed-1"


def test_seeds_that_share_environments() -> None:
    """Environment i has the seed + i: told where runs share some, refused where an evaluation shares them with a training."""
    with pytest.warns(UserWarning, match=r"The seeds 2 and 5 are closer than there are environments \(4\)"):
        changed(seeds=[9, 2, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed(seeds=[1, 5, 9], evaluations={"seed": 13})
    for seed in (12, 0):  # up to 12 is trained with; ten environments of an evaluation begin at 0
        with pytest.raises(StudyError, match=rf"evaluations: seed is '{seed} to {seed + 9}'; it must be apart from"):
            changed(seeds=[1, 5, 9], evaluations={"seed": seed})


def test_the_fingerprint_is_of_what_a_run_does() -> None:
    """Not of what is done with its record."""
    first = fingerprint(changed().runs()[0].configuration)
    assert (
        fingerprint(changed(decision={"at_least": 2}, statistics={"reps": 500}, seeds=[1, 7]).runs()[0].configuration) == first
    )
    assert fingerprint(changed(evaluations={"seed": 77}).runs()[0].configuration) != first
    assert fingerprint(changed(n_envs=2).runs()[0].configuration) != first


def test_the_configuration_is_complete() -> None:
    """What the file leaves unsaid stands there with its default; what it says, and a regime, in place of it."""
    algorithms = yaml.safe_load(SMALL)["algorithms"]
    study = changed(algorithms={name: algorithms[name] for name in ("GIPO", "PPO tuned")}, regimes={"short": {"n_steps": 100}})
    gipo, ppo = (run.configuration["algorithm"] for run in study.runs()[:2])
    assert gipo["settings"] == {"sigma": 0.3, "n_steps": 100}
    arguments = gipo["arguments"]
    assert (arguments["sigma"], arguments["n_steps"], arguments["gamma"], arguments["kl_coef"]) == (0.3, 100, 0.99, None)
    assert set(arguments) == set(inspect.signature(GIPO).parameters) - {
        *("policy", "env", "seed", "verbose", "device", "tensorboard_log", "_init_setup_model")
    }
    assert gipo["defaults"]["REPLAY_KL_COEF"] == defaults.REPLAY_KL_COEF
    assert (ppo["arguments"]["n_epochs"], ppo["arguments"]["learning_rate"], ppo["defaults"]) == (10, "lin_3e-4", {})
    assert json.loads(json.dumps(gipo, allow_nan=False)) == gipo


class Peculiar(GIPO):
    """With defaults that JSON does not know."""

    def __init__(
        self,
        policy: Any,
        env: Any,
        shape: tuple[int, ...] = (1, 2),
        limit: float = math.inf,
        kind: type = th.nn.ReLU,
        how: Any = math.sqrt,
        thing: Any = object(),  # noqa: B008 (one whose text has an address)
        **more: Any,
    ) -> None:
        super().__init__(policy, env, **more)


def test_defaults_that_json_does_not_know() -> None:
    """Texts in their place, the same in every process; the constants of this package for what is derived from it."""
    assert argument_defaults(Peculiar) == {
        "shape": [1, 2],
        "limit": "inf",
        "kind": "torch.nn.modules.activation:ReLU",
        "how": "math:sqrt",
        "thing": "<object object>",
    }
    assert package_defaults(Peculiar) == package_defaults(GIPO) != {}
    assert package_defaults(find_algorithm("ppo")) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step": 3}, "no 'step'. Allowed: steps, seeds, .* Did you mean 'steps'?"),
        ({"steps": "many"}, "steps is 'many'; it must be a number of at least 1"),
        ({"steps": 1.5}, "steps is 1.5; it must be a whole number"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\]; it must be a number of seeds, or a list of different ones"),
        ({"seeds": 0}, "seeds is 0"),
        ({"tasks": []}, "tasks is .*list of gym ids"),
        ({"tasks": [{"id": "A-v0", "hihg": 2}]}, "a task has no 'hihg'.*Did you mean 'high'"),
        ({"tasks": [{"id": "A-v0", "high": 2}]}, "A-v0 has one of low and high: give both"),
        ({"tasks": [{"id": "A-v0", "high": 2, "low": 3}]}, "low must be below high"),
        ({"tasks": ["A-v0", "A-v0"]}, "Two of the tasks would share"),
        ({"tasks": [{"name": "x"}]}, "the id of a task is None"),
        ({"algorithms": {"A": {}}}, "'A' in algorithms does not say which"),
        ({"algorithms": {"A": {"algorithm": "gpio"}}}, "no algorithm 'gpio'. Did you mean 'GIPO'?.*Allowed: A2C"),
        ({"algorithms": {"A": {"algorithm": "os:path"}}}, "'os:path' is not an algorithm"),
        ({"algorithms": {"A": {"algorithm": "nowhere.at:All"}}}, "no class 'nowhere.at:All'"),
        ({"algorithms": {"A": {"algorithm": "ppo", "n_step": 3}}}, "'A' .PPO. has no 'n_step'.*Did you mean 'n_steps'"),
        ({"algorithms": {"A": {"algorithm": "ppo", "seed": 3}}}, "'A' .PPO. has no 'seed'"),
        ({"algorithms": {"A": {"algorithm": "ppo"}, "a": {"algorithm": "a2c"}}}, "Two of the algorithms would share"),
        ({"algorithms": {1: {"algorithm": "ppo"}}}, "a name in algorithms is 1; it must be a text"),
        ({"baseline": "PPO"}, "baseline has no 'PPO'. Allowed: GIPO, clip, PPO tuned, SAC"),
        ({"normalize": "yes"}, "normalize of 'GIPO' is 'yes'; it must be true, false or a mapping"),
        ({"tasks": [{"id": "A-v0", "kwargs": 0}]}, "kwargs of A-v0 is 0; it must be a mapping"),
        ({"normalize": {"norm_rew": 1}}, "Did you mean 'norm_reward'"),
        ({"evaluations": {"episode": 3}}, "Did you mean 'episodes'"),
        ({"evaluations": {"number": 0}}, "number in evaluations is 0"),
        ({"statistics": {"last": 21}}, "last in statistics is 21; it must be at most the number of evaluations, 20"),
        ({"decision": {"confidence": 95}}, "confidence in decision is 95; it must be a number of at least 0.5, at most 0.999"),
        ({"decision": {"money_per_hour": 3}}, "money_per_hour but not steps_per_hour: give both, or money_per_step"),
        (
            {"decision": {"money_per_hour": 3, "steps_per_hour": 9, "money_per_step": 1}},
            "money_per_hour and money_per_step: give one of them",
        ),
        (
            {"decision": {"at_least": 0.9}},
            "at_least in decision is 0.9; it must be a number of at least 1. It is how many times",
        ),
        ({"decision": {"money_per_steps": 3}}, "Did you mean 'money_per_step'"),
        ({"statistics": {"succes": 0.9}}, "Did you mean 'success'"),
        ({"statistics": {"success": 90}}, "success in statistics is 90; it must be a number above 0, at most 1"),
        ({"tasks": [{"id": "X-v1", "treshold": 1}]}, "Did you mean 'threshold'"),
        ({"tasks": [{"id": "X-v1", "threshold": "high"}]}, "threshold of X-v1 is 'high'; it must be a number"),
        (
            {"evaluations": {"number": 1}},
            "last in statistics is 2; it must be at most the number of evaluations, 1. Give more",
        ),
        (
            {"algorithms": {"x": {"algorithm": "asyncgipo"}}, "regimes": ["fresh"]},
            "The regime 'fresh' sets the number of environments; 'x' .AsyncGIPO. has so many in each of its actors",
        ),
        ({"regimes": "fresh"}, r"regimes is 'fresh'; it must be a list of names, such as \[fresh, stale\], or a mapping"),
        ({"regimes": [{"lag_2": {}}]}, r"regimes is \[{'lag_2': {}}\]; it must be a list of names"),
        ({"regimes": [["fresh"]]}, r"regimes is \[\['fresh'\]\]; it must be a list of names"),
        ({"regimes": {"mine": {"sigma": math.inf}}}, "sigma of regime 'mine' is inf; it must be a finite number"),
        ({"regimes": {"x" * 71: {}}}, "a name in regimes has 71 letters; it must have at most 70: 'xxx"),
        ({"steps": 19}, r"steps of MetaWorld/reach-v3 is 19; .*\(evaluations: number\), 20\. Give more steps"),
        ({"steps": "1e400"}, "steps is '1e400'; it must be a number"),
        ({"steps": 10**400}, "steps is 1000+ ...; it must be a number"),
        ({"steps": 10**5000}, "steps is a number of thousands of digits; it must be a number"),
        ({"statistics": {"random_state": 2**32}}, "random_state in statistics is 4294967296; .* at most 4294967295"),
        ({"statistics": {"reps": 100_001}}, "reps in statistics is 100001; .* at least 100, at most 100000"),
        ({"baseline": "GIPO", "candidate": "GIPO"}, "baseline and candidate are both 'GIPO': give two different ones"),
        ({"algorithms": {"A": {"algorithm": ".mine:Algo"}}}, "no class '.mine:Algo'"),
        ({"algorithms": {"x" * 300: {"algorithm": "ppo"}}}, "a name in algorithms has 300 letters; .* at most 70: 'xxx"),
        ({"algorithms": {"a\ud800": {"algorithm": "ppo"}}}, "a name in algorithms is .* whole characters"),
        ({"tasks": [{"id": "A-v0", "name": "a\ud800"}]}, "the name of A-v0 is .* whole characters"),
        ({"tasks": [{"id": "A-v0", "name": "x" * 71}]}, "the name of A-v0 has 71 letters"),
        (
            {"normalize": {"clip_obs": math.inf}},
            "clip_obs of normalize of 'GIPO' is inf; .*Leave it out .* or give a large number",
        ),
        ({"regimes": ["stael"]}, "stael.*'fresh', 'stale'"),
        ({"regimes": {"mine": {"sigm": 1}}}, "The regime 'mine' sets 'sigm'; 'GIPO' .GIPO. has no such setting"),
        ({"regimes": ["stale"]}, "'PPO tuned' .PPO. has no such setting.*regimes: false"),
    ],
)
def test_what_will_not_do(changes: dict[str, Any], said: str) -> None:
    """What was given, what is allowed, what to do."""
    with pytest.raises(StudyError, match=f"(?s){said}"):
        changed(**changes)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.inf, "a is inf; it must be a finite number. Leave it out .* or give a large number"),
        (-math.inf, "a is -inf; it must be a finite number"),
        ("1e400", "a is inf; it must be a finite number"),
        (10**400, "a is 1000.*; it must be a finite number"),
        ([1, {"b": math.nan}], "b of entry 2 of a is nan"),
        (datetime.date(2020, 1, 1), "a is datetime.date.2020, 1, 1.; it must be a text, a number"),
        ({1, 2}, "a is {1, 2}; it must be a text, a number"),
        (b"x", "a is b'x'; it must be a text, a number"),
        ({"b": {2: 1, "c": 2}}, "a name in b of a is 2; it must be a text. Put it in quotes."),
    ],
)
@pytest.mark.parametrize("place", ["settings", "kwargs", "eval_kwargs", "regime"])
def test_what_a_record_cannot_keep(value: Any, said: str, place: str) -> None:
    """Is refused where it is read, with its place: JSON would not write it, or not read it back as it was."""
    of, changes = {
        "settings": ("'A'", {"algorithms": {"A": {"algorithm": "tests.studies.test_reading:Peculiar", "a": value}}}),
        "kwargs": ("kwargs of A-v0", {"tasks": [{"id": "A-v0", "kwargs": {"a": value}}]}),
        "eval_kwargs": ("eval_kwargs of A-v0", {"tasks": [{"id": "A-v0", "eval_kwargs": {"a": value}}]}),
        "regime": ("regime 'r'", {"regimes": {"r": {"a": value}}}),
    }[place]
    with pytest.raises(StudyError, match=re.sub(r"\ba is", f"a of {of} is", re.sub(r"of a is", f"of a of {of} is", said))):
        changed(**changes)


@pytest.mark.parametrize(
    ("algorithms", "changes", "roles"),
    [
        (["ppo", "a2c"], {}, ("ppo", "a2c")),
        (["gipo", "ppo"], {"candidate": "ppo"}, ("gipo", "ppo")),
        (["gipo", "ppo"], {"baseline": "gipo"}, ("gipo", "ppo")),
        (["gipo", "ppo", "sac"], {"candidate": "ppo"}, ("sac", "ppo")),
        (["sac", "ppo", "gipo"], {}, ("ppo", "gipo")),
        (["gipo", "trpo"], {}, ("trpo", "gipo")),
        (["ppo"], {}, ("ppo", "ppo")),
    ],
)
def test_who_is_compared_with_whom(algorithms: list[str], changes: dict[str, str], roles: tuple[str, str]) -> None:
    """Never one with itself, as long as there is another."""
    study = changed(algorithms={name: {"algorithm": name} for name in algorithms}, **changes)
    assert (study.baseline, study.candidate) == roles


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: 2020-13-45", r"'2020-13-45' is no timestamp \(month must be in 1..12\).*line 1"),
        ("steps: !!int abc", "'abc' is no int"),
        ("steps: !!float abc", "'abc' is no float"),
        ("steps: !!bool abc", "'abc' is no bool"),
        (f"steps: 1{'0' * 5000}", "'1000.*is no int"),
        (f"steps: {'[' * 2000}{']' * 2000}", "is nested too deeply"),
    ],
)
def test_values_that_are_not_what_they_look_like(tmp_path: Path, text: str, said: str) -> None:
    """PyYAML raises what Python raises: told like everything else that will not do."""
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(StudyError, match=f"(?s){said}"):
        read_study(tmp_path / "s.yaml")


def test_files_that_are_none(tmp_path: Path) -> None:
    """Missing, not YAML, a name given twice, nothing in it."""
    path = tmp_path / "s.yaml"
    with pytest.raises(StudyError, match="cannot be read"):
        read_study(path)
    path.write_text("a: [")
    with pytest.raises(StudyError, match="is not YAML"):
        read_study(path)
    path.write_text(SMALL + "  SAC: {algorithm: sac}\n")
    with pytest.raises(StudyError, match="'SAC' stands twice"):
        read_study(path)
    path.write_text("")
    with pytest.raises(StudyError, match="the study is None; it must be a mapping"):
        read_study(path)
    path.write_text("steps: 3")
    with pytest.raises(StudyError, match="says nothing of 'tasks'"):
        read_study(path)


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ("3e-4", 3e-4),
        ("1e6", 1_000_000),
        ("200_000", 200_000),
        ("lin_1", "lin_1"),
        ("", ""),
        (True, True),
        ("1.0", 1.0),
        ("1e400", math.inf),
    ],
)
def test_numbers(given: Any, number: Any) -> None:
    """Whole ones stay whole."""
    assert as_number(given) == number
    assert type(as_number(given)) is type(number)


def test_the_example_is_a_study() -> None:
    """It can be read, and asks for what the documentation says."""
    study = read_study(EXAMPLE)
    assert {each.label for each in study.contestants} >= {"GIPO", "PPO"}


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*/*.yaml")), ids=lambda path: path.name)
def test_studies_of_the_benchmarks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All can still be read, without a warning."""
    monkeypatch.setitem(sys.modules, "sbx", types.SimpleNamespace(SAC=SAC))  # with JAX, not in the tested set; off_policy.yaml
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_study(path).runs()


@pytest.mark.parametrize(("name", "hint"), [("no_such_package:SAC", True), ("torch:NoSuchClass", False)])
def test_a_class_that_is_not_there(name: str, hint: bool) -> None:
    """What to install is said where a package is missing, not where the package lacks the class."""
    with pytest.raises(StudyError, match=f"There is no class '{name}'") as caught:
        find_algorithm(name)
    assert ("Install its package" in str(caught.value)) == hint


def test_the_study_of_the_documentation() -> None:
    """What the page shows is a study."""
    small, whole, tuned = (
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    )
    study = make_study(Path("page.yaml"), whole)
    assert (study.baseline, study.candidate) == ("PPO tuned", "GIPO")
    assert len(make_study(Path("small.yaml"), small).runs()) == 6
    study = make_study(Path("tuned.yaml"), {**small, **tuned})
    assert [each.settings["gamma"] for each in study.contestants] == [0.98] * 3


def test_what_the_page_calls_defaults_are() -> None:
    """Of every line that says so."""
    _, text, _ = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    marked = [line for line in text.splitlines() if "(default)" in line or "(defaults)" in line]
    found: dict[str, Any] = {}
    for line in marked:
        found |= yaml.safe_load(line.strip())
    normalized = [each.normalize for each in changed(normalize=found.pop("normalize")).contestants]
    assert normalized == [each.normalize for each in changed().contestants]
    assert found.pop("seeds") == len(changed(seeds=5).seeds) == 5
    assert found.pop("evaluations") == vars(Evaluations())
    assert set(found) == {"at_least", "confidence", "reps", "last", "target"}
    assert found.items() <= (vars(Decision()) | vars(Statistics())).items()
    assert 'default: "money units"' in text
    assert Decision().currency == "money units"

"""One run: its evaluations, its counts, and that neither disturbs the training."""

import json
import math
import random
import re
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed

import sb3_gipo
from sb3_gipo.studies import folder as room
from sb3_gipo.studies.contestants import make_envs, make_model, resolve
from sb3_gipo.studies.evaluating import evaluate
from sb3_gipo.studies.provenance import sources
from sb3_gipo.studies.recording import RunRecorder, gradient_counter
from sb3_gipo.studies.run_one import carry_out, make
from sb3_gipo.studies.traces import Traces
from tests.studies.synthetic import study

SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 2},
    "gipo": {"n_steps": 16, "batch_size": 32, "n_epochs": 2},
    "asyncgipo": {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "num_actors": 1, "backend": "serial"},
    "a2c": {},
    "dqn": {"learning_starts": 20, "buffer_size": 1000, "target_update_interval": 20},
    "sac": {"learning_starts": 20, "buffer_size": 1000, "batch_size": 16, "policy_kwargs": {"net_arch": [8]}},
    "td3": {"learning_starts": 20, "buffer_size": 1000, "batch_size": 16, "action_noise": "normal_0.1"},
    "tqc": {"learning_starts": 20, "buffer_size": 1000, "batch_size": 16, "policy_kwargs": {"net_arch": [8]}},
    "qrdqn": {"learning_starts": 20, "buffer_size": 1000, "target_update_interval": 20},
    "maskableppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 1},
    "trpo": {"n_steps": 16, "batch_size": 32},
    "recurrentppo": {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "policy": "MlpLstmPolicy"},
    "ars": {"n_delta": 2},
}


class Masked(CartPoleEnv):
    """One action is never valid; to take it is an error."""

    def action_masks(self) -> np.ndarray:
        return np.array([True, False])

    def step(self, action: Any) -> Any:
        assert action == 0
        return super().step(action)


gym.register("Masked-v0", Masked, max_episode_steps=100)


def configuration(algorithm: str, number: int = 4, **changes: Any) -> dict[str, Any]:
    tasks = {"sac": "Pendulum-v1", "td3": "Pendulum-v1", "tqc": "Pendulum-v1", "maskableppo": "Masked-v0"}
    found = study(
        steps=120,
        seeds=1,
        n_envs=2,
        evaluations={"number": number, "episodes": 3},
        tasks=[tasks.get(algorithm, "CartPole-v1")],
        statistics={"last": 1},
        algorithms={"x": {"algorithm": algorithm, **SETTINGS[algorithm]}},
        **changes,
    )
    return found.runs()[0].configuration


def test_actors_are_given_what_the_study_says() -> None:
    """The serial twin, which makes its environments itself, is GIPO with those of the study: the same record."""
    task = {"id": "MetaWorld/reach-v3", "kwargs": {"stagger": True}}
    changes: dict[str, Any] = {"steps": 128, "seeds": [5], "n_envs": 2, "evaluations": {"number": 2, "episodes": 1}}
    how = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    algorithms = {
        "a": {"algorithm": "gipo", **how},
        "b": {"algorithm": "asyncgipo", "num_actors": 1, "backend": "serial", **how},
    }
    runs = study(tasks=[task], algorithms=algorithms, **changes).runs()
    one, other = (carry_out(run.configuration)["evaluations"] for run in runs)
    for key in ("returns", "steps", "gradient_steps"):
        # at step 0 the learner has not heard of the first observation of its actors yet, which counts among the statistics
        assert [each[key] for each in one[1:]] == [each[key] for each in other[1:]], key
    arguments = runs[1].configuration["algorithm"]["arguments"]
    assert (arguments["num_actors"], arguments["sigma"], arguments["backend"]) == (1, 0.3, "serial")
    assert not {"kwargs", "args", "env_kwargs"} & set(arguments)


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_record(algorithm: str) -> None:
    """Of every kind of algorithm: planned evaluations at exact steps, counts that rise, standard JSON."""
    record = carry_out(configuration(algorithm))
    evaluations = record["evaluations"]
    steps = [each["steps"] for each in evaluations]
    if algorithm == "ars":  # evaluated between its updates, each of some episodes
        assert steps[0] == 0
        assert steps[-1] >= 120
    else:
        assert steps == [0, 30, 60, 90, 120]
    assert all(len(each["returns"]) == len(each["lengths"]) == 3 for each in evaluations)
    for key in ("seconds",) if algorithm == "ars" else ("seconds", "gradient_steps"):
        assert sorted(each[key] for each in evaluations) == [each[key] for each in evaluations]
    counts = [each["gradient_steps"] for each in evaluations]
    assert set(counts) == {None} if algorithm == "ars" else counts[0] == 0 < counts[-1]
    assert [each["until"] for each in record["traces"]] == steps[1:]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert {"python", "torch", "stable_baselines3", "sb3_gipo", "gymnasium", "numpy"} <= set(record["versions"])
    assert (record["hardware"]["threads"], record["hardware"]["device"]) == (1, "cpu")
    assert re.fullmatch("[0-9a-f]{12}", record["versions"]["sb3_gipo sources"])
    if algorithm in ("ppo", "gipo", "asyncgipo", "recurrentppo"):
        logged = set(record["traces"][-1]["mean"])  # of the rollout that ended at step 96
        assert {"lag/abs_log_rho_p95", "utilization/near_zero_frac", "train/approx_kl"} <= logged
        assert "train/approx_kl" in record["traces"][-1]["max"]


def test_sources(tmp_path: Path) -> None:
    """The same for the same files, another for a change, a new name, or a file more; nothing else counts."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "inner" / "b.py").write_text("")
    first = sources(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "a.py").write_bytes(b"x = 1\r\n")
    assert sources(tmp_path) == first
    (tmp_path / "a.py").write_text("x = 2\n")
    changed = sources(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    renamed = sources(tmp_path)
    (tmp_path / "d.py").touch()
    assert len({first, changed, renamed, sources(tmp_path)}) == 4
    assert sources() == sources(Path(sb3_gipo.__file__).parent)


def test_versions_name_the_packages_of_the_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a user's own class too, whose parent is from outside; a file that says no version is not named."""
    monkeypatch.setitem(sys.modules, "outside", types.SimpleNamespace(__version__="1.2.3", Theirs=PPO))
    theirs = type("Theirs", (PPO,), {"__module__": "outside.ppo"})
    own = type("Own", (theirs,), {"__module__": "my_file"})
    monkeypatch.setitem(sys.modules, "my_file", types.SimpleNamespace(Own=own))
    run = configuration("ppo")
    run["algorithm"]["class"] = "my_file:Own"
    versions = carry_out(run)["versions"]
    assert versions.pop("outside") == "1.2.3"
    assert versions == carry_out(configuration("ppo"))["versions"]


def test_gradient_steps_without_an_optimizer_of_torch() -> None:
    """As in SBX: what the off-policy algorithm counts itself."""
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=10)
    model.critic = None
    count = gradient_counter(model)
    model._n_updates = 7
    assert count() == 7


def test_gradient_steps_are_minibatches() -> None:
    """Rollouts of 32 transitions, a minibatch in each of 2 epochs: 2 steps for each rollout that was learnt from."""
    record = carry_out(configuration("ppo"))
    assert [each["gradient_steps"] for each in record["evaluations"]] == [0, 0, 2, 4, 6]


def parameters(model: BaseAlgorithm) -> np.ndarray:
    return th.cat([each.detach().flatten() for each in model.policy.parameters()]).numpy()


@pytest.mark.parametrize("algorithm", ["ppo", "gipo", "dqn", "sac"])
def test_evaluations_do_not_change_the_training(algorithm: str) -> None:
    """Bit-identical parameters with one evaluation more or less, and without any."""
    found = []
    for number in (0, 1, 6):
        run = configuration(algorithm, number=max(number, 1))
        env, eval_env = make_envs(run)
        model = make_model(run, env)
        evaluations = run["evaluations"]
        recorder = RunRecorder(eval_env, evaluations["at"], 3, evaluations["seed"], Traces())
        model.learn(run["steps"], callback=recorder if number else _Stop(run["steps"]))
        assert len(recorder.evaluations) == (number + 1 if number else 0)
        found.append((parameters(model), th.get_rng_state().numpy(), np.random.random(3)))
    for other in found[1:]:
        for mine, its in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(mine, its)


class _Stop(RunRecorder):
    """Ends the training where the other does, and evaluates nothing."""

    def __init__(self, steps: int) -> None:
        super().__init__(None, [], 0, 0, Traces())  # type: ignore[arg-type]
        self._steps = steps

    def _on_training_start(self) -> None:
        pass

    def _on_step(self) -> bool:
        return self.num_timesteps < self._steps

    def _on_training_end(self) -> None:
        pass


class Goals(gym.Env[np.ndarray, int]):
    """An episode of three steps with a goal from the environment's generator."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gym.spaces.Discrete(2)
    drawn: list[float] = []  # noqa: RUF012 (shared on purpose)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.goal = float(self.np_random.random())
        Goals.drawn.append(self.goal)
        self.left = 3
        return np.array([self.goal]), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        done = self.left == 0
        return np.array([self.goal]), self.goal, done, False, {"is_success": self.goal > 0.5}


gym.register("Goals-v0", Goals, max_episode_steps=10)


def test_same_goals_in_every_evaluation() -> None:
    """Of every run, however far it is: the returns (which only depend on the goals) are the same, also with successes."""
    records = [
        carry_out(
            study(
                steps=64,
                seeds=[seed],
                evaluations={"number": 2, "episodes": 13},
                tasks=["Goals-v0"],
                statistics={},
                algorithms={"x": {"algorithm": "ppo", "n_steps": 16, "batch_size": 16}},
            )
            .runs()[0]
            .configuration
        )
        for seed in (1, 2)
    ]
    first, *others = [each for record in records for each in record["evaluations"]]
    assert len(first["returns"]) == 13
    assert len(set(first["returns"])) == 13
    assert sum(first["successes"]) == sum(value > 1.5 for value in first["returns"])
    for other in others:
        assert (other["returns"], other["successes"]) == (first["returns"], first["successes"])


def test_statistics_of_the_training_are_used_and_kept() -> None:
    """The policy sees observations as in training; counting goes on where it was; the mode of the policy is put back."""
    run = configuration("ppo")
    env, eval_env = make_envs(run)
    model = make_model(run, env)
    model.learn(64)
    normalizer = model.get_vec_normalize_env()
    before = normalizer.obs_rms.mean.copy(), normalizer.obs_rms.count
    model.policy.set_training_mode(True)
    evaluate(model, eval_env, 3, 5)
    assert model.policy.training
    np.testing.assert_array_equal(eval_env.obs_rms.mean, before[0])
    assert (normalizer.obs_rms.count, eval_env.obs_rms.count) == (before[1], before[1])


class Broken(Goals):
    """From its second episode on, with the kwarg ``what``: a reward, or a success, that is no number."""

    def __init__(self, what: str = "") -> None:
        self.what, self.episodes = what, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.episodes += 1
        return super().reset(seed=seed)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, done, truncated, info = super().step(action)
        if self.episodes > 1 and self.what == "success":
            info["is_success"] = math.nan
        return observation, math.inf if self.episodes > 1 and self.what == "return" else reward, done, truncated, info


gym.register("Broken-v0", Broken, max_episode_steps=10)


@pytest.mark.parametrize(("what", "value", "of"), [("return", "inf", "the reward"), ("success", "nan", "info..is_success")])
def test_an_evaluation_that_is_not_finite(what: str, value: str, of: str, tmp_path: Path) -> None:
    """Which one, of which run, and what to look at; a success that is no number is none, nor a failure."""
    (run,) = study(
        steps=64,
        seeds=[7],
        evaluations={"number": 2, "episodes": 2},
        tasks=[{"id": "Broken-v0", "name": "cracked", "eval_kwargs": {"what": what}}],
        statistics={},
        algorithms={"x": {"algorithm": "ppo", "n_steps": 16, "batch_size": 16}},
    ).runs()
    (tmp_path / room.CONFIGURATION).write_text(json.dumps(run.configuration))
    assert make(tmp_path) == 1
    assert not (tmp_path / room.RECORD).exists()
    assert re.match(
        rf"NonFiniteEvaluationError: The evaluation at step 32 of cracked, x, seed 7: the {what} of episode 1 of 2 is {value} "
        rf"\(2 of them .* Look at {of}.*eval_kwargs",
        json.loads((tmp_path / room.FAILURE).read_text())["error"],
    )


class Drawing(Goals):
    """Takes its goals from the global generators, as environments should not."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.goal = float(np.random.random() + random.random() + th.rand(1).item())
        return np.array([self.goal]), {}


gym.register("Drawing-v0", Drawing, max_episode_steps=10)


def test_generators_stand_where_they_stood() -> None:
    """Also where an environment of the evaluation draws from the global ones."""
    found = study(steps=64, tasks=["Drawing-v0"], algorithms={"x": {"algorithm": "ppo", "n_steps": 16, "batch_size": 16}})
    env, eval_env = make_envs(found.runs()[0].configuration)
    model = make_model(found.runs()[0].configuration, env)
    after = []
    for evaluations in (0, 1):
        set_random_seed(3)
        for _ in range(evaluations):
            evaluate(model, eval_env, 2, 5)
        after.append((np.random.random(), random.random(), th.rand(1).item()))
    assert after[0] == after[1]


@pytest.mark.parametrize("regime", ["stale", "lag_2"])
def test_a_regime_is_exactly_reproducible(regime: str) -> None:
    """Two runs of one configuration: the same evaluations and the same lag, to the last bit."""
    of = study(
        **{"steps": 5000, "seeds": 1, "tasks": ["CartPole-v1"], "regimes": [regime]},
        evaluations={"number": 2, "episodes": 2},
        statistics={"last": 1},
        algorithms={"x": {"algorithm": "gipo", "n_steps": 500, "policy_kwargs": {"net_arch": [8]}}},
    )
    (run,) = of.runs()
    one, other = (carry_out(run.configuration) for _ in range(2))
    for key in ("evaluations", "traces"):
        for first, second in zip(one[key], other[key], strict=True):
            assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert one["traces"][-1]["mean"]["lag/version_gap_mean"] > 0


def test_traces() -> None:
    """Means, maxima and what was not finite, of an interval."""
    traces = Traces()
    for kl, variance in ((0.1, math.nan), (0.3, 0.5)):
        traces.write({"train/approx_kl": kl, "train/explained_variance": variance, "time/fps": 3, "lag/x": "no"}, {})
    traces.end_interval(100)
    traces.end_interval(200)
    first, second = traces.intervals()
    assert first["mean"] == {"train/approx_kl": pytest.approx(0.2), "train/explained_variance": 0.5}
    assert first["max"] == {"train/approx_kl": 0.3}
    assert first["not_finite"] == {"train/explained_variance": 1}
    assert second == {"until": 200, "mean": {}, "max": {}, "not_finite": {}}


def test_names_stand_for_classes_and_schedules() -> None:
    """Of torch, SB3 and modules; noise of the size of the actions."""
    run = configuration("sac")
    env, _ = make_envs(run)
    given = {
        "learning_rate": "lin_3e-4",
        "policy_kwargs": {"activation_fn": "ReLU", "optimizer_class": "AdamW", "net_arch": [4]},
        "action_noise": "normal_0.5",
        "train_freq": [2, "step"],
        "sigma": "lin_0.5",
    }
    found = resolve(given, env, PPO)
    assert found["learning_rate"](0.5) == pytest.approx(1.5e-4)
    assert found["policy_kwargs"] == {"activation_fn": th.nn.ReLU, "optimizer_class": th.optim.AdamW, "net_arch": [4]}
    assert found["action_noise"]._sigma.tolist() == [0.5]
    assert found["train_freq"] == (2, "step")
    assert found["sigma"] == "lin_0.5"
    for wrong in ({"learning_rate": "lin_x"}, {"policy_kwargs": {"activation_fn": "Rleu"}}, {"action_noise": "pink"}):
        with pytest.raises(ValueError, match=r"lin_x|Rleu|pink"):
            resolve(wrong, env, PPO)

"""Meta-World environments: goals, observations, success, time limit, rendering, gymnasium ids."""

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_gipo.envs import MetaWorldEnv, make_metaworld_env, metaworld_tasks, register_metaworld_envs, rendering
from sb3_gipo.envs.goals import SPLITS, GoalSplit, Split
from sb3_gipo.envs.meta_world import CAMERAS

SOME_TASKS = ["reach-v3", "door-open-v3", "pick-place-v3", "assembly-v3", "drawer-close-v3"]


def goals_of(env: MetaWorldEnv, n_episodes: int, seed: int | None = None) -> np.ndarray:
    """Goals of consecutive episodes, the first after ``reset(seed=seed)``, ``[n_episodes, d]``."""
    goals = []
    for episode in range(n_episodes):
        env.reset(seed=seed if episode == 0 else None)
        goals.append(env.goal)
    return np.array(goals)


def linear_match(observations: np.ndarray, values: np.ndarray) -> float:
    """Largest absolute correlation of any element of the observations, ``[n, 39]``, with ``values``, ``[n]``."""
    centred, values = observations.astype(np.float64) - observations.mean(axis=0), values - values.mean()
    norms = np.linalg.norm(centred, axis=0) * np.linalg.norm(values)
    return float(np.max(np.abs(values @ centred) / np.maximum(norms, 1e-9)))


def run_scripted(env: gym.Env[Any, Any], seed: int, n_idle: int = 0) -> list[dict[str, Any]]:
    """Infos of one episode of Meta-World's scripted policy for reach-v3, which moves away again for the last steps."""
    policy = importlib.import_module("metaworld.policies").SawyerReachV3Policy()
    obs, _ = env.reset(seed=seed)
    infos: list[dict[str, Any]] = []
    truncated = False
    while not truncated:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant")
            action = np.clip(policy.get_action(obs.astype(np.float64)), -1, 1).astype(np.float32)
        if len(infos) >= 100 - n_idle:
            action = np.array([0, -1, 1, 0], dtype=np.float32)
        obs, _, terminated, truncated, info = env.step(action)
        assert not terminated
        infos.append(info)
    return infos


class Recorded(KVWriter):
    """A logger output that keeps the values."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.values.update(key_values)


@pytest.fixture
def reach() -> Iterator[MetaWorldEnv]:
    """One training environment of reach-v3 with seed 0."""
    env = make_metaworld_env("reach-v3", seed=0)
    yield env
    env.close()


# ---------------------------------------------------------------- tasks


def test_task_list_is_that_of_metaworld() -> None:
    """The names kept in the package are exactly Meta-World's 50, sorted."""
    env_dict = importlib.import_module("metaworld.env_dict")
    assert metaworld_tasks() == sorted(env_dict.ALL_V3_ENVIRONMENTS)
    assert len(metaworld_tasks()) == 50


@pytest.mark.parametrize("task", metaworld_tasks())
def test_every_task(task: str) -> None:
    """
    In every task goals differ between episodes, belong to the split asked for and are visible undistorted; observations are
    float32 inside the space; and the start of an episode shows a split coordinate, so that other goals are other episodes.
    """
    for split in SPLITS:
        env = make_metaworld_env(task, seed=0, split=split)
        goals, starts = [], []
        for _ in range(4):
            obs, _ = env.reset()
            goals.append(env.goal)
            starts.append(obs)
            assert env.goal_split.split_of(env.goal) == split
            for action in (env.action_space.low, env.action_space.high):
                np.testing.assert_allclose(obs[-3:], env.sim._get_pos_goal(), atol=1e-6)
                assert obs.dtype == np.float32
                assert env.observation_space.contains(obs)
                obs, reward, terminated, truncated, info = env.step(action)
                assert type(reward) is float
                assert (terminated, truncated) == (False, False)
                assert {"success", "obj_to_target", "is_success", "success_at_end"} <= set(info)
        assert len({tuple(goal) for goal in goals}) == 4
        drawn = np.array(goals)[:, env.goal_split.axes]
        assert max(linear_match(np.array(starts), column) for column in drawn.T) > 0.999
        env.close()


@pytest.mark.parametrize("task", SOME_TASKS)
@pytest.mark.filterwarnings("error")
def test_checkers_are_silent(task: str) -> None:
    """The environment checkers of gymnasium and Stable-Baselines3 pass without any warning."""
    env = make_metaworld_env(task)
    check_env(env, skip_render_check=True)
    sb3_check_env(env)
    env.close()


@pytest.mark.parametrize("task", SOME_TASKS)
def test_observations_stay_in_the_space(task: str) -> None:
    """Observations of a whole episode of extreme random actions are float32, inside the space, and stack two frames."""
    env = make_metaworld_env(task, seed=3, max_episode_steps=300)
    env.action_space.seed(3)
    before, _ = env.reset()
    truncated = False
    while not truncated:
        obs, _, _, truncated, _ = env.step(np.sign(env.action_space.sample()))
        assert obs.dtype == np.float32
        assert env.observation_space.contains(obs)
        np.testing.assert_array_equal(obs[18:36], before[:18])
        before = obs
    env.close()


def test_objects_out_of_bounds_are_clipped(reach: MetaWorldEnv) -> None:
    """An object that leaves the declared bounds is reported at the bound, inside the space."""
    reach.reset()
    reach.sim._set_obj_xyz(np.array([50.0, -50.0, 1.0]))
    obs, *_ = reach.step(np.zeros(4, np.float32))
    assert reach.observation_space.contains(obs)
    np.testing.assert_array_equal(obs[4:6], [10.0, -10.0])
    reach.sim.reset = lambda: (np.full(39, 99.0), {})
    assert reach.observation_space.contains(reach.reset()[0])


def test_same_physics_and_reward_as_metaworld() -> None:
    """With the same goal and actions, observations and rewards are those of Meta-World's own environment as MT1 sets it up."""
    env = make_metaworld_env("push-v3", seed=5, reward_scale=0.5)
    obs, _ = env.reset()
    metaworld = importlib.import_module("metaworld")
    cls = importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS["push-v3"]
    task = metaworld._encode_task("push-v3", {"env_cls": cls, "rand_vec": env.goal, "partially_observable": False})
    original = cls()
    original.set_task(task)
    np.testing.assert_array_equal(obs, original.reset()[0].astype(np.float32))
    rng = np.random.default_rng(0)
    for action in rng.uniform(-1, 1, (50, 4)).astype(np.float32):
        obs, reward, *_ = env.step(action)
        expected_obs, expected_reward, *_ = original.step(action)
        np.testing.assert_array_equal(obs, expected_obs.astype(np.float32))
        assert reward == 0.5 * expected_reward
    env.close()


# ---------------------------------------------------------------- goals and seeds


def test_goal_sequence_is_reproducible() -> None:
    """Two environments with the same seed, rank and split have the same goals; changing any of the three changes them."""
    base = {"seed": 1, "rank": 2, "split": "train"}
    first = goals_of(make_metaworld_env(**base), 4)
    np.testing.assert_array_equal(first, goals_of(make_metaworld_env(**base), 4))
    for change in ({"seed": 2}, {"rank": 0}, {"split": "eval"}):
        assert not np.isin(goals_of(make_metaworld_env(**{**base, **change}), 4)[:, 0], first[:, 0]).any()


def test_seeds_and_ranks_do_not_alias() -> None:
    """Seed and rank are separate inputs: (0, 1), (1, 0) and (2**32, 0) start three different sequences."""
    firsts = {tuple(goals_of(make_metaworld_env(seed=seed, rank=rank), 1)[0]) for seed, rank in ((0, 1), (1, 0), (2**32, 0))}
    assert len(firsts) == 3


def test_reset_with_seed_restarts_the_sequence(reach: MetaWorldEnv) -> None:
    """reset(seed=s) always gives the same sequence, that of an environment made with seed=s, and reset() continues it."""
    first = goals_of(reach, 3, seed=7)
    np.testing.assert_array_equal(first, goals_of(reach, 3, seed=7))
    np.testing.assert_array_equal(first, goals_of(make_metaworld_env("reach-v3", seed=7), 3))
    assert not np.isin(goals_of(reach, 3)[:, 0], first[:, 0]).any()
    assert reach.np_random_seed == 7


def test_episodes_do_not_depend_on_earlier_ones(reach: MetaWorldEnv) -> None:
    """After reset(seed=s) an episode is the same in every bit, whatever was done before."""
    episodes = []
    for n_before in (0, 3):
        for action in reach.np_random.uniform(-1, 1, (n_before, 4)):
            reach.step(action.astype(np.float32))
        obs = [reach.reset(seed=4)[0]]
        obs += [reach.step(np.array([0.3, 0.2, -0.5, 1.0], np.float32))[0] for _ in range(20)]
        episodes.append(np.array(obs))
    np.testing.assert_array_equal(*episodes)


def test_a_reset_draws_one_goal(reach: MetaWorldEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo environments reset their model twice, but only one goal is drawn: both times it is the goal of the episode."""
    drawn: list[np.ndarray] = []
    sample = reach.goal_split.sample
    monkeypatch.setattr(reach.goal_split, "sample", lambda rng, split: drawn.append(sample(rng, split)) or drawn[-1])
    np.testing.assert_array_equal(goals_of(reach, 3), drawn)


def test_unseeded_environments_differ() -> None:
    """Without a seed, two environments have different goals, as gymnasium's users expect."""
    assert not np.isin(goals_of(make_metaworld_env(), 2)[:, 0], goals_of(make_metaworld_env(), 2)[:, 0]).any()


def test_make_vec_env_seeds_every_copy() -> None:
    """make_vec_env(seed=s) gives each copy other goals, the same ones when repeated, and others with another seed."""

    def first_goals(seed: int) -> list[tuple[float, ...]]:
        venv = make_vec_env("MetaWorld/reach-v3", n_envs=3, seed=seed)
        venv.reset()
        goals = [tuple(goal) for goal in venv.get_attr("goal")]
        venv.close()
        return goals

    goals = first_goals(0)
    assert len(set(goals)) == 3
    assert goals == first_goals(0)
    assert not set(goals) & set(first_goals(10))


@pytest.mark.parametrize("task", SOME_TASKS)
def test_evaluation_goals_never_occur_in_training(task: str) -> None:
    """For many seeds, no position on a split coordinate is within 0.05 % of its range of one in the other split."""
    env = make_metaworld_env(task)
    partition: GoalSplit = env.goal_split
    drawn: dict[Split, list[np.ndarray]] = {"train": [], "eval": []}
    for split in SPLITS:
        env.split = split
        for seed in range(20):
            drawn[split].extend(goals_of(env, 1, seed=seed))
    env.close()
    for axis in partition.axes:
        train, held_out = (np.array(drawn[split])[:, axis] for split in SPLITS)
        assert np.abs(train[:, None] - held_out[None, :]).min() > 5e-4 * partition.span[axis]


def test_global_numpy_generator_is_untouched() -> None:
    """Making, resetting and stepping environments neither reads nor writes numpy's global generator."""
    np.random.seed(123)
    before = np.random.get_state()
    env = make_metaworld_env("push-v3", seed=0)
    first = goals_of(env, 2, seed=0)
    env.step(env.action_space.sample())
    after = np.random.get_state()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    np.random.seed(321)
    np.testing.assert_array_equal(first, goals_of(env, 2, seed=0))
    env.close()


def test_a_task_that_refuses_every_goal_does_not_hang(reach: MetaWorldEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a task accepted no goal, reset would raise an error instead of drawing for ever."""
    near = np.array([0.0, 0.7, 0.02, 0.0, 0.7, 0.1])
    monkeypatch.setattr(reach.goal_split, "sample", lambda rng, split: near)
    with pytest.raises(RuntimeError, match="reach-v3 refused"):
        reach.reset()


# ---------------------------------------------------------------- success and time limit


def test_is_success_is_latched() -> None:
    """is_success stays true after the first success of an episode, success_at_end follows each step, a reset clears both."""
    env = make_metaworld_env("reach-v3", seed=0, max_episode_steps=100)
    infos = run_scripted(env, seed=0, n_idle=40)
    now = np.array([info["success_at_end"] for info in infos])
    assert not now[0]
    assert now.any()
    assert not now[-1]
    assert [info["is_success"] for info in infos] == np.maximum.accumulate(now).tolist()
    assert now.tolist() == [bool(info["success"]) for info in infos]
    assert all(type(info[key]) is bool for info in infos for key in ("is_success", "success_at_end"))
    env.reset()
    assert env.step(np.zeros(4, np.float32))[4]["is_success"] is False
    env.close()


def test_scripted_policy_solves_evaluation_goals() -> None:
    """Meta-World's scripted policy reaches goals of the evaluation split."""
    env = make_metaworld_env("reach-v3", split="eval", max_episode_steps=100)
    assert all(run_scripted(env, seed=seed)[-1]["success_at_end"] for seed in range(3))
    env.close()


def test_sb3_logs_the_success_rate() -> None:
    """A short PPO run logs rollout/success_rate, and evaluate_policy runs on the evaluation split."""
    kwargs = {"max_episode_steps": 16}
    venv = make_vec_env("MetaWorld/reach-v3", n_envs=2, seed=0, env_kwargs=kwargs)
    model = PPO("MlpPolicy", venv, n_steps=32, batch_size=16, n_epochs=1, device="cpu", seed=0)
    logged = Recorded()
    model.set_logger(Logger(None, [logged]))
    model.learn(64)
    assert logged.values["rollout/success_rate"] == np.mean(model.ep_success_buffer)
    assert len(model.ep_success_buffer) == 4
    evaluation = make_vec_env("MetaWorld/reach-v3", seed=0, env_kwargs={**kwargs, "split": "eval"})
    _, lengths = evaluate_policy(model, evaluation, n_eval_episodes=2, return_episode_rewards=True)
    assert lengths == [16, 16]
    venv.close()
    evaluation.close()


def test_time_limit_is_a_truncation() -> None:
    """An episode ends by truncation at its limit, also after a success, and SB3 marks it TimeLimit.truncated."""
    env = make_metaworld_env("reach-v3", seed=0, max_episode_steps=100)
    assert len(run_scripted(env, seed=0)) == 100
    venv = DummyVecEnv([lambda: make_metaworld_env("reach-v3", seed=0, max_episode_steps=3)])
    venv.reset()
    action = np.zeros((1, 4), np.float32)
    results = [venv.step(action) for _ in range(3)]
    assert [bool(dones[0]) for _, _, dones, _ in results] == [False, False, True]
    assert results[-1][3][0]["TimeLimit.truncated"] is True
    assert results[-1][3][0]["terminal_observation"].shape == (39,)
    venv.close()
    env.close()


@pytest.mark.parametrize("limit", [500, 700])
def test_time_limit_of_gym_make(limit: int) -> None:
    """gym.make truncates at 500 steps unless told otherwise, by exactly one TimeLimit, also beyond Meta-World's own 500."""
    env = gym.make("MetaWorld/reach-v3") if limit == 500 else gym.make("MetaWorld/reach-v3", max_episode_steps=limit)
    assert env.unwrapped.max_episode_steps is None
    env.unwrapped.sim.do_simulation = lambda ctrl, n_frames: None  # the clock matters here, not the physics
    env.reset(seed=0)
    flags = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(limit)]
    assert flags == [(False, False)] * (limit - 1) + [(False, True)]
    env.close()


# ---------------------------------------------------------------- staggered first episodes


def first_lengths(n_envs: int, **kwargs: Any) -> list[list[int]]:
    """Lengths of the first two episodes of ranks 0 .. n_envs - 1."""
    lengths = []
    for rank in range(n_envs):
        env = make_metaworld_env("reach-v3", seed=0, rank=rank, max_episode_steps=40, **kwargs)
        env.sim.do_simulation = lambda ctrl, n_frames: None  # the clock matters here, not the physics
        env.reset()
        env.reset()  # an episode without a step is no episode
        episodes, steps = [], 0
        while len(episodes) < 2:
            steps += 1
            _, _, terminated, truncated, _ = env.step(np.zeros(4, np.float32))
            assert not terminated
            if truncated:
                episodes.append(steps)
                steps = 0
                env.reset()
        lengths.append(episodes)
        env.close()
    return lengths


def test_stagger_spreads_first_episodes() -> None:
    """With stagger the first episodes of 8 ranks end at 8 spread steps, reproducibly; later episodes have full length."""
    lengths = first_lengths(8, stagger=True)
    ends = np.sort([first for first, _ in lengths])
    assert np.diff(np.concatenate(([0], ends, [40]))).max() <= 10
    assert len(set(ends)) == 8
    assert [second for _, second in lengths] == [40] * 8
    assert lengths == first_lengths(8, stagger=True)


def test_no_stagger_by_default() -> None:
    """Without stagger every episode has full length."""
    assert first_lengths(2) == [[40, 40]] * 2


def test_stagger_with_make_vec_env() -> None:
    """Copies made by make_vec_env, which all have rank 0, are staggered by their seeds."""
    venv = make_vec_env("MetaWorld/reach-v3", n_envs=4, seed=0, env_kwargs={"stagger": True})
    venv.reset()
    assert len(set(venv.get_attr("_limit"))) == 4
    assert max(venv.get_attr("_limit")) < 500
    venv.close()


# ---------------------------------------------------------------- rendering


@pytest.mark.usefixtures("can_render")
def test_rendering_context_is_lazy() -> None:
    """No rendering context exists after construction, reset and step; the first render makes one."""
    env = make_metaworld_env("reach-v3", seed=0, render_mode="rgb_array", max_episode_steps=2, width=64, height=48)
    env.reset()
    env.step(np.zeros(4, np.float32))
    assert env.sim.mujoco_renderer.viewer is None
    assert env.render().shape == (48, 64, 3)
    assert env.sim.mujoco_renderer.viewer is not None
    env.close()


@pytest.mark.usefixtures("can_render")
@pytest.mark.parametrize("camera_name", ["corner", "corner2", "corner4"])
def test_frames_are_upright(camera_name: str) -> None:
    """In the frames of the corner cameras the table (brown) is below the background (grey)."""
    env = make_metaworld_env("reach-v3", seed=0, render_mode="rgb_array", camera_name=camera_name, width=120, height=120)
    env.reset()
    frame = env.render()
    assert frame.dtype == np.uint8
    red, green, blue = frame.astype(int).transpose(2, 0, 1)
    brown = (red - blue > 20) & (red - blue < 90) & (green > blue)
    rows = np.arange(120)[:, None]
    assert brown.mean() > 0.1
    assert (rows * brown).sum() / brown.sum() > 66
    assert np.ptp(frame[:20], axis=2).mean() < 20
    env.close()


@pytest.mark.usefixtures("can_render")
def test_frames_are_not_mirrored() -> None:
    """A goal at larger x (to the robot's right) appears further right in the picture of the camera that looks along y."""
    columns = []
    for x in (-0.1, 0.1):
        env = make_metaworld_env("reach-v3", render_mode="rgb_array", camera_name="corner", width=200, height=200)
        env.goal_split.sample = lambda rng, split, x=x: np.array([0.0, 0.6, 0.02, x, 0.85, 0.25])
        env.reset()
        with_goal = env.render().astype(int)
        env.sim.model.site("goal").rgba[3] = 0
        env.step(np.zeros(4, np.float32))
        changed = np.abs(env.render().astype(int) - with_goal).sum(axis=2)[:110] > 200
        columns.append(np.nonzero(changed)[1].mean())
        env.close()
    assert columns[1] > columns[0] + 10


@pytest.mark.usefixtures("can_render")
def test_two_environments_render_their_own_scene() -> None:
    """Environments in one process keep their own frames when they render alternately."""
    envs = [
        make_metaworld_env(t, seed=0, render_mode="rgb_array", width=w, height=64)
        for t, w in (("reach-v3", 64), ("door-open-v3", 96))
    ]
    for env in envs:
        env.reset()
    first, again = ([env.render() for env in envs] for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [frame.shape for frame in again] == [(64, 64, 3), (64, 96, 3)]
    for env in envs:
        env.close()


def test_render_without_a_mode_warns(reach: MetaWorldEnv) -> None:
    """render() without a render_mode returns None and says what to pass."""
    reach.reset()
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert reach.render() is None


def test_missing_opengl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an OpenGL library, everything but render() works, and render() raises an error that names the packages."""
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(sys, "platform", "linux")
    env = make_metaworld_env("reach-v3", render_mode="rgb_array")
    env.reset()
    with pytest.raises(RuntimeError, match=r"libegl1 libgl1.*MUJOCO_GL=egl.*libosmesa6.*MUJOCO_GL=osmesa"):
        env.render()
    env.close()


def test_failing_opengl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the OpenGL library itself is explained in the same way and keeps its text."""
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: name)  # also on a machine that has none
    env = make_metaworld_env("reach-v3", render_mode="rgb_array")
    env.reset()

    def broken() -> None:
        raise AttributeError("no display")

    monkeypatch.setattr(env.sim, "render", broken)
    with pytest.raises(RuntimeError, match=r"libegl1.*AttributeError: no display"):
        env.render()
    env.close()


@pytest.mark.parametrize(
    ("environ", "libraries", "expected"),
    [
        ({}, {"EGL", "OSMesa"}, "egl"),
        ({}, {"OSMesa"}, "osmesa"),
        ({"MUJOCO_GL": "osmesa"}, {"EGL", "OSMesa"}, None),
        ({"DISPLAY": ":0"}, {"EGL"}, "egl"),
        ({"DISPLAY": ":0"}, set(), None),
    ],
)
def test_backend_choice(
    environ: dict[str, str], libraries: set[str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EGL comes before OSMesa, a display only after both; a set MUJOCO_GL is respected; the variable is restored."""
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: name if name in libraries else None)
    assert rendering.headless_backend() == expected
    with rendering.opengl_context():
        assert os.environ.get("MUJOCO_GL") == (expected or environ.get("MUJOCO_GL"))
    assert os.environ.get("MUJOCO_GL") == environ.get("MUJOCO_GL")


def test_mujoco_gl_that_cannot_be_loaded() -> None:
    """A MUJOCO_GL that MuJoCo cannot load breaks its import, also for training: the error says what to do."""
    code = "from sb3_gipo.envs import make_metaworld_env; make_metaworld_env('reach-v3')"
    environment = dict(os.environ, MUJOCO_GL="nonsense")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert "unset MUJOCO_GL" in done.stderr.splitlines()[-1]


# ---------------------------------------------------------------- gymnasium ids and processes


def test_ids_are_registered_once() -> None:
    """Importing the package registers one id per task; doing it again neither warns nor changes anything."""
    specs = {task: gym.spec(f"MetaWorld/{task}") for task in metaworld_tasks()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_metaworld_envs()
    assert all(gym.spec(f"MetaWorld/{task}") is spec for task, spec in specs.items())
    assert {spec.max_episode_steps for spec in specs.values()} == {500}


@pytest.mark.filterwarnings("error")
def test_gym_make() -> None:
    """gym.make passes arguments on, and making, resetting and stepping gives no warning."""
    env = gym.make("MetaWorld/reach-v3", split="eval", seed=1, rank=2)
    env.reset()
    np.testing.assert_array_equal(env.unwrapped.goal, goals_of(make_metaworld_env(seed=1, rank=2, split="eval"), 1)[0])
    env.step(env.action_space.sample())
    env.close()


def test_subprocesses() -> None:
    """Worker processes started by "forkserver" know the prefixed id, and have the goals that one process has."""
    env_id = "sb3_gipo:MetaWorld/reach-v3"
    workers = make_vec_env(env_id, 2, seed=3, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": "forkserver"})
    local = make_vec_env(env_id, 2, seed=3)
    np.testing.assert_array_equal(workers.reset(), local.reset())
    actions = np.full((2, 4), 0.5, np.float32)
    np.testing.assert_array_equal(workers.step(actions)[0], local.step(actions)[0])
    workers.close()
    local.close()


def test_import_needs_no_metaworld() -> None:
    """In a new process, importing the package as RL Zoo does registers the ids and imports neither metaworld nor mujoco."""
    code = (
        "import importlib, sys, gymnasium; importlib.import_module('sb3_gipo'); "
        "assert not {'metaworld', 'mujoco'} & set(sys.modules); spec = gymnasium.spec('MetaWorld/reach-v3'); "
        "assert isinstance(spec.entry_point, str); env = spec.make(); env.reset(); assert 'metaworld' in sys.modules"
    )
    root = Path(rendering.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=root)


def test_missing_metaworld_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Meta-World, making an environment raises an ImportError with the command to run."""
    for name in [name for name in sys.modules if name.split(".")[0] == "metaworld"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(ImportError, match=r'reach-v3 needs Meta-World: pip install "sb3-gipo\[metaworld\]"'):
        make_metaworld_env("reach-v3")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "reach-v2"}, r"Unknown task 'reach-v2'. Did you mean 'reach-v3'.*Allowed: assembly-v3, "),
        ({"task": "xyz"}, r"Unknown task 'xyz'. Allowed: "),
        ({"split": "test"}, r"Unknown split 'test'. Allowed: train, eval"),
        ({"render_mode": "human"}, r"Unknown render_mode 'human'. Allowed: rgb_array"),
        ({"camera_name": "corner9"}, r"Unknown camera_name 'corner9'. Did you mean 'corner"),
        ({"seed": -1}, r"seed must be an integer of at least 0, got -1"),
        ({"seed": 1.5}, r"seed must be an integer of at least 0, got 1.5"),
        ({"rank": -1}, r"rank must be an integer of at least 0, got -1"),
        ({"max_episode_steps": 0}, r"max_episode_steps must be an integer of at least 1, got 0"),
        ({"width": 0}, r"width must be an integer of at least 1, got 0"),
        ({"reward_scale": 0}, r"reward_scale must be a finite number above 0 .*got 0"),
        ({"reward_scale": float("nan")}, r"reward_scale must be a finite number above 0 .*got nan"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    """A bad argument raises a ValueError that says what was given and what is allowed."""
    with pytest.raises(ValueError, match=message):
        make_metaworld_env(**kwargs)


def test_bad_seed_in_reset(reach: MetaWorldEnv) -> None:
    """A negative seed is refused by reset as well."""
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -3"):
        reach.reset(seed=-3)


def test_cameras_exist(reach: MetaWorldEnv) -> None:
    """Every camera that may be asked for is in the model."""
    assert set(CAMERAS) <= {reach.sim.model.camera(k).name for k in range(reach.sim.model.ncam)}

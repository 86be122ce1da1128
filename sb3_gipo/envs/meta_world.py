"""Meta-World v3 tasks as Stable-Baselines3 expects an environment to be: seeded, float32, truncated, success reported."""

from __future__ import annotations

import difflib
import importlib
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from sb3_gipo.envs.goals import SPLITS, GoalSplit, Split
from sb3_gipo.envs.rendering import opengl_context

TASKS: tuple[str, ...] = (
    "assembly-v3", "basketball-v3", "bin-picking-v3", "box-close-v3", "button-press-topdown-v3",
    "button-press-topdown-wall-v3", "button-press-v3", "button-press-wall-v3", "coffee-button-v3", "coffee-pull-v3",
    "coffee-push-v3", "dial-turn-v3", "disassemble-v3", "door-close-v3", "door-lock-v3", "door-open-v3", "door-unlock-v3",
    "drawer-close-v3", "drawer-open-v3", "faucet-close-v3", "faucet-open-v3", "hammer-v3", "hand-insert-v3",
    "handle-press-side-v3", "handle-press-v3", "handle-pull-side-v3", "handle-pull-v3", "lever-pull-v3",
    "peg-insert-side-v3", "peg-unplug-side-v3", "pick-out-of-hole-v3", "pick-place-v3", "pick-place-wall-v3",
    "plate-slide-back-side-v3", "plate-slide-back-v3", "plate-slide-side-v3", "plate-slide-v3", "push-back-v3", "push-v3",
    "push-wall-v3", "reach-v3", "reach-wall-v3", "shelf-place-v3", "soccer-v3", "stick-pull-v3", "stick-push-v3",
    "sweep-into-v3", "sweep-v3", "window-close-v3", "window-open-v3",
)  # fmt: skip
CAMERAS = ("corner", "corner2", "corner3", "corner4", "topview", "behindGripper", "gripperPOV")
MAX_EPISODE_STEPS = 500
OBJECT_BOUND = 10.0
"""Bound (metres) of object positions in the observation; Meta-World declares infinity, the table is 1.2 m wide."""
GOAL_MARGIN = 1e-3
"""Widening (metres) of the goal's bounds, so that a constant coordinate has a lower bound below its upper bound."""
MAX_GOAL_DRAWS = 10_000
"""Goals a task may refuse (object too close to the goal) in one reset; every task accepts at least one in four."""
GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


class MetaWorldEnv(gym.Env[Any, Any]):
    """
    One Meta-World v3 task with a new random object and goal position in every episode, the goal visible (as in MT1).

    - **Seeds.** The sequence of goals is a function of ``(seed, rank, split)``. ``reset(seed=s)`` restarts it at ``(s, rank,
      split)``, so SB3's ``make_vec_env(..., seed=s)`` gives every copy its own goals, and the same ones the next time.
    - **Evaluation.** ``split="eval"`` draws from goals that no training environment ever draws, see :class:`GoalSplit`.
    - **Observation.** ``[39]`` float32, always inside the declared bounds: hand position, gripper opening and objects
      now ``[18]`` and one step ago ``[18]``, goal position ``[3]``; in metres.
    - **Action.** ``[4]`` in [-1, 1]: displacement of the hand and closing of the gripper.
    - **End.** Episodes are truncated at the time limit and never terminate, also after a success.
    - **Info.** Meta-World's own keys, ``success_at_end`` (bool: success at this very step) and ``is_success``
      (bool: success at this or an earlier step of the episode; SB3 logs it as ``rollout/success_rate``).

    Rewards are Meta-World's, from 0 to 10 a step. Where Meta-World declares no bounds (objects), the space ends at
    ``OBJECT_BOUND`` and positions are clipped there.

    :param task: Task name, such as ``"reach-v3"``; :func:`metaworld_tasks` lists them.
    :param seed: Start of the goal sequence; None draws one from the operating system.
    :param rank: Number of this copy among parallel environments; copies with one seed and different ranks differ.
    :param split: ``"train"`` or ``"eval"``.
    :param render_mode: None or ``"rgb_array"``. A rendering context is only made by the first :meth:`render`.
    :param max_episode_steps: Steps after which an episode is truncated; None leaves the limit to a ``TimeLimit`` wrapper
        (``gym.make`` adds one).
    :param stagger: Cut the first episode short, at a step that depends on seed and rank, so that parallel copies do not
        all reset at the same time ever after. Steps are spread over ``max_episode_steps``, or 500 if that is None.
    :param reward_scale: Factor on the reward.
    :param camera_name: Camera to render, one of ``CAMERAS``.
    :param width: Width of a frame in pixels.
    :param height: Height of a frame in pixels.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 (as gymnasium declares it)

    def __init__(
        self,
        task: str = "reach-v3",
        seed: int | None = None,
        rank: int = 0,
        split: Split = "train",
        render_mode: str | None = None,
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
        stagger: bool = False,
        reward_scale: float = 1.0,
        camera_name: str = "corner4",
        width: int = 480,
        height: int = 480,
    ) -> None:
        for name, choice, allowed in (("task", task, TASKS), ("split", split, SPLITS), ("camera_name", camera_name, CAMERAS)):
            _check_choice(name, choice, allowed)
        if render_mode is not None:
            _check_choice("render_mode", render_mode, self.metadata["render_modes"])
        limit = MAX_EPISODE_STEPS if max_episode_steps is None else max_episode_steps
        counts = (("rank", rank, 0), ("max_episode_steps", limit, 1), ("width", width, 1), ("height", height, 1))
        for name, number, low in counts:
            _check_int(name, number, low)
        if not math.isfinite(reward_scale) or reward_scale <= 0:
            raise ValueError(f"reward_scale must be a finite number above 0 (1.0: Meta-World's rewards), got {reward_scale!r}")
        self.task, self.rank, self.split = task, int(rank), split
        self.render_mode = render_mode
        self.max_episode_steps = max_episode_steps
        self.stagger = stagger
        self.reward_scale = float(reward_scale)

        self.sim = _make_simulation(task, render_mode=render_mode, camera_name=camera_name, width=width, height=height)
        """Meta-World's own environment."""
        self.action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.observation_space = self._bounds = _observation_space(self.sim)
        self._adopt_simulation()
        self._rotate_frames = camera_name.startswith("corner")
        self._has_rendered = False
        self._first_episode = True
        self._elapsed, self._limit = 0, sys.maxsize
        self._succeeded = False
        self._seed_goals(int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed)

    def _adopt_simulation(self) -> None:
        """Make the simulation ask this environment for goals, show them, use our bounds and leave the time limit to us."""
        reset_space = self.sim._random_reset_space
        self.goal_split = GoalSplit(reset_space.low, reset_space.high)
        self.goal = np.full(self.goal_split.low.size, np.nan)
        """Object and/or goal position of this episode as drawn, ``[3]`` or ``[6]``, in metres."""
        self._goal_accepted, self._n_draws = False, 0
        self.sim._get_state_rand_vec = self._next_goal
        self.sim.reset_model = self._reset_model
        self.sim._set_task_called = True
        self.sim._partially_observable = False
        self.sim.sawyer_observation_space = self.observation_space
        self.sim.max_path_length = sys.maxsize

    def _seed_goals(self, seed: int) -> None:
        """Start the goal sequence of ``(seed, rank, split)``."""
        _check_int("seed", seed, 0)
        sequence = np.random.SeedSequence(int(seed), spawn_key=(self.rank, SPLITS.index(self.split)))
        self._np_random, self._np_random_seed = np.random.default_rng(sequence), int(seed)

    def _next_goal(self) -> npt.NDArray[np.float64]:
        """Give the simulation a goal, ``[3]`` or ``[6]``: new ones until it accepts one, then that one until the reset."""
        if not self._goal_accepted:
            self._n_draws += 1
            if self._n_draws > MAX_GOAL_DRAWS:
                raise RuntimeError(f"{self.task} refused {MAX_GOAL_DRAWS} goals in a row: please report this as a bug")
            self.goal = self.goal_split.sample(self.np_random, self.split)
        return self.goal.copy()

    def _reset_model(self) -> npt.NDArray[np.float64]:
        """Reset the simulation's task. MuJoCo environments do this twice in a reset; the second time keeps the goal."""
        obs: npt.NDArray[np.float64] = type(self.sim).reset_model(self.sim)
        self._goal_accepted = True
        return obs

    def _stagger_limit(self) -> int:
        """Length of a staggered first episode: consecutive ``seed + rank`` fill the range evenly, however many there are."""
        horizon = self.max_episode_steps or MAX_EPISODE_STEPS
        fraction = (self.np_random_seed + self.rank + 1) * (GOLDEN_RATIO - 1) % 1.0
        return 1 + int(fraction * (horizon - 1))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """
        Start an episode with a new object and goal position.

        :param seed: Restart the goal sequence at ``(seed, rank, split)``; None continues it.
        :param options: Not used.
        :return: The observation, ``[39]``, and an empty dict.
        """
        self._first_episode = self._first_episode and self._elapsed == 0
        if seed is not None:
            self._seed_goals(seed)
        self._goal_accepted, self._n_draws = False, 0
        self._elapsed, self._succeeded = 0, False
        self._limit = self.max_episode_steps or sys.maxsize
        if self.stagger and self._first_episode:
            self._limit = self._stagger_limit()
        obs, info = self.sim.reset()
        return np.clip(obs, self._bounds.low, self._bounds.high).astype(np.float32), info

    def step(self, action: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """
        Apply an action for one control step (12.5 ms of simulated time).

        :param action: Displacement of the hand and closing of the gripper, ``[4]``, in [-1, 1].
        :return: Observation ``[39]``, reward, terminated (always False), truncated, info.
        """
        # The simulation clips to our float32 bounds, and rounding is monotone: the cast cannot leave the space.
        obs, reward, _, _, info = self.sim.step(action)
        self._elapsed += 1
        success = bool(info["success"])
        self._succeeded = self._succeeded or success
        info["is_success"] = self._succeeded
        info["success_at_end"] = success
        return obs.astype(np.float32), float(reward) * self.reward_scale, False, self._elapsed >= self._limit, info

    def render(self) -> npt.NDArray[np.uint8] | None:
        """
        Render a frame. The first call makes the rendering context, in the process that calls.

        :return: An upright RGB image, ``[height, width, 3]``, or None where ``render_mode`` is None.
        :raises RuntimeError: if no OpenGL library works; the message says what to install.
        """
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode: create the environment with render_mode='rgb_array'")
            return None
        if not self._has_rendered:
            with opengl_context():
                self.sim.render()
            self._has_rendered = True
        # Several environments in one process share the thread's current context: take it back first.
        self.sim.mujoco_renderer.viewer.make_context_current()
        frame: npt.NDArray[np.uint8] = self.sim.render()
        # Meta-World's corner cameras are mounted upside down; turning by 180 degrees (not mirroring) sets them upright.
        return np.ascontiguousarray(frame[::-1, ::-1]) if self._rotate_frames else frame

    def close(self) -> None:
        """Free the rendering context, if there is one."""
        self.sim.close()


def _check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise a ValueError that suggests close matches unless ``value`` is one of ``allowed``."""
    if value in allowed:
        return
    close = difflib.get_close_matches(str(value), allowed)
    suggestion = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
    raise ValueError(f"Unknown {name} {value!r}. {suggestion}Allowed: {', '.join(allowed)}")


def _check_int(name: str, value: object, lowest: int) -> None:
    """Raise a ValueError unless ``value`` is an integer of at least ``lowest``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < lowest:
        raise ValueError(f"{name} must be an integer of at least {lowest}, got {value!r}")


def _make_simulation(task: str, **kwargs: Any) -> Any:
    """
    Create Meta-World's own environment of a task.

    :raises ImportError: if Meta-World is not installed; the message says how to install it.
    :raises RuntimeError: if ``MUJOCO_GL`` names something that MuJoCo cannot load.
    """
    try:
        env_dict = importlib.import_module("metaworld.env_dict")
    except ImportError as exc:
        raise ImportError(f'The task {task} needs Meta-World: pip install "sb3-gipo[metaworld]" ({exc})') from exc
    except (AttributeError, RuntimeError) as exc:  # what MuJoCo's import ends in with an OpenGL that is not there
        if not os.environ.get("MUJOCO_GL"):
            raise
        backend = os.environ["MUJOCO_GL"]
        raise RuntimeError(f"MuJoCo cannot load MUJOCO_GL={backend!r} ({exc}): unset MUJOCO_GL, or install it") from exc
    return env_dict.ALL_V3_ENVIRONMENTS[task](**kwargs)


def _observation_space(sim: Any) -> spaces.Box:
    """Bounds of the observation, ``[39]``: Meta-World's for the hand, finite for the objects, the task's own for the goal."""
    objects = np.full(14, OBJECT_BOUND)
    frame_low = np.hstack((sim._HAND_SPACE.low, -1.0, -objects))
    frame_high = np.hstack((sim._HAND_SPACE.high, 1.0, objects))
    low = np.hstack((frame_low, frame_low, sim.goal_space.low - GOAL_MARGIN)).astype(np.float32)
    high = np.hstack((frame_high, frame_high, sim.goal_space.high + GOAL_MARGIN)).astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def make_metaworld_env(
    task: str = "reach-v3", seed: int | None = None, rank: int = 0, split: Split = "train", **kwargs: Any
) -> MetaWorldEnv:
    """
    Create one environment; the parallel copies of a run differ in ``rank``, its evaluation in ``split``.

    :param task: Task name, such as ``"reach-v3"``; :func:`metaworld_tasks` lists them.
    :param seed: Start of the goal sequence; None draws one from the operating system.
    :param rank: Number of this copy among parallel environments.
    :param split: ``"train"`` or ``"eval"``; evaluation goals never occur in training.
    :param kwargs: Further arguments of :class:`MetaWorldEnv`.
    :return: The environment, with its own time limit.
    """
    return MetaWorldEnv(task, seed=seed, rank=rank, split=split, **kwargs)


def metaworld_tasks() -> list[str]:
    """
    List the tasks of Meta-World v3.

    :return: The 50 names, sorted.
    """
    return sorted(TASKS)


def register_metaworld_envs() -> None:
    """
    Register ``MetaWorld/<task>``, for example ``MetaWorld/reach-v3``, with gymnasium; importing ``sb3_gipo`` does it.

    The evaluation environment of a run needs ``split="eval"``, which no library passes by itself:

    - ``make_vec_env("MetaWorld/reach-v3", env_kwargs={"split": "eval"})`` with Stable-Baselines3;
    - ``--gym-packages sb3_gipo --eval-env-kwargs "split:'eval'"`` with RL Zoo.

    Worker processes started with "spawn" or "forkserver" only know the ids if they import this package: write
    ``"sb3_gipo:MetaWorld/reach-v3"``, with which gymnasium imports it where the environment is made.
    Registering is idempotent and does not import Meta-World.
    """
    for task in TASKS:
        env_id = f"MetaWorld/{task}"
        if env_id not in gym.registry:
            # The time limit is gymnasium's, so that gym.make(..., max_episode_steps=...) can change it.
            gym.register(
                id=env_id,
                entry_point="sb3_gipo.envs.meta_world:MetaWorldEnv",
                max_episode_steps=MAX_EPISODE_STEPS,
                kwargs={"task": task, "max_episode_steps": None},
            )

"""Environments that sleep, and environments that get into trouble and keep books about themselves."""

import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class SleepingEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    A simulator that takes its time and no processor.

    :param seconds: of each step
    """

    observation_space = spaces.Box(-1.0, 1.0, (8,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, seconds: float = 0.005) -> None:
        self._seconds = seconds
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(8, np.float32), {}

    def step(self, action: np.ndarray) -> Step:
        time.sleep(self._seconds)
        self._steps += 1
        return np.zeros(8, np.float32), 0.0, False, self._steps >= 200, {}


class BookkeepingEnv(gym.Env[np.ndarray, np.ndarray]):
    """
    The environments number themselves by files, in the order in which they are made. Each says in its observation which one it
    is and how many steps it has made, and counts its steps in a file that outlives its process: so that of every transition in
    a replay it is known where it is from, and of every environment what has become of its steps.

    :param folder: for the files
    :param troubles: of a number, what happens to it at step ``at``: ``"raises"``, ``"hangs"``, ``"killed"`` (SIGKILL, by
        itself), or ``"slow"``: from the first step on
    :param repeat: the troubles are those of ``number % repeat``; 0: of the number
    :param at: the step at which it happens
    :param seconds: that a step takes
    :param width: numbers in an observation
    """

    SLOWER = 20.0

    def __init__(
        self,
        folder: Path,
        troubles: dict[int, str] | None = None,
        repeat: int = 0,
        at: int = 10,
        seconds: float = 0.002,
        width: int = 4,
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._folder, self._at, self._seconds = folder, at, seconds
        self.number, self.steps = self._take_number(), 0
        self.trouble = (troubles or {}).get(self.number % repeat if repeat else self.number)
        if self.trouble == "slow":
            self._seconds *= self.SLOWER
        (folder / f"{self.number}.made").write_text(f"{os.getpid()} {self.trouble}")
        self._made = np.memmap(folder / f"{self.number}.steps", np.int64, "w+", shape=(1,))

    def _take_number(self) -> int:
        number = sum(path.suffix == ".number" for path in self._folder.iterdir())
        while not self._takes(number):
            number += 1
        return number

    def _takes(self, number: int) -> bool:
        try:
            (self._folder / f"{number}.number").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _observe(self) -> np.ndarray:
        observation = np.zeros(self.observation_space.shape, np.float32)
        observation[:2] = self.number, self.steps
        return observation

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> Step:
        if self.steps == self._at and self.trouble not in (None, "slow"):
            self._get_into_trouble()
        time.sleep(self._seconds)
        self.steps += 1
        self._made[0] = self.steps
        return self._observe(), 0.0, False, self.steps % 50 == 0, {}

    def _get_into_trouble(self) -> None:
        (self._folder / f"{self.number}.{self.trouble}").touch()
        if self.trouble == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "hangs":
            time.sleep(100_000)
        raise RuntimeError(f"Environment {self.number} raises, as it was told to.")


class Made(NamedTuple):
    """An environment, as its files tell."""

    number: int
    pid: int
    trouble: str | None
    steps: int  # that it made
    happened: bool  # whether it got into its trouble


def made(folder: Path) -> dict[int, Made]:
    """
    :param folder: of the environments
    :return: those that are ready, by their numbers
    """
    found = {}
    for path in folder.glob("*.steps"):
        number = int(path.stem)
        counter = path.read_bytes()
        pid, trouble = (folder / f"{number}.made").read_text().split()
        steps = int(np.frombuffer(counter, np.int64)[0]) if len(counter) == 8 else 0
        happened = (folder / f"{number}.{trouble}").exists()
        found[number] = Made(number, int(pid), None if trouble == "None" else trouble, steps, happened)
    return dict(sorted(found.items()))


class Arrived(NamedTuple):
    """What a learner holds of one environment."""

    steps: int  # different ones
    twice: int  # that it holds more than once
    holes: int  # before its latest that it does not hold


def arrived(observations: np.ndarray) -> dict[int, Arrived]:
    """
    :param observations: of transitions [B, width], before their steps
    :return: by the number of the environment
    """
    found = {}
    numbers, steps = observations[:, :2].astype(np.int64).T
    for number in np.unique(numbers):
        of_it = steps[numbers == number]
        different = len(np.unique(of_it))
        found[int(number)] = Arrived(different, len(of_it) - different, int(of_it.max()) + 1 - different)
    return found

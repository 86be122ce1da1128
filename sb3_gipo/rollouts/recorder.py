"""Turns what SB3's own collection loop does, or one like it, into a :class:`Rollout`, through its callback: no copied loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.types import (
    STEP_DTYPES,
    Observation,
    Rollout,
    StoredTargets,
    action_dtype,
    map_observation,
    observation_dtype,
    observation_parts,
)

_SURELY_FINITE = 1e30  # sum of squares below which no number can be infinite in float32


class BehaviourSample(NamedTuple):
    """What the behaviour policy did at one step, for all environments."""

    actions: np.ndarray  # as sampled, before clipping and squashing [N, *action]
    log_probs: np.ndarray  # joint [N]
    dimension_log_probs: np.ndarray | None  # [N, D]


class NonFiniteStepError(ValueError):
    """
    An environment or the policy returned a number that is not finite; the unfinished rollout was dropped.

    :param message: what happened and what to do
    :param summary: what was not finite, in a few words
    :param environment: index of the environment
    :param step: of each array of the step that is known, the row of this environment
    """

    def __init__(self, message: str, summary: str, environment: int, step: dict[str, np.ndarray]) -> None:
        super().__init__(message)
        self.summary = summary
        self.environment = environment
        self.step = step

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.summary, self.environment, self.step)  # an actor's has a way to go


# (actions as SB3 has them [N, ...], log-probabilities as SB3 has them [N]) -> what is stored
DescribeActions = Callable[[np.ndarray, th.Tensor], BehaviourSample]


class _Step(NamedTuple):
    """Of a step that was looked at."""

    rewards: np.ndarray  # raw [N]
    log_probs: np.ndarray  # [N]
    has_ends: bool  # of an episode, in some environment


def step_arrays(loop: dict[str, Any], index: int) -> dict[str, np.ndarray]:
    """
    :param loop: variables of SB3's collection loop, as callbacks see them
    :param index: of an environment
    :return: what is known of its latest step: action, reward, the observation after it
    """
    known: dict[str, np.ndarray] = {}
    for name in ("actions", "clipped_actions", "rewards", "new_obs"):
        value = loop.get(name)
        if isinstance(value, np.ndarray):
            known[name] = value[index].copy()
        elif isinstance(value, dict):
            known.update({f"{name}[{key}]": part[index].copy() for key, part in value.items()})
    return known


class StepGuard(BaseCallback):
    """
    Stops a run at the first number that is not finite, and names the environment and the step.

    What was learnt so far stays whole: the unfinished rollout is dropped, ``VecNormalize`` gets back the statistics it had
    when the rollout began, and the environments are reset before training goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._normalizer = Normalizer(None)
        self._normalizer_state: dict[str, Any] | None = None
        self._step = 0

    def _on_training_start(self) -> None:
        self._normalizer = Normalizer(self.training_env)

    def _on_rollout_start(self) -> None:
        self._step = 0
        # A broken initial observation has reached VecNormalize before we see it: there is nothing sound to go back to.
        self._normalizer_state = self._normalizer.state()
        assert self.model._last_obs is not None
        self._check("an observation", self.model._last_obs)

    def _on_step(self) -> bool:
        self._look()
        return True

    def _look(self) -> _Step:
        """
        Look at the latest step, and count it.

        :raises NonFiniteStepError: where it is not finite
        """
        loop = self.locals
        # first, as an environment answers a broken action with whatever it likes
        log_probs = loop["log_probs"]
        log_probs = log_probs if isinstance(log_probs, np.ndarray) else log_probs.cpu().numpy()  # SB3's loop has tensors
        if not all_finite(log_probs):
            self._refuse("a log-probability", log_probs, "the policy")
        # the raw ones before: VecNormalize spreads one bad number over all environments, or clips it away
        new_obs = loop["new_obs"]
        latest, rewards = self._normalizer.latest_observation(new_obs), self._normalizer.raw_reward(loop["rewards"])
        self._check("an observation", latest)
        self._check("a reward", rewards)
        if latest is not new_obs:
            self._check("an observation", new_obs)
        has_ends = bool(np.count_nonzero(loop["dones"]))
        if has_ends:
            self._check_terminal_observations()
        self._step += 1
        return _Step(rewards, log_probs, has_ends)

    def _check_terminal_observations(self) -> None:
        # only those that are bootstrapped from: a simulator that breaks often terminates with what it broke into
        for index in np.flatnonzero(self.locals["dones"]):
            info = self.locals["infos"][index]
            terminal = info.get("terminal_observation")
            if terminal is None or not info.get("TimeLimit.truncated", False):
                continue
            for part in observation_parts(terminal):
                if not all_finite(np.asarray(part)):
                    self._stop("a terminal observation", int(index), "the environment")

    def _check(self, what: str, value: Observation) -> None:
        for part in observation_parts(value):
            if not all_finite(part):
                self._refuse(what, part, "the environment")

    def _refuse(self, what: str, array: np.ndarray, source: str) -> None:
        bad = ~finite(array.reshape(len(array), -1)).all(axis=1)
        self._stop(what, int(np.flatnonzero(bad)[0]), source)

    def _stop(self, what: str, index: int, source: str) -> None:
        self._normalizer.restore(self._normalizer_state)
        self.model._last_obs = None  # the next `learn` resets the environments
        summary = f"environment {index}: {source} returned {what} that is not finite"
        step = step_arrays(self.locals, index)
        action = np.array2string(step["actions"], threshold=20) if "actions" in step else ""
        led_there = (
            action and f" The action that led there: {action}; what else is known of the step is in this error's `step`."
        )
        raise NonFiniteStepError(
            f"{summary.capitalize()}, at step {self._step} of this rollout "
            f"({self.num_timesteps} timesteps). The unfinished rollout was dropped, everything learnt and stored before it is "
            f"kept.{led_there}",
            summary,
            index,
            step,
        )


class RolloutRecorder(StepGuard):
    """
    Records every step of SB3's loop and hands over a :class:`Rollout` at its end.

    It reads the loop's variables in ``on_step``: there SB3 has not yet added the bootstrap value to the rewards.

    :param sink: receives the finished rollout
    :param describe_actions: turns the actions of the loop into what is stored; ``None``: they are stored as they are
    :param policy_version: gives the version of the policy that acts now
    :param rollout_buffer: gives the buffer that SB3's loop fills
    :param n_steps: steps of a rollout
    :param interruption: where an earlier rollout was left, see :meth:`interruption`
    :param with_stored_targets: also keep the values and advantages that SB3 computed
    """

    def __init__(
        self,
        sink: Callable[[Rollout], None],
        describe_actions: DescribeActions | None,
        policy_version: Callable[[], int],
        rollout_buffer: Callable[[], RolloutBuffer],
        n_steps: int,
        interruption: tuple[Any, Observation] | None = None,
        with_stored_targets: bool = False,
    ) -> None:
        super().__init__()
        self._sink = sink
        self._describe_actions = describe_actions
        self._policy_version = policy_version
        self._rollout_buffer = rollout_buffer
        self._n_steps = n_steps
        self._interrupted = interruption
        self._with_stored_targets = with_stored_targets
        self._columns: dict[str, Any] = {}
        self._terminal: list[Observation] = []

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        raw_space = self._normalizer.raw_space(self.model.observation_space)
        self._columns = self._allocate(raw_space, self.model.action_space)
        self._terminal = []
        assert self.model._last_obs is not None
        interrupted, self._interrupted = self._interrupted, None
        raw = self._normalizer.recall(self.model._last_obs)
        if interrupted is not None and interrupted[0] is self.model._last_obs and self._normalizer.normalizes_observations:
            raw = interrupted[1]
        self._store_observation(0, raw)

    def interruption(self) -> tuple[Any, Observation] | None:
        """
        SB3's loop goes on from the observation before the step at which it was left, one that ``VecNormalize`` has
        forgotten: so it is kept.

        :return: that observation as the policy sees it and as it was before normalisation; ``None`` after a whole rollout
        """
        if not self._columns:
            return None
        # the rollout buffer counts the steps that SB3's loop finished, wherever it was left
        finished = self._rollout_buffer().pos
        raw = map_observation(lambda column: column[finished].copy(), self._columns["observations"])
        return self.model._last_obs, raw

    def _on_step(self) -> bool:
        step = self._look()
        t, columns = self._step - 1, self._columns
        actions, log_probs = self.locals["actions"], step.log_probs
        if self._describe_actions is not None:
            actions, log_probs, by_dimension = self._describe_actions(actions, self.locals["log_probs"])
            if by_dimension is not None:
                columns.setdefault("dimension_log_probs", []).append(by_dimension)
        columns["actions"][t] = actions.reshape(columns["actions"].shape[1:])
        columns["log_probs"][t] = log_probs
        columns["rewards"][t] = step.rewards
        columns["policy_version"][t] = self._policy_version()
        if step.has_ends:
            self._store_ends(t)
        self._store_observation(t + 1, self._normalizer.raw_observation(self.locals["new_obs"]))
        return True

    def _on_rollout_end(self) -> None:
        rollout = self._finish(self._rollout_buffer())
        self._columns, self._terminal = {}, []
        self._sink(rollout)

    def _allocate(self, raw_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> dict[str, Any]:
        n_steps, n_envs = self._n_steps, self.training_env.num_envs

        def observations(space: spaces.Space[Any]) -> np.ndarray:
            # one row more than steps: the observation after the last step
            return np.empty((n_steps + 1, n_envs, *(space.shape or ())), dtype=observation_dtype(space))

        return {
            "observations": map_observation(
                observations, raw_space.spaces if isinstance(raw_space, spaces.Dict) else raw_space
            ),
            "actions": np.empty((n_steps, n_envs, *(action_space.shape or ())), dtype=action_dtype(action_space)),
            **{name: np.zeros((n_steps, n_envs), dtype=dtype) for name, dtype in STEP_DTYPES.items()},
        }

    def _store_observation(self, t: int, raw: Observation) -> None:
        map_observation(lambda column, value: _assign(column, t, value), self._columns["observations"], raw)

    def _store_ends(self, t: int) -> None:
        for index in np.flatnonzero(self.locals["dones"]):
            info = self.locals["infos"][index]
            terminal = info.get("terminal_observation")
            # as SB3: a time limit without the terminal observation cannot be bootstrapped
            truncated = bool(info.get("TimeLimit.truncated", False)) and terminal is not None
            self._columns["truncated" if truncated else "terminated"][t, index] = True
            if truncated:
                # a copy: an environment may write its next observation into the same array
                self._terminal.append(map_observation(np.array, self._normalizer.raw_terminal_observation(terminal)))

    def _finish(self, rollout_buffer: RolloutBuffer) -> Rollout:
        columns = dict(self._columns)
        dimension = columns.pop("dimension_log_probs", None)
        observations = columns.pop("observations")
        stored = None
        if self._with_stored_targets:
            shape = columns["rewards"].shape
            parts = (rollout_buffer.values, rollout_buffer.returns, rollout_buffer.advantages)
            stored = StoredTargets(*(part.reshape(shape).copy() for part in parts))
        return Rollout(
            observations=map_observation(lambda column: column[:-1], observations),
            last_observations=map_observation(lambda column: column[-1], observations),
            terminal_observations=self._terminal_observations(observations),
            dimension_log_probs=np.stack(dimension) if dimension is not None else None,
            stored_targets=stored,
            **columns,
        )

    def _terminal_observations(self, observations: Observation) -> Observation:
        def gather(column: np.ndarray, *episodes: np.ndarray) -> np.ndarray:
            rows = np.empty((len(episodes), *column.shape[2:]), dtype=column.dtype)
            for row, episode in enumerate(episodes):
                _assign(rows, row, episode)
            return rows

        gathered: Observation = map_observation(gather, observations, *self._terminal)
        return gathered


def _assign(target: np.ndarray, index: int, value: np.ndarray) -> None:
    """Write a row; a float that stands for an integer (an image that was normalised and back) is rounded, not cut."""
    value = np.asarray(value)
    if target.dtype.kind in "iu" and value.dtype.kind == "f":
        value = np.rint(value)
    target[index] = value.reshape(target.shape[1:])


def all_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite in the type they are stored in."""
    if array.dtype.kind != "f":
        return True
    # at every step: a dot product is one call, and what is not finite, or large, makes it so (what is large is looked at);
    # of NumPy's, `vdot` is the one that does not warn of an overflow
    return float(np.vdot(array, array)) < _SURELY_FINITE or bool(finite(array).all())


def finite(array: np.ndarray) -> np.ndarray:
    """Which numbers are finite in the type they are stored in: 1e300 is not."""
    if array.dtype.kind != "f":
        return np.ones(array.shape, dtype=bool)
    with np.errstate(over="ignore"):
        return np.isfinite(array.astype(np.float32, copy=False))

"""A bounded store of past rollouts, sampled uniformly by its own seeded generator."""

import copy
import dataclasses
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_gipo.rollouts.checks import StoreSettings, cast, cast_observation, check_belongs
from sb3_gipo.rollouts.types import (
    STEP_DTYPES,
    Observation,
    Rollout,
    StoredTargets,
    action_dtype,
    map_observation,
    observation_dtype,
    observation_parts,
    same_observation,
)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Where one rollout lies in the ring, and what it holds beside its transitions."""

    start: int  # ring row of its first transition; transition (t, n) lies at start + t * N + n, modulo the capacity
    n_steps: int
    n_envs: int
    newest_version: int
    last_observations: Observation  # [N, *obs]
    terminal_observations: Observation  # [K, *obs]
    collected_at: float
    actor_id: int
    number: int  # of the rollout, among all that were ever added
    follows: int | None  # number of the rollout that ended with what this one begins with; ``None``: of none that was here

    @property
    def size(self) -> int:
        """Number of transitions."""
        return self.n_steps * self.n_envs


class RolloutReplayBuffer:
    """
    Ring of transitions that holds whole rollouts, the oldest leaving first.

    Inserting costs one copy of the rollout, whatever is stored; sampling gathers the rows of a minibatch and copies nothing
    else. *Positions* ``0 .. size - 1`` number the stored transitions from the oldest rollout to the newest.

    :param capacity: largest number of transitions kept
    :param observation_space: of the raw observations that are stored
    :param action_space: of the environment
    :param n_dimensions: number of action dimensions ``D`` where the log-probability of each is stored too, else ``None``
    :param with_stored_targets: keep the values, returns and advantages of the collection too
    :param seed: of the sampling generator; ``None``: fresh entropy
    """

    def __init__(
        self,
        capacity: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        n_dimensions: int | None = None,
        with_stored_targets: bool = False,
        seed: int | None = None,
    ) -> None:
        self.capacity = capacity
        self.observation_space = observation_space
        self.action_space = action_space
        self.n_dimensions = n_dimensions
        self.with_stored_targets = with_stored_targets
        self.rng = np.random.default_rng(seed)
        self.policy_version = 0  # of the learner; its owner keeps it current
        self.dropped = 0  # transitions that left for their age, not for room
        self._added = 0  # rollouts so far
        self._settings = StoreSettings(observation_space, action_space, n_dimensions, with_stored_targets)
        self._segments: deque[Segment] = deque()
        self._columns: dict[str, Any] = {}  # allocated by the first insert: a model loaded to predict needs none
        # of the segments: where their positions end, shift from position to row
        self._layout: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return sum(segment.size for segment in self._segments)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The stored rollouts, oldest first."""
        return tuple(self._segments)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept between two updates, with the unused room of the ring."""
        total = 0
        for column in self._flat_columns().values():
            total += column.nbytes
        for segment in self._segments:
            for observation in (segment.last_observations, segment.terminal_observations):
                total += sum(part.nbytes for part in observation_parts(observation))
        return total

    # ---------------------------------------------------------------- insert

    def add(self, rollout: Rollout) -> None:
        """
        Store a rollout; the oldest ones leave until it fits.

        :param rollout: segment to store
        :raises ValueError: when it is larger than the capacity or does not belong to this store; the store is then as it was
        """
        if rollout.size > self.capacity:
            raise ValueError(
                f"The rollout has {rollout.size} transitions ({rollout.n_steps} steps x {rollout.n_envs} environments) "
                f"but the replay holds at most {self.capacity}. Raise `replay_capacity` or collect fewer steps."
            )
        check_belongs(rollout, self._settings, self.policy_version)
        if not self._columns:
            self._columns = self._allocate()
        while self._segments and self._used_rows() + rollout.size > self.capacity:
            self._segments.popleft()
        start = self._write_row()
        for name, column in self._flat_columns().items():
            if name != "draws":
                self._write(column, start, _flat_field(rollout, name))
        self._write(self._columns["draws"], start, np.zeros(rollout.size, dtype=np.uint16))
        self._segments.append(self._segment_of(rollout, start))
        self._added += 1
        self._layout = None

    def add_rollout(
        self,
        observations: Observation,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        last_observations: Observation,
        log_probs: np.ndarray | None = None,
        *,
        terminal_observations: Observation | None = None,
        policy_version: int | np.ndarray = 0,
        dimension_log_probs: np.ndarray | None = None,
        actor_id: int = -1,
    ) -> None:
        """
        Add a rollout that was collected elsewhere: by another process, an older run, another policy.

        :param observations: raw, before ``VecNormalize`` [T, N, *obs]
        :param actions: as the policy sampled them, before clipping; for a squashed policy before the ``tanh`` [T, N, *action]
        :param rewards: raw, with no bootstrap value inside [T, N]
        :param terminated: the episode ended in a terminal state [T, N]
        :param truncated: the episode was cut short, by a time limit say [T, N]
        :param last_observations: raw observation after the last step [N, *obs]
        :param log_probs: log-probability of each action under the policy that chose it [T, N]
        :param terminal_observations: raw terminal observation of every truncated episode, in the order of
            ``np.nonzero(truncated)`` [K, *obs]; may be left out where nothing is truncated
        :param policy_version: version of the policy that chose the actions, a number or [T, N]; 0, the learner's first
            policy, where there is no better answer
        :param dimension_log_probs: the same for each action dimension, needed for ``ratio_level="dimension"`` [T, N, D]
        :param actor_id: who collected it
        :raises ValueError: when the log-probabilities are missing, a shape or a number is wrong, a version lies in the
            future, or the rollout does not fit; the store is then as it was
        """
        if log_probs is None:
            raise ValueError(
                "`log_probs` is missing. GIPO weighs every sample by pi(a|s) / mu(a|s) and cannot use data without the "
                "log-probabilities of the behaviour policy mu. Store them when you collect: they are the third value that "
                "`policy(obs)` returns, or `policy.evaluate_actions(obs, actions)[1]` for a policy you still have."
            )
        if terminal_observations is None:
            terminal_observations = map_observation(lambda part: np.asarray(part)[:0], last_observations)
        if np.ndim(rewards) != 2:
            raise ValueError(f"`rewards` must be [T, N], got the shape {np.shape(rewards)}; for one environment, N is 1.")
        versions = np.broadcast_to(cast("policy_version", policy_version, np.int32), np.shape(rewards)).copy()
        dimension = None if dimension_log_probs is None else cast("dimension_log_probs", dimension_log_probs, np.float32)
        space = self.observation_space
        self.add(
            Rollout(
                observations=cast_observation("observations", observations, space),
                actions=cast("actions", actions, action_dtype(self.action_space)),
                rewards=cast("rewards", rewards, np.float32),
                terminated=cast("terminated", terminated, np.bool_),
                truncated=cast("truncated", truncated, np.bool_),
                log_probs=cast("log_probs", log_probs, np.float32),
                last_observations=cast_observation("last_observations", last_observations, space),
                terminal_observations=cast_observation("terminal_observations", terminal_observations, space),
                policy_version=versions,
                dimension_log_probs=dimension,
                actor_id=actor_id,
            )
        )

    def set_newest_draws(self, draws: np.ndarray) -> None:
        """
        :param draws: how often each transition of the newest rollout was drawn [T, N], uint16
        :raises ValueError: for another shape or type
        """
        newest = self._segments[-1]
        if draws.shape != (newest.n_steps, newest.n_envs) or draws.dtype != np.uint16:
            raise ValueError(f"`draws` is {draws.dtype}{draws.shape}, expected uint16{(newest.n_steps, newest.n_envs)}.")
        self._write(self._columns["draws"], newest.start, draws.reshape(newest.size))

    def drop_older_than(self, version: int) -> int:
        """
        Drop every rollout whose newest action was chosen before a policy version.

        :param version: oldest version that may stay
        :return: how many transitions were dropped
        """
        kept = deque(segment for segment in self._segments if segment.newest_version >= version)
        dropped = len(self) - sum(segment.size for segment in kept)
        if dropped:
            self._segments = kept
            self._layout = None
            self.dropped += dropped
        return dropped

    # ---------------------------------------------------------------- read

    def statistics(self) -> dict[str, float]:
        """
        :return: ``size`` in transitions, ``rollouts``, ``mb`` in megabytes, ``reuse_mean``: how often a stored transition was
            drawn so far, ``reuse_max``, and ``dropped``: transitions that left for their age since the beginning
        """
        draws = self.gather("draws", np.arange(len(self))) if self._segments else np.zeros(1)
        return {
            "size": len(self),
            "rollouts": len(self._segments),
            "mb": self.nbytes / 2**20,
            "reuse_mean": float(draws.mean()),
            "reuse_max": int(draws.max()),
            "dropped": self.dropped,
        }

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """
        :param positions: any shape [...]
        :return: their rows in the ring [...]
        """
        if self._layout is None:
            sizes = np.array([segment.size for segment in self._segments], dtype=np.int64)
            ends = np.cumsum(sizes)
            first_rows = np.array([segment.start for segment in self._segments], dtype=np.int64)
            self._layout = ends, first_rows - (ends - sizes)
        ends, shifts = self._layout
        rows: np.ndarray = (positions + shifts[np.searchsorted(ends, positions, side="right")]) % self.capacity
        return rows

    def gather(self, name: str, positions: np.ndarray) -> Any:
        """
        :param name: a column: ``observations``, ``actions``, ``rewards``, ``terminated``, ``truncated``, ``log_probs``,
            ``policy_version``, ``draws``, and where stored ``dimension_log_probs``, ``values``, ``returns``, ``advantages``
        :param positions: any shape [...]
        :return: a copy of those transitions [..., *column]
        """
        rows = self.rows(positions)
        return map_observation(lambda column: column[rows], self._columns[name])

    def column(self, name: str) -> Any:
        """
        :param name: a column, as in :meth:`gather`
        :return: the ring itself, whose rows :meth:`rows` gives: to be read, and not beyond the next insert [capacity, *column]
        """
        return self._columns[name]

    def segment_rollout(self, segment: Segment) -> tuple[Rollout, np.ndarray]:
        """
        :param segment: one of :attr:`segments`
        :return: the rollout, as views of the ring where it does not wrap around, and how often each transition was drawn
        """
        columns = {
            name: map_observation(lambda column: self._view(column, segment), part) for name, part in self._columns.items()
        }
        draws = columns.pop("draws")
        stored = None
        if self.with_stored_targets:
            stored = StoredTargets(*(columns.pop(name) for name in StoredTargets._fields))
        rollout = Rollout(
            last_observations=segment.last_observations,
            terminal_observations=segment.terminal_observations,
            stored_targets=stored,
            collected_at=segment.collected_at,
            actor_id=segment.actor_id,
            **columns,
        )
        return rollout, draws

    def part(self, n_transitions: int) -> "RolloutReplayBuffer":
        """
        Choose whole rollouts, at random and without looking at their age, until there are enough transitions: values, ratios
        and targets are needed along whole rollouts, and of a large replay an update draws a small part.

        :param n_transitions: how many are to be drawn
        :return: a store of those rollouts that shares all data with this one, to be read until the next insert; this one
            itself when nothing would be left out
        """
        if n_transitions >= len(self):
            return self
        chosen: list[int] = []
        missing = n_transitions
        for index in self.rng.permutation(len(self._segments)).tolist():
            if missing <= 0:
                break
            chosen.append(index)
            missing -= self._segments[index].size
        part = copy.copy(self)
        part._segments = deque(self._segments[index] for index in sorted(chosen))
        part._layout = None
        return part

    def sample(self, n_batches: int, batch_size: int) -> Iterator[np.ndarray]:
        """
        Draw minibatches uniformly: in random order, no transition a second time before every one was drawn. What was drawn
        is counted when the iterator is exhausted or closed.

        :param n_batches: number of minibatches
        :param batch_size: transitions in each
        :return: positions of each minibatch [batch_size]
        :raises ValueError: when the batch is larger than what is stored
        """
        size = len(self)
        if batch_size > size:
            raise ValueError(
                f"`batch_size` {batch_size} is larger than what is stored ({size} transitions). Use a smaller batch or "
                "collect more before sampling."
            )
        n_passes, rest = divmod(n_batches * batch_size, size)
        # of a large replay not all is drawn: choosing costs what is chosen, a permutation what is there
        parts = [self.rng.permutation(size) for _ in range(n_passes)] + [self.rng.choice(size, rest, replace=False)]
        yield from self._cut(np.concatenate(parts), batch_size)

    def shuffled_pass(self, batch_size: int) -> Iterator[np.ndarray]:
        """
        Go once through all that is stored, in random order, as an epoch of PPO does.

        :param batch_size: transitions in each minibatch; the last one may be smaller
        :return: positions of each minibatch [at most batch_size]
        """
        yield from self._cut(self.rng.permutation(len(self)), batch_size)

    def _cut(self, order: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        drawn = 0
        try:
            for start in range(0, len(order), batch_size):
                positions = order[start : start + batch_size]
                drawn += len(positions)
                yield positions
        finally:  # once for all of them, also where the caller stops early
            self._count(order[:drawn])

    def _count(self, positions: np.ndarray) -> None:
        counts = np.bincount(positions, minlength=len(self))
        rows, draws = self.rows(np.arange(len(counts))), self._columns["draws"]
        draws[rows] = np.minimum(draws[rows] + counts, np.iinfo(draws.dtype).max)

    # ---------------------------------------------------------------- inside

    def _allocate(self) -> dict[str, Any]:
        def column(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
            return np.empty((self.capacity, *shape), dtype=dtype)

        columns: dict[str, Any] = {
            "observations": map_observation(
                lambda space: column(space.shape or (), observation_dtype(space)), self._space_parts()
            ),
            "actions": column(self.action_space.shape or (), action_dtype(self.action_space)),
            **{name: column((), dtype) for name, dtype in STEP_DTYPES.items()},
            "draws": column((), np.uint16),
        }
        if self.n_dimensions is not None:
            columns["dimension_log_probs"] = column((self.n_dimensions,), np.float32)
        if self.with_stored_targets:
            columns.update({name: column((), np.float32) for name in StoredTargets._fields})
        return columns

    def _space_parts(self) -> Any:
        is_dict = isinstance(self.observation_space, spaces.Dict)
        return dict(self.observation_space.spaces) if is_dict else self.observation_space  # type: ignore[attr-defined]  # a Dict

    def _flat_columns(self) -> dict[str, np.ndarray]:
        flat: dict[str, np.ndarray] = {}
        for name, column in self._columns.items():
            if isinstance(column, dict):
                flat.update({f"{name}/{key}": part for key, part in column.items()})
            else:
                flat[name] = column
        return flat

    def _used_rows(self) -> int:
        if not self._segments:
            return 0
        return (self._write_row() - self._segments[0].start - 1) % self.capacity + 1

    def _write_row(self) -> int:
        if not self._segments:
            return 0
        newest = self._segments[-1]
        return (newest.start + newest.size) % self.capacity

    def _write(self, column: np.ndarray, start: int, values: np.ndarray) -> None:
        before_wrap = min(len(values), self.capacity - start)
        column[start : start + before_wrap] = values[:before_wrap]
        column[: len(values) - before_wrap] = values[before_wrap:]

    def _view(self, column: np.ndarray, segment: Segment) -> np.ndarray:
        end = segment.start + segment.size
        if end <= self.capacity:
            flat = column[segment.start : end]
        else:
            flat = np.concatenate([column[segment.start :], column[: end - self.capacity]])
        return flat.reshape(segment.n_steps, segment.n_envs, *column.shape[1:])

    def _segment_of(self, rollout: Rollout, start: int) -> Segment:
        return Segment(
            start=start,
            n_steps=rollout.n_steps,
            n_envs=rollout.n_envs,
            newest_version=int(rollout.policy_version.max()),
            # copies: the rollout's own arrays may be views of something much larger
            last_observations=map_observation(np.copy, rollout.last_observations),
            terminal_observations=map_observation(np.copy, rollout.terminal_observations),
            collected_at=rollout.collected_at,
            actor_id=rollout.actor_id,
            number=self._added,
            follows=self._goes_on_from(rollout),
        )

    def _goes_on_from(self, rollout: Rollout) -> int | None:
        """Number of the newest rollout of the same actor, if that saw last what this one sees first."""
        newest = next((segment for segment in reversed(self._segments) if segment.actor_id == rollout.actor_id), None)
        if newest is None:
            return None
        first = map_observation(lambda column: column[0], rollout.observations)
        return newest.number if same_observation(newest.last_observations, first) else None


def _flat_field(rollout: Rollout, name: str) -> np.ndarray:
    """The field a column is filled from, [T, N, ...] flattened to [T * N, ...]."""
    field, _, key = name.partition("/")
    value = getattr(rollout.stored_targets, field) if field in StoredTargets._fields else getattr(rollout, field)
    array: np.ndarray = value[key] if isinstance(value, dict) else value
    return array.reshape(rollout.size, *array.shape[2:])

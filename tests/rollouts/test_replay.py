"""RolloutReplayBuffer: what is in it, what leaves it, what comes out of it."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import Rollout, action_dtype, map_observation, observation_dtype, observation_parts
from tests.rollouts.data import (
    ACTION_SPACES,
    BOX,
    BOX_ACTION,
    IMAGE,
    NUMBER,
    OBSERVATION_SPACES,
    ODD_KEYS,
    add_rollout_arguments,
    assert_same,
    contents,
    fields_of,
    make_rollout,
)


def make_replay(
    capacity: int, observation_space: spaces.Space[Any] = BOX, action_space: spaces.Space[Any] = BOX_ACTION, **kwargs: Any
) -> RolloutReplayBuffer:
    """A store whose learner is far ahead of every version in the identifiable data."""
    replay = RolloutReplayBuffer(capacity, observation_space, action_space, **{"seed": 0, **kwargs})
    replay.policy_version = 10**6
    return replay


def ids_at(replay: RolloutReplayBuffer, positions: np.ndarray) -> np.ndarray:
    """The ids of transitions, as their rewards give them away."""
    return replay.gather("rewards", positions).astype(np.int64)


def assert_whole(replay: RolloutReplayBuffer, positions: np.ndarray) -> None:
    """Assert that every field comes from the transition that the reward comes from."""
    expected = fields_of(ids_at(replay, positions), replay.observation_space, replay.action_space)
    for name in replay._columns:
        if name != "draws":
            assert_same(replay.gather(name, positions), expected[name], name)


@dataclasses.dataclass
class Stored:
    """One rollout in the model of the store."""

    rollout: Rollout
    draws: np.ndarray
    is_there: bool = True  # false: dropped from between others, its room comes back when the older ones have left


class Model:
    """The store in the plainest words: a list of rollouts, the oldest leave until the new one fits."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rollouts: list[Stored] = []
        self.dropped = 0

    def _trim(self) -> None:
        while self.rollouts and not self.rollouts[0].is_there:
            self.rollouts.pop(0)
        while self.rollouts and not self.rollouts[-1].is_there:
            self.rollouts.pop()

    def add(self, rollout: Rollout) -> None:
        while self.rollouts and sum(s.rollout.size for s in self.rollouts) + rollout.size > self.capacity:
            self.rollouts.pop(0)
            self._trim()
        self.rollouts.append(Stored(rollout, np.zeros(rollout.size, np.int64)))

    def drop_older_than(self, version: int) -> int:
        dropped = 0
        for stored in self.rollouts:
            if stored.is_there and stored.rollout.policy_version.max() < version:
                stored.is_there = False
                dropped += stored.rollout.size
        self._trim()
        self.dropped += dropped
        return dropped

    @property
    def present(self) -> list[Stored]:
        return [stored for stored in self.rollouts if stored.is_there]


def assert_equals_model(replay: RolloutReplayBuffer, model: Model) -> None:
    """Assert that the store holds what the model holds, in its order, and no more than it may."""
    present = model.present
    size = sum(stored.rollout.size for stored in present)
    assert len(replay) == size <= replay.capacity
    assert replay.dropped == model.dropped
    assert [(s.n_steps, s.n_envs) for s in replay.segments] == [(s.rollout.n_steps, s.rollout.n_envs) for s in present]
    everything = np.arange(size)
    expected = np.concatenate([s.rollout.rewards.ravel() for s in present]) if present else np.empty(0)
    if present:
        assert ids_at(replay, everything).tolist() == expected.tolist()
        assert replay.gather("draws", everything).tolist() == np.concatenate([s.draws for s in present]).tolist()
        assert_whole(replay, everything)
    for segment, stored in zip(replay.segments, present, strict=True):
        rollout, draws = replay.segment_rollout(segment)
        for field in dataclasses.fields(Rollout):
            assert_same(getattr(rollout, field.name), getattr(stored.rollout, field.name), field.name)
        assert draws.ravel().tolist() == stored.draws.tolist()
        assert segment.newest_version == stored.rollout.policy_version.max()


def draw(replay: RolloutReplayBuffer, model: Model, batch_size: int, n_batches: int) -> None:
    """Sample from the store, check every batch, and count in the model."""
    draws = np.concatenate([stored.draws for stored in model.present])
    for positions in replay.sample(n_batches, batch_size):
        assert positions.shape == (batch_size,)
        assert_whole(replay, positions)
        np.add.at(draws, positions, 1)
    for stored in model.present:
        stored.draws, draws = draws[: stored.rollout.size], draws[stored.rollout.size :]


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 4))
ACTIONS = st.one_of(
    st.tuples(st.just("add"), SHAPES),
    st.tuples(st.just("add"), SHAPES),
    st.tuples(st.just("drop"), st.integers(0, 120)),
    st.tuples(st.just("sample"), st.tuples(st.integers(1, 36), st.integers(1, 4))),
)


@pytest.mark.parametrize("space", [BOX, ODD_KEYS], ids=["array", "dict"])
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking a sequence this long takes minutes and hardly shortens it
)
@given(capacity=st.integers(36, 80), actions=st.lists(ACTIONS, min_size=20, max_size=50))
def test_any_sequence(space: spaces.Space[Any], capacity: int, actions: list[tuple[str, Any]]) -> None:
    """After any adds, drops and draws, the store holds what a list of rollouts would, field by field, draw by draw."""
    replay = make_replay(capacity, space, n_dimensions=2, with_stored_targets=True)
    model = Model(capacity)
    next_id = 0
    for action, argument in actions:
        if action == "add":
            rollout = make_rollout(next_id, *argument, space, dimensions=True, stored_targets=True)
            next_id += rollout.size
            replay.add(rollout)
            model.add(rollout)
        elif action == "drop":
            version = next_id // 3 - argument
            assert replay.drop_older_than(version) == model.drop_older_than(version)
        elif len(replay):
            draw(replay, model, min(argument[0], len(replay)), argument[1])
        assert_equals_model(replay, model)


@pytest.mark.parametrize("observation_space", OBSERVATION_SPACES.values(), ids=OBSERVATION_SPACES.keys())
@pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES.keys())
def test_fields_stay_together(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Over many turns of the ring, every field of a sampled batch comes from one transition, in every kind of space."""
    rng = np.random.default_rng(1)
    replay, model = make_replay(50, observation_space, action_space, n_dimensions=2, with_stored_targets=True), Model(50)
    next_id = 0
    for _ in range(60):  # 25 turns
        shape = (int(rng.integers(1, 11)), int(rng.integers(1, 6)))
        rollout = make_rollout(next_id, *shape, observation_space, action_space, dimensions=True, stored_targets=True)
        next_id += rollout.size
        replay.add(rollout)
        model.add(rollout)
        draw(replay, model, int(rng.integers(1, len(replay) + 1)), 2)
        assert_equals_model(replay, model)
    assert next_id > 20 * 50


def test_positions_count_from_the_oldest() -> None:
    """Positions follow the rollouts from the oldest to the newest, and steps and environments within one."""
    replay = make_replay(30)
    for first in (0, 12, 24, 36):
        replay.add(make_rollout(first, 4, 3))
    assert [segment.start for segment in replay.segments] == [24, 6]
    assert ids_at(replay, np.arange(24)).tolist() == list(range(24, 48))
    assert replay.rows(np.arange(len(replay))).tolist() == [*range(24, 30), *range(18)]


def test_gather_keeps_the_shape_and_copies() -> None:
    """Positions of any shape give fields of that shape; changing them changes nothing in the store."""
    replay = make_replay(30, ODD_KEYS)
    replay.add(make_rollout(0, 4, 3, ODD_KEYS))
    positions = np.arange(12).reshape(3, 4)[:, ::2]
    assert replay.gather("rewards", positions).tolist() == [[0, 2], [4, 6], [8, 10]]
    gathered = replay.gather("observations", positions)
    assert gathered["c.0"].shape == (3, 2, 2, 3, 1)
    for part in gathered.values():
        part[...] = 0
    assert_whole(replay, np.arange(12))


def test_exact_fit() -> None:
    """A rollout as large as the capacity fits, and so do several that fill it to the last place."""
    replay = make_replay(12)
    replay.add(make_rollout(0, 4, 3))
    assert len(replay) == 12
    replay.add(make_rollout(12, 2, 3))
    replay.add(make_rollout(18, 2, 3))
    assert ids_at(replay, np.arange(len(replay))).tolist() == list(range(12, 24))
    replay.add(make_rollout(24, 4, 3))
    assert ids_at(replay, np.arange(len(replay))).tolist() == list(range(24, 36))


def test_too_large_a_rollout() -> None:
    """A rollout larger than the capacity is refused with both sizes, and the store is as it was."""
    replay = make_replay(12)
    replay.add(make_rollout(0, 4, 3))
    before = contents(replay)
    with pytest.raises(ValueError, match=r"13 transitions \(13 steps x 1 environments\).*at most 12"):
        replay.add(make_rollout(12, 13, 1))
    assert_same(contents(replay), before)


def test_memory_of_ends_is_its_own() -> None:
    """The observations kept beside the ring are copies, so that they do not keep a whole rollout alive."""
    replay = make_replay(100, ODD_KEYS)
    given = make_rollout(0, 4, 3, ODD_KEYS)
    large = {key: np.stack([part, part]) for key, part in given.last_observations.items()}
    replay.add(dataclasses.replace(given, last_observations={key: part[0] for key, part in large.items()}))
    for part in (*replay.segments[0].last_observations.values(), *replay.segments[0].terminal_observations.values()):
        assert part.base is None
        assert not any(np.shares_memory(part, other) for other in large.values())


# -------------------------------------------------------------------- sampling


def test_a_pass_draws_everything_once() -> None:
    """Within a pass no transition comes twice, and at its end every one has come; batches run on into the next pass."""
    replay = make_replay(100)
    for first in range(0, 90, 15):
        replay.add(make_rollout(first, 5, 3))
    drawn = np.concatenate(list(replay.sample(n_batches=25, batch_size=18)))
    assert drawn.shape == (450,)
    for start in range(0, 450, 90):
        assert sorted(drawn[start : start + 90]) == list(range(90))
    orders = {tuple(drawn[start : start + 90]) for start in range(0, 450, 90)}
    assert len(orders) == 5
    assert replay.gather("draws", np.arange(90)).tolist() == [5] * 90


def test_batches_that_do_not_divide_a_pass() -> None:
    """A batch on the border of two passes is full, and may hold a transition twice, which is counted twice."""
    replay = make_replay(10)
    replay.add(make_rollout(0, 5, 2))
    batches = list(replay.sample(n_batches=50, batch_size=7))
    assert [len(batch) for batch in batches] == [7] * 50
    drawn = np.concatenate(batches)
    for start in range(0, 350, 10):
        assert sorted(drawn[start : start + 10]) == list(range(10))
    assert any(len(set(batch.tolist())) < 7 for batch in batches)
    assert replay.gather("draws", np.arange(10)).tolist() == [35] * 10


def test_sampling_is_uniform() -> None:
    """A batch smaller than the store takes every transition equally often, old ones and new ones alike."""
    replay = make_replay(40)
    for first in range(0, 200, 8):
        replay.add(make_rollout(first, 4, 2))
    counts = Counter(int(p) for _ in range(2000) for p in next(replay.sample(1, 10)))
    # 2000 batches of 10 out of 40: 500 each, standard deviation sqrt(2000 * 0.25 * 0.75) = 19.4
    assert set(counts) == set(range(40))
    assert max(abs(count - 500) for count in counts.values()) < 5 * 19.4


def test_shuffled_pass() -> None:
    """An epoch goes once through everything, the last batch being what is left, in another order each time."""
    replay = make_replay(20)
    replay.add(make_rollout(0, 5, 2))
    first = list(replay.shuffled_pass(4))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(np.concatenate(first)) == list(range(10))
    assert np.concatenate(list(replay.shuffled_pass(4))).tolist() != np.concatenate(first).tolist()
    assert replay.gather("draws", np.arange(10)).tolist() == [2] * 10


def test_few_of_many_are_drawn_at_most_once() -> None:
    """Draws that are fewer than what is stored are all different, and the next ones are others."""
    replay = make_replay(100)
    replay.add(make_rollout(0, 50, 2))
    first, second = (np.concatenate(list(replay.sample(3, 10))) for _ in range(2))
    assert len(set(first)) == len(set(second)) == 30
    assert set(first) != set(second)


def test_what_is_drawn_is_counted_when_the_caller_stops() -> None:
    """A caller that stops early has drawn what it has got, no more."""
    replay = make_replay(12)
    replay.add(make_rollout(0, 4, 3))
    batches = replay.sample(10, 5)
    got = [next(batches), next(batches)]
    batches.close()
    assert replay.gather("draws", np.arange(12)).tolist() == np.bincount(np.concatenate(got), minlength=12).tolist()


# ------------------------------------------------------------------------ a part


def test_a_part_is_whole_rollouts() -> None:
    """Enough rollouts to draw from, oldest first, with every field of each transition, and no more of them than needed."""
    replay = make_replay(200)
    for index, n_steps in enumerate((4, 10, 6, 8, 2, 12)):
        replay.add(make_rollout(100 * index, n_steps, 2))
    for _ in range(20):
        part = replay.part(30)
        sizes = [segment.size for segment in part.segments]
        assert 30 <= len(part) == sum(sizes) < 30 + max(sizes)
        assert all(segment in replay.segments for segment in part.segments)
        starts = [segment.start for segment in part.segments]
        assert starts == sorted(starts)
        assert_whole(part, np.arange(len(part)))


def test_all_of_a_store_is_the_store() -> None:
    """Where as much is drawn as there is, nothing is left out, and no random number is used."""
    replay = make_replay(60)
    replay.add(make_rollout(0, 4, 3))
    before = replay.rng.bit_generator.state
    assert replay.part(12) is replay
    assert replay.part(10**6) is replay
    assert replay.rng.bit_generator.state == before


def test_parts_are_uniform_and_share_their_counts() -> None:
    """Every transition is drawn equally often through parts, whatever its age, and the store knows how often."""
    replay = make_replay(40)
    for first in range(0, 200, 8):
        replay.add(make_rollout(first, 4, 2))
    for _ in range(2000):
        next(replay.part(10).sample(1, 10))
    draws = replay.gather("draws", np.arange(40)).astype(int)
    # the draws of a rollout rise and fall together: at most 8 of a batch, with a standard deviation below 19.4 * sqrt(8)
    assert draws.sum() == 20_000
    assert np.abs(draws - 500).max() < 5 * 19.4 * 2
    assert np.abs(draws.reshape(5, 8).sum(axis=1) - 4000).max() < 5 * 19.4 * 8


@pytest.mark.parametrize("stored", [0, 12])
def test_too_large_a_batch(stored: int) -> None:
    """A batch larger than what is stored is refused with both sizes, and nothing counts as drawn."""
    replay = make_replay(30)
    if stored:
        replay.add(make_rollout(0, 4, 3))
    with pytest.raises(ValueError, match=rf"`batch_size` 13 is larger than what is stored \({stored} transitions\)"):
        next(replay.sample(1, 13))
    assert replay.statistics()["reuse_max"] == 0


def sampled(seed: int | None) -> list[list[int]]:
    """What a store with this seed draws."""
    replay = make_replay(60, seed=seed)
    replay.add(make_rollout(0, 20, 3))
    return [batch.tolist() for batch in replay.sample(5, 16)]


def test_seed_decides() -> None:
    """The same seed draws the same batches, another seed or none others."""
    assert sampled(3) == sampled(3)
    assert sampled(3) != sampled(4)
    assert sampled(None) != sampled(None)


def test_global_generator_is_left_alone() -> None:
    """Sampling neither follows NumPy's global generator nor moves it."""
    np.random.seed(0)
    first = sampled(3)
    after = np.random.get_state()[1].copy()
    np.random.seed(0)
    assert (np.random.get_state()[1] == after).all()
    np.random.seed(1)
    assert sampled(3) == first


# -------------------------------------------------------------------- ages


def test_drop_older_than() -> None:
    """Rollouts whose newest action is too old leave, one in the middle too, and are counted; the rest stays in order."""
    replay = make_replay(100)
    for first, version in ((0, 3), (12, 1), (24, 2), (36, 3)):
        replay.add(make_rollout(first, 4, 3, policy_version=np.full((4, 3), version, np.int32)))
    assert replay.drop_older_than(1) == 0
    assert replay.drop_older_than(2) == 12
    assert ids_at(replay, np.arange(36)).tolist() == [*range(12), *range(24, 48)]
    assert replay.statistics()["dropped"] == 12
    assert replay.drop_older_than(3) == 12
    assert ids_at(replay, np.arange(24)).tolist() == [*range(12), *range(36, 48)]
    assert replay.drop_older_than(99) == 24
    assert (len(replay), replay.segments, replay.dropped) == (0, (), 48)
    replay.add(make_rollout(48, 4, 3))
    assert ids_at(replay, np.arange(12)).tolist() == list(range(48, 60))


def test_newest_action_decides() -> None:
    """A rollout of several versions is as old as its newest action."""
    replay = make_replay(100)
    versions = np.array([[0], [5], [2]], np.int32)
    replay.add(make_rollout(0, 3, 1, policy_version=versions))
    assert replay.drop_older_than(5) == 0
    assert replay.drop_older_than(6) == 3


def test_leaving_for_room_is_not_dropping() -> None:
    """Only what left for its age counts as dropped."""
    replay = make_replay(12)
    for first in range(0, 60, 12):
        replay.add(make_rollout(first, 4, 3))
    assert replay.dropped == 0


# -------------------------------------------------------------------- statistics


def test_statistics() -> None:
    """The statistics say what is there, how often it was drawn and how much memory it takes."""
    replay = make_replay(48)
    empty = {"size": 0, "rollouts": 0, "mb": 0.0, "reuse_mean": 0.0, "reuse_max": 0, "dropped": 0}
    assert replay.statistics() == empty
    replay.add(make_rollout(0, 4, 3))
    list(replay.sample(4, 6))
    replay.add(make_rollout(12, 4, 3))
    expected = {"size": 24, "rollouts": 2, "mb": replay.nbytes / 2**20, "reuse_mean": 1.0, "reuse_max": 2, "dropped": 0}
    assert replay.statistics() == expected


@pytest.mark.parametrize("space", OBSERVATION_SPACES.values(), ids=OBSERVATION_SPACES.keys())
def test_bytes_per_transition(space: spaces.Space[Any]) -> None:
    """A full store takes at most a tenth more than the facts themselves, all it has included."""
    n_steps, n_envs, n_rollouts = 128, 2, 3
    replay = make_replay(n_rollouts * n_steps * n_envs, space)
    for first in range(5):
        rollout = make_rollout(
            first,
            n_steps,
            n_envs,
            space,
            truncated=np.zeros((n_steps, n_envs), bool),
            terminal_observations=map_observation(lambda part: part[:0], make_rollout(first, 3, 1, space).last_observations),
        )
        replay.add(rollout)
    assert len(replay) == replay.capacity
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    payload = sum(observation_dtype(part).itemsize * int(np.prod(part.shape or ())) for part in parts)
    payload += 2 * 4  # action
    payload += 4 + 1 + 1 + 4 + 4  # reward, both flags, log-probability, version
    assert payload * len(replay) <= replay.nbytes <= 1.1 * payload * len(replay)


def test_nbytes_counts_every_array() -> None:
    """The bytes are those of the arrays: ring, last and terminal observations."""
    replay = make_replay(20, IMAGE, n_dimensions=2, with_stored_targets=True)
    assert replay.nbytes == 0
    rollout = make_rollout(0, 5, 2, IMAGE, dimensions=True, stored_targets=True)
    replay.add(rollout)
    row = 6 + 8 + 4 + 1 + 1 + 4 + 4 + 2 + 8 + 12
    assert replay.nbytes == 20 * row + observation_parts(rollout.last_observations)[0].nbytes + 2 * 6


# -------------------------------------------------------------------- add


def test_add_checks_spaces() -> None:
    """A rollout of other spaces is refused, whatever differs, and the store is as it was."""
    replay = make_replay(30, ODD_KEYS)
    replay.add(make_rollout(0, 4, 3, ODD_KEYS))
    before = contents(replay)
    fewer = spaces.Dict({key: space for key, space in ODD_KEYS.spaces.items() if key != "c.0"})
    wider = spaces.Dict({**ODD_KEYS.spaces, "a/b": spaces.Box(-1, 1, (4,), np.float32)})
    floats = spaces.Dict({**ODD_KEYS.spaces, "c.0": spaces.Box(0, 1, IMAGE.shape, np.float32)})
    for space, message in ((BOX, "keys"), (fewer, "keys"), (wider, "a/b"), (floats, "c.0")):
        with pytest.raises(ValueError, match=message):
            replay.add(make_rollout(12, 4, 3, space))
    for action_space in (spaces.Discrete(4), spaces.Box(-1, 1, (3,), np.float32)):
        with pytest.raises(ValueError, match="`actions` is"):
            replay.add(make_rollout(12, 4, 3, ODD_KEYS, action_space))
    assert_same(contents(replay), before)


@pytest.mark.parametrize("name", ["last_observations", "terminal_observations"])
def test_add_checks_ends(name: str) -> None:
    """The last and the terminal observations must be of the space too."""
    given = make_rollout(0, 4, 3)
    wrong = np.zeros((len(getattr(given, name)), 4), np.float32)
    with pytest.raises(ValueError, match=f"`{name}` is float32"):
        make_replay(30).add(dataclasses.replace(given, **{name: wrong}))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("rewards", np.float16),
        ("rewards", np.int64),
        ("log_probs", np.float64),
        ("terminated", np.uint8),
        ("truncated", np.int8),
        ("policy_version", np.int64),
        ("policy_version", np.float32),
    ],
)
def test_add_checks_types(name: str, dtype: type) -> None:
    """A rollout whose numbers are of another type than the store's is refused: a cast could change them unseen."""
    replay = make_replay(30)
    given = make_rollout(0, 4, 3)
    with pytest.raises(ValueError, match=f"`{name}`"):
        replay.add(dataclasses.replace(given, **{name: getattr(given, name).astype(dtype)}))
    assert len(replay) == 0


def test_add_needs_what_is_stored() -> None:
    """Log-probabilities of dimensions and stored targets are asked for where the learner needs them."""
    by_dimension = make_replay(30, n_dimensions=2)
    with pytest.raises(ValueError, match=r'`ratio_level="dimension"` needs.*\[T, N, 2\]; got none'):
        by_dimension.add(make_rollout(0, 4, 3))
    three = np.zeros((4, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"got \(4, 3, 3\)"):
        by_dimension.add(make_rollout(0, 4, 3, dimension_log_probs=three))
    with pytest.raises(ValueError, match=r'`target="stored"` needs the advantages'):
        make_replay(30, with_stored_targets=True).add(make_rollout(0, 4, 3))


# -------------------------------------------------------------------- add_rollout


@pytest.mark.parametrize("observation_space", OBSERVATION_SPACES.values(), ids=OBSERVATION_SPACES.keys())
@pytest.mark.parametrize("action_space", ACTION_SPACES.values(), ids=ACTION_SPACES.keys())
def test_add_rollout(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Outside data ends up in the store as given, in every kind of space."""
    given = make_rollout(0, 6, 3, observation_space, action_space)
    replay = make_replay(50, observation_space, action_space)
    replay.add_rollout(**add_rollout_arguments(given), actor_id=4)
    assert_whole(replay, np.arange(18))
    segment = replay.segments[0]
    assert_same(segment.last_observations, given.last_observations)
    assert_same(segment.terminal_observations, given.terminal_observations)
    assert segment.actor_id == 4


def test_add_rollout_takes_lists_and_other_types() -> None:
    """Lists, double precision and wider integers are taken where their numbers fit."""
    replay = make_replay(50, BOX, spaces.Discrete(300))
    observations = [[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]]
    replay.add_rollout(
        observations,
        [[299], [0]],
        [[1], [2]],
        [[False], [True]],
        [[0], [0]],
        np.array([[7.0, 8.0, 9.0]], np.float64),
        np.array([[-1.0], [-2.0]], np.float64),
    )
    rollout, draws = replay.segment_rollout(replay.segments[0])
    assert rollout.observations.tolist() == observations
    assert rollout.actions.tolist() == [[299], [0]]
    assert rollout.rewards.tolist() == [[1], [2]]
    assert rollout.terminated.tolist() == [[False], [True]]
    assert rollout.truncated.tolist() == [[False], [False]]
    assert rollout.last_observations.tolist() == [[7, 8, 9]]
    assert rollout.log_probs.tolist() == [[-1], [-2]]
    assert rollout.policy_version.tolist() == [[0], [0]]
    assert draws.tolist() == [[0], [0]]


@pytest.mark.parametrize("space", [BOX, ODD_KEYS], ids=["array", "dict"])
def test_add_rollout_leaves_the_arrays_to_the_caller(space: spaces.Space[Any]) -> None:
    """The caller may go on writing to every array, and the store does not see it."""
    replay = make_replay(50, space, n_dimensions=2)
    arguments = add_rollout_arguments(make_rollout(0, 6, 3, space, dimensions=True))
    replay.add_rollout(**arguments)
    before = contents(replay)
    for value in arguments.values():
        for part in value.values() if isinstance(value, dict) else [value]:
            assert part.flags.writeable
            part[...] = 1
    assert_same(contents(replay), before)


@pytest.mark.parametrize("version", [0, 7, np.int64(7)])
def test_add_rollout_one_version_for_all(version: int) -> None:
    """A single version stands for every step; without one it is the learner's first."""
    replay = make_replay(50)
    replay.add_rollout(**{**add_rollout_arguments(make_rollout(0, 6, 3)), "policy_version": version})
    assert replay.gather("policy_version", np.arange(18)).tolist() == [version] * 18
    assert replay.segments[0].newest_version == version


def test_add_rollout_without_terminal_observations() -> None:
    """Terminal observations may be left out where nothing is truncated, in a Dict space too."""
    for space in (BOX, ODD_KEYS):
        arguments = add_rollout_arguments(make_rollout(0, 6, 3, space))
        arguments["truncated"][...] = False
        del arguments["terminal_observations"]
        replay = make_replay(50, space)
        replay.add_rollout(**arguments)
        assert len(observation_parts(replay.segments[0].terminal_observations)[0]) == 0


def nan_at(*index: int) -> Any:
    """Puts a NaN into an array."""

    def change(array: np.ndarray) -> np.ndarray:
        array[index] = np.nan
        return array

    return change


def rename(old: str, new: str) -> Any:
    """Renames a key of a dictionary."""
    return lambda given: {new if key == old else key: part for key, part in given.items()}


REFUSED: dict[str, tuple[str, Any, str]] = {
    "no log-probabilities": ("log_probs", lambda _: None, r"`log_probs` is missing.*third value that `policy\(obs\)` returns"),
    "flat rewards": ("rewards", np.ravel, r"`rewards` must be \[T, N\]"),
    "flat log-probabilities": ("log_probs", np.ravel, "`log_probs` must have the shape"),
    "log-probabilities [T, N, 1]": ("log_probs", lambda a: a[..., None], "`log_probs`"),
    "rewards [T, N, 1]": ("rewards", lambda a: a[..., None], r"`rewards` must be \[T, N\]"),
    "flags [T, N, 1]": ("terminated", lambda a: a[..., None], "`terminated`"),
    "one step short": ("actions", lambda a: a[:-1], "`actions` must begin with"),
    "wide actions": ("actions", lambda a: np.concatenate([a, a], axis=-1), r"`actions` is float32\[4\]"),
    "wide observations": ("observations", lambda a: np.concatenate([a, a], axis=-1), r"`observations` is float32\[6\]"),
    "narrow last observation": ("last_observations", lambda a: a[:, :2], r"`last_observations` is float32\[2\]"),
    "NaN reward": ("rewards", nan_at(3, 1), r"`rewards` .* not finite, first at index \(3, 1\)"),
    "NaN observation": ("observations", nan_at(2, 0, 1), r"`observations` .* not finite, first at index \(2, 0, 1\)"),
    "NaN log-probability": ("log_probs", nan_at(0, 2), r"`log_probs` .* not finite, first at index \(0, 2\)"),
    "reward beyond float32": ("rewards", lambda a: a.astype(np.float64) + 1e300, "`rewards` .* not finite"),
    "NaN terminal observation": ("terminal_observations", nan_at(0, 0), r"`terminal_observations` .* not finite"),
    "future": ("policy_version", lambda _: 10**6 + 1, "1000001, but versions begin at 0 and the learner is at 1000000"),
    "one future version": ("policy_version", lambda a: a + (a == 2) * 10**6, "from 0 to 1000002, .* lies in the future"),
    "versions of another shape": ("policy_version", lambda a: a[:2], "policy_version|broadcast|shape"),
    "negative version": ("policy_version", lambda _: -1, "`policy_version`"),
    "fractional version": ("policy_version", lambda _: 2.5, "`policy_version`"),
    "no terminal observations": ("terminal_observations", lambda _: None, "truncated but 0 terminal observations"),
    "too few terminal observations": ("terminal_observations", lambda a: a[:-1], "terminal observations were given"),
    "both flags": ("terminated", lambda a: np.ones_like(a), "at once"),
    "keys for an array": ("observations", lambda a: {"a": a}, "keys|`observations`"),
    "keys for the last array": ("last_observations", lambda a: {"a": a}, "keys|`last_observations`"),
}


def assert_refused(replay: RolloutReplayBuffer, arguments: dict[str, Any], message: str) -> None:
    """Assert a ValueError with this message, and that the store is as it was, on the first add and when it is full."""
    kept = {name: value for name, value in arguments.items() if value is not None}
    for _ in range(2):
        before = contents(replay)
        copied = {name: map_observation(np.array, value) for name, value in kept.items()}
        with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
            replay.add_rollout(**copied)
        assert_same(contents(replay), before)
        space, actions = replay.observation_space, replay.action_space
        replay.add(make_rollout(100, 6, 3, space, actions, dimensions=replay.n_dimensions is not None))


@pytest.mark.parametrize(("name", "change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_add_rollout_refuses(name: str, change: Any, message: str) -> None:
    """What is wrong is refused with a ValueError that names it, and the store is as it was."""
    arguments = add_rollout_arguments(make_rollout(0, 6, 3))
    assert_refused(make_replay(20), {**arguments, name: change(arguments[name])}, message)


REFUSED_DICT: dict[str, tuple[str, Any]] = {
    "missing key": ("observations", lambda d: {key: part for key, part in d.items() if key != "c.0"}),
    "unknown key": ("observations", lambda d: {**d, "more": d["a/b"]}),
    "renamed key": ("observations", rename("a/b", "a")),
    "missing key at the end": ("last_observations", lambda d: {key: part for key, part in d.items() if key != "c.0"}),
    "unknown terminal key": ("terminal_observations", rename("c.0", "c")),
    "array for a Dict": ("observations", lambda d: d["a/b"]),
    "last array for a Dict": ("last_observations", lambda d: d["a/b"]),
}


@pytest.mark.parametrize(("name", "change"), REFUSED_DICT.values(), ids=REFUSED_DICT.keys())
def test_add_rollout_refuses_keys(name: str, change: Any) -> None:
    """Other keys than the space's are refused with a ValueError that names the field, and the store is as it was."""
    arguments = add_rollout_arguments(make_rollout(0, 6, 3, ODD_KEYS))
    assert_refused(make_replay(20, ODD_KEYS), {**arguments, name: change(arguments[name])}, f"`{name}`")


@pytest.mark.parametrize("key", list(ODD_KEYS.spaces))
def test_add_rollout_refuses_ragged_terminal_observations(key: str) -> None:
    """Each key must have a terminal observation for every truncated step."""
    arguments = add_rollout_arguments(make_rollout(0, 6, 3, ODD_KEYS))
    arguments["terminal_observations"][key] = arguments["terminal_observations"][key][1:]
    assert_refused(make_replay(20, ODD_KEYS), arguments, "terminal observations were given")


def test_add_rollout_refuses_dimensions() -> None:
    """Where every dimension has a ratio, the log-probability of each must be there, of the right number."""
    arguments = add_rollout_arguments(make_rollout(0, 6, 3, dimensions=True))
    by_dimension = arguments["dimension_log_probs"]
    for wrong, message in ((None, "got none"), (by_dimension[..., :1], r"got \(6, 3, 1\)"), (by_dimension[:-1], "must begin")):
        assert_refused(make_replay(20, n_dimensions=2), {**arguments, "dimension_log_probs": wrong}, message)
    replay = make_replay(20, n_dimensions=2)
    replay.add_rollout(**arguments)
    assert_whole(replay, np.arange(18))


@pytest.mark.parametrize(
    ("space", "change"),
    [
        (spaces.Discrete(300), lambda a: a.astype(np.int64) + 300),
        (spaces.Discrete(300), lambda a: a.astype(np.int64) - 300),
        (spaces.Discrete(300), lambda a: a.astype(np.int64) + 2**16),
        (spaces.Discrete(300), lambda a: a + 0.5),
        (spaces.MultiDiscrete([7, 300]), lambda a: a + np.array([7, 0], np.uint16)),
        (spaces.MultiBinary(3), lambda a: a + 2),
        (spaces.MultiBinary(3), lambda a: a.astype(np.int64) + 256),
    ],
    ids=["too high", "negative", "wraps", "fraction", "one too high", "not binary", "binary wraps"],
)
def test_add_rollout_refuses_impossible_actions(space: spaces.Space[Any], change: Any) -> None:
    """An action that is not in the action space is refused, not cut to a type that makes another action of it."""
    arguments = add_rollout_arguments(make_rollout(0, 6, 3, BOX, space))
    assert_refused(make_replay(20, BOX, space), {**arguments, "actions": change(arguments["actions"])}, "(?i)actions")


@pytest.mark.parametrize(
    ("space", "change"),
    [
        (IMAGE, lambda o: o / np.float32(255)),
        (IMAGE, lambda o: o.astype(np.int64) - 256),
        (IMAGE, lambda o: np.full(o.shape, np.nan)),
        (NUMBER, lambda o: o + 0.5),
    ],
    ids=["scaled image", "negative pixels", "NaN pixels", "fraction"],
)
def test_add_rollout_refuses_observations_a_cast_would_change(space: spaces.Space[Any], change: Any) -> None:
    """Numbers that an integer observation cannot hold are refused: an image scaled to 0..1 would be stored as black."""
    arguments = add_rollout_arguments(make_rollout(0, 6, 3, space))
    assert_refused(make_replay(20, space), {**arguments, "observations": change(arguments["observations"])}, "`observations`")


def test_types_follow_the_spaces() -> None:
    """Columns have the types that the spaces ask for, from the first insert on; before that nothing is allocated."""
    replay = make_replay(20, ODD_KEYS, spaces.MultiDiscrete([3, 300]))
    assert replay.nbytes == 0
    replay.add(make_rollout(0, 6, 3, ODD_KEYS, spaces.MultiDiscrete([3, 300])))
    assert {key: part.dtype for key, part in replay.gather("observations", np.arange(1)).items()} == {
        key: observation_dtype(space) for key, space in ODD_KEYS.spaces.items()
    }
    assert replay.gather("actions", np.arange(1)).dtype == action_dtype(replay.action_space)

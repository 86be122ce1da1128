"""The replay on disk: what comes back is what went in, and nothing else is let in."""

import contextlib
import io
import json
import os
import pathlib
import pickle
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_gipo import GIPO
from sb3_gipo.rollouts import replay_file
from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import map_observation
from tests.rollouts.data import ACTION_SPACES, BOX, BOX_ACTION, OBSERVATION_SPACES, assert_same, contents, make_rollout
from tests.rollouts.envs import Counting

FACTS = {"squashed_actions": False, "raw_observations": True, "raw_rewards": True}
CAPACITY = 60


def make_replay(
    observation_space: spaces.Space[Any] = BOX, action_space: spaces.Space[Any] = BOX_ACTION, **kwargs: Any
) -> RolloutReplayBuffer:
    """An empty store far ahead of every version in the identifiable data."""
    replay = RolloutReplayBuffer(CAPACITY, observation_space, action_space, **{"seed": 0, **kwargs})
    replay.policy_version = 10**6
    return replay


def fill(replay: RolloutReplayBuffer) -> RolloutReplayBuffer:
    """Rollouts of several shapes, wrapped around, one dropped from between the others, some drawn several times."""
    dimensions, stored = replay.n_dimensions is not None, replay.with_stored_targets
    first = 0
    for n_steps, n_envs in ((5, 3), (1, 4), (7, 2), (6, 3), (3, 1), (5, 3)):
        rollout = make_rollout(
            first,
            n_steps,
            n_envs,
            replay.observation_space,
            replay.action_space,
            dimensions=dimensions,
            stored_targets=stored,
            **({"policy_version": np.zeros((n_steps, n_envs), np.int32)} if n_steps == 7 else {}),
        )
        replay.add(rollout)
        first += rollout.size
    assert replay.drop_older_than(1) > 0
    assert any(segment.start + segment.size > replay.capacity for segment in replay.segments)
    list(replay.sample(5, 7))
    return replay


def rewritten(path: pathlib.Path, change: Callable[[dict[str, np.ndarray], dict[str, Any]], Any]) -> None:
    """Change the arrays and the metadata of a saved replay in place."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    metadata = json.loads(arrays.pop("metadata").tobytes())
    changed = change(arrays, metadata)
    text = json.dumps(metadata if changed is None else changed).encode()
    with path.open("wb") as file:
        np.savez(file, metadata=np.frombuffer(text, np.uint8), **arrays)


# -------------------------------------------------------------------- round trip

SPACES = [(o, a) for o in OBSERVATION_SPACES for a in ACTION_SPACES if "box" in (o, a) or o == "dict"]


@pytest.mark.parametrize(("observation", "action"), SPACES)
@pytest.mark.parametrize("extra", [{}, {"n_dimensions": 2, "with_stored_targets": True}], ids=["plain", "extra"])
def test_round_trip(tmp_path: pathlib.Path, observation: str, action: str, extra: dict[str, Any]) -> None:
    """What is loaded is what was saved, to the bit: every field, the order, the draws, the generator, what was dropped."""
    saved = fill(make_replay(OBSERVATION_SPACES[observation], ACTION_SPACES[action], **extra))
    saved.gather("rewards", np.zeros(1, int))
    saved._columns["log_probs"][saved.rows(np.arange(2))] = [-0.0, 1e-44]  # a negative zero and a subnormal number
    replay_file.save_replay(tmp_path / "replay", saved, FACTS)
    loaded = make_replay(OBSERVATION_SPACES[observation], ACTION_SPACES[action], **{**extra, "seed": 99})
    replay_file.load_replay(tmp_path / "replay", loaded, FACTS)
    assert_same(contents(loaded), contents(saved))
    assert loaded.statistics()["reuse_mean"] == saved.statistics()["reuse_mean"] > 0
    assert loaded.policy_version == 10**6
    for _ in range(2):
        assert np.array_equal(list(loaded.sample(3, 11)), list(saved.sample(3, 11)))
    for replay in (saved, loaded):  # and goes on in the same way
        replay.add(make_rollout(200, 9, 3, replay.observation_space, replay.action_space, **dimension_arguments(extra)))
        replay.drop_older_than(30)
    assert_same(contents(loaded), contents(saved))


def dimension_arguments(extra: dict[str, Any]) -> dict[str, bool]:
    """Arguments of ``make_rollout`` for a store with these extras."""
    return {"dimensions": "n_dimensions" in extra, "stored_targets": "with_stored_targets" in extra}


def test_saving_changes_nothing(tmp_path: pathlib.Path) -> None:
    """A store can be written to, drawn from and saved again after it was saved."""
    replay = fill(make_replay())
    before = contents(replay)
    replay_file.save_replay(tmp_path / "replay", replay, FACTS)
    assert_same(contents(replay), before)
    replay.add(make_rollout(500, 20, 3))
    list(replay.sample(1, 60))
    assert len(replay) == 60


def test_empty_replay(tmp_path: pathlib.Path) -> None:
    """A store that holds nothing comes back, its generator and counter too."""
    saved = make_replay(seed=5)
    saved.rng.random(3)
    saved.dropped = 17
    replay_file.save_replay(tmp_path / "replay", saved, FACTS)
    loaded = make_replay()
    replay_file.load_replay(tmp_path / "replay", loaded, FACTS)
    assert (len(loaded), loaded.dropped) == (0, 17)
    assert loaded.rng.random() == saved.rng.random()


def test_smaller_capacity_keeps_the_newest(tmp_path: pathlib.Path) -> None:
    """A store of a smaller capacity takes the newest rollouts that fit."""
    saved = fill(make_replay())
    replay_file.save_replay(tmp_path / "replay", saved, FACTS)
    loaded = RolloutReplayBuffer(20, BOX, BOX_ACTION)
    loaded.policy_version = 10**6
    replay_file.load_replay(tmp_path / "replay", loaded, FACTS)
    assert [s.size for s in loaded.segments] == [s.size for s in saved.segments][-2:] == [3, 15]
    assert_same(loaded.gather("rewards", np.arange(18)), saved.gather("rewards", np.arange(len(saved) - 18, len(saved))))
    assert_same(loaded.gather("draws", np.arange(18)), saved.gather("draws", np.arange(len(saved) - 18, len(saved))))


# -------------------------------------------------------------------- paths


@pytest.mark.parametrize("as_type", [str, pathlib.Path])
@pytest.mark.parametrize(
    ("given", "written"), [("r", "r.pkl"), ("r.pkl", "r.pkl"), ("r.bin", "r.bin"), ("new/folder/r", "new/folder/r.pkl")]
)
def test_paths(tmp_path: pathlib.Path, as_type: type, given: str, written: str) -> None:
    """A suffix is appended where there is none, folders are made, and the given path finds the file again."""
    saved = fill(make_replay())
    replay_file.save_replay(as_type(tmp_path / given), saved, FACTS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / written]
    for path in (as_type(tmp_path / given), as_type(tmp_path / written)):
        loaded = make_replay()
        replay_file.load_replay(path, loaded, FACTS)
        assert_same(contents(loaded), contents(saved))


def test_file_object(tmp_path: pathlib.Path) -> None:
    """An open binary file is used as it is, from where it stands, and left open."""
    saved = fill(make_replay())
    memory = io.BytesIO()
    replay_file.save_replay(memory, saved, FACTS)  # type: ignore[arg-type]  # as SB3, which takes it too
    memory.seek(0)
    loaded = make_replay()
    replay_file.load_replay(memory, loaded, FACTS)  # type: ignore[arg-type]  # as above
    assert_same(contents(loaded), contents(saved))
    assert not memory.closed
    with (tmp_path / "replay").open("w+b") as file:
        replay_file.save_replay(file, saved, FACTS)
        file.seek(0)
        loaded = make_replay()
        replay_file.load_replay(file, loaded, FACTS)
        assert not file.closed
    assert_same(contents(loaded), contents(saved))


def test_folder_in_the_way(tmp_path: pathlib.Path) -> None:
    """As in SB3, a path that is a folder gets _2, with a warning."""
    (tmp_path / "replay.pkl").mkdir()
    with pytest.warns(UserWarning, match=r"is a folder\. Will save instead to .*replay\.pkl_2"):
        replay_file.save_replay(tmp_path / "replay.pkl", make_replay(), FACTS)
    assert (tmp_path / "replay.pkl_2").is_file()


def test_file_mode(tmp_path: pathlib.Path) -> None:
    """The file is as readable as any other that the process writes."""
    replay_file.save_replay(tmp_path / "replay.pkl", make_replay(), FACTS)
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()], ids=["disk full", "interrupt"])
@pytest.mark.parametrize("is_there", [True, False])
def test_atomic(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, is_there: bool) -> None:
    """A write that fails half-way leaves the old file, or none, and nothing beside it."""
    path = tmp_path / "replay.pkl"
    if is_there:
        replay_file.save_replay(path, fill(make_replay()), FACTS)
    before = {entry: entry.read_bytes() for entry in tmp_path.iterdir()}

    def fail(file: Any, **arrays: np.ndarray) -> None:
        file.write(b"PK" + bytes(10_000))
        file.flush()
        raise error

    monkeypatch.setattr(replay_file.np, "savez", fail)
    with pytest.raises(type(error)):
        replay_file.save_replay(path, make_replay(), FACTS)
    assert {entry: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    monkeypatch.undo()
    replay_file.save_replay(path, make_replay(), FACTS)
    assert list(tmp_path.iterdir()) == [path]


def test_old_file_stays_until_the_new_one_is_whole(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment before the exchange, the path still holds the old file, and the new one is complete."""
    path = tmp_path / "replay.pkl"
    replay_file.save_replay(path, make_replay(), FACTS)
    old = path.read_bytes()
    seen: list[tuple[bytes, bytes]] = []
    replace = os.replace

    def spy(source: Any, target: Any) -> None:
        seen.append((pathlib.Path(target).read_bytes(), pathlib.Path(source).read_bytes()))
        replace(source, target)

    monkeypatch.setattr(replay_file.os, "replace", spy)
    replay_file.save_replay(path, fill(make_replay()), FACTS)
    assert seen == [(old, path.read_bytes())]
    assert old != path.read_bytes()


# -------------------------------------------------------------------- what is refused


def make_model(**kwargs: Any) -> GIPO:
    """A model with an empty replay for the identifiable data, far ahead of its versions."""

    class Identifiable(Counting):
        """Only its spaces are used."""

        def __init__(self) -> None:
            super().__init__(0, "vector", kwargs.pop("action_space", BOX_ACTION))
            self.observation_space = kwargs.pop("observation_space", BOX)

    env = DummyVecEnv([Identifiable])
    arguments = {"n_steps": 20, "batch_size": 20, "replay_capacity": CAPACITY, "seed": 0, "policy_kwargs": {"net_arch": [2]}}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    model = GIPO(policy, env, device="cpu", **{**arguments, **kwargs})
    model.policy_version = 10**6
    if model.replay_buffer is not None:
        model.replay_buffer.policy_version = model.policy_version
    return model


@pytest.fixture(scope="module")
def model() -> GIPO:
    """A model with a replay of its own, which no file of these tests may change."""
    model = make_model()
    assert model.replay_buffer is not None
    model.replay_buffer.add(make_rollout(900, 10, 3))
    list(model.replay_buffer.sample(2, 9))
    return model


@pytest.fixture(scope="module")
def saved() -> bytes:
    """A sound file for that model."""
    file = io.BytesIO()
    replay_file.save_replay(file, fill(make_replay()), FACTS)  # type: ignore[arg-type]  # as SB3, which takes it too
    return file.getvalue()


@pytest.fixture
def path(tmp_path: pathlib.Path, saved: bytes) -> pathlib.Path:
    """That file, to be damaged."""
    path = tmp_path / "some_replay.pkl"
    path.write_bytes(saved)
    return path


@contextlib.contextmanager
def replay_kept(model: GIPO) -> Iterator[None]:
    """Assert that the model keeps its replay, the same object with the same contents."""
    replay = model.replay_buffer
    assert replay is not None
    before = contents(replay)
    try:
        yield
        assert model.replay_buffer is replay
        assert_same(contents(replay), before)
    finally:
        model.replay_buffer = replay


def assert_refused(model: GIPO, path: pathlib.Path, message: str = "is not a whole replay of sb3-gipo") -> None:
    """Assert a ValueError that names the file and the problem, and that the model keeps its replay."""
    with replay_kept(model), pytest.raises(ValueError, match=message) as error:
        model.load_replay_buffer(path)
    assert str(path) in str(error.value)


def test_the_sound_file_is_loaded(model: GIPO, path: pathlib.Path) -> None:
    """The file that the tests below damage is loaded as it is, in place of the present replay."""
    mine = model.replay_buffer
    try:
        model.load_replay_buffer(path)
        assert model.replay_buffer is not None
        assert model.replay_buffer is not mine
        assert_same(contents(model.replay_buffer), contents(fill(make_replay())))
        assert model.replay_buffer.policy_version == model.policy_version
    finally:
        model.replay_buffer = mine


@pytest.mark.parametrize("truncate_last_traj", [True, False])
def test_truncate_last_traj_changes_nothing(model: GIPO, path: pathlib.Path, truncate_last_traj: bool) -> None:
    """RL Zoo's argument is taken and changes nothing."""
    mine = model.replay_buffer
    try:
        model.load_replay_buffer(path, truncate_last_traj=truncate_last_traj)
        assert model.replay_buffer is not None
        assert_same(contents(model.replay_buffer), contents(fill(make_replay())))
    finally:
        model.replay_buffer = mine


@pytest.mark.parametrize("name", ["missing", "missing.pkl", "no/folder/missing"])
def test_missing_file(model: GIPO, tmp_path: pathlib.Path, name: str) -> None:
    """A file that is not there is a FileNotFoundError that names it."""
    with replay_kept(model), pytest.raises(FileNotFoundError, match="missing"):
        model.load_replay_buffer(tmp_path / name)


def test_truncated_file(model: GIPO, path: pathlib.Path, saved: bytes) -> None:
    """A file cut off anywhere is refused."""
    lengths = {0, 1, 3, 4, 10, 30, *range(100, len(saved), len(saved) // 60), *range(len(saved) - 120, len(saved), 7)}
    for length in sorted(lengths | {len(saved) - 1}):
        path.write_bytes(saved[:length])
        assert_refused(model, path)


def flip_sites(saved: bytes) -> list[int]:
    """Bytes to flip: every one of the index at the end of the file, of the headers, and a thousandth of the rest."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        index = range(archive.start_dir, len(saved))
        infos = archive.infolist()
    headers = [at for info in infos[1:14] for at in range(info.header_offset, info.header_offset + 180)]
    chosen = {*rng.choice(index, 700, replace=False), *rng.choice(headers, 700, replace=False)}
    return sorted(chosen | {*rng.choice(len(saved), 500, replace=False)})


def test_flipped_byte(model: GIPO, path: pathlib.Path, saved: bytes) -> None:
    """A file with one wrong byte is refused, or that byte means nothing and the replay is the one that was saved."""
    rng = np.random.default_rng(1)
    sound = contents(fill(make_replay()))
    refused = harmless = 0
    for site in flip_sites(saved):
        damaged = bytearray(saved)
        damaged[site] ^= int(rng.choice([1, 2, 4, 6, 8, 0x10, 0x20, 0x40, 0x80, 0xFF, rng.integers(1, 256)]))
        path.write_bytes(damaged)
        what = f"byte {site} ^ {saved[site] ^ damaged[site]}"
        problem, replay = outcome(model, path)
        if replay is None:
            assert type(problem) is ValueError, f"{what}: {problem!r}"
            assert str(path) in str(problem), what
            refused += 1
        else:
            assert_same(contents(replay), sound, what)
            harmless += 1
    assert refused > harmless > 0


def outcome(model: GIPO, path: pathlib.Path) -> tuple[Exception | None, RolloutReplayBuffer | None]:
    """What loading a file gives: an error, after which the model has its replay as before, or another replay."""
    mine = model.replay_buffer
    assert mine is not None
    before = contents(mine)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.load_replay_buffer(path)
        return None, model.replay_buffer
    except Exception as error:
        assert model.replay_buffer is mine
        assert_same(contents(mine), before)
        return error, None
    finally:
        model.replay_buffer = mine


def test_encrypted_member(model: GIPO, path: pathlib.Path, saved: bytes) -> None:
    """A file whose first member says it is encrypted (one bit) is refused."""
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        start = archive.start_dir
    damaged = bytearray(saved)
    damaged[start + 8] ^= 1
    path.write_bytes(damaged)
    assert_refused(model, path)


@pytest.mark.parametrize("method", [8, 12, 14, 93, 99])
def test_other_compression(model: GIPO, path: pathlib.Path, saved: bytes, method: int) -> None:
    """A file whose first member says it is compressed in another way (one byte) is refused."""
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        start = archive.start_dir
    damaged = bytearray(saved)
    damaged[start + 10] = method
    path.write_bytes(damaged)
    assert_refused(model, path)


NARROWER = {b"<f4": b"<f2", b"<i4": b"<i2", b"<u2": b"<u1"}


@pytest.mark.parametrize("name", ["rewards", "log_probs", "policy_version", "draws", "dimension_log_probs", "values"])
def test_narrower_type_in_a_large_file(tmp_path: pathlib.Path, name: str) -> None:
    """One wrong byte that halves the item size of a large array, whose checksum is then never reached, is refused."""
    model = make_model(replay_capacity=8000, ratio_level="dimension", target="stored")
    large = RolloutReplayBuffer(8000, BOX, BOX_ACTION, n_dimensions=2, with_stored_targets=True)
    large.policy_version = 10**6
    large.add(make_rollout(0, 2000, 4, dimensions=True, stored_targets=True))
    path = tmp_path / "large.pkl"
    replay_file.save_replay(path, large, FACTS)
    saved = path.read_bytes()
    header = saved.index(f"0/{name}.npy".encode())
    dtype = next(at for at in (saved.find(wide, header, header + 200) for wide in NARROWER) if at > 0)
    wide = saved[dtype : dtype + 3]
    path.write_bytes(saved[:dtype] + NARROWER[wide] + saved[dtype + 3 :])
    model.replay_buffer = make_replay()
    assert_refused(model, path, "large")


def compressed(saved: bytes, method: int) -> bytes:
    """The same file with compressed members."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved)) as old, zipfile.ZipFile(file, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return file.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["zip", "bzip2", "lzma"])
def test_damaged_compression(model: GIPO, path: pathlib.Path, saved: bytes, method: int) -> None:
    """A file that someone compressed is read as it is, and refused when its compressed data are damaged."""
    whole = compressed(saved, method)
    path.write_bytes(whole)
    problem, replay = outcome(model, path)
    assert problem is None
    assert replay is not None
    assert_same(contents(replay), contents(fill(make_replay())))
    for site in range(60, 140, 2):
        path.write_bytes(whole[:site] + bytes([whole[site] ^ 0xFF]) + whole[site + 1 :])
        problem, replay = outcome(model, path)
        assert type(problem) is ValueError, repr(problem)
        assert replay is None


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pathlib.Path.touch, (self.path,)  # type: ignore[return-value]  # any argument will do


def test_pickle_is_not_executed(model: GIPO, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A pickle, which is what SB3's off-policy algorithms save under that name, is refused and not executed."""
    trace = tmp_path / "executed"
    path.write_bytes(pickle.dumps(Bomb(trace)))
    assert_refused(model, path, "pickle of another algorithm, which is not opened")
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize("name", ["metadata", "0/rewards", "0/observations.0"])
def test_object_arrays_are_not_executed(model: GIPO, path: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    """Arrays of objects inside the archive are pickles too: refused and not executed."""
    trace = tmp_path / "executed"
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays[name] = np.array([Bomb(trace)], dtype=object)
    with path.open("wb") as file:
        np.savez(file, **arrays)
    assert_refused(model, path)
    assert not trace.exists()


def zip_of(members: dict[str, bytes]) -> bytes:
    """A zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


HUGE = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little")
HUGE += b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000000,), }".ljust(117) + b"\n"

FOREIGN = {
    "nothing": b"",
    "text": b"hello\n" * 100,
    "zeros": bytes(1000),
    "empty zip": zip_of({}),
    "other zip": zip_of({"data": b"{}", "policy.pth": b"123"}),
    "single array": npy(np.zeros(3)),
    "metadata is not an array": zip_of({"metadata.npy": b"{}"}),
    "metadata without suffix": zip_of({"metadata": b"{}"}),
    "metadata is no JSON": zip_of({"metadata.npy": npy(np.frombuffer(b"{]", np.uint8))}),
    "metadata is no text": zip_of({"metadata.npy": npy(np.full(9, 255, np.uint8))}),
    "metadata is a number": zip_of({"metadata.npy": npy(np.array(3.0))}),
    "metadata is a list": zip_of({"metadata.npy": npy(np.frombuffer(b"[1, 2]", np.uint8))}),
    "metadata is deep": zip_of({"metadata.npy": npy(np.frombuffer(b"[" * 100_000, np.uint8))}),
    "metadata is huge": zip_of({"metadata.npy": HUGE}),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_file(model: GIPO, path: pathlib.Path, content: bytes) -> None:
    """A file of another kind is refused as such."""
    path.write_bytes(content)
    assert_refused(model, path)


def test_model_file(model: GIPO, tmp_path: pathlib.Path) -> None:
    """The file of a model, which is a zip too, is refused."""
    model.save(tmp_path / "model.zip")
    assert_refused(model, tmp_path / "model.zip")


def test_refusal_of_an_open_file(model: GIPO) -> None:
    """An open file has no name: the message says "the file"."""
    with replay_kept(model), pytest.raises(ValueError, match="the file is not a whole replay"):
        model.load_replay_buffer(io.BytesIO(b"no"))  # type: ignore[arg-type]  # as SB3, which takes it too


# -------------------------------------------------------------------- metadata

BAD = "is not a whole replay of sb3-gipo|does not fit this model"
DELETED = object()


def put(*keys: Any) -> Callable[..., Any]:
    """Change one entry of the metadata: the keys on the way to it, then its new value."""
    *way, last, value = keys

    def change(arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
        for key in way:
            metadata = metadata[key]
        if value is DELETED:
            del metadata[last]
        else:
            metadata[last] = value

    return change


WRONG_METADATA: dict[str, tuple[Callable[..., Any], str]] = {
    "other format": (put("format", "sb3-replay"), "its format is 'sb3-replay'"),
    "newer version": (put("format_version", 2), "it has format version 2, this sb3-gipo reads version 1"),
    "older version": (put("format_version", 0), "it has format version 0"),
    "other observation shape": (put("observation_space", "shape", [4]), "its observation space is .*the model's is"),
    "other observation type": (put("observation_space", "dtype", "uint8"), "its observation space is"),
    "other kind of space": (put("action_space", "type", "Discrete"), "its action space is"),
    "other dimensions": (put("n_dimensions", 2), "its n dimensions is 2, the model's is None"),
    "stored targets": (put("with_stored_targets", True), "its with stored targets is True, the model's is False"),
    "squashed": (put("facts", "squashed_actions", True), "its squashed actions is True, the model's is False"),
    "normalised": (put("facts", "raw_observations", False), "its raw observations is False, the model's is True"),
    "fact missing": (put("facts", "raw_observations", DELETED), "its raw observations is None"),
    "later policy": (put("policy_version", 10**6 + 1), "saved at policy version 1000001, the model is at 1000000"),
    **{
        f"no {name}": (put(name, DELETED), BAD)
        for name in ("format", "format_version", "observation_space", "action_space", "n_dimensions", "with_stored_targets")
        if name != "n_dimensions"  # absent and null are the same
    },
    **{f"no {name}": (put(name, DELETED), BAD) for name in ("facts", "policy_version", "dropped", "generator", "segments")},
    "version is text": (put("policy_version", "3"), BAD),
    "version is null": (put("policy_version", None), BAD),
    "facts are a list": (put("facts", []), BAD),
    "facts are null": (put("facts", None), BAD),
    "dropped is negative": (put("dropped", -1), BAD),
    "dropped is text": (put("dropped", "many"), BAD),
    "dropped is infinite": (put("dropped", float("inf")), BAD),
    "dropped is NaN": (put("dropped", float("nan")), BAD),
    "generator is null": (put("generator", None), BAD),
    "generator is another": (put("generator", "bit_generator", "MT19937"), BAD),
    "generator without state": (put("generator", "state", DELETED), BAD),
    "generator state is negative": (put("generator", "state", "state", -1), BAD),
    "generator state is too large": (put("generator", "state", "state", 2**200), BAD),
    "generator state is text": (put("generator", "state", "inc", "x"), BAD),
    "segments are a number": (put("segments", 3), BAD),
    "segments are numbers": (put("segments", [1, 2, 3, 4, 5]), BAD),
    "a segment without arrays": (lambda _, m: m["segments"].append({"collected_at": 0.0, "actor_id": 0}), BAD),
    "actor is text": (put("segments", 0, "actor_id", "me"), BAD),
    "actor is missing": (put("segments", 0, "actor_id", DELETED), BAD),
    "actor is infinite": (put("segments", 0, "actor_id", float("inf")), BAD),
    "time is a list": (put("segments", 0, "collected_at", []), BAD),
    "time is not finite": (put("segments", 0, "collected_at", float("nan")), BAD),
    "time is too large": (put("segments", 0, "collected_at", 10**400), BAD),
}


@pytest.mark.parametrize(("change", "message"), WRONG_METADATA.values(), ids=WRONG_METADATA.keys())
def test_wrong_metadata(model: GIPO, path: pathlib.Path, change: Callable[..., Any], message: str) -> None:
    """Metadata that do not fit, or make no sense, are refused with what is wrong."""
    rewritten(path, change)
    assert_refused(model, path, message)


def replaced(name: str, function: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
    """Replace one array of the file."""

    def change(arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
        arrays[name] = function(arrays[name].copy())

    return change


def with_value(*index_and_value: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Put a value at an index."""
    *index, value = index_and_value

    def change(array: np.ndarray) -> np.ndarray:
        array[tuple(index)] = value
        return array

    return change


def removed(name: str) -> Callable[..., Any]:
    """Remove one array of the file."""

    def change(arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
        del arrays[name]

    return change


PLAIN = ("actions", "rewards", "terminated", "truncated", "log_probs", "policy_version", "draws")
OBSERVED = ("observations.0", "last_observations.0", "terminal_observations.0")

WRONG_ARRAYS: dict[str, Callable[..., Any]] = {
    **{f"no {name}": removed(f"1/{name}") for name in (*PLAIN, *OBSERVED)},
    **{f"{name} cut": replaced(f"1/{name}", lambda a: a[:-1]) for name in (*PLAIN, *OBSERVED)},
    **{f"{name} with one dimension more": replaced(f"1/{name}", lambda a: a[..., None]) for name in PLAIN},
    **{f"{name} in double precision": replaced(f"1/{name}", lambda a: a.astype(np.float64)) for name in (*PLAIN, *OBSERVED)},
    **{f"{name} as text": replaced(f"1/{name}", lambda a: a.astype(str)) for name in PLAIN},
    "NaN reward": replaced("1/rewards", with_value(0, 0, np.nan)),
    "NaN log-probability": replaced("1/log_probs", with_value(1, 1, np.nan)),
    "infinite observation": replaced("1/observations.0", with_value(0, 0, 0, np.inf)),
    "NaN last observation": replaced("1/last_observations.0", with_value(0, 0, np.nan)),
    "NaN terminal observation": replaced("1/terminal_observations.0", with_value(0, 0, np.nan)),
    "reward beyond float32": replaced("1/rewards", lambda a: a.astype(np.float64) + 1e300),
    "complex rewards": replaced("1/rewards", lambda a: a + 1j),
    "both flags": replaced("1/terminated", np.ones_like),
    "both flags in disguise": replaced("1/terminated", lambda a: np.full(a.shape, 2, np.uint8)),
    "negative draws": replaced("1/draws", lambda a: a.astype(np.int64) - 1),
    "future version": replaced("1/policy_version", with_value(0, 0, 10**6 + 1)),
    "negative version": replaced("1/policy_version", with_value(0, 0, -1)),
    "rewards are a number": replaced("1/rewards", lambda a: np.float32(1)),
    "no steps": replaced("1/rewards", lambda a: a[:0]),
}


@pytest.mark.parametrize("change", WRONG_ARRAYS.values(), ids=WRONG_ARRAYS.keys())
def test_wrong_arrays(model: GIPO, path: pathlib.Path, change: Callable[..., Any]) -> None:
    """Arrays that are missing, of another shape or type, or hold impossible numbers are refused."""
    rewritten(path, change)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_refused(model, path, BAD)


@pytest.mark.parametrize(
    ("space", "wrong"),
    [(spaces.Discrete(5), 5), (spaces.MultiDiscrete([3, 7]), 4), (spaces.MultiBinary(2), 2)],
    ids=["discrete", "multi_discrete", "multi_binary"],
)
def test_impossible_action(tmp_path: pathlib.Path, space: spaces.Space[Any], wrong: int) -> None:
    """An action that is not in the action space is refused."""
    replay = make_replay(action_space=space)
    rollout = make_rollout(0, 5, 2, BOX, space)
    replay.add(rollout)
    replay_file.save_replay(tmp_path / "replay.pkl", replay, FACTS)
    rewritten(tmp_path / "replay.pkl", replaced("0/actions", lambda a: np.full_like(a, wrong)))
    model = make_model(action_space=space)
    assert_refused(model, tmp_path / "replay.pkl", BAD)


def test_rollout_larger_than_the_capacity(path: pathlib.Path) -> None:
    """A rollout in the file that is larger than the model's capacity is refused with both numbers."""
    model = make_model(n_steps=10, batch_size=10, replay_capacity=14)
    assert_refused(model, path, "a rollout in it has 18 transitions, the model's `replay_capacity` is 14")


OTHER_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "wider observations": ({"observation_space": spaces.Box(-1, 1, (4,), np.float32)}, "its observation space is"),
    "integer observations": ({"observation_space": spaces.Box(0, 9, (3,), np.int64)}, "its observation space is"),
    "Dict observations": ({"observation_space": spaces.Dict({"a": BOX})}, "its observation space is"),
    "Discrete actions": ({"action_space": spaces.Discrete(2)}, "its action space is"),
    "wider actions": ({"action_space": spaces.Box(-1, 1, (3,), np.float32)}, "its action space is"),
    "dimensions": ({"ratio_level": "dimension"}, "its n dimensions is None, the model's is 2"),
    "stored targets": ({"target": "stored"}, "its with stored targets is False, the model's is True"),
    "squashed": ({"use_sde": True, "policy_kwargs": {"squash_output": True}}, "its squashed actions is False"),
}


@pytest.mark.parametrize(("kwargs", "message"), OTHER_MODELS.values(), ids=OTHER_MODELS.keys())
def test_other_model(path: pathlib.Path, kwargs: dict[str, Any], message: str) -> None:
    """The replay of a model with other spaces or settings is refused with both."""
    assert_refused(make_model(**kwargs), path, rf"does not fit this model: {message}")


@pytest.mark.parametrize("n", [4, 6])
def test_other_number_of_choices(tmp_path: pathlib.Path, n: int) -> None:
    """Discrete actions with another number of choices are another space."""
    replay = make_replay(action_space=spaces.Discrete(5))
    replay_file.save_replay(tmp_path / "replay.pkl", replay, FACTS)
    assert_refused(make_model(action_space=spaces.Discrete(n)), tmp_path / "replay.pkl", "its action space is")


def test_untrained_model(path: pathlib.Path) -> None:
    """A replay of a trained model is refused by a fresh one: its versions would lie in the future."""
    model = make_model()
    model.policy_version = 0
    assert_refused(model, path, "saved at policy version 1000000, the model is at 0")


# -------------------------------------------------------------------- through the model


def test_model_round_trip(tmp_path: pathlib.Path) -> None:
    """A model saves what it collected, and another of the same settings takes it up and draws on."""
    model = make_model(observation_space=spaces.Box(-1000.0, 1000.0, (3,), np.float32))
    model.policy_version = 0
    model.learn(80)
    assert model.replay_buffer is not None
    model.save_replay_buffer(tmp_path / "replay")
    model.save(tmp_path / "model")
    other = GIPO.load(tmp_path / "model", model.env)
    other.load_replay_buffer(tmp_path / "replay")
    assert other.replay_buffer is not None
    assert_same(contents(other.replay_buffer), contents(model.replay_buffer))
    assert np.array_equal(list(other.replay_buffer.sample(3, 9)), list(model.replay_buffer.sample(3, 9)))
    assert other.replay_buffer.policy_version == model.policy_version == 4
    other.learn(20, reset_num_timesteps=False)
    assert other.replay_buffer.segments[-1].newest_version == 4


def test_on_policy_saves_nothing(tmp_path: pathlib.Path) -> None:
    """Without a replay, saving warns and writes nothing, and loading says what to do."""
    model = make_model(surrogate="ppo_clip", target="stored", replay_capacity=None)
    with pytest.warns(UserWarning, match=r"There is no replay to save \(`replay_capacity=None`\)"):
        model.save_replay_buffer(tmp_path / "replay")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="This model keeps no replay"):
        model.load_replay_buffer(tmp_path / "replay")
    assert model.replay_buffer is None


def test_key_names_stay_out_of_the_file_names(tmp_path: pathlib.Path) -> None:
    """The keys of a Dict observation may hold slashes, dots or anything: inside the file they are numbered."""
    replay = fill(make_replay(OBSERVATION_SPACES["dict"]))
    replay_file.save_replay(tmp_path / "replay.pkl", replay, FACTS)
    with zipfile.ZipFile(tmp_path / "replay.pkl") as archive:
        assert {"0/observations.0.npy", "0/observations.3.npy"} <= set(archive.namelist())
        assert all(name.isascii() and name.count("/") <= 1 and ".." not in name for name in archive.namelist())


def test_loaded_arrays_are_not_shared(tmp_path: pathlib.Path) -> None:
    """Two stores loaded from one file are independent."""
    replay_file.save_replay(tmp_path / "replay", fill(make_replay()), FACTS)
    one, other = make_replay(), make_replay()
    for replay in (one, other):
        replay_file.load_replay(tmp_path / "replay", replay, FACTS)
    before = contents(other)
    list(one.sample(3, 9))
    one.add(make_rollout(300, 20, 3))
    assert_same(contents(other), before)
    assert map_observation(np.size, other.segments[0].last_observations) > 0

"""Training goes on after save and load as if it had never stopped, bit for bit."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize

from sb3_gipo import GIPO
from tests.small_envs import POLICIES, SpaceEnv

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "n_epochs": 2, "seed": 5, "learning_rate": 1e-3}
ROLLOUT = 32


def make_env(observation: str = "box", action: str = "box") -> VecEnv:
    return DummyVecEnv([lambda index=index: SpaceEnv(observation, action, seed=index) for index in range(2)])


def save_and_load(model: GIPO, folder: Path) -> GIPO:
    model.save(folder / "model")
    model.save_replay_buffer(folder / "replay")
    env = model.get_env()
    np.random.seed(99)
    th.manual_seed(99)  # whatever happened in between leaves no trace
    loaded = GIPO.load(folder / "model", env=env, force_reset=False)
    if loaded.replay_buffer is not None:
        loaded.load_replay_buffer(folder / "replay")
    return loaded


def assert_same(ours: GIPO, theirs: GIPO) -> None:
    for (name, a), b in zip(ours.policy.state_dict().items(), theirs.policy.state_dict().values(), strict=True):
        assert th.equal(a, b), f"{name} differs by {(a - b).abs().max()}"
    assert (ours.policy_version, ours.num_timesteps, ours._n_updates) == (
        theirs.policy_version,
        theirs.num_timesteps,
        theirs._n_updates,
    )
    if ours.replay_buffer is not None:
        positions = np.arange(len(ours.replay_buffer))
        for name in ("actions", "rewards", "log_probs", "policy_version", "draws"):
            np.testing.assert_array_equal(
                ours.replay_buffer.gather(name, positions), theirs.replay_buffer.gather(name, positions)
            )


@pytest.mark.parametrize(
    ("wrap", "options"),
    [
        (None, {}),
        (None, {"replay_capacity": None}),
        (None, {"surrogate": "ppo_clip", "target": "stored", "replay_capacity": None}),
        (None, {"target": "stored", "ratio_level": "dimension"}),
        (None, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
        (None, {"policy_kwargs": {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}}}),
        (
            None,
            {
                "learning_rate": LinearSchedule(1e-2, 1e-4, 1.0),
                "sigma": "lin_0.5",
                "clip_range": LinearSchedule(0.3, 0.1, 1.0),
            },
        ),
        (VecNormalize, {}),
    ],
    ids=str,
)
def test_n_and_n_iterations_are_2n(wrap: Callable[[VecEnv], VecEnv] | None, options: dict[str, Any], tmp_path: Path) -> None:
    """Three iterations, save, load and three more give what six iterations give."""

    def make() -> VecEnv:
        return wrap(make_env()) if wrap else make_env()

    half = 3 * ROLLOUT
    whole = GIPO("MlpPolicy", make(), **{**SMALL, **options})
    whole.learn(half).learn(half, reset_num_timesteps=False)
    parted = GIPO("MlpPolicy", make(), **{**SMALL, **options}).learn(half)
    resumed = save_and_load(parted, tmp_path).learn(half, reset_num_timesteps=False)
    assert_same(resumed, whole)


@pytest.mark.parametrize("observation", ["dict", "image"])
def test_resume_for_other_observations(observation: str, tmp_path: Path) -> None:
    """The same with a Dict and with an image."""
    policy = POLICIES[observation]
    options = {**SMALL, "n_epochs": 1}
    whole = (
        GIPO(policy, make_env(observation, "multidiscrete"), **options)
        .learn(ROLLOUT)
        .learn(ROLLOUT, reset_num_timesteps=False)
    )
    parted = GIPO(policy, make_env(observation, "multidiscrete"), **options).learn(ROLLOUT)
    assert_same(save_and_load(parted, tmp_path).learn(ROLLOUT, reset_num_timesteps=False), whole)


def test_two_calls_of_learn_are_one() -> None:
    """With constant schedules, learning 2N steps at once or in two calls is the same."""
    once = GIPO("MlpPolicy", make_env(), **SMALL).learn(4 * ROLLOUT)
    twice = GIPO("MlpPolicy", make_env(), **SMALL).learn(2 * ROLLOUT).learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert_same(twice, once)


@pytest.mark.parametrize("how", ["from the model file", "from its own file"])
def test_resume_with_a_new_normalizer(how: str, tmp_path: Path) -> None:
    """
    A new VecNormalize goes on bit for bit, whether it is filled from the model file or loaded from its own, which lacks the
    discounted returns and the latest raw observation.
    """

    def make(env: VecEnv) -> VecNormalize:
        return VecNormalize(env, clip_obs=1.0)  # so tight that a normalised observation does not tell the raw one

    half = 3 * ROLLOUT
    whole = GIPO("MlpPolicy", make(make_env()), **SMALL).learn(half).learn(half, reset_num_timesteps=False)
    parted = GIPO("MlpPolicy", make(make_env()), **SMALL).learn(half)
    parted.save(tmp_path / "model")
    parted.save_replay_buffer(tmp_path / "replay")
    old = parted.get_vec_normalize_env()
    old.save(str(tmp_path / "normalizer.pkl"))
    new = make(old.venv) if how == "from the model file" else VecNormalize.load(str(tmp_path / "normalizer.pkl"), old.venv)
    resumed = GIPO.load(tmp_path / "model", env=new, force_reset=False)
    resumed.load_replay_buffer(tmp_path / "replay")
    resumed.learn(half, reset_num_timesteps=False)
    assert_same(resumed, whole)
    assert resumed.get_vec_normalize_env().ret_rms.var == whole.get_vec_normalize_env().ret_rms.var


def test_normalizer_in_use_is_left_alone(tmp_path: Path) -> None:
    """A VecNormalize that has statistics of its own keeps them, one without is given the model's, none at all is a warning."""
    model = GIPO("MlpPolicy", VecNormalize(make_env()), **SMALL).learn(ROLLOUT)
    model.save(tmp_path / "model")
    saved = model.get_vec_normalize_env()
    fresh = VecNormalize(make_env())
    GIPO.load(tmp_path / "model", env=fresh)
    np.testing.assert_array_equal(fresh.obs_rms.mean, saved.obs_rms.mean)
    saved.save(str(tmp_path / "normalizer.pkl"))
    own = VecNormalize.load(str(tmp_path / "normalizer.pkl"), make_env())
    own.obs_rms.mean += 1.0
    GIPO.load(tmp_path / "model", env=own)
    np.testing.assert_array_equal(own.obs_rms.mean, saved.obs_rms.mean + 1.0)
    with pytest.warns(UserWarning, match="trained with VecNormalize"):
        GIPO.load(tmp_path / "model", env=make_env())


def test_environment_given_after_loading(tmp_path: Path) -> None:
    """``load`` without an environment and ``set_env`` afterwards take up training as ``load`` with one does."""
    half = 2 * ROLLOUT
    whole = GIPO("MlpPolicy", VecNormalize(make_env()), **SMALL).learn(half).learn(half, reset_num_timesteps=False)
    parted = GIPO("MlpPolicy", VecNormalize(make_env()), **SMALL).learn(half)
    parted.save(tmp_path / "model")
    parted.save_replay_buffer(tmp_path / "replay")
    np.random.seed(99)
    th.manual_seed(99)
    loaded = GIPO.load(tmp_path / "model")
    loaded.set_env(parted.get_env(), force_reset=False)
    loaded.load_replay_buffer(tmp_path / "replay")
    assert_same(loaded.learn(half, reset_num_timesteps=False), whole)


def test_loading_to_predict_leaves_the_generators_alone(tmp_path: Path) -> None:
    """Without an environment the global generators are not touched; with one and a new seed they follow the seed."""
    model = GIPO("MlpPolicy", make_env(), **{**SMALL, "seed": None}).learn(ROLLOUT)
    model.save(tmp_path / "model")
    np.random.seed(7)
    expected = np.random.get_state()[1].copy()
    GIPO.load(tmp_path / "model")
    np.testing.assert_array_equal(np.random.get_state()[1], expected)
    first = GIPO.load(tmp_path / "model", env=make_env(), seed=11).learn(ROLLOUT)
    second = GIPO.load(tmp_path / "model", env=make_env(), seed=11).learn(ROLLOUT)
    assert_same(first, second)


def test_own_arguments_and_optimizer_survive(tmp_path: Path) -> None:
    """GIPO's arguments, the policy version and the optimizer's moments come back; the replay has its own file."""
    options = {"surrogate": "sapo", "surrogate_kwargs": {"tau_neg": 2.0}, "sigma": 0.7, "sigma_neg": 0.2, "kernel": "cauchy"}
    options.update({"ratio_level": "dimension", "replay_capacity": 96, "gradient_steps": 3, "target": "gae", "kl_coef": 0.05})
    options.update({"vtrace_rho_bar": 2.0, "vtrace_c_bar": 1.5, "chain_rollouts": True, "max_policy_lag": 7})
    options.update({"old_threshold": 2})
    model = GIPO("MlpPolicy", make_env(), **SMALL, **options).learn(2 * ROLLOUT)
    model.save(tmp_path / "model")
    loaded = GIPO.load(tmp_path / "model", env=make_env())
    for name, value in options.items():
        kept = getattr(loaded, name)
        assert (kept(1.0) if callable(kept) else kept) == value, name
    assert loaded.policy_version == 2
    assert loaded.replay_buffer.capacity == 96
    assert len(loaded.replay_buffer) == 0
    ours, theirs = loaded.policy.optimizer.state_dict()["state"], model.policy.optimizer.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    assert all(th.equal(ours[key]["exp_avg"], theirs[key]["exp_avg"]) for key in theirs)


def test_saving_with_environments_in_other_processes(tmp_path: Path) -> None:
    """Nothing saved refers to the environments: models over SubprocVecEnv save and load."""
    env = SubprocVecEnv([SpaceEnv, SpaceEnv])
    try:
        model = GIPO("MlpPolicy", env, **SMALL).learn(ROLLOUT)
        model.save(tmp_path / "model")
        assert GIPO.load(tmp_path / "model").env is None
    finally:
        env.close()


def test_a_kill_while_saving_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model file is replaced in one step: when writing fails half-way the old one is whole and nothing else is left."""
    model = GIPO("MlpPolicy", make_env(), **SMALL).learn(ROLLOUT)
    model.save(tmp_path / "model")
    old = (tmp_path / "model.zip").read_bytes()
    monkeypatch.setattr(th, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_links_modes_and_leftovers(tmp_path: Path) -> None:
    """Saving follows a link, keeps the mode of the file it replaces, and clears what killed writers left long ago."""
    model = GIPO("MlpPolicy", make_env(), **SMALL).learn(ROLLOUT)
    model.save(tmp_path / "real.zip")
    (tmp_path / "real.zip").chmod(0o640)
    (tmp_path / "latest.zip").symlink_to("real.zip")
    leftover = tmp_path / ".real.zip.abc.tmp"
    leftover.write_bytes(b"half a model")
    os.utime(leftover, (0, 0))
    model.save(tmp_path / "latest.zip")
    assert (tmp_path / "latest.zip").is_symlink()
    assert (tmp_path / "real.zip").stat().st_mode & 0o777 == 0o640
    assert not leftover.exists()
    assert pickle.dumps(model.replay_buffer.segments)  # and after `learn` nothing of the callbacks is kept
    assert model._recorder is None

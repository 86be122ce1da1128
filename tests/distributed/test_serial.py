"""The serial twin is GIPO, to the last bit; what a run of actors keeps and tells is looked at here."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_gipo import GIPO
from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.distributed.serial import SerialBackend
from sb3_gipo.distributed.stub import AbsentVecEnv
from tests.small_envs import SpaceEnv

SMALL: dict[str, Any] = {
    "n_steps": 32,
    "batch_size": 32,
    "gradient_steps": 4,
    "replay_capacity": 256,
    "learning_rate": 1e-3,
    "seed": 3,
    "device": "cpu",
}


def serial(env: Any = "CartPole-v1", **kwargs: Any) -> AsyncGIPO:
    return AsyncGIPO("MlpPolicy", env, **{**SMALL, "num_actors": 1, "backend": "serial", **kwargs})


def same(one: GIPO, other: GIPO) -> bool:
    pairs = zip(one.policy.state_dict().values(), other.policy.state_dict().values(), strict=True)
    return all(th.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
        ("Pendulum-v1", {"use_sde": True, "sde_sample_freq": 8}),
        ("Pendulum-v1", {"ratio_level": "dimension"}),
        ("CartPole-v1", {"target": "stored"}),
    ],
)
def test_without_lag_it_is_gipo(env_id: str, kwargs: dict[str, Any], normalize: bool) -> None:
    """Same parameters, statistics and episodes after several updates."""
    env = make_vec_env(env_id, 2, seed=3)
    model = GIPO("MlpPolicy", VecNormalize(env) if normalize else env, **SMALL, **kwargs).learn(640)
    twin = serial(env_id, envs_per_actor=2, normalize=normalize or None, **kwargs).learn(640)
    assert same(model, twin)
    assert (model.num_timesteps, model.policy_version) == (twin.num_timesteps, twin.policy_version) == (640, 10)
    assert [e["r"] for e in model.ep_info_buffer] == [e["r"] for e in twin.ep_info_buffer]
    if normalize:
        ours, theirs = twin.get_vec_normalize_env(), model.get_vec_normalize_env()
        assert (ours.obs_rms.mean == theirs.obs_rms.mean).all()
        assert ours.ret_rms.var == theirs.ret_rms.var


@pytest.mark.parametrize("lag", [1, 3])
def test_a_lag_is_acting_lag(lag: int) -> None:
    """So many published policies ago is so many versions ago."""
    env = make_vec_env("CartPole-v1", 1, seed=3)
    assert same(GIPO("MlpPolicy", env, acting_lag=lag, **SMALL).learn(320), serial(lag=lag).learn(320))


def test_actors_take_turns_and_see_different_episodes() -> None:
    """Each rollout knows its actor and the version that acted; published every second update, it is two rollouts old."""
    model = serial(num_actors=3, publish_every=2).learn(6 * 32)
    segments = model.replay_buffer.segments
    assert [segment.actor_id for segment in segments] == [0, 1, 2, 0, 1, 2]
    versions = [int(model.replay_buffer.gather("policy_version", np.array([32 * i]))[0]) for i in range(6)]
    assert versions == [0, 0, 2, 2, 4, 4]
    first = [model.replay_buffer.gather("observations", np.array([32 * i]))[0] for i in range(3)]
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1], first[2])


@pytest.mark.parametrize(("ratio", "updates"), [(None, 8), (2.0, 4), (8.0, 16), (4.0, 8)])
def test_replay_ratio_is_what_is_drawn_for_each_step(ratio: float | None, updates: int) -> None:
    """4 minibatches of 32 are 4 for each of 32 steps: half as many updates for a ratio of 2, twice as many for 8."""
    model = serial(replay_ratio=ratio, learning_rate=1e-5).learn(8 * 32)
    assert abs(model.policy_version - updates) <= 1  # the last one may fall beyond the end
    assert model.n_gradient_steps == 4 * model.policy_version


class Seen(BaseCallback):
    """What a callback is told."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.episodes = 0

    def _on_step(self) -> bool:
        self.steps.append(self.num_timesteps)
        self.episodes += sum("episode" in info for info in self.locals["infos"])
        return True


def test_callbacks_hear_of_every_step() -> None:
    """As of SB3's loop: steps, ends of episodes, and a callback that stops."""
    seen = Seen()
    model = serial(envs_per_actor=2).learn(256, callback=seen)
    assert seen.steps == list(range(2, 257, 2))
    assert seen.episodes == len(model.ep_info_buffer) > 0
    stopped = serial().learn(4096, callback=StopTrainingOnMaxEpisodes(3))
    assert len(stopped.ep_info_buffer) in (2, 3)
    assert stopped.num_timesteps < 4096


@pytest.mark.parametrize("pull", ["rollout", "step"])
def test_raw_observations_are_exact_whatever_normalises_them(pull: str) -> None:
    """Statistics change between two rollouts of an actor: each begins with the very observation the one before ended with."""
    model = serial("Pendulum-v1", normalize=True, num_actors=2, pull=pull, replay_capacity=10_000).learn(1280)
    ended: dict[int, np.ndarray] = {}
    compared = 0
    for segment in model.replay_buffer.segments:
        rollout = model.replay_buffer.segment_rollout(segment)[0]
        if rollout.actor_id in ended:
            np.testing.assert_array_equal(rollout.observations[0], ended[rollout.actor_id])
            compared += 1
        ended[rollout.actor_id] = rollout.last_observations
    assert compared > 20


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_actors": 0}, "`num_actors` is 0"),
        ({"replay_ratio": "max"}, "it would never end"),
        ({"backend": "foo"}, "`backend` is 'foo'"),
        ({"pull": "x"}, "`pull` is 'x'"),
        ({"lag": 2, "max_policy_lag": 0}, "everything would be too old"),
    ],
    ids=str,
)
def test_what_was_changed_meanwhile_is_checked_again(changed: dict[str, Any], message: str) -> None:
    """By the next `learn`, before anything is collected."""
    model = serial().learn(64)
    for name, value in changed.items():
        setattr(model, name, value)
    with pytest.raises(ValueError, match=message):
        model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 64


def test_without_environments_it_does_not_learn(tmp_path: Path) -> None:
    """And says what is missing."""
    serial().save(tmp_path / "model")
    with pytest.raises(ValueError, match="There are no environments"):
        AsyncGIPO.load(tmp_path / "model").learn(64)


def test_none_are_given() -> None:
    """Said at once, and in words."""
    with pytest.raises(ValueError, match="the id of one or a function that makes one"):
        serial(None)


def test_what_stands_for_them_is_not_reset() -> None:
    """Its zeros would be taken for observations; what actors have seen is all that the statistics know, also after `learn`."""
    model = serial(normalize=True).learn(64)
    known = model.get_vec_normalize_env().obs_rms.count
    with pytest.raises(RuntimeError, match="in its actors: there is none here to reset"):
        model.get_env().reset()
    model.learn(32, reset_num_timesteps=False)
    assert model.get_vec_normalize_env().obs_rms.count - known == 32


def test_actors_that_are_ended_meanwhile() -> None:
    """By a callback, say."""

    class Closes(BaseCallback):
        def _on_step(self) -> bool:
            self.model.close()
            return True

    model = serial()
    with pytest.raises(RuntimeError, match=r"`model.close\(\)`\) while `learn` needs them"):
        model.learn(64, callback=Closes())
    assert model.learn(64).num_timesteps == 64


class Talkative(gym.Wrapper):
    """Says more at the end of an episode than SB3 reads."""

    def __init__(self) -> None:
        super().__init__(gym.make("CartPole-v1"))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward, terminated, truncated, {"distance": np.float32(0.5), "image": np.zeros((64, 64))}


def test_callbacks_hear_of_what_environments_say() -> None:
    """At the end of an episode, of numbers and words; images do not travel."""
    heard: list[dict[str, Any]] = []

    def hear(known: dict[str, Any], _: dict[str, Any]) -> bool:
        heard.extend(info for info in known["infos"] if "episode" in info)
        return True

    serial(env=Talkative).learn(128, callback=hear)
    assert heard
    assert all(info["distance"] == 0.5 and "image" not in info for info in heard)


def test_saved_and_loaded_it_goes_on(tmp_path: Path) -> None:
    """With its numbers, its statistics, and actors of its own; without environments it predicts."""
    callback = CheckpointCallback(64, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    model = serial(normalize=True, num_actors=2).learn(192, callback=callback)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    looked_at = AsyncGIPO.load(tmp_path / "model")
    assert looked_at.predict(np.zeros(4, dtype=np.float32))[0] in (0, 1)
    loaded = AsyncGIPO.load(tmp_path / "model", env="CartPole-v1")
    loaded.load_replay_buffer(tmp_path / "replay")
    assert (loaded.num_actors, loaded.policy_version, len(loaded.replay_buffer)) == (2, 6, 192)
    assert loaded.get_vec_normalize_env().training  # saved as GIPO would: who goes on with it goes on to learn statistics
    assert (loaded.get_vec_normalize_env().obs_rms.mean == model.get_vec_normalize_env().obs_rms.mean).all()
    loaded.learn(64, reset_num_timesteps=False)
    assert (loaded.num_timesteps, loaded.policy_version) == (256, 8)
    assert sorted(path.suffix for path in tmp_path.glob("rl_model*")) == [".pkl"] * 6 + [".zip"] * 3


def test_it_is_evaluated_on_environments_of_its_own() -> None:
    """There is no step to be taken here, and that is said."""
    model = serial().learn(32)
    assert evaluate_policy(model, make_vec_env("CartPole-v1", 1), 2)[0] > 0
    with pytest.raises(RuntimeError, match=r"in its actors(?s:.*)evaluate_policy"):
        model.get_env().step(np.zeros(1))


@pytest.mark.parametrize("observation", ["box", "dict", "image"])
def test_every_kind_of_observation(observation: str) -> None:
    """Images turn channel-first on both sides."""
    policy = {"box": "MlpPolicy", "dict": "MultiInputPolicy", "image": "CnnPolicy"}[observation]
    settings = {**SMALL, "n_steps": 8, "batch_size": 8, "gradient_steps": 1}
    model = AsyncGIPO(policy, lambda: SpaceEnv(observation), num_actors=2, backend="serial", **settings)
    assert model.learn(32).policy_version == 4


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"num_actors": 0}, "num_actors"),
        ({"max_queue": 0}, "max_queue"),
        ({"publish_every": 1.5}, "publish_every"),
        ({"replay_ratio": 0}, "replay_ratio"),
        ({"replay_ratio": "max"}, "never end"),
        ({"pull": "episode"}, "pull"),
        ({"backend": "threads"}, "backend"),
        ({"backend": "ray", "lag": 2}, "serial"),
        ({"hang_seconds": 0}, "hang_seconds"),
        ({"acting_lag": 3}, "lag=3"),
        ({"replay_capacity": None, "gradient_steps": None, "target": "stored"}, "nothing would be kept"),
        ({"replay_capacity": None, "gradient_steps": None, "replay_ratio": 2.0}, "nothing would be kept"),
        ({"env": gym.make("CartPole-v1")}, "is an environment"),
        ({"env": 5}, "`env` is 5; it must be the id of an environment, or a function"),
        ({"rollout_length": 0, "n_steps": None}, "`rollout_length` is 0; it must be a whole number of at least 1"),
        ({"rollout_length": 32}, "`rollout_length` and `n_steps` are two names of one argument"),
        ({"normalize": "yes"}, "`normalize` is 'yes'; it must be True, False or a mapping"),
        ({"env_kwargs": 5}, "`env_kwargs` is 5; it must be a mapping"),
        ({"actor_resources": 5}, "`actor_resources` is 5; it must be a mapping"),
        ({"ray_address": 5}, "`ray_address` is 5; it must be"),
        ({"replay_ratio": "maximum"}, "Did you mean 'max'?"),
    ],
)
def test_bad_input(kwargs: dict[str, Any], said: str) -> None:
    """Is refused before anything is made."""
    with pytest.raises(ValueError, match=said):
        serial(**kwargs)


def test_environments_that_are_here() -> None:
    """Are refused, with what to give instead; what stands for them makes everything itself."""
    with pytest.raises(ValueError, match=r"`env` is a DummyVecEnv(?s:.*)an id or a function"):
        serial(make_vec_env("CartPole-v1", 2))
    here = make_vec_env("CartPole-v1", 2)
    absent = AbsentVecEnv(2, here.observation_space, here.action_space, lambda index, started: here)
    with pytest.raises(ValueError, match="do not go with an `AbsentVecEnv`"):
        serial(absent, normalize=True)
    model = serial(absent).learn(64)
    assert (model.envs_per_actor, model.num_timesteps) == (2, 64)


def drawn(model: AsyncGIPO) -> float:
    return model._pace.drawn / model._pace.taken


def test_a_run_ends_where_it_was_asked_to() -> None:
    """A ratio that is not reached makes no further steps, nor an update that is not due."""
    model = serial(replay_ratio=0.05).learn(256)
    assert (model.num_timesteps, model.policy_version) == (256, 0)
    model = serial(replay_ratio=16.0).learn(256)
    assert 12 <= drawn(model) <= 16


def test_another_ratio_counts_from_where_it_was_set() -> None:
    """Neither does it wait for what was drawn too much before, nor make up for what was drawn too little."""
    model = serial(replay_ratio=16.0).learn(256)
    model.replay_ratio = 1.0
    model.learn(256, reset_num_timesteps=False)
    assert model.num_timesteps == 512
    assert drawn(model) <= 1.0
    version = model.policy_version
    model.replay_ratio = 8.0
    model.learn(64, reset_num_timesteps=False)
    assert model.policy_version - version <= 64 * 8 / 128


def test_the_actors_wait_where_updates_are_owed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors that have always something finished do not run away from a ratio that the learner must keep up with."""
    drain = SerialBackend.drain
    monkeypatch.setattr(SerialBackend, "drain", lambda self, wait, at_most: drain(self, True, at_most) if at_most else [])
    assert 12 <= drawn(serial(replay_ratio=16.0, num_actors=3).learn(512)) <= 16


def test_too_old_is_waited_out() -> None:
    """Where everything that is stored is too old, no update is made until something younger arrives; the run goes on."""
    model = serial(max_policy_lag=2, replay_ratio=32.0).learn(640)
    assert model.num_timesteps == 640
    assert model.replay_buffer.dropped > 0
    seldom = serial(max_policy_lag=2, publish_every=50).learn(640)  # then a policy is published at once
    assert seldom.policy_version >= 15
    with pytest.raises(ValueError, match="everything would be too old"):
        serial(max_policy_lag=2, lag=3)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_is_kept_is_counted(error: type[BaseException]) -> None:
    """Also where a callback raises in the middle of a rollout."""

    class Raises(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == 40:
                raise error
            return True

    model = serial(num_actors=2)
    with pytest.raises(error):
        model.learn(640, callback=Raises())
    assert model.num_timesteps == model._pace.taken == len(model.replay_buffer) == 64


def test_environments_can_be_changed() -> None:
    """By an id; those that are here are refused, as in the constructor."""
    model = serial().learn(64)
    with pytest.raises(ValueError, match="an id or a function"):
        model.set_env(make_vec_env("CartPole-v1", 2))
    model.set_env(lambda: gym.make("CartPole-v1", sutton_barto_reward=True))
    model.learn(64, reset_num_timesteps=False)
    assert set(np.unique(model.replay_buffer.gather("rewards", np.arange(64, 128)))) <= {0.0, -1.0}


def test_set_parameters_reach_the_actors() -> None:
    """As a new version, also where policies are published seldom."""
    model = serial(publish_every=1000).learn(64)
    version = model.policy_version
    model.set_parameters(serial(seed=9).get_parameters())
    model.learn(32, reset_num_timesteps=False)
    assert stored_versions(model)[-1] == version + 1


def stored_versions(model: AsyncGIPO) -> np.ndarray:
    return np.asarray(model.replay_buffer.gather("policy_version", np.arange(len(model.replay_buffer))))


def test_arguments_of_load(tmp_path: Path) -> None:
    """Mean what they mean in the constructor."""
    serial().save(tmp_path / "model")
    loaded = AsyncGIPO.load(tmp_path / "model", env="CartPole-v1", normalize=True, rollout_length=8, num_actors=3)
    assert (loaded.normalize, loaded.n_steps, loaded.num_actors) == ({}, 8, 3)
    assert loaded.get_vec_normalize_env() is not None
    assert serial(normalize={}).get_vec_normalize_env() is not None


def test_a_file_of_gipo_is_loaded(tmp_path: Path) -> None:
    """Whose environments were more than those of an actor."""
    GIPO("MlpPolicy", make_vec_env("CartPole-v1", 4), **SMALL).learn(128).save(tmp_path / "model")
    model = AsyncGIPO.load(tmp_path / "model", "CartPole-v1", backend="serial", rollout_length=16)
    assert (model.n_envs, model.envs_per_actor, model.n_steps) == (1, 1, 16)
    assert model.learn(64, reset_num_timesteps=False).num_timesteps == 192
    with pytest.raises(ValueError, match="`rollout_length` is 0; it must be"):
        AsyncGIPO.load(tmp_path / "model", "CartPole-v1", backend="serial", rollout_length=0)


def test_other_arguments_make_other_actors() -> None:
    """Between two runs."""
    model = serial().learn(64)
    model.num_actors = 3
    model.learn(96, reset_num_timesteps=False)
    assert {segment.actor_id for segment in model.replay_buffer.segments} == {0, 1, 2}


def test_an_id_that_only_this_process_knows() -> None:
    """Travels as what it stands for."""
    gym.register("OnlyHere-v0", entry_point=lambda: SpaceEnv())
    try:
        plan = serial("OnlyHere-v0")._plan()
    finally:
        del gym.registry["OnlyHere-v0"]
    assert plan.make_env(0, 0).num_envs == 1


@pytest.mark.parametrize("env_id", ["gymnasium.envs:CartPole-v1", "CartPole"])
def test_every_form_of_an_id(env_id: str) -> None:
    """That ``gym.make`` takes: with the module that registers it, and without a version."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*latest versioned environment")
        assert same(serial(env_id).learn(64), serial("CartPole-v1").learn(64))

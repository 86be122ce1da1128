"""What "drop-in for PPO" means: behaviours that a subclass of SB3's on-policy base forgets."""

import inspect
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_gipo import GIPO, CnnPolicy, MlpPolicy, MultiInputPolicy
from tests.small_envs import OneStateEnv, SpaceEnv

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 1}


def make_env(observation: str = "box", action: str = "box", n_envs: int = 2) -> DummyVecEnv:
    return DummyVecEnv([lambda index=index: Monitor(SpaceEnv(observation, action, seed=index)) for index in range(n_envs)])


# ---------------------------------------------------------------- construction


def test_arguments_of_ppo_come_first() -> None:
    """
    PPO's arguments have their names, positions and defaults (but for those that depend on whether there is a replay); ours
    follow, each with a default, by keyword only.
    """
    theirs = list(inspect.signature(PPO.__init__).parameters.values())
    ours = list(inspect.signature(GIPO.__init__).parameters.values())
    assert [(p.name, p.kind) for p in ours[: len(theirs)]] == [(p.name, p.kind) for p in theirs]
    for one, other in zip(ours, theirs, strict=False):
        left_open = ("learning_rate", "n_steps", "batch_size", "gae_lambda")
        assert one.default == (None if one.name in left_open else other.default), one.name
    assert all(p.default is not p.empty and p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_positional_arguments_mean_what_they_mean_in_ppo() -> None:
    """``GIPO(policy, env, lr, n_steps, batch_size, n_epochs, ...)`` without names."""
    model = GIPO("MlpPolicy", make_env(), 1e-3, 32, 8, 3, 0.9, 0.8, 0.1)
    assert (model.n_steps, model.batch_size, model.n_epochs, model.gamma, model.gae_lambda) == (32, 8, 3, 0.9, 0.8)
    assert model.clip_range(1.0) == 0.1


def test_what_stands_for_what_is_left_out() -> None:
    """
    Without replay PPO's; with one 512 steps of all environments, minibatches of 128, 8 rollouts or 8,192 kept, and an actor
    that learns more slowly than PPO's, beside a critic that does not.
    """
    without = GIPO("MlpPolicy", make_env(), replay_capacity=None)
    ppo = PPO("MlpPolicy", make_env())
    assert (without.n_steps, without.batch_size, without.gae_lambda) == (ppo.n_steps, ppo.batch_size, ppo.gae_lambda)
    assert (without.learning_rate, without.critic_lr_factor) == (ppo.learning_rate, 1)
    one, two, many = (GIPO("MlpPolicy", make_env(n_envs=number)) for number in (1, 2, 600))
    assert [model.n_steps for model in (one, two, many)] == [512, 256, 2]
    assert (one.batch_size, one.gae_lambda) == (128, 1)
    assert (one.learning_rate, one.critic_lr_factor) == (1e-4, 3)
    assert [group["lr"] for group in one.learn(512).policy.optimizer.param_groups] == pytest.approx([1e-4, 3e-4])
    assert GIPO("MlpPolicy", make_env(), learning_rate=1e-3).critic_lr_factor == 1
    assert (one.replay_buffer.capacity, many.replay_buffer.capacity) == (8_192, 8 * 2 * 600)
    assert GIPO("MlpPolicy", make_env(), n_steps=2048).replay_buffer.capacity == 8 * 2 * 2048


def test_without_setup_and_without_environment() -> None:
    """``_init_setup_model=False`` builds nothing, and ``env=None`` is how ``load`` builds a model."""
    model = GIPO("MlpPolicy", None, _init_setup_model=False)
    assert not hasattr(model, "policy")
    assert model.replay_buffer is None
    assert not hasattr(GIPO("MlpPolicy", make_env(), _init_setup_model=False), "policy")


@pytest.mark.parametrize("policy", ["MlpPolicy", MlpPolicy])
def test_policy_by_alias_and_by_class(policy: Any) -> None:
    """A policy is given by SB3's alias or as a class."""
    assert isinstance(GIPO(policy, make_env(), **SMALL).policy, MlpPolicy)


def test_every_alias() -> None:
    """Mlp, Cnn and MultiInput policies go by their names; an unknown name and a mismatch are refused as SB3 does."""
    assert isinstance(GIPO("CnnPolicy", make_env("image"), **SMALL).policy, CnnPolicy)
    assert isinstance(GIPO("MultiInputPolicy", make_env("dict"), **SMALL).policy, MultiInputPolicy)
    with pytest.raises(ValueError, match="unknown"):
        GIPO("LstmPolicy", make_env())
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        GIPO("MlpPolicy", make_env("dict"))


def test_environment_by_name() -> None:
    """An environment may be a registered id."""
    assert GIPO("MlpPolicy", "CartPole-v1", **SMALL).learn(16).num_timesteps == 16


def test_unsupported_action_space_is_refused() -> None:
    """Anything but Box, Discrete, MultiDiscrete and MultiBinary is refused by SB3's own check."""

    class DictActions(gym.Env):
        observation_space = spaces.Box(-1, 1, (1,))
        action_space = spaces.Dict({"a": spaces.Discrete(2)})

    with pytest.raises(AssertionError, match="only supports"):
        GIPO("MlpPolicy", DummyVecEnv([DictActions]))


def test_batch_size_that_does_not_divide_the_rollout_warns() -> None:
    """The warning is PPO's; from a replay every minibatch is whole, and there is nothing to warn of."""
    with pytest.warns(UserWarning, match="truncated mini-batch of size 2"):
        GIPO("MlpPolicy", make_env(), n_steps=16, batch_size=10, replay_capacity=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GIPO("MlpPolicy", make_env(), n_steps=16, batch_size=10)


def test_one_sample_cannot_be_normalised() -> None:
    """A rollout or a minibatch of one with normalised advantages is refused, as in PPO; without normalisation it is fine."""
    with pytest.raises(AssertionError, match="greater than 1"):
        GIPO("MlpPolicy", make_env(n_envs=1), n_steps=1, batch_size=2)
    with pytest.raises(AssertionError, match="greater than 1"):
        GIPO("MlpPolicy", make_env(), n_steps=16, batch_size=1)
    model = GIPO("MlpPolicy", make_env(n_envs=1), n_steps=1, batch_size=1, normalize_advantage=False)
    assert model.learn(3).num_timesteps == 3


def test_no_warning_in_normal_use() -> None:
    """Construction and training at defaults warn of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GIPO("MlpPolicy", make_env(), n_steps=32, batch_size=64).learn(128)


def test_gpu_hint_of_sb3(monkeypatch: pytest.MonkeyPatch) -> None:
    """SB3's hint that an MLP belongs on the CPU is given, with our name."""
    model = GIPO("MlpPolicy", make_env(), **SMALL)
    model.device = th.device("meta")
    with pytest.warns(UserWarning, match="run GIPO on the GPU"):
        model._maybe_recommend_cpu()


class DoubledAdvantages(RolloutBuffer):
    """A rollout buffer of the user's own."""

    def __init__(self, *args: Any, factor: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = factor

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages *= self.factor


@pytest.mark.parametrize("replay_capacity", [None, "auto"])
def test_rollout_buffer_class_is_used(replay_capacity: Any) -> None:
    """A user's rollout buffer is filled by the loop, and its advantages are those of ``target="stored"``."""
    model = GIPO(
        "MlpPolicy",
        make_env(),
        **SMALL,
        target="stored",
        replay_capacity=replay_capacity,
        rollout_buffer_class=DoubledAdvantages,
        rollout_buffer_kwargs={"factor": 0.0},
    )
    assert isinstance(model.rollout_buffer, DoubledAdvantages)
    model.learn(32)
    if replay_capacity == "auto":
        assert (model.replay_buffer.gather("advantages", np.arange(32)) == 0).all()
    assert (model.rollout_buffer.advantages == 0).all()


def test_stats_window_size_is_used() -> None:
    """The running means are over as many episodes as asked for."""
    model = GIPO("MlpPolicy", make_env(), **SMALL, stats_window_size=3).learn(64)
    assert model.ep_info_buffer.maxlen == 3
    assert len(model.ep_info_buffer) == 3


def test_clip_ranges_become_schedules() -> None:
    """Floats and callables become ``FloatSchedule``; a negative value range is refused."""
    model = GIPO("MlpPolicy", make_env(), **SMALL, clip_range=lambda p: 0.1 * p, clip_range_vf=0.3)
    assert isinstance(model.clip_range, FloatSchedule)
    assert isinstance(model.clip_range_vf, FloatSchedule)
    assert (model.clip_range(0.5), model.clip_range_vf(0.5)) == (0.05, 0.3)
    with pytest.raises(AssertionError, match="must be positive"):
        GIPO("MlpPolicy", make_env(), clip_range_vf=-1.0)


# ---------------------------------------------------------------- randomness


def parameters_after(seed: int, **kwargs: Any) -> list[th.Tensor]:
    model = GIPO("MlpPolicy", make_env(), **{**SMALL, "seed": seed, **kwargs}).learn(96)
    return list(model.policy.parameters())


def test_a_seed_fixes_everything() -> None:
    """Two runs with one seed agree to the last bit, whatever the global generators did before; another seed does not."""
    first = parameters_after(4)
    np.random.seed(0)
    th.manual_seed(0)
    assert all(th.equal(a, b) for a, b in zip(first, parameters_after(4), strict=True))
    assert any(not th.equal(a, b) for a, b in zip(first, parameters_after(5), strict=True))


def test_set_random_seed_reaches_the_replay() -> None:
    """The replay's own generator is seeded with the others, and drawing from it does not touch the global one."""
    model = GIPO("MlpPolicy", make_env(), **SMALL).learn(32)
    model.set_random_seed(3)
    before = np.random.get_state()[1].copy()
    first = list(model.replay_buffer.sample(3, 8))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    model.set_random_seed(3)
    np.testing.assert_array_equal(first, list(model.replay_buffer.sample(3, 8)))


# ---------------------------------------------------------------- save and load


def test_parameters_can_be_read_and_set() -> None:
    """``get_parameters`` names the policy and its optimizer, ``set_parameters`` puts them into another model."""
    model = GIPO("MlpPolicy", make_env(), **SMALL).learn(32)
    other = GIPO("MlpPolicy", make_env(), **{**SMALL, "seed": 9})
    assert set(model.get_parameters()) == {"policy", "policy.optimizer"}
    other.set_parameters(model.get_parameters())
    assert all(th.equal(a, b) for a, b in zip(model.policy.parameters(), other.policy.parameters(), strict=True))


def test_model_file_holds_no_data_and_no_environment(tmp_path: Path) -> None:
    """The rollout, the replay and the environment are not in the file; ``exclude`` excludes."""
    model = GIPO("CnnPolicy", make_env("image"), **SMALL).learn(64)
    model.save(tmp_path / "model", exclude=["kl_coef"])
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = archive.read("data").decode()
    assert len(data) < 150_000, "64 images are 83 kB and would swell when encoded"
    for name in ("replay_buffer", "rollout_buffer", "env", "kl_coef", "_recorder", "_interruption"):
        assert f'"{name}":' not in data
    assert model.replay_buffer is not None
    assert GIPO.load(tmp_path / "model", env=make_env("image")).learn(32).num_timesteps == 32


def test_loaded_with_another_number_of_environments(tmp_path: Path) -> None:
    """A model loads onto more environments, and its replay makes room for the larger rollouts."""
    GIPO("MlpPolicy", make_env(n_envs=2), **{**SMALL, "n_steps": 640}).learn(32).save(tmp_path / "model")
    loaded = GIPO.load(tmp_path / "model", env=make_env(n_envs=5))
    assert loaded.replay_buffer.capacity == 8 * 16 * 5 * 40
    assert loaded.learn(80).num_timesteps == 640 * 5


def test_predictions_survive(tmp_path: Path) -> None:
    """A loaded model predicts the same."""
    env = make_env()
    model = GIPO("MlpPolicy", env, **SMALL).learn(32)
    model.save(tmp_path / "model.zip")
    observation = env.reset()
    loaded = GIPO.load(tmp_path / "model.zip")
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )


# ---------------------------------------------------------------- collection


class Recorded(BaseCallback):
    """Writes down the order of events and what the loop shows."""

    def __init__(self, stop_at: int | None = None, stop_with: Any = False) -> None:
        super().__init__()
        self.events: list[str] = []
        self.training_modes: set[bool] = set()
        self.stop_at, self.stop_with = stop_at, stop_with
        self.seen_locals: set[str] = set()

    def _init_callback(self) -> None:
        self.events.append("init")

    def _on_training_start(self) -> None:
        self.events.append("training_start")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout_start")

    def _on_step(self) -> Any:
        self.events.append("step")
        self.training_modes.add(self.model.policy.training)
        self.seen_locals |= set(self.locals)
        return self.stop_with if self.n_calls == self.stop_at else True

    def _on_rollout_end(self) -> None:
        self.events.append("rollout_end")
        assert self.locals["n_steps"] == self.model.n_steps

    def _on_training_end(self) -> None:
        self.events.append("training_end")


@pytest.mark.parametrize(
    "wrapped", [lambda c: c, lambda c: [c], lambda c: CallbackList([c])], ids=["alone", "list", "CallbackList"]
)
@pytest.mark.parametrize("replay_capacity", [None, "auto"])
def test_callback_events_in_order(wrapped: Any, replay_capacity: Any) -> None:
    """A callback sees PPO's events in PPO's order, once each, and the loop's variables at every step."""
    theirs, ours = Recorded(), Recorded()
    PPO("MlpPolicy", make_env(), **SMALL).learn(64, callback=wrapped(theirs))
    GIPO("MlpPolicy", make_env(), **SMALL, replay_capacity=replay_capacity).learn(64, callback=wrapped(ours))
    assert ours.events == theirs.events
    assert ours.events.count("init") == 1
    assert theirs.seen_locals <= ours.seen_locals
    assert ours.training_modes == {False}


@pytest.mark.parametrize("stop_with", [False, np.bool_(False), th.tensor(False)], ids=["python", "numpy", "torch"])
def test_callback_can_stop_the_run(stop_with: Any) -> None:
    """Any false value stops the run at once; the unfinished rollout is dropped and training can go on."""
    model = GIPO("MlpPolicy", make_env(), **SMALL)
    model.learn(320, callback=Recorded(stop_at=20, stop_with=stop_with))
    assert model.num_timesteps == 40
    assert len(model.replay_buffer) == 32
    model.learn(32, reset_num_timesteps=False)
    assert len(model.replay_buffer) == 64


class DiesAtStepSix(SpaceEnv):
    """Its process ends without a word."""

    def step(self, action: Any) -> Any:
        if self._t == 6:
            os._exit(3)
        return super().step(action)


def test_a_dead_environment_process_is_named() -> None:
    """Where SB3 ends with a bare EOFError, the error says which environment died, and what was learnt is kept."""
    env = SubprocVecEnv([SpaceEnv, lambda: DiesAtStepSix(horizon=10)])
    model = GIPO("MlpPolicy", env, **SMALL)
    try:
        with pytest.raises(RuntimeError, match="environment 1: exit code 3"):
            model.learn(64)
    finally:
        for process in env.processes:
            process.kill()
    model.set_env(make_env())
    assert model.learn(32, reset_num_timesteps=False).num_timesteps > 32


def test_function_as_callback() -> None:
    """A plain function of locals and globals is a callback, and stops the run with ``False``."""
    model = GIPO("MlpPolicy", make_env(), **SMALL)
    model.learn(320, callback=lambda local, _: local["self"].num_timesteps < 10)
    assert model.num_timesteps == 10


def test_gsde_noise_is_drawn_as_in_ppo() -> None:
    """The noise is drawn for the number of environments, at the start of a rollout and every ``sde_sample_freq`` steps."""
    model = GIPO("MlpPolicy", make_env(n_envs=3), **SMALL, use_sde=True, sde_sample_freq=5)
    drawn: list[int] = []
    original = model.policy.reset_noise
    model.policy.reset_noise = lambda n_envs=1: (drawn.append(n_envs), original(n_envs))[1]
    model.learn(48)
    assert drawn == [3] * 5  # the start, and steps 0, 5, 10, 15


class ActionsSeen(gym.Env):
    """Remembers the actions it was given."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(np.float32([-0.01, 10.0]), np.float32([0.01, 30.0]))
    seen: list[np.ndarray] = []  # noqa: RUF012  # shared on purpose: the test reads it

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.ones(2, np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.seen.append(action.copy())
        return np.ones(2, np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("squash", [False, True])
def test_actions_reach_the_environment_in_its_units(squash: bool) -> None:
    """Clipped actions go to the environment, unclipped ones are stored; squashed ones are scaled to its bounds."""
    ActionsSeen.seen.clear()
    kwargs = {"use_sde": True, "policy_kwargs": {"squash_output": True, "log_std_init": 0.0}} if squash else {}
    model = GIPO("MlpPolicy", DummyVecEnv([ActionsSeen]), **SMALL, **kwargs).learn(16)
    seen, stored = np.stack(ActionsSeen.seen), model.replay_buffer.gather("actions", np.arange(16))
    low, high = model.action_space.low, model.action_space.high
    expected = low + 0.5 * (np.tanh(stored) + 1) * (high - low) if squash else np.clip(stored, low, high)
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-6)
    assert (np.abs(stored) > 0.01).any()


def test_timeout_is_bootstrapped_in_the_stored_rollout() -> None:
    """SB3's own buffer gets the bootstrap value at a time limit, the replay the raw reward."""
    model = GIPO("MlpPolicy", DummyVecEnv([lambda: OneStateEnv(horizon=4)]), **{**SMALL, "n_epochs": 1}, vf_coef=0.0)
    with th.no_grad():
        model.policy.value_net.bias += 5.0
    model.learn(16)
    rewards = model.rollout_buffer.rewards.flatten()
    assert (rewards[3::4] > 3).all()
    assert (np.delete(rewards, [3, 7, 11, 15]) == 1).all()
    assert (model.replay_buffer.gather("rewards", np.arange(16)) == 1).all()
    assert model.replay_buffer.gather("truncated", np.arange(16)).reshape(-1, 4)[:, -1].all()


def test_episode_statistics_reach_the_log() -> None:
    """Episode reward, length and success rate are logged."""
    model = GIPO("MlpPolicy", make_env(), **SMALL)
    model.learn(64, log_interval=10**6)
    model.logger.name_to_value.clear()
    recorded: dict[str, Any] = {}
    model.logger.record = lambda key, value, exclude=None: recorded.update({key: value})  # type: ignore[method-assign]
    model.dump_logs(1)
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/success_rate"} <= set(recorded)


# ---------------------------------------------------------------- update


def test_policy_is_in_training_mode_during_the_update() -> None:
    """Batch norm and dropout act in the update and not in the targets."""
    model = GIPO("MlpPolicy", make_env(), **SMALL)
    modes: list[bool] = []
    original = model.policy.evaluate_actions
    model.policy.evaluate_actions = lambda obs, actions: (modes.append(model.policy.training), original(obs, actions))[1]
    model.learn(32)
    assert modes == [False] + [True] * 4


def test_gradients_are_clipped() -> None:
    """The norm that reaches the optimizer is at most ``max_grad_norm``; the logged one is from before."""
    model = GIPO("MlpPolicy", make_env(), **SMALL, max_grad_norm=0.01, critic_lr_factor=1.0)  # else the critic's is apart
    norms: list[float] = []
    step = model.policy.optimizer.step

    def spy(*args: Any, **kwargs: Any) -> Any:
        norms.append(float(th.stack([p.grad.norm() for p in model.policy.parameters() if p.grad is not None]).norm()))
        return step(*args, **kwargs)

    model.policy.optimizer.step = spy
    model.learn(64, log_interval=10**6)
    assert len(norms) == 8
    assert max(norms) <= 0.01 + 1e-6
    assert model.logger.name_to_value["train/grad_norm"] > 0.01


def test_learning_rate_schedule_reaches_the_optimizer() -> None:
    """The optimizer's learning rate follows the progress."""
    model = GIPO("MlpPolicy", make_env(), **SMALL, learning_rate=lambda progress: 1e-3 * progress)
    model.learn(128)
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    model = GIPO("MlpPolicy", make_env(), **SMALL, learning_rate=lambda progress: 1e-3 * progress)
    model.learn(128, callback=Recorded(stop_at=33))
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e-3)


@pytest.mark.parametrize("replay_capacity", [None, "auto"])
def test_target_kl_stops_the_update(replay_capacity: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The divergence from the policy at the start of the update, not from the stale replay, stops the update."""
    options = {**SMALL, "learning_rate": 0.1, "target_kl": 1e-3, "n_epochs": 20}
    model = GIPO("MlpPolicy", make_env(), **options, replay_capacity=replay_capacity, verbose=1)
    steps = 0
    original = model.policy.optimizer.step

    def count(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        return original(*args, **kwargs)

    model.policy.optimizer.step = count
    model.learn(96)
    assert "Early stopping" in capsys.readouterr().out
    assert 3 <= steps < 20  # at least one in each of 3 iterations of 40


def test_entropy_may_be_missing() -> None:
    """A distribution without a closed-form entropy (squashed gSDE) uses the estimate from log-probabilities."""
    model = GIPO("MlpPolicy", make_env(), **SMALL, use_sde=True, policy_kwargs={"squash_output": True}, ent_coef=0.01)
    model.learn(32, log_interval=10**6)
    assert np.isfinite(model.logger.name_to_value["train/entropy_loss"])


def test_a_truncated_minibatch_of_one_is_not_normalised() -> None:
    """The last minibatch of a pass may hold one sample: no NaN comes of it."""
    with pytest.warns(UserWarning, match="truncated mini-batch of size 1"):
        model = GIPO("MlpPolicy", make_env(n_envs=1), n_steps=17, batch_size=16, replay_capacity=None, seed=0)
    model.learn(34)
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


def test_advantages_are_normalised_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surrogate sees zero mean and unit deviation in each minibatch, or the raw advantages."""
    for normalize in (True, False):
        seen: list[th.Tensor] = []

        def surrogate(log_ratio: th.Tensor, advantages: th.Tensor, seen: list[th.Tensor] = seen) -> th.Tensor:
            seen.append(advantages.detach())
            return -log_ratio.exp() * advantages

        GIPO("MlpPolicy", make_env(), **SMALL, surrogate=surrogate, normalize_advantage=normalize).learn(32)
        batches = [advantages for advantages in seen if len(advantages) == 16]
        assert all((abs(float(b.mean())) < 1e-5 and abs(float(b.std()) - 1) < 1e-3) == normalize for b in batches)


def test_all_keys_of_ppo_are_logged() -> None:
    """Every key that PPO logs is logged, and those of GIPO."""

    class Keys(BaseCallback):
        keys: set[str] = set()  # noqa: RUF012  # replaced for each run

        def _on_step(self) -> bool:
            self.keys |= set(self.logger.name_to_value)
            return True

        def _on_rollout_start(self) -> None:
            self.keys |= set(self.logger.name_to_value)

    def keys_of(algorithm: Any, **kwargs: Any) -> set[str]:
        callback = Keys()
        callback.keys = set()
        algorithm("MlpPolicy", make_env(), **SMALL, clip_range_vf=0.2, **kwargs).learn(96, callback=callback, log_interval=2)
        return callback.keys

    theirs, ours = keys_of(PPO), keys_of(GIPO)
    assert theirs <= ours
    expected = {"lag/version_gap_mean", "lag/version_gap_max", "lag/old_frac", "lag/abs_log_rho_p95"}
    expected |= {
        f"utilization/{name}" for name in ("dead_frac", "suppressed_frac", "near_zero_frac", "old_share", "trust_mean")
    }
    expected |= {f"replay/{name}" for name in ("size", "rollouts", "mb", "reuse_mean", "dropped", "replayed_frac")}
    expected |= {"time/collect", "time/targets", "time/update", "train/grad_norm", "train/sigma", "train/kl_behaviour"}
    assert expected <= ours


# ---------------------------------------------------------------- learn


def test_learn_returns_self_and_counts_on(tmp_path: Path) -> None:
    """``learn`` returns the model, logs under its own name, and goes on counting when asked."""
    model = GIPO("MlpPolicy", make_env(), **SMALL, tensorboard_log=str(tmp_path))
    assert model.learn(32) is model
    assert (tmp_path / "GIPO_1").is_dir()
    assert model.learn(32, reset_num_timesteps=False).num_timesteps == 64
    assert [path.name for path in tmp_path.iterdir()] == ["GIPO_1"]
    assert model.learn(32, tb_log_name="other").num_timesteps == 32
    assert (tmp_path / "other_1").is_dir()


def test_progress_bar_and_log_interval(tmp_path: Path) -> None:
    """The progress bar runs; ``log_interval`` spaces the dumps, ``None`` turns them off."""
    model = GIPO("MlpPolicy", make_env(), **SMALL)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(6 * 32, progress_bar=True, log_interval=2)
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 1 + 3
    model.learn(64, log_interval=None)  # type: ignore[arg-type]  # SB3 documents None


def test_sb3_callbacks_save_the_replay(tmp_path: Path) -> None:
    """CheckpointCallback finds the replay, EvalCallback evaluates and saves the best model."""
    callbacks = [
        CheckpointCallback(32, str(tmp_path), save_replay_buffer=True),
        EvalCallback(make_env(), best_model_save_path=str(tmp_path), eval_freq=32, verbose=0),
    ]
    GIPO("MlpPolicy", make_env(), **SMALL).learn(160, callback=callbacks)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"rl_model_64_steps.zip", "rl_model_replay_buffer_64_steps.pkl", "best_model.zip"} <= names
    loaded = GIPO.load(tmp_path / "rl_model_128_steps", env=make_env())
    loaded.load_replay_buffer(tmp_path / "rl_model_replay_buffer_128_steps", truncate_last_traj=True)
    assert len(loaded.replay_buffer) == 96  # saved inside the fourth rollout
    loaded.learn(32, reset_num_timesteps=False)


def test_vectorised_by_sb3() -> None:
    """``make_vec_env`` with several environments, as in every SB3 script."""
    env = make_vec_env("CartPole-v1", n_envs=4, seed=0)
    model = GIPO("MlpPolicy", env, n_steps=16, batch_size=32).learn(128)
    assert len(model.replay_buffer) == 128

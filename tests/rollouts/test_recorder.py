"""The recorder: what is stored is what happened, as a log kept by the environments themselves says."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from sb3_gipo import GIPO
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.recorder import NonFiniteStepError, all_finite
from sb3_gipo.rollouts.types import Rollout, map_observation
from tests.rollouts.data import assert_same, contents
from tests.rollouts.envs import IMAGE, Log, Step, counting_env, encode_image

N_ENVS = 3
N_STEPS = 7  # against episodes of 3, 4 (cut) and 4 steps: rollouts end anywhere inside them
ROLLOUT = N_ENVS * N_STEPS
ON_POLICY = {"surrogate": "ppo_clip", "target": "stored", "replay_capacity": None}

TINY_BOX = spaces.Box(np.float32([-0.1, -0.2]), np.float32([0.1, 0.3]))
ACTION_SPACES: dict[str, spaces.Space[Any]] = {
    "tiny box": TINY_BOX,
    "matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    "discrete": spaces.Discrete(5),
    "multi_discrete": spaces.MultiDiscrete([3, 300]),
    "multi_binary": spaces.MultiBinary(4),
}


def make_model(env: VecEnv, **kwargs: Any) -> GIPO:
    """A small model of rollouts of 7 steps."""
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    policy_kwargs = {"net_arch": [4], **kwargs.pop("policy_kwargs", {})}
    if policy == "MultiInputPolicy":
        policy_kwargs["features_extractor_kwargs"] = {"cnn_output_dim": 4}
    arguments = {
        "n_steps": N_STEPS,
        "batch_size": 7,
        "n_epochs": 1,
        "seed": 0,
        "device": "cpu",
        "policy_kwargs": policy_kwargs,
    }
    return GIPO(policy, env, **{**arguments, **kwargs})


def rollouts(model: GIPO) -> list[Rollout]:
    """What the model's replay holds, oldest first."""
    assert model.replay_buffer is not None
    return [model.replay_buffer.segment_rollout(segment)[0] for segment in model.replay_buffer.segments]


def channel_first(observation: Any) -> Any:
    """What SB3 makes of an image that has its channels last."""
    array = np.asarray(observation)
    return np.moveaxis(array, -1, -3) if array.shape[-3:] == IMAGE.shape else array


def stacked(observations: list[Any], change: Callable[[Any], Any] = channel_first) -> Any:
    """Observations side by side, images channel-first."""
    return map_observation(lambda *parts: np.stack([change(part) for part in parts]), *observations)


def assert_is_what_happened(
    rollout: Rollout, logs: list[Log], first: int, change: Callable[[Any], Any] = channel_first, atol: float = 0.0
) -> None:
    """Assert that a rollout is what the logs hold from step ``first`` on; ``atol``: of terminal observations."""
    steps = [[log.steps[first + t] for log in logs] for t in range(rollout.n_steps)]

    def of_all(function: Callable[[Step], Any]) -> np.ndarray:
        return np.array([[function(step) for step in row] for row in steps])

    for t, row in enumerate(steps):
        assert_close(map_observation(lambda a, t=t: a[t], rollout.observations), stacked([s.observation for s in row], change))
    next_first = first + rollout.n_steps
    after = [log.steps[next_first].observation if next_first < len(log.steps) else log.latest for log in logs]
    assert_close(rollout.last_observations, stacked(after, change))
    assert (rollout.rewards == of_all(lambda step: step.reward)).all()
    assert (rollout.terminated == of_all(lambda step: step.terminated)).all()
    assert (rollout.truncated == of_all(lambda step: step.truncated and not step.terminated)).all()
    ends = [step.next_observation for row in steps for step in row if step.truncated and not step.terminated]
    if ends:
        assert_close(rollout.terminal_observations, stacked(ends, change), atol)


def assert_close(found: Any, expected: Any, atol: float = 0.0) -> None:
    """Assert equal observations, the same keys and shapes too; integers always exactly."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key], atol)
        return
    assert found.shape == expected.shape
    exact = np.issubdtype(found.dtype, np.integer)
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if exact else atol)


class Hook(BaseCallback):
    """A user's callback out of functions."""

    def __init__(self, start: Any = None, step: Any = None, end: Any = None) -> None:
        super().__init__()
        self._start, self._step, self._end = start, step, end

    def _on_rollout_start(self) -> None:
        if self._start is not None:
            self._start(self)

    def _on_step(self) -> bool:
        return self._step is None or self._step(self) is not False

    def _on_rollout_end(self) -> None:
        if self._end is not None:
            self._end(self)


# -------------------------------------------------------------------- facts


@pytest.mark.parametrize("kind", ["vector", "number", "image", "dict"])
@pytest.mark.parametrize("target", ["vtrace", "stored"])
def test_facts(kind: str, target: str) -> None:
    """Observations, rewards without any bootstrap, flags, terminal and last observations are those of the environments."""
    env, logs = counting_env(N_ENVS, kind)
    model = make_model(env, target=target).learn(4 * ROLLOUT)
    stored = rollouts(model)
    assert len(stored) == 4
    for number, rollout in enumerate(stored):
        assert_is_what_happened(rollout, logs, number * N_STEPS)
        assert (rollout.policy_version == number).all()
        assert rollout.actor_id == 0
    assert sum(rollout.truncated.sum() for rollout in stored) > 5
    assert sum(rollout.terminated.sum() for rollout in stored) > 5
    # the end of an episode at its time limit is an end: terminal states win
    both = [step for log in logs for step in log.steps if step.terminated and step.truncated]
    assert both


def test_image_is_stored_as_bytes() -> None:
    """An image is stored channel-first, as the policy sees it, in one byte per pixel and channel."""
    env, _ = counting_env(N_ENVS, "image")
    first = rollouts(make_model(env).learn(ROLLOUT))[0]
    assert first.observations.dtype == np.uint8  # type: ignore[union-attr]  # not a Dict
    assert_same(first.observations[0, 2], np.moveaxis(encode_image(2, 0, 0), -1, 0))  # type: ignore[index]  # not a Dict


def test_one_environment_one_step() -> None:
    """Rollouts of two steps of a single environment are recorded as any other."""
    env, logs = counting_env(1)
    model = make_model(env, n_steps=2, batch_size=2).learn(10)
    for number, rollout in enumerate(rollouts(model)):
        assert_is_what_happened(rollout, logs, 2 * number)


def test_learning_goes_on() -> None:
    """A second call of learn that goes on records on without a gap, one that starts anew resets the environments."""
    env, logs = counting_env(N_ENVS)
    model = make_model(env).learn(ROLLOUT)
    model.learn(ROLLOUT, reset_num_timesteps=False)
    for number, rollout in enumerate(rollouts(model)):
        assert_is_what_happened(rollout, logs, number * N_STEPS)
    model.learn(ROLLOUT)
    third = rollouts(model)[2]
    assert (third.observations[0, :, 2] == 0).all()  # type: ignore[call-overload]  # not a Dict: the step is 0
    assert_is_what_happened(third, logs, 2 * N_STEPS)
    assert (third.policy_version == 2).all()


@pytest.mark.parametrize("action", ACTION_SPACES.values(), ids=ACTION_SPACES.keys())
@pytest.mark.parametrize("level", ["joint", "dimension"])
def test_actions(action: spaces.Space[Any], level: str) -> None:
    """Actions are stored as the policy sampled them; what an environment got is the same, clipped where it is a Box."""
    env, logs = counting_env(N_ENVS, action_space=action)
    sampled: list[np.ndarray] = []
    keep = Hook(step=lambda hook: sampled.append(hook.locals["actions"].copy()))
    model = make_model(env, ratio_level=level).learn(3 * ROLLOUT, callback=keep)
    stored = np.concatenate([rollout.actions for rollout in rollouts(model)])
    assert (stored == np.stack(sampled)).all()
    received = np.array([[log.steps[t].action for log in logs] for t in range(3 * N_STEPS)])
    if isinstance(action, spaces.Box):
        assert (received == np.clip(stored, action.low, action.high)).all()
        assert (received != stored).mean() > 0.2
    else:
        assert (received == stored).all()
    if isinstance(action, spaces.MultiDiscrete):
        assert stored.max() > 255


@pytest.mark.parametrize("kind", ["vector", "number", "dict"])
@pytest.mark.parametrize("action", ACTION_SPACES.values(), ids=ACTION_SPACES.keys())
def test_log_probs(kind: str, action: spaces.Space[Any]) -> None:
    """A stored log-probability is what the policy that acted gives the stored action at the stored observation."""
    env, _ = counting_env(N_ENVS, kind, action)
    checked: list[int] = []

    def check(hook: Hook) -> None:
        model = hook.model
        assert isinstance(model, GIPO)
        rollout = rollouts(model)[-1]
        flat = map_observation(lambda a: np.array(a).reshape(rollout.size, *a.shape[2:]), rollout.observations)
        actions = th.as_tensor(rollout.actions.astype(np.float32).reshape(rollout.size, -1))
        if isinstance(action, spaces.Discrete):
            actions = actions.flatten()
        with th.no_grad():
            _, log_prob, _ = model.policy.evaluate_actions(obs_as_tensor(flat, model.device), actions)
        np.testing.assert_allclose(rollout.log_probs.ravel(), log_prob.numpy(), atol=1e-5)
        checked.append(int(rollout.policy_version[0, 0]))

    make_model(env).learn(2 * ROLLOUT, callback=Hook(end=check))
    assert checked == [0, 1]


def test_stored_targets() -> None:
    """For target="stored", values, returns and advantages are those SB3 computed, at their own transitions."""
    env, _ = counting_env(N_ENVS)
    seen: list[Any] = []

    def keep(hook: Hook) -> None:
        buffer = hook.locals["rollout_buffer"]
        seen.append([part.copy() for part in (buffer.values, buffer.returns, buffer.advantages)])

    model = make_model(env, target="stored").learn(2 * ROLLOUT, callback=Hook(end=keep))
    for rollout, expected in zip(rollouts(model), seen, strict=True):
        assert_same(tuple(rollout.stored_targets), tuple(expected))  # type: ignore[arg-type]  # they are there


# -------------------------------------------------------------------- callbacks


def test_stop_in_the_middle() -> None:
    """When a callback stops in the middle of a rollout, that rollout is dropped; the next one is whole."""
    env, logs = counting_env(N_ENVS)
    model = make_model(env).learn(ROLLOUT)
    assert model.replay_buffer is not None
    before = contents(model.replay_buffer)
    model.learn(2 * ROLLOUT, callback=lambda local, _: local["n_steps"] < 4, reset_num_timesteps=False)
    assert_same(contents(model.replay_buffer), before)
    model.learn(ROLLOUT)
    assert len(model.replay_buffer.segments) == 2
    assert_is_what_happened(rollouts(model)[1], logs, N_STEPS + 5)


@pytest.mark.parametrize("normalize", [False, True])
def test_going_on_after_a_stop(normalize: bool) -> None:
    """After a stop, training that goes on stores the observations on which the policy really acted."""
    env, _ = counting_env(N_ENVS)
    if normalize:
        env = VecNormalize(env, training=False)
    model = make_model(env).learn(ROLLOUT)
    model.learn(2 * ROLLOUT, callback=lambda local, _: local["n_steps"] < 4, reset_num_timesteps=False)
    seen: list[np.ndarray] = []
    keep = Hook(step=lambda hook: seen.append(hook.locals["obs_tensor"].numpy().copy()))
    model.learn(ROLLOUT, callback=keep, reset_num_timesteps=False)
    stored = Normalizer(env).observation(rollouts(model)[-1].observations)
    np.testing.assert_allclose(stored, np.stack(seen), atol=1e-5)


@pytest.mark.parametrize("as_list", [False, True])
def test_a_callback_cannot_reach_the_store(as_list: bool) -> None:
    """What a user's callback writes into the loop's variables does not reach the store, however the callback is given."""
    env, logs = counting_env(N_ENVS)

    def spoil(hook: Hook) -> None:
        hook.locals["rewards"][:] = -99.0
        hook.locals["new_obs"][:] = 7.0
        hook.locals["dones"][:] = False
        hook.locals["actions"][:] = 0.0
        hook.locals["log_probs"][:] = 0.0
        for info in hook.locals["infos"]:
            info.pop("terminal_observation", None)

    callback = Hook(step=spoil)
    model = make_model(env).learn(ROLLOUT, callback=[callback] if as_list else callback)
    stored = rollouts(model)[0]
    for field in ("rewards", "terminated", "truncated"):
        expected = [[getattr(log.steps[t], field.removesuffix("s")) for log in logs] for t in range(N_STEPS)]
        if field == "truncated":
            expected = np.array(expected) & ~stored.terminated
        assert (getattr(stored, field) == np.array(expected)).all()
    assert (stored.actions != 0).all()
    assert (stored.log_probs != 0).all()
    assert len(stored.terminal_observations) == stored.truncated.sum() > 0


def test_function_as_callback() -> None:
    """A plain function is a callback too, and sees every step."""
    env, _ = counting_env(N_ENVS)
    seen: list[int] = []
    make_model(env).learn(ROLLOUT, callback=lambda local, _: not seen.append(local["n_steps"]))  # type: ignore[func-returns-value]  # None is not False
    assert seen == list(range(N_STEPS))


# -------------------------------------------------------------------- VecNormalize


def assert_normalised_again(model: GIPO, vec_normalize: VecNormalize, raw: Rollout) -> None:
    """Assert that stored facts are normalised with today's statistics exactly as VecNormalize does it."""
    normalizer = Normalizer(model.get_env())
    flat = map_observation(lambda a: a.reshape(raw.size, *a.shape[2:]), raw.observations)
    assert_same(normalizer.observation(flat), vec_normalize.normalize_obs(flat))
    assert_same(normalizer.reward(raw.rewards), vec_normalize.normalize_reward(raw.rewards))


NORMALIZERS: dict[str, dict[str, Any]] = {
    "both": {},
    "rewards only": {"norm_obs": False},
    "observations only": {"norm_reward": False},
    "frozen": {"training": False},
}


@pytest.mark.parametrize("kwargs", NORMALIZERS.values(), ids=NORMALIZERS.keys())
def test_vec_normalize(kwargs: dict[str, Any]) -> None:
    """Under VecNormalize the raw facts are stored, and normalised again with the statistics of the day."""
    env, logs = counting_env(N_ENVS)
    vec_normalize = VecNormalize(env, **kwargs)
    model = make_model(vec_normalize).learn(4 * ROLLOUT)
    for number, rollout in enumerate(rollouts(model)):
        # a terminal observation is computed back from its normalised value
        assert_is_what_happened(rollout, logs, number * N_STEPS, atol=1e-4)
        assert_normalised_again(model, vec_normalize, rollout)


@pytest.mark.parametrize("kwargs", NORMALIZERS.values(), ids=NORMALIZERS.keys())
def test_vec_normalize_over_dict(kwargs: dict[str, Any]) -> None:
    """With norm_obs_keys, every key is stored raw, an image above VecNormalize channel-first, and only those keys change."""
    env, logs = counting_env(N_ENVS, "dict")
    vec_normalize = VecNormalize(env, norm_obs_keys=["vector"], **kwargs)
    model = make_model(vec_normalize).learn(3 * ROLLOUT)
    for number, rollout in enumerate(rollouts(model)):
        assert_is_what_happened(rollout, logs, number * N_STEPS, atol=1e-4)
        assert_normalised_again(model, vec_normalize, rollout)
        assert isinstance(rollout.observations, dict)
        assert {key: part.dtype for key, part in rollout.observations.items()} == {
            "image": np.uint8,
            "level": np.int64,
            "vector": np.float32,
        }


def unchanged(observation: Any) -> np.ndarray:
    """An image that VecNormalize made into floats is not transposed any more."""
    return np.asarray(observation)


def test_vec_normalize_over_images() -> None:
    """Images that are normalised are stored as bytes all the same, and terminal ones come back to the byte."""
    env, logs = counting_env(N_ENVS, "image")
    vec_normalize = VecNormalize(env, clip_obs=1e6)
    model = make_model(vec_normalize, policy_kwargs={"normalize_images": False}).learn(3 * ROLLOUT)
    for number, rollout in enumerate(rollouts(model)):
        assert rollout.observations.dtype == np.uint8  # type: ignore[union-attr]  # not a Dict
        assert_is_what_happened(rollout, logs, number * N_STEPS, unchanged)
        assert_normalised_again(model, vec_normalize, rollout)


def test_vec_normalize_over_images_in_dict() -> None:
    """
    An image that is normalised inside a Dict keeps the values of its bytes too (as float32: SB3 overwrites its space, so
    that nobody knows any more that they were bytes). It must be channel-first before it is normalised, for SB3's network.
    """
    env, logs = counting_env(N_ENVS, "dict")
    vec_normalize = VecNormalize(VecTransposeImage(env), norm_obs_keys=["image", "vector"], clip_obs=1e6)
    model = make_model(vec_normalize, policy_kwargs={"normalize_images": False}).learn(3 * ROLLOUT)
    for number, rollout in enumerate(rollouts(model)):
        assert_is_what_happened(rollout, logs, number * N_STEPS, atol=1e-4)
        assert_normalised_again(model, vec_normalize, rollout)


def test_frame_stack_inside_vec_normalize() -> None:
    """Frames stacked inside VecNormalize are raw observations as any other: no warning."""
    env, _ = counting_env(N_ENVS)
    vec_normalize = VecNormalize(VecFrameStack(env, 2))
    model = make_model(vec_normalize)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.learn(2 * ROLLOUT)
    rollout = rollouts(model)[1]
    assert rollout.observations.shape == (N_STEPS, N_ENVS, 6)  # type: ignore[union-attr]  # not a Dict
    assert (rollout.observations[..., 3] == np.arange(N_ENVS)).all()  # type: ignore[call-overload]  # raw: the index
    assert_normalised_again(model, vec_normalize, rollout)


def test_frame_stack_over_vec_normalize() -> None:
    """Frames stacked over VecNormalize cannot be normalised again: a warning, and they are kept as the policy saw them."""
    env, logs = counting_env(N_ENVS)
    stack = VecFrameStack(VecNormalize(env), 2)
    model = make_model(stack)
    seen: list[np.ndarray] = []
    keep = Hook(step=lambda hook: seen.append(hook.locals["obs_tensor"].numpy().copy()))
    with pytest.warns(UserWarning, match="put that wrapper inside VecNormalize"):
        model.learn(2 * ROLLOUT, callback=keep)
    stored = np.concatenate([rollout.observations for rollout in rollouts(model)])  # type: ignore[arg-type]  # not a Dict
    assert_same(stored, np.stack(seen))
    normalizer = Normalizer(model.get_env())
    assert normalizer.observation(stored) is stored
    rewards = np.concatenate([rollout.rewards for rollout in rollouts(model)])
    assert (rewards == [[log.steps[t].reward for log in logs] for t in range(2 * N_STEPS)]).all()


def test_statistics_that_were_loaded(tmp_path: Any) -> None:
    """A VecNormalize from a file that has not been reset yet gives raw observations too."""
    env, logs = counting_env(N_ENVS)
    vec_normalize = VecNormalize(env)
    make_model(vec_normalize).learn(2 * ROLLOUT)
    vec_normalize.save(str(tmp_path / "statistics"))
    env, logs = counting_env(N_ENVS)
    model = make_model(VecNormalize.load(str(tmp_path / "statistics"), env)).learn(ROLLOUT)
    assert_is_what_happened(rollouts(model)[0], logs, 0, atol=1e-4)


# -------------------------------------------------------------------- numbers that are not finite


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("layout", ["whole", "every other", "turned"])
@pytest.mark.parametrize(
    ("number", "stored_as_finite"),
    [
        (0.0, True),
        (-3e4, True),
        (1e20, True),
        (3e38, True),
        (1e300, False),
        (np.inf, False),
        (-np.inf, False),
        (np.nan, False),
    ],
)
def test_all_finite(dtype: type[np.floating[Any]], layout: str, number: float, stored_as_finite: bool) -> None:
    """As it will be stored, in float32; without a warning, whose squares are too large for their type."""
    with np.errstate(over="ignore"):
        array = np.full((4, 6), dtype(1.0))
        array[2, 4] = number
        stored_as_finite = stored_as_finite and bool(np.isfinite(array[2, 4]))  # 1e20 is not, in float16
    seen = {"whole": array, "every other": array[::2, ::2], "turned": array.T}[layout]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all_finite(seen) is stored_as_finite


Change = Callable[[Any, float], tuple[Any, float]]


def spoilt(observation: Any, value: float) -> Any:
    """The observation with one wrong number; in a Dict only in the key ``vector``."""
    if isinstance(observation, dict):
        return {**observation, "vector": spoilt(observation["vector"], value)}
    observation = observation.copy()
    observation[1] = value
    return observation


# what is wrong: step of environment 1 at which it is, what the message calls it, and the change
FAULTS: dict[str, tuple[int, str, Change]] = {
    "NaN reward": (N_STEPS + 2, "reward", lambda o, r: (o, float("nan"))),
    "infinite reward": (N_STEPS + 2, "reward", lambda o, r: (o, float("-inf"))),
    "reward beyond float32": (N_STEPS + 2, "reward", lambda o, r: (o, 1e300)),
    "NaN observation": (N_STEPS + 4, "observation", lambda o, r: (spoilt(o, np.nan), r)),
    "infinite observation": (N_STEPS + 4, "observation", lambda o, r: (spoilt(o, np.inf), r)),
    "NaN at truncation": (N_STEPS - 1, "terminal observation", lambda o, r: (spoilt(o, np.nan), r)),
    "infinite at truncation": (N_STEPS - 1, "terminal observation", lambda o, r: (spoilt(o, -np.inf), r)),
    "reward of the first step": (N_STEPS, "reward", lambda o, r: (o, float("nan"))),
    "reward of the last step": (2 * N_STEPS - 1, "reward", lambda o, r: (o, float("nan"))),
}
BAD_ENV = 1


def normalizer_statistics(env: VecEnv) -> Any:
    """All that VecNormalize has learnt, copied."""
    state = Normalizer(env).state()
    if state is None:
        return None
    rms = state["obs_rms"].values() if isinstance(state.get("obs_rms"), dict) else [state.get("obs_rms")]
    kept = [(part.mean.tolist(), part.var.tolist(), part.count) for part in rms if part is not None]
    return copy.deepcopy([kept, float(state["ret_rms"].mean), float(state["ret_rms"].var), state["returns"].tolist()])


WRAPPERS: dict[str, Callable[[VecEnv], VecEnv]] = {
    "plain": lambda env: env,
    "normalised": lambda env: VecNormalize(env, norm_obs_keys=norm_keys(env)),
    "rewards only": lambda env: VecNormalize(env, norm_obs=False, norm_obs_keys=norm_keys(env)),
    "observations only": lambda env: VecNormalize(env, norm_reward=False, norm_obs_keys=norm_keys(env)),
    "frozen": lambda env: VecNormalize(env, training=False, norm_obs_keys=norm_keys(env)),
}


def norm_keys(env: VecEnv) -> list[str] | None:
    """The keys to normalise."""
    return ["vector"] if isinstance(env.observation_space, spaces.Dict) else None


CASES = [
    (kind, wrap, mode, fault)
    for kind, modes in (("vector", ("replay", "pure PPO")), ("dict", ("replay",)))
    for wrap in WRAPPERS
    for mode in modes
    for fault in FAULTS
    # Wherever VecNormalize changes observations it has clipped an infinite terminal one before anyone can see it.
    if not (fault == "infinite at truncation" and wrap in ("normalised", "observations only", "frozen"))
    and not (kind == "dict" and "observation" not in fault and "truncation" not in fault)
    and not (mode == "pure PPO" and wrap in ("rewards only", "observations only"))
]


@pytest.mark.parametrize(("kind", "wrap", "mode", "fault"), CASES)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_not_finite(kind: str, wrap: str, mode: str, fault: str) -> None:
    """
    A number that is not finite stops training with the environment and the step at which it came; what was stored is kept,
    VecNormalize is as it was when the rollout began, and training can go on.
    """
    at, what, change = FAULTS[fault]
    inner, _ = counting_env(N_ENVS, kind, fault=(BAD_ENV, at, change))
    env = WRAPPERS[wrap](inner)
    model = make_model(env, **(ON_POLICY if mode == "pure PPO" else {}))
    at_start: list[Any] = []

    def remember(hook: Hook) -> None:
        at_start.append((normalizer_statistics(env), contents(model.replay_buffer) if mode == "replay" else None))

    expected = rf"Environment {BAD_ENV}: the environment returned an? {what} that is not finite, at step {at % N_STEPS} of"
    with pytest.raises(ValueError, match=expected):
        model.learn(4 * ROLLOUT, callback=Hook(start=remember))
    assert len(at_start) == 1 + at // N_STEPS
    statistics, stored = at_start[-1]
    assert normalizer_statistics(env) == statistics
    if model.replay_buffer is not None:
        assert_same(contents(model.replay_buffer), stored)
    versions = model.policy_version
    model.learn(2 * ROLLOUT, reset_num_timesteps=False)
    assert model.policy_version == versions + 2
    assert all(bool(th.isfinite(parameter).all()) for parameter in model.policy.parameters())


@pytest.mark.parametrize("mode", [{}, ON_POLICY], ids=["replay", "pure PPO"])
@pytest.mark.parametrize("wrap", ["plain", "normalised"])
def test_terminal_observation_that_nobody_reads(mode: dict[str, Any], wrap: str) -> None:
    """A simulator that breaks and terminates may leave NaN in the terminal observation: as in PPO, training goes on."""
    inner, _ = counting_env(N_ENVS, "vector", fault=(BAD_ENV, N_STEPS + 3, lambda o, r: (spoilt(o, np.nan), r)))
    model = make_model(WRAPPERS[wrap](inner), **mode).learn(3 * ROLLOUT)
    assert model.policy_version == 3


@pytest.mark.parametrize("mode", [{}, ON_POLICY], ids=["replay", "pure PPO"])
def test_policy_that_is_not_finite(mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-probability that is not finite is the policy's fault, and the message says so."""
    env, _ = counting_env(N_ENVS)
    model = make_model(env, **mode).learn(ROLLOUT)
    before = contents(model.replay_buffer) if model.replay_buffer is not None else None
    forward = model.policy.forward

    def broken(observation: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        actions, values, log_probs = forward(observation, deterministic)
        log_probs[BAD_ENV] = th.nan
        return actions, values, log_probs

    monkeypatch.setattr(model.policy, "forward", broken)
    expected = f"Environment {BAD_ENV}: the policy returned a log-probability that is not finite, at step 0 of"
    with pytest.raises(ValueError, match=expected):
        model.learn(ROLLOUT, reset_num_timesteps=False)
    if model.replay_buffer is not None:
        assert_same(contents(model.replay_buffer), before)


def test_first_observation_that_is_not_finite() -> None:
    """A wrong observation at the very first reset is named too."""
    env, logs = counting_env(N_ENVS)
    reset = logs[BAD_ENV].env.reset

    def broken(**kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = reset(**kwargs)
        logs[BAD_ENV].env.reset = reset  # type: ignore[method-assign]  # once only
        return spoilt(observation, np.nan), info

    logs[BAD_ENV].env.reset = broken  # type: ignore[method-assign]  # as above
    model = make_model(env)
    with pytest.raises(ValueError, match=f"Environment {BAD_ENV}: the environment returned an? observation"):
        model.learn(ROLLOUT)
    model.learn(ROLLOUT)
    assert len(rollouts(model)) == 1


def test_an_error_that_travels() -> None:
    """From an actor to its learner, with all that it knows."""
    error = NonFiniteStepError("observation 2 is nan", "observation", 1, {"rewards": np.array(0.5)})
    arrived = pickle.loads(pickle.dumps(error))
    assert (str(arrived), arrived.summary, arrived.environment) == ("observation 2 is nan", "observation", 1)
    assert arrived.step == {"rewards": 0.5}

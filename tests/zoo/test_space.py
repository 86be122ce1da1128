"""The search space: whatever is drawn can be trained, and comes back from YAML as it was drawn."""

import optuna
import pytest
import torch as th
import yaml
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from sb3_gipo import GIPO
from sb3_gipo.zoo import register, space, study

register()
from rl_zoo3.exp_manager import ExperimentManager  # noqa: E402  # after registering, which replaces it
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER  # noqa: E402


def draw(seed: int, n_envs: int) -> tuple[optuna.Trial, dict]:
    """A trial at random, and GIPO's arguments."""
    found = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = found.ask()
    return trial, HYPERPARAMS_SAMPLER["gipo"](trial, 4, n_envs, {})


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def envs() -> dict[int, DummyVecEnv]:
    return {n: make_vec_env("Pendulum-v1", n_envs=n) for n in (1, 3, 8)}


@given(seed=st.integers(0, 2**31), n_envs=st.sampled_from([1, 3, 8]))
def test_every_combination_is_valid(seed: int, n_envs: int, envs: dict[int, DummyVecEnv]) -> None:
    """GIPO takes whatever is drawn, for any number of environments."""
    _, arguments = draw(seed, n_envs)
    model = GIPO("MlpPolicy", envs[n_envs], device="cpu", **arguments)
    rollout = model.n_steps * n_envs
    assert model.replay_capacity >= max(rollout, model.batch_size)
    assert model.gradient_steps >= 1
    assert 0.2 * 0.5 <= model.sigma_neg(1.0) <= model.sigma(1.0) <= 2.0
    assert model.vtrace_c_bar <= model.vtrace_rho_bar
    assert 0.97 <= model.gamma < 1


@given(seed=st.integers(0, 2**31), n_envs=st.sampled_from([1, 3, 8]))
def test_round_trip_through_yaml(seed: int, n_envs: int) -> None:
    """A trial's parameters, converted, written to YAML, read and preprocessed by the Zoo are the arguments it was run with."""
    trial, arguments = draw(seed, n_envs)
    settings = yaml.safe_load(yaml.safe_dump(study.yaml_settings("gipo", trial.params)))
    assert settings.pop("n_envs") == n_envs
    read = ExperimentManager._preprocess_schedules(settings)
    read["policy_kwargs"] = eval(read["policy_kwargs"], {"nn": nn})
    assert set(read) == set(arguments)
    for name, value in arguments.items():
        if callable(value):
            assert [value(x) for x in (1.0, 0.5, 0.0)] == [read[name](x) for x in (1.0, 0.5, 0.0)]
        else:
            assert read[name] == value, name


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "sac", "tqc"])
def test_the_zoos_own_spaces_can_be_written_too(algorithm: str) -> None:
    """Classes of torch in ``policy_kwargs`` become the text that the Zoo evaluates."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    HYPERPARAMS_SAMPLER[algorithm](trial, 4, 1, {"using_her_replay_buffer": False, "her_kwargs": {}})
    settings = yaml.safe_load(yaml.safe_dump(study.yaml_settings(algorithm, trial.params)))
    kwargs = eval(settings["policy_kwargs"], {"nn": nn})
    assert "net_arch" in kwargs
    if algorithm in ("ppo", "a2c"):
        assert issubclass(kwargs["activation_fn"], nn.Module)


def test_as_python() -> None:
    """Numbers, texts, lists, nested dictionaries and layers."""
    value = {"net_arch": {"pi": [64, 64], "vf": []}, "activation_fn": nn.ReLU, "ortho_init": False, "name": "x"}
    assert eval(study.as_python(value), {"nn": nn}) == value


@pytest.mark.parametrize("kernel", space.KERNELS)
@pytest.mark.parametrize("target", space.TARGETS)
def test_ends_of_every_range_train(kernel: str, target: str) -> None:
    """An update with what is smallest and what is largest, without numbers that are not finite."""
    for n_steps, batch, rollouts, reuse, sigma, schedule in ((6, 10, 0, 5.0, 0.2, "linear"), (6, 5, 5, 40.0, 2.0, "constant")):
        params = {
            "n_envs": 1, "n_steps_pow": n_steps, "batch_size_pow": batch, "replay_rollouts_pow": rollouts, "reuse": reuse,
            "sigma": sigma, "sigma_schedule": schedule, "sigma_neg_ratio": 0.5, "kernel": kernel, "kl_coef": 0.3,
            "target": target, "vtrace_rho_bar": 1.0, "vtrace_c_bar": 2.0, "one_minus_gamma": 0.0001,
            "one_minus_gae_lambda": 0.1, "learning_rate": 1e-3, "lr_schedule": schedule, "ent_coef": 0.01,
            "max_grad_norm": 2.0, "net_arch": "small", "activation_fn": "tanh",
        }  # fmt: skip
        model = GIPO("MlpPolicy", "Pendulum-v1", device="cpu", seed=0, **space.as_arguments(space.convert(params)))
        model.learn(128)
        assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())

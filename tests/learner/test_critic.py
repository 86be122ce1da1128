"""``critic_lr_factor``: the critic's own parameters learn at a rate of their own, everything else as before."""

from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_gipo import GIPO, MlpPolicy
from sb3_gipo.learner import parameters
from tests.learner.models import make_env, make_model

REPLAY: dict[str, Any] = {"replay_capacity": 256, "gradient_steps": 6, "critic_lr_factor": 3.0}
LAYERS = {"net_arch": {"pi": [8], "vf": [8, 8]}}


def names_of_critic(model: GIPO) -> set[str]:
    own = {id(parameter) for parameter in model.policy.optimizer.param_groups[-1]["params"]}
    return {name for name, parameter in model.policy.named_parameters() if id(parameter) in own}


def test_the_critics_own_layers_and_nothing_else() -> None:
    """Value layers and head."""
    model = make_model(**REPLAY, policy_kwargs=LAYERS)
    layers = {f"mlp_extractor.value_net.{index}.{kind}" for index in (0, 2) for kind in ("weight", "bias")}
    assert names_of_critic(model) == layers | {"value_net.weight", "value_net.bias"}
    together = [parameter for group in model.policy.optimizer.param_groups for parameter in group["params"]]
    assert {id(each) for each in together} == {id(each) for each in model.policy.parameters()}
    assert len(together) == len(list(model.policy.parameters()))


def test_a_features_extractor_belongs_to_the_critic_only_where_it_is_not_shared() -> None:
    """A shared one is the actor's too."""
    shared = names_of_critic(make_model("image", **REPLAY))
    own = names_of_critic(make_model("image", **REPLAY, policy_kwargs={"share_features_extractor": False}))
    assert not any("features_extractor" in name for name in shared)
    assert (
        {name for name in own if "features_extractor" in name}
        == {name for name in own if name.startswith("vf_features_extractor")}
        != set()
    )


@pytest.mark.parametrize(("options", "factor"), [(REPLAY, 3.0), ({**REPLAY, "critic_lr_factor": 0.5}, 0.5)])
def test_the_rate_of_the_day_times_the_factor(options: dict[str, Any], factor: float) -> None:
    """Also where the learning rate is a schedule; the log has the actor's."""
    model = make_model(**options, learning_rate=lambda progress: 1e-3 * (1 + progress))
    model.learn(64, log_interval=10**6)
    actor, critic = (group["lr"] for group in model.policy.optimizer.param_groups)
    assert model.logger.name_to_value["train/learning_rate"] == actor > 0
    assert critic == pytest.approx(factor * actor)


@pytest.mark.parametrize("options", [{}, {**REPLAY, "critic_lr_factor": 1}])
def test_one_rate_needs_one_group(options: dict[str, Any]) -> None:
    """By default the optimizer is SB3's."""
    assert len(make_model(**options).policy.optimizer.param_groups) == 1


def test_same_numbers_as_torchs_own_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam on vectors, stretch by stretch, to the last bit; its moments come back to the optimizer."""
    ours = make_model(**REPLAY, policy_kwargs=LAYERS).learn(96)
    monkeypatch.setattr(parameters.FlatAdam, "suits", staticmethod(lambda policy: False))
    theirs = make_model(**REPLAY, policy_kwargs=LAYERS).learn(96)
    for one, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert th.equal(one, other)
        states = [model.policy.optimizer.state[key] for model, key in ((ours, one), (theirs, other))]
        assert all(th.equal(states[0][name], states[1][name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_compiled_as_well() -> None:
    """The graph knows both rates."""
    eager, compiled = (make_model(**REPLAY, learning_rate=1e-3, compile=compile).learn(96) for compile in (False, True))
    for one, other in zip(eager.policy.parameters(), compiled.policy.parameters(), strict=True):
        th.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_saved_and_loaded(tmp_path: Path) -> None:
    """Training goes on bit for bit, both groups with their moments."""
    whole = make_model(**REPLAY).learn(128)
    half = make_model(**REPLAY).learn(64)
    half.save(tmp_path / "model")
    half.save_replay_buffer(tmp_path / "replay")
    loaded = GIPO.load(tmp_path / "model", env=half.get_env(), force_reset=False)
    loaded.load_replay_buffer(tmp_path / "replay")
    loaded.learn(64, reset_num_timesteps=False)
    for one, other in zip(whole.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert th.equal(one, other)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (3.0, 1.0, "saved with `critic_lr_factor` 3 and is to be loaded with 1"),
        (1.0, 3.0, "saved with `critic_lr_factor` 1 and is to be loaded with 3"),
    ],
)
def test_loaded_with_another_factor(before: float, after: float, said: str, tmp_path: Path) -> None:
    """One of the two has a group for the critic: said, with what to do, which works; from one factor to another it goes on."""
    model = make_model(**{**REPLAY, "critic_lr_factor": before}).learn(64)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=said):
        GIPO.load(tmp_path / "model", env=model.get_env(), critic_lr_factor=after)
    fresh = make_model(**{**REPLAY, "critic_lr_factor": after})
    with pytest.raises(ValueError, match=said):
        fresh.set_parameters(str(tmp_path / "model"))
    fresh.policy.load_state_dict(GIPO.load(tmp_path / "model").policy.state_dict())
    for one, other in zip(fresh.policy.parameters(), model.policy.parameters(), strict=True):
        assert th.equal(one, other)
    if before != 1:
        loaded = GIPO.load(tmp_path / "model", env=model.get_env(), critic_lr_factor=2.0).learn(32)
        actor, critic = (group["lr"] for group in loaded.policy.optimizer.param_groups)
        assert critic == pytest.approx(2 * actor)


def test_a_model_that_was_never_trained_is_loaded_with_another_factor(tmp_path: Path) -> None:
    """Its optimizer has the critic's group, but not yet its rate."""
    model = make_model(**REPLAY)
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="saved with `critic_lr_factor` another than 1 and is to be loaded with 1"):
        GIPO.load(tmp_path / "model", critic_lr_factor=1.0)


class OneTrunk(th.nn.Module):
    """An extractor of one's own that does not say which layers are whose; its value layers have SB3's name all the same."""

    latent_dim_pi = latent_dim_vf = 4

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.trunk, self.value_net = th.nn.Linear(inputs, 4), th.nn.Linear(4, 4)

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        return self.trunk(features).tanh()

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        return self.value_net(self.trunk(features).tanh())


class OneTrunkPolicy(MlpPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = OneTrunk(self.features_dim)  # type: ignore[assignment]


def test_an_extractor_that_does_not_say_what_is_whose() -> None:
    """It trains with one rate; with two, it is said what is missing."""
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "device": "cpu", "seed": 1}
    assert GIPO(OneTrunkPolicy, make_env(), **settings).learn(32).critic_lr_factor == 1
    with pytest.raises(ValueError, match=r"`critic_lr_factor` is 3.0, but OneTrunkPolicy has no parameters .*policy_net"):
        GIPO(OneTrunkPolicy, make_env(), **settings, critic_lr_factor=3.0)


@pytest.mark.parametrize("factor", [0, -1.0, float("nan"), "3"])
def test_refuses_what_is_no_factor(factor: Any) -> None:
    """A number above 0."""
    with pytest.raises(ValueError, match="critic_lr_factor"):
        make_model(critic_lr_factor=factor)


class Grouped(th.optim.Adam):
    """An optimizer that gives the first parameter a group of its own."""

    def __init__(self, params: Any, **kwargs: Any) -> None:
        first, *rest = list(params)
        super().__init__([{"params": [first]}, {"params": rest}], **kwargs)


def test_an_optimizer_with_groups_of_its_own() -> None:
    """With a factor, which rate would be whose is not known; without, it is left alone."""
    policy = {"optimizer_class": Grouped}
    with pytest.raises(ValueError, match="critic_lr_factor"):
        make_model(**REPLAY, policy_kwargs=policy)
    model = make_model(policy_kwargs=policy).learn(64)
    assert [group["lr"] for group in model.policy.optimizer.param_groups] == [1e-2, 1e-2]

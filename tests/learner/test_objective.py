"""The slope of the objective, put together from multipliers, is the gradient that automatic differentiation finds."""

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_gipo import GIPO
from sb3_gipo.learner.batches import replay_source
from sb3_gipo.learner.objective import ObjectiveSettings, objective
from sb3_gipo.ops.losses import entropy_loss, k3_divergence, value_loss
from sb3_gipo.policies import evaluate_actions
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.types import ReplayBatch
from tests.learner.models import collected


def drifted_batch(model: GIPO) -> ReplayBatch:
    """All of the replay, seen by a policy that has moved away from the one that collected it."""
    assert model.replay_buffer is not None
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * th.randn(parameter.shape, generator=th.Generator().manual_seed(7)))
    targets = model._compute_targets(model.replay_buffer)
    source = replay_source(model.replay_buffer, targets, Normalizer(model.env), model.device)
    return source.take(np.arange(len(model.replay_buffer)))


def loss_as_written(model: GIPO, batch: ReplayBatch, how: ObjectiveSettings) -> th.Tensor:
    """The paper's loss from its formulas, differentiable throughout."""
    now = evaluate_actions(model.policy, batch.observations, batch.actions, how.ratio_level, how.sampled_actions)
    advantages = batch.advantages
    if how.normalize_advantage:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    joint = now.log_prob - batch.old_log_prob
    if how.trust_region == "iteration":
        factor = th.exp(batch.start_log_prob - batch.old_log_prob).clamp(max=1.0)
        loss = (factor * how.surrogate(now.log_prob - batch.start_log_prob, advantages).loss).mean()
    elif now.dimension_log_prob is None:
        loss = how.surrogate(joint, advantages).loss.mean()
    else:
        log_ratio = now.dimension_log_prob - batch.old_dimension_log_prob
        loss = how.surrogate(log_ratio, advantages.unsqueeze(1).expand_as(log_ratio)).loss.sum(dim=1).mean()
    loss = loss + how.vf_coef * value_loss(now.values, batch.value_targets, batch.old_values, how.clip_range_vf)
    loss = loss + how.ent_coef * entropy_loss(now.entropy, now.log_prob)
    return loss + how.kl_coef * k3_divergence(joint).mean()


def gradients(model: GIPO) -> list[np.ndarray]:
    return [np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy() for p in model.policy.parameters()]


def assert_slope_is_the_gradient(model: GIPO) -> None:
    batch, how = drifted_batch(model), model._objective_settings()
    model.policy.optimizer.zero_grad()
    terms, slope = objective(model.policy, batch, how)
    slope.backward()
    found = gradients(model)
    model.policy.optimizer.zero_grad()
    loss = loss_as_written(model, batch, how)
    loss.backward()
    expected = gradients(model)
    assert max(np.abs(gradient).max() for gradient in expected) > 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * max(1.0, np.abs(theirs).max()))
    assert float(terms.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert not any(term.requires_grad for term in terms)


@pytest.mark.parametrize("level", ["joint", "dimension"])
@pytest.mark.parametrize("surrogate", ["gipo", "ppo_clip", "sapo", "no_clip"])
@pytest.mark.parametrize("action", ["box", "discrete", "multidiscrete", "multibinary"])
def test_every_surrogate_and_distribution(surrogate: Any, level: Any, action: str) -> None:
    """With penalty, entropy and clipped values, far from the behaviour policy."""
    options: dict[str, Any] = {"kl_coef": 0.3, "ent_coef": 0.2, "clip_range_vf": 0.2}
    assert_slope_is_the_gradient(collected(action=action, surrogate=surrogate, ratio_level=level, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"kl_coef": 0.0},
        {"vf_coef": 0.0},
        {"normalize_advantage": False},
        {"sigma": 0.3, "sigma_neg": 1.5},
        {"kernel": "cauchy"},
        {"use_sde": True},
        {"use_sde": True, "policy_kwargs": {"squash_output": True}},
        {"surrogate": lambda log_ratio, advantages: -(log_ratio.exp() * advantages) + 0.1 * log_ratio.square()},
    ],
    ids=["no penalty", "no critic", "raw advantages", "two widths", "cauchy", "gSDE", "squashed", "own"],
)
def test_every_term(options: dict[str, Any]) -> None:
    """The same for the other terms; a user's loss is differentiated as written, also what does not depend on the advantage."""
    assert_slope_is_the_gradient(collected(**options))


def test_bfloat16_stays_near() -> None:
    """The forward pass in bfloat16 gives the loss to two digits, and float32 to what comes after it."""
    model = collected()
    batch, how = drifted_batch(model), model._objective_settings()
    exact, _ = objective(model.policy, batch, how)
    rough, slope = objective(model.policy, batch, how._replace(bf16=True))
    assert rough.log_ratio.dtype == th.float32
    assert float(rough.loss) != float(exact.loss)
    assert float(rough.loss) == pytest.approx(float(exact.loss), rel=0.05, abs=0.02)
    slope.backward()
    assert all(p.grad is not None and p.grad.dtype == th.float32 for p in model.policy.parameters())


@pytest.mark.parametrize(
    "surrogate", ["gipo", "ppo_clip", "sapo", "no_clip", lambda log_ratio, advantages: -log_ratio * advantages]
)
def test_trust_measured_against_the_start_of_the_update(surrogate: Any) -> None:
    """The ratio to the behaviour policy is a constant factor of at most 1, in the loss and in the multiplier."""
    model = collected(surrogate=surrogate, trust_region="iteration", iterations=3)
    batch = drifted_batch(model)
    with th.no_grad():  # away from the start as well
        for parameter in model.policy.parameters():
            parameter.mul_(1.1)
    how = model._objective_settings()
    terms, slope = objective(model.policy, batch, how)
    model.policy.optimizer.zero_grad()
    slope.backward()
    found = gradients(model)
    model.policy.optimizer.zero_grad()
    loss_as_written(model, batch, how).backward()
    for ours, theirs in zip(found, gradients(model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * max(1.0, np.abs(theirs).max()))
    factor = th.exp(batch.start_log_prob - batch.old_log_prob).clamp(max=1.0)
    assert 0.0 < float(factor.min()) < float(factor.max()) == 1.0
    own = how.surrogate(terms.start_log_ratio, terms.advantages)
    th.testing.assert_close(terms.multiplier, factor * own.multiplier, rtol=1e-4, atol=1e-5)
    with th.no_grad():
        log_prob = evaluate_actions(model.policy, batch.observations, batch.actions, "joint", True).log_prob
    th.testing.assert_close(terms.log_ratio, log_prob - batch.start_log_prob)
    th.testing.assert_close(terms.joint_log_ratio, log_prob - batch.old_log_prob)
    assert float((terms.log_ratio - terms.joint_log_ratio).abs().max()) > 0.1


@pytest.mark.parametrize("compile", [False, True])
def test_clip_fraction_is_of_the_ratio_that_is_clipped(compile: bool) -> None:
    """
    The first minibatch of an update is seen by the policy at its start: of the ratio from there nothing is outside the clip
    range, although the policies that collected are far away.
    """
    model = collected(
        **{
            "surrogate": "ppo_clip",
            "trust_region": "iteration",
            "iterations": 3,
            "replay_capacity": 256,
            "learning_rate": 0.05,
        },
        gradient_steps=1,
        compile=compile,
    )
    drifted_batch(model)
    model.train()
    logged = model.logger.name_to_value
    assert logged["lag/abs_log_rho_p95"] > 0.5  # a ratio of 1.6, and the clip range is 0.2
    assert logged["train/clip_fraction"] == 0
    model.gradient_steps = 12
    model.train()
    update = model.latest_update
    assert update is not None
    outside = (update.samples.start_log_ratio.exp() - 1).abs() > 0.2
    assert model.logger.name_to_value["train/clip_fraction"] == pytest.approx(float(outside.float().mean()))
    assert 0 < float(outside.float().mean()) < 1
    trust = update.samples.multiplier / update.samples.start_log_ratio.exp()
    assert model.logger.name_to_value["utilization/trust_mean"] == pytest.approx(float(trust.mean()), rel=1e-4)


def test_trust_against_the_start_needs_the_joint_ratio() -> None:
    """The log-probability of each dimension at the start is not kept."""
    with pytest.raises(ValueError, match="trust_region"):
        collected(trust_region="iteration", ratio_level="dimension")
    with pytest.raises(ValueError, match="'behaviour', 'iteration'"):
        collected(trust_region="start")

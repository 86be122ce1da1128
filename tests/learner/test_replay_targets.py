"""Targets of a whole replay: traces that cross from one rollout into the next, and where they must not."""

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_gipo import GIPO
from sb3_gipo.learner.replay_targets import ReplayTargets, _chains
from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from tests.learner.models import collected
from tests.rollouts.data import BOX, BOX_ACTION, make_rollout, observation_of
from tests.small_envs import OBSERVATION_SPACES

# Long traces, so that what is beyond the end of a rollout counts; room for all that is collected.
LONG: dict[str, Any] = {"chain_rollouts": True, "gae_lambda": 1.0, "gamma": 0.99, "replay_capacity": 1000}


def targets_of(model: GIPO) -> ReplayTargets:
    return model._compute_targets(model.replay_buffer)


@pytest.mark.parametrize("target", ["vtrace", "gae"])
@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
def test_four_short_rollouts_are_one_long(observation: str, target: str) -> None:
    """The same steps, stored as four rollouts of 16 steps and as one of 64: the targets are the same, of every space."""
    short = collected(observation, iterations=4, target=target, **LONG)
    long = collected(observation, iterations=4, target=target, **LONG, n_steps=64)
    assert [len(model.replay_buffer.segments) for model in (short, long)] == [4, 1]
    everything = np.arange(128)
    rewards = [model.replay_buffer.gather("rewards", everything) for model in (short, long)]
    assert np.array_equal(*rewards)
    assert len(np.unique(rewards[0])) > 2
    for one, other in zip(targets_of(short), targets_of(long), strict=True):
        th.testing.assert_close(one, other)


def test_each_rollout_by_itself_where_nothing_is_asked_for() -> None:
    """``chain_rollouts=False``, the default, as in the paper: each rollout has the targets that it has alone."""
    model = collected(iterations=4, **{**LONG, "chain_rollouts": GIPO("MlpPolicy", "CartPole-v1").chain_rollouts})
    cut, offset = targets_of(model), 0
    model.chain_rollouts = True
    assert not th.allclose(cut.advantages, targets_of(model).advantages)
    segments = model.replay_buffer.segments
    for segment in segments:
        model.replay_buffer._segments = type(model.replay_buffer._segments)([segment])
        model.replay_buffer._layout = None
        alone, size = targets_of(model), segment.size
        th.testing.assert_close(cut.advantages[offset : offset + size], alone.advantages)
        th.testing.assert_close(cut.value_targets[offset : offset + size], alone.value_targets)
        offset += size


def test_a_reset_between_two_rollouts_is_no_way_across() -> None:
    """A second call of ``learn`` resets the environments in the middle of an episode: what follows is another episode."""
    model = collected(iterations=2, **LONG)
    assert [len(chain) for chain in _chains(model.replay_buffer)] == [32]
    model.learning_rate = 0.0
    model._setup_lr_schedule()
    model.learn(32)
    assert [len(chain) for chain in _chains(model.replay_buffer)] == [32, 16]


def replay_of(*rollouts: tuple[int, int, int]) -> RolloutReplayBuffer:
    """
    :param rollouts: actor, number of its first step, steps; all of an actor's steps are one episode after the other
    :return: a replay of them, with two environments each
    """
    replay = RolloutReplayBuffer(1000, BOX, BOX_ACTION)
    replay.policy_version = 1000
    for actor, first, n_steps in rollouts:
        ids = 2 * (first + n_steps) + np.arange(2)  # of the first step that is no longer here
        replay.add(make_rollout(2 * first, n_steps, 2, actor_id=actor, last_observations=observation_of(BOX, ids)))
    return replay


def chained(replay: RolloutReplayBuffer) -> list[list[int]]:
    """:return: of each chain, the number of each step (see ``replay_of``)"""
    return [(replay.gather("rewards", chain)[:, 0] / 2).astype(int).tolist() for chain in _chains(replay)]


def test_actors_take_turns() -> None:
    """Rollouts of two actors that arrive one between the other make a chain for each, in the order of time."""
    replay = replay_of((0, 0, 3), (1, 100, 2), (0, 3, 2), (1, 102, 2))
    assert chained(replay) == [[0, 1, 2, 3, 4], [100, 101, 102, 103]]


def test_what_another_actor_goes_on_with_is_not_its_own() -> None:
    """The same observation in the rollout of another actor is no continuation."""
    assert chained(replay_of((0, 0, 3), (1, 3, 2))) == [[0, 1, 2], [3, 4]]


def test_a_rollout_that_is_missing_ends_the_chain() -> None:
    """Where one was dropped or not drawn, the next begins anew; after it the chain goes on."""
    assert chained(replay_of((0, 0, 3), (0, 5, 2), (0, 7, 1))) == [[0, 1, 2], [5, 6, 7]]


def test_another_number_of_environments_ends_the_chain() -> None:
    """Rollouts of another width are not joined, whatever they hold."""
    replay = replay_of((0, 0, 3))
    replay.add(make_rollout(6, 2, 1, actor_id=0))
    assert [chain.shape for chain in _chains(replay)] == [(3, 2), (2, 1)]


def test_every_position_is_in_one_chain() -> None:
    """Nothing is left out and nothing is twice, over the end of the ring too."""
    model = collected(iterations=7, **{**LONG, "replay_capacity": 100})
    assert model.replay_buffer.segments[0].start > 0
    positions = np.concatenate([chain.flatten() for chain in _chains(model.replay_buffer)])
    assert np.array_equal(np.sort(positions), np.arange(len(model.replay_buffer)))
    assert len(_chains(model.replay_buffer)) == 1

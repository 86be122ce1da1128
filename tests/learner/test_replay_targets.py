"""Targets of a whole replay: traces that cross from one rollout into the next, and where they must not."""

from collections import deque
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_gipo import GIPO
from sb3_gipo.learner.replay_targets import ReplayTargets, _chains
from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import Rollout
from tests.learner.models import collected
from tests.rollouts.data import BOX, BOX_ACTION, ODD_KEYS, make_rollout, observation_of
from tests.small_envs import OBSERVATION_SPACES

# Long traces, so that what is beyond the end of a rollout counts; room for all that is collected.
LONG: dict[str, Any] = {"chain_rollouts": True, "gae_lambda": 1.0, "gamma": 0.99, "replay_capacity": 1000}


def moved_on(model: GIPO) -> GIPO:
    """The same with another policy than the one that collected, and ratios that are not 1."""
    generator = th.Generator().manual_seed(3)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter += 0.2 * th.randn(parameter.shape, generator=generator)
    return model


def targets_of(model: GIPO) -> ReplayTargets:
    return model._compute_targets(model.replay_buffer)


@pytest.mark.parametrize("target", ["vtrace", "gae"])
@pytest.mark.parametrize("observation", OBSERVATION_SPACES)
def test_four_short_rollouts_are_one_long(observation: str, target: str) -> None:
    """The same steps, stored as four rollouts of 16 steps and as one of 64: the targets are the same, of every space."""
    short = moved_on(collected(observation, iterations=4, target=target, **LONG))
    long = moved_on(collected(observation, iterations=4, target=target, **LONG, n_steps=64))
    assert [len(model.replay_buffer.segments) for model in (short, long)] == [4, 1]
    everything = np.arange(128)
    stored = [
        {name: model.replay_buffer.gather(name, everything) for name in ("rewards", "log_probs")} for model in (short, long)
    ]
    assert np.array_equal(stored[0]["rewards"], stored[1]["rewards"])
    found = targets_of(short)
    assert (found.log_prob - th.from_numpy(stored[0]["log_probs"])).abs().mean() > 0.05
    for one, other in zip(found, targets_of(long), strict=True):
        th.testing.assert_close(one, other)


def test_each_rollout_by_itself_where_nothing_is_asked_for() -> None:
    """``chain_rollouts=False``, the default, as in the paper: each rollout has the targets that it has alone."""
    model = moved_on(collected(iterations=4, **{name: value for name, value in LONG.items() if name != "chain_rollouts"}))
    cut, offset = targets_of(model), 0
    model.chain_rollouts = True
    assert not th.allclose(cut.advantages, targets_of(model).advantages)
    for segment in model.replay_buffer.segments:
        model.replay_buffer._segments = deque([segment])
        model.replay_buffer._layout = None
        alone, size = targets_of(model), segment.size
        th.testing.assert_close(cut.advantages[offset : offset + size], alone.advantages)
        th.testing.assert_close(cut.value_targets[offset : offset + size], alone.value_targets)
        offset += size


def test_a_reset_between_two_rollouts_is_no_way_across() -> None:
    """A second call of ``learn`` resets the environments in the middle of an episode: what follows is another episode."""
    model = collected(iterations=2, **LONG)
    assert [len(chain) for chain in _chains(model.replay_buffer)] == [32]
    model.learn(32)
    assert [len(chain) for chain in _chains(model.replay_buffer)] == [32, 16]


def following(actor: int, first: int, n_steps: int, space: spaces.Space[Any] = BOX, **changes: Any) -> Rollout:
    """
    :param actor: who collected it
    :param first: number of its first step; all steps of an actor are one after the other
    :param n_steps: how many
    :param space: of observations
    :param changes: fields to replace
    :return: rollout of two environments that ends with what the step after its last one begins with
    """
    last = observation_of(space, 2 * (first + n_steps) + np.arange(2))
    return make_rollout(2 * first, n_steps, 2, space, **{"actor_id": actor, "last_observations": last, **changes})


def replay_of(*rollouts: Rollout, space: spaces.Space[Any] = BOX) -> RolloutReplayBuffer:
    replay = RolloutReplayBuffer(1000, space, BOX_ACTION, seed=0)
    replay.policy_version = 1000
    for rollout in rollouts:
        replay.add(rollout)
    return replay


def steps_of_chains(replay: RolloutReplayBuffer) -> list[list[int]]:
    """:return: of each chain, the number of each step (see ``following``)"""
    return [(replay.gather("rewards", chain)[:, 0] / 2).astype(int).tolist() for chain in _chains(replay)]


def test_actors_take_turns() -> None:
    """Rollouts of two actors that arrive one between the other make a chain for each, in the order of time."""
    replay = replay_of(following(0, 0, 3), following(1, 100, 2), following(0, 3, 2), following(1, 102, 2))
    assert steps_of_chains(replay) == [[0, 1, 2, 3, 4], [100, 101, 102, 103]]


def test_what_another_actor_goes_on_with_is_not_its_own() -> None:
    """The same observation in the rollout of another actor is no continuation."""
    assert steps_of_chains(replay_of(following(0, 0, 3), following(1, 3, 2))) == [[0, 1, 2], [3, 4]]


def test_a_rollout_that_never_came_ends_the_chain() -> None:
    """Where one is missing, the next begins anew; after it the chain goes on."""
    assert steps_of_chains(replay_of(following(0, 0, 3), following(0, 5, 2), following(0, 7, 1))) == [[0, 1, 2], [5, 6, 7]]


@pytest.mark.parametrize("environment", [0, 1])
def test_all_environments_have_to_go_on(environment: int) -> None:
    """Where one of them was reset, however little its observation differs, the rollout is another chain."""
    last = observation_of(BOX, 6 + np.arange(2))
    last[environment, -1] = np.nextafter(last[environment, -1], np.float32(np.inf))
    assert steps_of_chains(replay_of(following(0, 0, 3, last_observations=last), following(0, 3, 2))) == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("key", ODD_KEYS.spaces)
def test_all_parts_of_an_observation_have_to_go_on(key: str) -> None:
    """The same of each key of a dictionary."""
    last = observation_of(ODD_KEYS, 6 + np.arange(2))
    whole = replay_of(following(0, 0, 3, ODD_KEYS), following(0, 3, 2, ODD_KEYS), space=ODD_KEYS)
    assert steps_of_chains(whole) == [[0, 1, 2, 3, 4]]
    last[key] = last[key] + np.ones((), last[key].dtype)
    cut = replay_of(following(0, 0, 3, ODD_KEYS, last_observations=last), following(0, 3, 2, ODD_KEYS), space=ODD_KEYS)
    assert steps_of_chains(cut) == [[0, 1, 2], [3, 4]]


def test_another_number_of_environments_ends_the_chain() -> None:
    """Rollouts of another width are not joined, though every environment had seen the same."""
    same = observation_of(BOX, np.array([6, 6]))
    replay = replay_of(following(0, 0, 3, last_observations=same), make_rollout(6, 2, 1, actor_id=0))
    assert [chain.shape for chain in _chains(replay)] == [(3, 2), (2, 1)]


def test_what_is_not_drawn_is_not_bridged() -> None:
    """Of a large replay only rollouts that are neighbours are joined, also where all observations are alike."""
    alike = {"observations": np.zeros((3, 2, 3), np.float32), "last_observations": np.zeros((2, 3), np.float32)}
    replay = replay_of(*(following(0, 3 * number, 3, **alike) for number in range(20)))
    assert len(_chains(replay)) == 1
    part = replay.part(60)
    drawn = {segment.number for segment in part.segments}
    assert len(drawn) == 10
    chains = steps_of_chains(part)
    assert len(chains) == len([number for number in drawn if number - 1 not in drawn])
    assert all(np.diff(chain).tolist() == [1] * (len(chain) - 1) for chain in chains)


def test_every_position_is_in_one_chain() -> None:
    """Nothing is left out and nothing is twice, over the end of the ring too."""
    model = collected(iterations=7, **{**LONG, "replay_capacity": 100})
    assert model.replay_buffer.segments[0].start > 0
    positions = np.concatenate([chain.flatten() for chain in _chains(model.replay_buffer)])
    assert np.array_equal(np.sort(positions), np.arange(len(model.replay_buffer)))
    assert len(_chains(model.replay_buffer)) == 1

"""Where the time goes: by a clock of our own, with numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest

from sb3_gipo.distributed import AsyncGIPO
from sb3_gipo.distributed.accounts import Accounts, BackendFacts, bottleneck, describe
from sb3_gipo.distributed.actor import Collected
from sb3_gipo.rollouts.types import Rollout


def collected(versions: list[int], seconds: float, idle: float) -> Collected:
    """One step for each version, of one environment."""
    shape = (len(versions), 1)
    numbers: Any = np.zeros(shape, dtype=np.float32)
    rollout = Rollout(
        observations=np.zeros((*shape, 2), dtype=np.float32),
        actions=numbers.astype(np.uint8),
        rewards=numbers.copy(),
        terminated=numbers.astype(bool),
        truncated=numbers.astype(bool),
        log_probs=numbers.copy(),
        last_observations=np.zeros((1, 2), dtype=np.float32),
        terminal_observations=np.zeros((0, 2), dtype=np.float32),
        policy_version=np.array(versions, dtype=np.int32).reshape(shape),
    )
    return Collected(rollout, [], None, None, versions[-1], seconds, idle)


def test_one_report() -> None:
    """Ten seconds, of which the learner waited two; two rollouts of two and four steps; three updates."""
    time = [100.0]
    accounts = Accounts(lambda: time[0])
    accounts.waited(1.5)
    accounts.waited(0.5)
    time[0] = 105.0
    accounts.arrived(collected([3, 4], seconds=3.0, idle=1.0), version=5)
    accounts.arrived(collected([5, 5, 6, 6], seconds=4.0, idle=0.0), version=8)
    for _ in range(3):
        accounts.updated()
    time[0] = 110.0
    facts = BackendFacts(alive=2, queue=1, restarts=4, lost_rollouts=3, raised=1, died=2, hung=1, object_store_mb=1.5)
    assert accounts.report(facts) == pytest.approx(
        {
            "async/alive": 2,
            "async/queue": 1,
            "async/restarts": 4,
            "async/lost_rollouts": 3,
            "async/raised": 1,
            "async/died": 2,
            "async/hung": 1,
            "async/object_store_mb": 1.5,
            "time/wait": 2.0,
            "async/learner_wait": 0.2,
            "async/updates_per_second": 0.3,
            "async/steps_per_second": 0.6,
            "async/actor_wait": 1 / 8,
            "lag/collected_mean": (2 + 1 + 3 + 3 + 2 + 2) / 6,
            "lag/collected_max": 3,
        }
    )
    accounts.begin()
    time[0] = 111.0
    again = accounts.report(BackendFacts(alive=2, queue=0))
    assert again["async/learner_wait"] == again["async/updates_per_second"] == again["async/steps_per_second"] == 0
    assert "lag/collected_mean" not in again  # nothing arrived


def test_reports_of_unequal_length() -> None:
    """
    Until the log is written they add up. Four actors in step: one iteration waits for 0.9 s, three find what they need, each
    takes 10 ms: the learner waits nearly all of the time, not a quarter of it. What went before the first rollout counts for
    the log only, and what went before this `learn` not at all.
    """
    time = [0.0]
    accounts = Accounts(lambda: time[0])
    facts = BackendFacts(alive=4, queue=0)
    time[0] = 60.0
    accounts.waited(60.0)  # processes were started
    for _ in range(5):
        for iteration in range(4):
            seconds = 0.0 if iteration else 0.9
            time[0] += seconds
            accounts.waited(seconds)
            accounts.arrived(collected([1], seconds=0.1, idle=600.0 if time[0] < 61 else 0.3), version=1)
            time[0] += 0.01
            accounts.updated()
            said = accounts.report(facts)
    assert said["async/steps_per_second"] == pytest.approx(20 / (60 + 4.7))
    assert said["async/learner_wait"] == pytest.approx((60 + 4.5) / (60 + 4.7))
    learner, actors = accounts.waits()
    assert learner == pytest.approx(3.6 / 3.8, abs=1e-6)  # without the first wait, at whose end the first rollout arrived
    idle = 4 * 60.905 + 16 * 0.3  # the actors had nothing to do for longer than this `learn` has lasted
    assert actors == pytest.approx(idle / (idle + 20 * 0.1), rel=1e-3)


def test_what_is_going_to_happen() -> None:
    """Told in one sentence, with the numbers of the run."""

    def said(**kwargs: Any) -> str:
        return describe(AsyncGIPO("MlpPolicy", "CartPole-v1", **kwargs))

    many = said(num_actors=4, envs_per_actor=2, rollout_length=128, publish_every=3, replay_ratio=2.5)
    assert "4 actors in processes of Ray, 2 environments each; rollouts of 128 steps of each environment" in many
    assert "whenever 2.5 transitions" in many
    assert "after every 3 updates" in many
    assert "1 environment each" in said()
    assert "as fast as possible" in said(replay_ratio="max")
    assert "serial" in said(backend="serial")


@pytest.mark.parametrize(
    ("learner_wait", "actor_wait", "said"),
    [
        (0.6, 0.0, "actors are the bottleneck: the learner waits 60 %"),
        (0.0, 0.7, "learner is the bottleneck: the actors wait 70 %"),
        (0.3, 0.5, "learner is the bottleneck"),
        (0.1, 0.15, "busy: they wait 10 % and 15 %"),
    ],
)
def test_bottleneck_in_words(learner_wait: float, actor_wait: float, said: str) -> None:
    """Who waits is not the one."""
    assert said in bottleneck(learner_wait, actor_wait)

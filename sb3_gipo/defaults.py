"""
What stands for ``None`` and ``"auto"`` among GIPO's arguments. Without a replay it is what PPO has; with one, what was found
on tasks that no reported number comes from (``benchmarks/data_efficiency``).
"""

from collections.abc import Mapping
from typing import Any

# PPO's own, of one environment and of one minibatch
PPO_N_STEPS, PPO_BATCH_SIZE = 2048, 64
PPO_GAE_LAMBDA = 0.95
PPO_LEARNING_RATE = 3e-4
# With a replay a rollout need not be a data set of its own: the policy is renewed as soon as there is something new.
REPLAY_ROLLOUT = 512  # of all environments together
REPLAY_BATCH_SIZE = 128
# the truncated ratios of V-trace shorten its trace already (arXiv 1802.01561 has no other decay)
REPLAY_GAE_LAMBDA = 1.0
# Both of learning_rate=None. What is drawn again and again teaches an actor its noise, above all while little is stored; the
# critic is fitted to targets, which follow it, and keeps PPO's rate.
REPLAY_LEARNING_RATE = 1e-4
REPLAY_CRITIC_LR_FACTOR = 3.0
# replay_capacity="auto": whichever is more
AUTO_REPLAY_ROLLOUTS, AUTO_REPLAY_TRANSITIONS = 8, 8_192
# gradient_steps=None: so many times PPO's minibatches for one rollout, once the replay is full. Old data are worth more passes
# than they had; a few rollouts, taken so often at once, teach their noise.
REPLAY_WORK = 4
# surrogate_kwargs=None, of "gipo": one-sided trust, with this largest multiplier of what brings a ratio back
REPLAY_RESTORING = 3.0
# kl_coef=None, where the surrogate pulls nothing back that old data, used again and again, have carried away
REPLAY_KL_COEF = 0.1


def n_steps(replay: bool, n_envs: int) -> int:
    """
    :param replay: whether there is one
    :param n_envs: environments
    :return: steps of each of them in a rollout
    """
    return max(REPLAY_ROLLOUT // n_envs, 2) if replay else PPO_N_STEPS


def batch_size(replay: bool) -> int:
    """
    :param replay: whether there is one
    :return: transitions in a minibatch
    """
    return REPLAY_BATCH_SIZE if replay else PPO_BATCH_SIZE


def gae_lambda(replay: bool) -> float:
    """
    :param replay: whether there is one
    :return: trace decay of the targets
    """
    return REPLAY_GAE_LAMBDA if replay else PPO_GAE_LAMBDA


def learning_rate(replay: bool) -> float:
    """
    :param replay: whether there is one
    :return: learning rate, of the actor where the critic has one of its own
    """
    return REPLAY_LEARNING_RATE if replay else PPO_LEARNING_RATE


def critic_lr_factor(replay: bool, separable: bool) -> float:
    """
    :param replay: whether there is one
    :param separable: whether the critic's parameters are known
    :return: of the critic's learning rate to :func:`learning_rate`
    """
    return REPLAY_CRITIC_LR_FACTOR if replay and separable else 1.0


def surrogate_kwargs(replay: bool, surrogate: object) -> dict[str, Any]:
    """
    :param replay: whether there is one
    :param surrogate: its name, or a function
    :return: further arguments of it
    """
    return {"restoring": REPLAY_RESTORING} if replay and surrogate == "gipo" else {}


def kl_coef(replay: bool, surrogate: object, further: Mapping[str, Any]) -> float:
    """
    :param replay: whether there is one
    :param surrogate: its name, or a function
    :param further: arguments of it
    :return: coefficient of the penalty on the divergence from the behaviour policy
    """
    pulls_back = surrogate == "ppo_clip" or (surrogate == "gipo" and further.get("restoring") is not None)
    return REPLAY_KL_COEF if replay and not pulls_back else 0.0


def replay_capacity(rollout: int) -> int:
    """
    :param rollout: its transitions
    :return: transitions kept
    """
    return max(AUTO_REPLAY_ROLLOUTS * rollout, AUTO_REPLAY_TRANSITIONS)


def gradient_steps(n_epochs: int, rollout: int, batch: int, stored: int, capacity: int) -> int:
    """
    :param n_epochs: PPO's
    :param rollout: its transitions
    :param batch: transitions in a minibatch
    :param stored: transitions in the replay
    :param capacity: how many it keeps
    :return: minibatches in an iteration: PPO's at first, then in proportion to what is stored until that is all that is kept,
        or :func:`replay_capacity`
    """
    ppo, enough = n_epochs * -(-rollout // batch), min(capacity, replay_capacity(rollout))
    return max(ppo, min(REPLAY_WORK * ppo * stored // enough, REPLAY_WORK * ppo))

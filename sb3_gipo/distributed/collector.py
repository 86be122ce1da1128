"""A model that collects and never trains: what only training would read is not computed at every step."""

from typing import Any

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs

from sb3_gipo.distributed.array_acting import METHODS, ArrayActing, can_act, is_plain
from sb3_gipo.distributed.array_loop import ArrayLoop
from sb3_gipo.gipo import GIPO
from sb3_gipo.rollouts.types import Rollout


class Collector(GIPO, ArrayLoop):
    """SB3's loop, or the one on arrays, and our recorder around it, as in GIPO; the rollout stays here."""

    collected: Rollout | None = None

    def act_on_arrays(self) -> None:
        """From now on, where nobody reads values and the policy is one that can: with other random numbers, for less."""
        if isinstance(self.policy, _WithoutCritic) and self.ratio_level == "joint" and can_act(self.policy):
            self.array_acting = ArrayActing(self.policy)

    def _store_rollout(self, rollout: Rollout) -> None:
        self.collected = rollout


def collector(policy: type[ActorCriticPolicy], **arguments: Any) -> Collector:
    """
    :param policy: class of the policy
    :param arguments: of GIPO
    :return: a model whose rollouts are GIPO's, number for number. The learner computes the values of all it draws from anew;
        only where it learns from stored ones do they come from here
    """
    if arguments.get("target") == "stored":
        return Collector(policy, **arguments)
    return Collector(without_critic(policy), rollout_buffer_class=StepCount, **arguments)


def without_critic(policy: type[ActorCriticPolicy]) -> type[ActorCriticPolicy]:
    """
    :param policy: a class
    :return: one that acts alike and says zero for every value; ``policy`` itself where it acts in a way of its own
    """
    if any(getattr(policy, name) is not getattr(ActorCriticPolicy, name) for name in ("forward", *METHODS)):
        return policy
    return type(policy.__name__, (_WithoutCritic, policy), {"__module__": policy.__module__})


class _WithoutCritic(ActorCriticPolicy):
    """Has the critic, as the parameters that are published are in the policy's own order, and does not ask it."""

    def forward(self, obs: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        # SB3's own `forward` takes both halves of another extractor at once, and they need not be what it gives one by one
        if not is_plain(self.mlp_extractor, MlpExtractor):
            return super().forward(obs, deterministic)
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        log_probs = distribution.log_prob(actions)
        return actions.reshape(-1, *(self.action_space.shape or ())), th.zeros(len(actions), 1), log_probs

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        return th.zeros(len(next(iter(obs.values())) if isinstance(obs, dict) else obs), 1)


class StepCount(RolloutBuffer):
    """Of SB3's buffer what the recorder reads, who keeps the steps: how many of them the loop has finished."""

    def reset(self) -> None:
        self.pos, self.full = 0, False

    def add(self, *args: Any, **kwargs: Any) -> None:
        self.pos += 1

    def compute_returns_and_advantage(self, *args: Any, **kwargs: Any) -> None:
        """Nobody reads them."""

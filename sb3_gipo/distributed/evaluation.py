"""What a policy of some version is worth, on environments of its own. Knows nothing of where it runs."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo.distributed import published
from sb3_gipo.distributed.published import Published
from sb3_gipo.gipo import GIPO
from sb3_gipo.rollouts.normalization import Normalizer


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """
    How to build an evaluator; travels to wherever it runs.

    :param make_env: makes its environments, seeded; where they are normalised, in a ``VecNormalize`` that does not learn
    :param policy: class of the policy
    :param settings: arguments of GIPO that matter to who acts
    :param n_episodes: of one evaluation
    :param deterministic: whether the most likely action is taken
    :param seed: of its exploration, where there is any
    """

    make_env: Callable[[], VecEnv]
    policy: type[ActorCriticPolicy]
    settings: dict[str, Any]
    n_episodes: int
    deterministic: bool
    seed: int | None = None


class Evaluation(NamedTuple):
    """What one policy was worth."""

    version: int  # of the policy
    step: int  # of all environments when it was published
    returns: list[float]  # of each episode
    lengths: list[int]
    successes: list[bool]  # empty where the environment tells of none
    seconds: float  # it took


class EvaluationFailedError(RuntimeError):
    """
    An evaluation ended in an error, with its process, or took too long.

    :param message: with the traceback, where there is one
    """


class Evaluator:
    """
    :param plan: how to build it
    """

    def __init__(self, plan: EvaluationPlan) -> None:
        self._plan = plan
        self._model = GIPO(plan.policy, plan.make_env(), device="cpu", **plan.settings)
        self._normalizer = Normalizer(self._model.env)

    def evaluate(self, weights: Published, step: int) -> Evaluation:
        """
        :param weights: the policy, and the statistics to normalise with
        :param step: of all environments when it was published
        :return: what it was worth
        """
        start, env = time.perf_counter(), self._model.env
        assert env is not None
        published.take(self._model.policy, weights)
        self._normalizer.restore(weights.statistics)
        successes: list[bool] = []

        def note(found: dict[str, Any], _: dict[str, Any]) -> None:
            if found["done"] and found["info"].get("is_success") is not None:
                successes.append(bool(found["info"]["is_success"]))

        how: dict[str, Any] = {"deterministic": self._plan.deterministic, "return_episode_rewards": True, "callback": note}
        returns, lengths = evaluate_policy(self._model, env, self._plan.n_episodes, **how)
        assert isinstance(returns, list)
        assert isinstance(lengths, list)
        spent = time.perf_counter() - start
        return Evaluation(weights.version, step, [float(each) for each in returns], lengths, successes, spent)

    def close(self) -> None:
        """Close the environments."""
        assert self._model.env is not None
        self._model.env.close()


class EvaluationSource(Protocol):
    """An evaluator, wherever it runs, which takes one policy at a time."""

    def submit(self, weights: Published, step: int) -> None:
        """
        :param weights: to be evaluated
        :param step: of all environments
        """

    def take(self, seconds: float) -> Evaluation | None:
        """
        :param seconds: to wait for it, at most
        :return: the result, where there is one
        :raises EvaluationFailedError: where there will be none; it may be given the next policy
        """

    def has_place(self) -> bool:
        """
        :return: whether it runs; false as long as no machine has room for it
        """

    def close(self) -> None:
        """End it."""

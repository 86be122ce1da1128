"""RLlib's APPO (the new API stack, PyTorch), as a contestant. Imported only where RLlib is installed."""

import time
from typing import Any

import gymnasium as gym
import ray
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env


class RLlib:
    """
    The network of SB3's ``MlpPolicy``: two hidden layers of 64 with tanh, apart for policy and value. The learner is in this
    process, each environment in one of its own.

    :param spec: what to build; of its arguments ``defaults`` leaves RLlib's sizes as they are, else ``batch`` is the length of
        a fragment and of a training batch, each of which is used once
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        # of the machine only the cores are scarce, which all share: RLlib reserves one for each process
        ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
        register_env("task", _make(spec["task"]))
        model = DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False)
        config = APPOConfig().environment("task").env_runners(num_env_runners=spec["number"], num_envs_per_env_runner=1)
        config = config.learners(num_learners=0).rl_module(model_config=model).debugging(seed=spec["seed"])
        config = config.reporting(min_time_s_per_iteration=0.5)
        if not spec["arguments"].get("defaults"):
            batch = spec["arguments"]["batch"]
            config = config.env_runners(rollout_fragment_length=batch)
            config = config.training(train_batch_size_per_learner=batch, use_circular_buffer=False)
        self._algorithm = config.build_algo()
        self._sampled = self._trained = 0.0

    def _iterate(self) -> None:
        result = self._algorithm.train()
        self._sampled = result["env_runners"].get("num_env_steps_sampled_lifetime", self._sampled)
        learner = result.get("learners", {}).get("__all_modules__", {})
        self._trained = learner.get("num_env_steps_trained_lifetime", self._trained)

    def unit(self, lead: int, steps: int) -> dict[str, float]:
        """
        :param lead: steps before the clock starts
        :param steps: to sample with the clock running, about
        :return: ``steps``, ``seconds``, ``trained``: samples that the learner used
        """
        begin = self._sampled
        while self._sampled < begin + lead:
            self._iterate()
        start, sampled, trained = time.perf_counter(), self._sampled, self._trained
        while self._sampled < sampled + steps:
            self._iterate()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "steps": self._sampled - sampled, "trained": self._trained - trained}

    def close(self) -> None:
        """End its processes."""
        self._algorithm.stop()
        ray.shutdown()


def _make(task: str) -> Any:
    def make(_: Any) -> gym.Env[Any, Any]:
        return gym.make(task)

    return make

"""Tells SB3 and its callbacks, at the learner, of what was collected elsewhere."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_gipo.distributed.actor import Collected


def tell(model: BaseAlgorithm, collected: Collected, callback: BaseCallback) -> bool:
    """
    Each step of a rollout, as if it were collected now.

    :param model: counts the steps and remembers the episodes
    :param collected: has arrived
    :param callback: is told of its ends of episodes, rewards and actions
    :return: false when the callback stopped
    """
    rollout = collected.rollout
    infos: list[list[dict[str, Any]]] = [[{} for _ in range(rollout.n_envs)] for _ in range(rollout.n_steps)]
    for end in collected.ends:
        infos[end.step][end.environment] = end.info
    dones = rollout.terminated | rollout.truncated
    has_end = dones.any(axis=1)
    for step in range(rollout.n_steps):
        model.num_timesteps += rollout.n_envs
        facts = {"rewards": rollout.rewards[step], "actions": rollout.actions[step]}
        callback.update_locals({"infos": infos[step], "dones": dones[step], **facts})
        if not callback.on_step():
            return False
        if has_end[step]:
            model._update_info_buffer(infos[step], dones[step])
    return True

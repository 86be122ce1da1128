"""SB3's collection loop for a policy that acts on arrays."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo.distributed.array_acting import ArrayActing
from sb3_gipo.rollouts.recorder import all_finite


class ArrayLoop(OnPolicyAlgorithm):
    """
    To be inherited from beside an algorithm whose rollouts are recorded by a callback: stands before SB3's loop and does for a
    policy of :func:`~sb3_gipo.distributed.array_acting.can_act` what that does, without tensors, values, bootstrapped rewards,
    buffer and statistics of episodes. What is left takes half the time. That it stays SB3's, number for number, is a test.
    """

    array_acting: ArrayActing | None = None  # ``None``: SB3's own loop

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        :param env: as in SB3
        :param callback: sees of SB3's variables those that are there: arrays, also ``log_probs``
        :param rollout_buffer: counts the steps, see :class:`~sb3_gipo.distributed.collector.StepCount`
        :param n_rollout_steps: as in SB3
        :return: false when a callback stopped it
        """
        acting, seen = self.array_acting, self._last_obs
        self.policy.set_training_mode(False)
        # an observation that is not finite is for the recorder to refuse, before the policy is asked
        if acting is None or not isinstance(seen, np.ndarray) or not all_finite(seen) or not acting.agrees(seen):
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        rollout_buffer.reset()
        callback.on_rollout_start()
        box = self.action_space if isinstance(self.action_space, spaces.Box) else None
        for _ in range(n_rollout_steps):
            actions, log_probs = acting.act(seen)
            # `np.clip`, for less
            clipped_actions = actions if box is None else np.minimum(np.maximum(actions, box.low), box.high)
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            assert isinstance(new_obs, np.ndarray)
            self.num_timesteps += env.num_envs
            acted = {"actions": actions, "clipped_actions": clipped_actions, "log_probs": log_probs}
            callback.update_locals({**acted, "new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos})
            if not callback.on_step():
                return False
            rollout_buffer.pos += 1
            self._last_obs = seen = new_obs
            self._last_episode_starts = dones
        callback.on_rollout_end()
        return True

"""Environments: Meta-World tasks ready for Stable-Baselines3, and wrappers."""

from sb3_gipo.envs.meta_world import MetaWorldEnv, make_metaworld_env, metaworld_tasks, register_metaworld_envs
from sb3_gipo.envs.wrappers import DiscretizeActions

register_metaworld_envs()

__all__ = ["DiscretizeActions", "MetaWorldEnv", "make_metaworld_env", "metaworld_tasks", "register_metaworld_envs"]

"""GIPO: PPO that learns from stale data, for Stable-Baselines3."""

from importlib.resources import files

from sb3_gipo import envs  # registers the gymnasium ids MetaWorld/<task>; Meta-World itself is imported when one is made
from sb3_gipo.gipo import GIPO, NonFiniteUpdateError
from sb3_gipo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__version__ = files(__name__).joinpath("version.txt").read_text(encoding="utf-8").strip()

__all__ = ["GIPO", "CnnPolicy", "MlpPolicy", "MultiInputPolicy", "NonFiniteUpdateError", "__version__", "envs"]

"""GIPO: PPO that learns from stale data, for Stable-Baselines3."""

from importlib.resources import files

from sb3_gipo import envs  # registers the gymnasium ids MetaWorld/<task>; Meta-World itself is imported when one is made
from sb3_gipo.callbacks import HealthCallback, HealthReport, HealthWarning, UtilizationCallback
from sb3_gipo.gipo import GIPO
from sb3_gipo.learner.objective import NonFiniteUpdateError
from sb3_gipo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_gipo.rollouts.recorder import NonFiniteStepError

__version__ = files(__name__).joinpath("version.txt").read_text(encoding="utf-8").strip()

__all__ = [
    "GIPO",
    "CnnPolicy",
    "HealthCallback",
    "HealthReport",
    "HealthWarning",
    "MlpPolicy",
    "MultiInputPolicy",
    "NonFiniteStepError",
    "NonFiniteUpdateError",
    "UtilizationCallback",
    "__version__",
    "envs",
]

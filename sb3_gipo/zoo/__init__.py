"""
RL Zoo with GIPO in it: train, tune, enjoy, record and plot with the commands people already know.

    python -m sb3_gipo.zoo train --algo gipo --env CartPole-v1

registers ``gipo`` wherever RL Zoo looks for an algorithm and hands over to the command. From a script of one's own, or before
using RL Zoo's classes: ``sb3_gipo.zoo.register()``.
"""

from sb3_gipo.zoo.commands import main
from sb3_gipo.zoo.registration import ZooChangedError, register

__all__ = ["ZooChangedError", "main", "register"]

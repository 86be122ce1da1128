"""Puts GIPO in the place of one of SB3's algorithms, in every Python process that has this folder on its path."""

import os
import sys

name = os.environ.get("GIPO_IN_PLACE_OF")
if name and "pip" not in sys.argv[0]:
    import importlib

    import stable_baselines3

    from sb3_gipo import GIPO

    setattr(stable_baselines3, name, GIPO)
    setattr(importlib.import_module(f"stable_baselines3.{name.lower()}"), name, GIPO)

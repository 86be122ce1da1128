"""Reads an SB3 log and says whether GIPO would help: is data scarce, is replay stale, does clipping cost gradient?"""

from sb3_gipo.diagnosis.facts import WINDOW
from sb3_gipo.diagnosis.logs import NoLogError, Run, read_logs
from sb3_gipo.diagnosis.page import render
from sb3_gipo.diagnosis.verdict import Diagnosis, diagnose

__all__ = ["WINDOW", "Diagnosis", "NoLogError", "Run", "diagnose", "read_logs", "render"]

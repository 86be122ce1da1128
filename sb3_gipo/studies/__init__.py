"""
``sb3-gipo compare``: a study of algorithms, from a file to runs, records, statistics and a decision in words.

``sb3_gipo.studies.command.compare`` does all of it; nothing is imported here, because every run is a process of its own that
needs neither plots nor statistics.
"""

"""Asynchronous actors, measured and mistreated: see :mod:`benchmarks.asynchronous.__main__`."""

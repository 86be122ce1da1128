"""How fast the package is: see :mod:`benchmarks.speed.__main__`."""

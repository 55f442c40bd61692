"""Benchmarks, each a module to run with `python -m`."""

import os

# What is timed as a first call is compiled, also where an earlier run has kept the program.
os.environ.setdefault("JAXGD_CACHE", "0")

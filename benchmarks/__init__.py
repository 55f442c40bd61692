"""Benchmarks against the peers: `pip install 'jaxgd[benchmarks]'`, then `python -m benchmarks.book` and the like."""

import os

# What is timed as a first call is compiled, also where an earlier run has kept the program.
os.environ.setdefault("JAXGD_CACHE", "0")

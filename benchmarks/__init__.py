"""Benchmarks against the peers: `pip install 'jaxgd[benchmarks]'`, then `python -m benchmarks.book` and the like."""

"""Watchers: what looks in on a solve, and may end it."""

from jaxgd.watch.watchers import Callback, Checkpoint, Progress, TimeLimit

__all__ = ["Callback", "Checkpoint", "Progress", "TimeLimit"]

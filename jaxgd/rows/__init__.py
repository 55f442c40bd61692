"""Losses that are a mean over rows: in memory, read from files, or by minibatches."""

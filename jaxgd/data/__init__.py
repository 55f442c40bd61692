"""Readers: rows from arrays, files and tables, which know nothing of solving."""

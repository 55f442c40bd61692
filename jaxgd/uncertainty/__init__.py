"""Standard errors of an answer, and how it moves with what it was given."""

"""Grading: the answer that a text arrives at, and whether it is the gold one. `grade` is the front."""

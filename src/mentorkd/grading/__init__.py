"""Grading: the answer that a text states, and its verdict against the gold answer. `grade` is the front."""

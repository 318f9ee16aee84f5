"""Losses of learners: one file an objective, over the base class in `base`; `build` makes one from a recipe."""

"""Losses of learners: one file an objective, over the protocol in `base`; `build` makes one from a recipe."""

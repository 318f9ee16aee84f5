"""What a learner minimises: one file an objective, over the protocol of `base`; `build` makes one from a recipe."""

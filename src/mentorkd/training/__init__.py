"""Training on transformers.Trainer: the loop, its schedule, how long an arm of a comparison is trained."""

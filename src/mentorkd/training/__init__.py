"""Training on transformers.Trainer: the loop, its schedule, and matched updates for the arms of a comparison."""

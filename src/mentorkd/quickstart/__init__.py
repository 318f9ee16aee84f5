"""The embedded default run: a generated task with a recorded teacher, its recipe, and tiny pretrained models."""

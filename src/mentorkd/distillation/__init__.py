"""Distillation: losses, the student's hidden states, soft labels and who gives them."""

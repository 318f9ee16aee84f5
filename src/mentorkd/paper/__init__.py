"""The paper's tasks, its data files and its numbers."""

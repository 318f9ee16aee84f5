"""The tasks of the Mentor-KD paper, its data files and its published accuracies."""

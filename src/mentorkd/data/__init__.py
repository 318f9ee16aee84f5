"""Data: from files to questions and rationales, from these to training rows, from rows to batches."""

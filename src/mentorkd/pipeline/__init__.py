"""The pipeline: a recipe compiled to stages, their run folder, and who carries them out."""

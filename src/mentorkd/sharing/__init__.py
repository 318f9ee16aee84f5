"""What a run's results become outside its folder: models, logs and data sets in other forms, checked and described."""

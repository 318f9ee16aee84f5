"""What a recipe takes of time, memory, disk and money, and what it can show; estimated before any model is loaded."""

"""The recipe: a graph of learners, as YAML checked by pydantic. `load_recipe` reads one."""

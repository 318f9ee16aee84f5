"""What the shell completes: names of shipped recipes, recipe files, run folders, and learners of a run."""

from __future__ import annotations

from pathlib import Path

import typer

from mentorkd.cli.shipped import shipped_recipes


def shipped_names(incomplete: str) -> list[str]:
    """Shipped recipes by name."""
    return [name for name in shipped_recipes() if name.startswith(incomplete)]


def recipe_names(incomplete: str) -> list[str]:
    """Shipped recipes by name, and recipe files."""
    return shipped_names(incomplete) + [path for path in _paths(incomplete) if path.endswith((".yaml", ".yml", "/"))]


def run_folders(incomplete: str) -> list[str]:
    """Folders, those of runs among them."""
    return [path for path in _paths(incomplete) if path.endswith("/")]


def learner_names(context: typer.Context, incomplete: str) -> list[str]:
    """The learners of the run folder that stands before on the command line; none if there is no run in it."""
    from mentorkd.errors import MentorkdError
    from mentorkd.recipe.yaml import mapping, read_yaml

    try:
        text = Path(str(context.params.get("folder")), "recipe.yaml").read_text(encoding="utf-8")
        learners = mapping(mapping(read_yaml(text)[0]).get("learners"))
    except (OSError, UnicodeDecodeError, MentorkdError):
        return []
    return [name for name in map(str, learners) if name.startswith(incomplete)]


def _paths(incomplete: str) -> list[str]:
    """Files and folders whose path begins with this; folders end in a slash."""
    folder, _, start = incomplete.rpartition("/")
    above = Path(f"{folder}/") if incomplete.startswith("/") or folder else Path()
    if not above.is_dir():
        return []
    entries = sorted(each for each in above.iterdir() if each.name.startswith(start) and (start or each.name[0] != "."))
    return [f"{each}/" if each.is_dir() else str(each) for each in entries]

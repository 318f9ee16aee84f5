"""What the shell completes: names of shipped recipes, recipe files, and run folders."""

from __future__ import annotations

from pathlib import Path

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


def _paths(incomplete: str) -> list[str]:
    """Files and folders whose path begins with this; folders end in a slash."""
    folder, _, start = incomplete.rpartition("/")
    above = Path(f"{folder}/") if incomplete.startswith("/") or folder else Path()
    if not above.is_dir():
        return []
    entries = sorted(each for each in above.iterdir() if each.name.startswith(start) and (start or each.name[0] != "."))
    return [f"{each}/" if each.is_dir() else str(each) for each in entries]

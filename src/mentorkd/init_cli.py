"""`mentorkd init`: a recipe for the user's own data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from mentorkd.errors import RunError

__all__ = ["init"]


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of your data; made if absent.")],
) -> None:
    """Write the quickstart's recipe into a folder, with comments, for your own data: edit four lines and run it."""
    from mentorkd.quickstart import write_own_recipe

    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; give a folder")
    recipe = folder / "recipe.yaml"
    if recipe.exists():
        raise RunError(f"{recipe} is there already; give another folder, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "mine"
    write_own_recipe(recipe, name)
    print(f'edit the four lines marked "yours" in {recipe}, then: mentorkd run {recipe}')

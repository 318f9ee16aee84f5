"""Arguments and options that commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mentorkd.errors import RunError
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import suggestion

RecipePath = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file, or the name of a shipped one.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes to the recipe.", show_default=False)
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/shuffled.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="The run folder; by default runs/<the recipe's name>.")]
Jobs = Annotated[
    int,
    typer.Option(
        help="Stages to run at the same time. From 2 on, each has its own process, with a share of the cores and one GPU."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name (`shuffled`, `paper/table2`).

    They lie inside an installed package, and beside `src/` in a checkout.
    """
    here = Path(__file__).resolve()
    folders = [here.parents[1] / "recipes", here.parents[3] / "recipes"]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    files = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path)) if folder else []
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files} if folder else {}


def _locate(recipe: Path) -> tuple[Path, list[str]]:
    """The file of a recipe, and the overrides before the user's: a shipped recipe reads `data` in the working folder.

    A file has precedence over a shipped recipe of the same name. Raises RunError for a bare name that is neither.
    """
    if recipe.is_file() or recipe.suffix:
        return recipe, []
    shipped = shipped_recipes()
    if recipe.as_posix() in shipped:
        return shipped[recipe.as_posix()], ["data.root=data"]
    if recipe.name != str(recipe):
        return recipe, []
    expected = suggestion(str(recipe), shipped) or f"; expected a YAML file or one of {', '.join(shipped)}"
    raise RunError(f"got recipe {recipe}, which is neither a file nor a shipped recipe{expected}")


def load_named(recipe: Path, overrides: Sequence[str] | None) -> Recipe:
    """The checked recipe of a file or a shipped name, with the user's overrides."""
    from mentorkd.recipe.load import load_recipe

    path, defaults = _locate(recipe)
    return load_recipe(path, [*defaults, *(overrides or ())])

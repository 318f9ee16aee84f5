"""Arguments and options that commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mentorkd.cli.completion import recipe_names, run_folders
from mentorkd.cli.shipped import shipped_recipes
from mentorkd.errors import RecipeError, RunError
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import read_yaml, suggestion

RecipePath = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="The recipe, a YAML file, or the name of a shipped one.", autocompletion=recipe_names
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes to the recipe.", show_default=False)
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/shuffled.", autocompletion=run_folders)
]
RunOption = Annotated[Path | None, typer.Option("--run", help="The run folder; by default runs/<the recipe's name>.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the results of another recipe that has the run folder.")
]

Jobs = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Stages to run at the same time. From 2 on, each has its own process, with a share of the cores and one GPU. `auto` "
        "takes as many as the machine and the recipe have work for.",
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="ray|ADDRESS",
        help="Run the stages on a Ray cluster: `ray` finds a running one (RAY_ADDRESS, or one on this machine) or starts one for this "
        "run; an address (`ray://HOST:10001`, `HOST:6379`) names one.",
    ),
]
Scratch = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="With --on: a folder of each node's own disk, to which models and soft labels are copied once, with their hashes checked.",
    ),
]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Read outputs of stages without checking that they are what was published.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and warnings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def new_file(path: Path) -> Path:
    """`path`, which a command is about to write. Raises RunError if something is there already, or its folder is not."""
    if path.exists() or not path.parent.is_dir():
        why = "which exists already" if path.exists() else f"but there is no folder {path.parent}"
        raise RunError(f"got the output {path}, {why}; expected a new file in a folder that exists")
    return path


def load_named(recipe: Path, overrides: Sequence[str] | None) -> Recipe:
    """The checked recipe of a file or a shipped name, with the user's overrides.

    A file has precedence over a shipped recipe of the same name. A shipped recipe reads `data` in the working folder.
    Raises RunError for a bare name that is neither.
    """
    from mentorkd.recipe.load import load_recipe

    name, shipped = recipe.as_posix(), shipped_recipes()
    if recipe.is_file() or recipe.suffix or (name not in shipped and recipe.name != name):
        return load_recipe(recipe, overrides or ())
    if name not in shipped:
        expected = suggestion(name, shipped) or f"; expected a YAML file or one of {', '.join(shipped)}"
        raise RunError(f"got recipe {recipe}, which is neither a file nor a shipped recipe{expected}")
    try:
        return load_recipe(shipped[name], ["data.root=data", *(overrides or ())])
    except RecipeError as error:
        folder, _, table = name.partition("/")
        lacking = {fault.key for fault in error.faults} & {"task.train", "task.test"}
        given = any(each.startswith(("task.train=", "task.test=")) for each in overrides or ())
        own = "train" in read_yaml(shipped[name].read_text(encoding="utf-8"))[0]["task"]
        if folder == "paper" and lacking and own and not given:
            raise RunError(
                f"{name} asks questions that `mentorkd reproduce {table}` writes before it runs them; use that command, or "
                "name files of your own with task.train=FILE task.test=FILE"
            ) from None
        raise

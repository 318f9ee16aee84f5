"""The recipes that come with the package."""

from __future__ import annotations

from pathlib import Path


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name (`shuffled`, `paper/table2`).

    They lie inside an installed package, and beside `src/` in a checkout.
    """
    here = Path(__file__).resolve()
    folders = [here.parents[1] / "recipes", here.parents[3] / "recipes"]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    files = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def shipped_titles() -> dict[str, str]:
    """The first line of each shipped recipe, a comment, by name."""
    files = shipped_recipes().items()
    return {name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, path in files}

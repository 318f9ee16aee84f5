"""One finished run of the small recipe for a whole test session, and copies of it that cost next to nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from filelock import FileLock

from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from small_recipe import write_small_recipe

__all__ = ["copy_run", "finish_small_run"]

LINKED = {".safetensors", ".bin"}
"""Large files that nothing writes in place."""


def finish_small_run(base: Path) -> Path:
    """The folder `small` in `base` with `recipe.yaml`, its data, and its finished `run`; made by whichever process comes first."""
    folder = base / "small"
    with FileLock(base / "small.lock"):
        if not (folder / "run" / "report").is_dir():
            shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
            folder.mkdir()
            Pipeline(load_recipe(write_small_recipe(folder)), folder / "run").run()
    return folder


def copy_run(run: Path, target: Path) -> Path:
    """A run folder as a start for another: stages that both have are finished there. Weights are hard links."""

    def copy(source: str, destination: str) -> None:
        if Path(source).suffix in LINKED:
            os.link(source, destination)
        else:
            shutil.copy2(source, destination)

    shutil.copytree(run, target, copy_function=copy, ignore=shutil.ignore_patterns("*.lock", ".lock"))
    return target

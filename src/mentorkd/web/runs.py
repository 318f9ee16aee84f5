"""The runs below the folders that the application shows, and their addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request

from mentorkd.errors import RunError
from mentorkd.pipeline.run_folder import RunFolder

DEPTH = 3
"""How deep below a given folder runs are looked for."""


_ADDRESS = r"[^\n\ud800-\udfff]*"
"""What an address can have: names of folders need not be UTF-8."""


class Runs:
    """The runs in some folders, each of which is a run or has runs in it.

    A run is addressed by the name of its folder and its path in there: `runs/svamp`.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises RunError for a folder that does not exist."""
        for folder in folders:
            if not folder.is_dir():
                raise RunError(f"got {folder}, which is no folder; expected a run folder, or a folder with runs in it")
        self.folders = _named(folders)

    def find(self, left_out: list[str] | None = None) -> Iterator[tuple[str, Path]]:
        """The address and the folder of every run, in order. `left_out` gets a line for each folder that cannot be shown."""
        left_out = [] if left_out is None else left_out
        for name, folder in self.folders.items():
            for path in _runs_below(folder, DEPTH, left_out):
                run = "/".join([name, *path.relative_to(folder).parts])
                if re.fullmatch(_ADDRESS, run):
                    yield run, path
                else:
                    left_out.append(f"got {str(path)!r}, a name that no address can have; give the folder another")

    def folder(self, run: str) -> Path:
        """The folder of a run by its address. Raises HTTPException (404) if there is none, or if it lies elsewhere."""
        name, *parts = run.split("/")
        folder = self.folders.get(name)
        if folder is not None and not {"", ".", ".."} & set(parts) and "\0" not in run:
            path = folder.joinpath(*parts).resolve()
            if path.is_relative_to(folder) and is_run(path):
                return path
        raise HTTPException(404, f"got the run {run!r}, which is not in {', '.join(map(str, self.folders.values()))}")


def run_of(request: Request) -> tuple[str, Path]:
    """The address and the folder of the run that a page's address names. Raises HTTPException (404) if there is none."""
    run = request.path_params["run"]
    runs: Runs = request.app.state.runs
    return run, runs.folder(run)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return RunFolder(folder).recipe.is_file()


def _named(folders: Sequence[Path]) -> Mapping[str, Path]:
    """The folders by their names; of equal names, all but the first get a number."""
    named: dict[str, Path] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        name = folder.name or "root"
        names = [name, *(f"{name}-{number}" for number in range(2, len(folders) + 2))]
        named[next(each for each in names if each not in named)] = folder
    return named


def _runs_below(folder: Path, depth: int, left_out: list[str]) -> Iterator[Path]:
    try:
        found = is_run(folder)
        below = [] if found or not depth else sorted(filter(_may_have_runs, folder.iterdir()))
    except OSError as error:  # no right to read it, or it was removed meanwhile
        left_out.append(f"got {str(folder)!r}, which cannot be read: {error.strerror}")
        return
    if found:
        yield folder
    for child in below:
        yield from _runs_below(child, depth - 1, left_out)


def _may_have_runs(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not folder.name.startswith(".")

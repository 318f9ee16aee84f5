"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

from command_line import cli  # noqa: F401  (a fixture)
from finished import copy_run, finish_small_run
from places import SHARED


@pytest.fixture(scope="module", autouse=True)
def _light_collections() -> None:
    """Takes what lives as long as the process, torch and transformers above all, out of the garbage collector's sight.

    Every full collection walks over these millions of objects, a third of a second each time, and every training asks for
    several. They were a third of the processor time of the tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real questions and GPT-3.5 rationales, kept beside the project."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; it is kept beside the project, not in it")
    return folder


@pytest.fixture(scope="session")
def shared_tokenizer() -> Path:
    """T5's own SentencePiece vocabulary, kept beside the project."""
    file = SHARED / "tokenizers" / "t5" / "spiece.model"
    if not file.is_file():
        pytest.skip(f"T5 vocabulary not found at {file}; it is kept beside the project, not in it")
    return file


@pytest.fixture(scope="session")
def _small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    return finish_small_run(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(scope="module")
def small_run(_small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small recipe (`recipe.yaml`) and its finished `run`, which the tests of a module may change."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copytree(_small_run / "data", folder / "data")
    recipe = (_small_run / "recipe.yaml").read_text(encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        recipe.replace(str(_small_run / "data"), str(folder / "data")), encoding="utf-8"
    )
    copy_run(_small_run / "run", folder / "run")
    return folder

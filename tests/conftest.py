"""Fixtures shared by all tests."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from command_line import cli  # noqa: F401  (a fixture)
from finished import copy_run, finish_small_run
from places import SHARED

# Other programs share the machine, so an example may take longer than Hypothesis expects of it.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

LONG = [
    "end_to_end/test_cluster.py",
    "end_to_end/test_processes.py",
    "end_to_end/test_executors.py",
    "end_to_end/test_shards.py",
    "end_to_end/test_asked_teachers.py",
    "unit/training",
    "unit/teachers/test_openai.py",
    "end_to_end",
]
"""Files that take half a minute or longer run first, so that no worker is left with one of them when the other has finished."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        place = item.path.relative_to(tests).as_posix()
        return next((number for number, long in enumerate(LONG) if place.startswith(long)), len(LONG))

    items.sort(key=rank)  # stable: tests of a file stay together, in their order


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

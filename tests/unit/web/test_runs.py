from __future__ import annotations

from pathlib import Path

import pytest
from starlette.exceptions import HTTPException

from mentorkd.errors import RunError
from mentorkd.web.runs import Runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for run in ("runs/a", "runs/deep/b", "other/runs/a", "outside"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "recipe.yaml").write_text("name: x\n")
    (tmp_path / "runs" / "a" / "inner").mkdir()
    (tmp_path / "runs" / "a" / "inner" / "recipe.yaml").write_text("name: x\n")
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "outside")
    return tmp_path


def test_runs_are_found_below_a_folder_and_not_inside_runs(folder: Path) -> None:
    assert [run for run, _ in Runs([folder / "runs"]).find()] == ["runs/a", "runs/deep/b"]


def test_a_run_and_folders_of_one_name_have_addresses_of_their_own(folder: Path) -> None:
    runs = Runs([folder / "runs", folder / "other/runs", folder / "runs/a", folder / "runs"])
    found = dict(runs.find())
    assert list(found) == ["runs/a", "runs/deep/b", "runs-2/a", "a"]
    assert found["runs-2/a"] == folder / "other/runs/a"
    assert all(runs.folder(run) == path for run, path in found.items())


@pytest.mark.parametrize(
    "run",
    [
        "",
        "runs",
        "runs/empty",
        "runs/none",
        "runs/../outside",
        "runs/a/../a",
        "runs/./a",
        "runs//a",
        "runs/link",
        "/etc",
        "runs/a\0",
    ],
)
def test_no_path_leads_elsewhere(folder: Path, run: str) -> None:
    with pytest.raises(HTTPException) as refused:
        Runs([folder / "runs"]).folder(run)
    assert refused.value.status_code == 404


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing, which is no folder; expected a run folder"):
        Runs([tmp_path / "missing"])

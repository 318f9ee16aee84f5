"""What a process imports for its stages is imported, and looked at by the garbage collector, once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mentorkd.pipeline.executors import imports

MODULE = "imported_by_stages"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that stands for what imports most."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "_ALL", MODULE)
    gc.unfreeze()
    yield tmp_path / f"{MODULE}.py"
    sys.modules.pop(MODULE, None)
    gc.unfreeze()


def test_the_collector_rests_during_imports_and_leaves_out_what_they_made(module: Path) -> None:
    module.write_text("import gc\ncollects, made = gc.isenabled(), [[] for _ in range(1000)]\n")
    imports.import_stages()
    imported = sys.modules[MODULE]
    assert not imported.collects
    assert gc.isenabled()
    assert gc.get_freeze_count() >= 1000
    assert all(each is not imported.made[0] for each in gc.get_objects())


def test_a_second_call_does_nothing(module: Path) -> None:
    module.write_text("")
    imports.import_stages()
    gc.unfreeze()
    imports.import_stages()
    assert gc.get_freeze_count() == 0


def test_an_import_that_fails_leaves_the_collector_as_it_was(module: Path) -> None:
    module.write_text("raise ImportError('no torch')\n")
    with pytest.raises(ImportError, match="no torch"):
        imports.import_stages()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0

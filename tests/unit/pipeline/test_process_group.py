"""What a process leaves to those that it starts for a stage."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from mentorkd.pipeline import process_group


class Started(Exception):
    pass


class Model:
    """A model of an earlier stage, which only the garbage collector frees."""

    def __init__(self) -> None:
        self.itself = self


def test_memory_of_earlier_stages_is_free_before_the_processes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    left = weakref.ref(Model(), lambda _: events.append("model freed"))

    def start(*_: Any) -> None:
        assert left() is None
        raise Started

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("GPU emptied"))
    monkeypatch.setattr(process_group, "Worker", start)
    context: Any = type("Context", (), {"recipe": None, "folder": None})
    nothing: Any = None
    gc.disable()
    try:
        with pytest.raises(Started):
            process_group.work_together(2, nothing, context, nothing, nothing)
    finally:
        gc.enable()
    assert events == ["model freed", "GPU emptied"]

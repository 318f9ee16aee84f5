"""What would make the host wait for a GPU, counted on a CPU, in the steps of a training."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mentorkd.training.trainer import RoundEnds

__all__ = ["counted_in_steps"]

READ = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_consecutive"}
"""Operators whose result, or its shape, is a value of the device."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPIES = {"tolist", "numpy", "cpu"}


class Operators(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        by_mask = name in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        by_lengths = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in READ or by_mask or by_lengths:
            self.found[f"{name} in {place()}"] += 1
        return func(*args, **kwargs)


class Functions(TorchFunctionMode):
    """What a CPU does without an operator: copies to the host, and tensors that are made on a device from the host's numbers."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        copied = name in COPIES and args and isinstance(args[0], Tensor)
        made = name in ("tensor", "as_tensor") and kwargs.get("device") is not None
        if copied or made:
            self.found[f"{name} in {place()}"] += 1
        return func(*args, **kwargs)


def place() -> str:
    """The innermost function outside of torch and of this file, as `package/file.py: function`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "torch" not in path.parts and path != Path(__file__):
            return f"{'/'.join(path.parts[-2:])}: {frame.f_code.co_name}"
        frame = frame.f_back
    return "nowhere"


@contextmanager
def counted_in_steps(first: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """What is found in the steps of a training from the `first` on, each from its first micro-batch to its update.

    The training believes that its device runs behind the host.
    """
    found: Counter[str] = Counter()
    step = ExitStack()
    at_the_end = RoundEnds.on_step_end

    def begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= first:
            step.enter_context(Operators(found))
            step.enter_context(Functions(found))

    def end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step.close()
        at_the_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(RoundEnds, "on_step_begin", begin)
    monkeypatch.setattr(RoundEnds, "on_step_end", end)
    for module in ("training.trainer", "distillation.losses"):
        monkeypatch.setattr(f"mentorkd.{module}.runs_behind", lambda device: True)
    with step:
        yield found

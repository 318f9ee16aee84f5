from __future__ import annotations

import pytest
import torch

from mentorkd.models import device
from mentorkd.models.device import free_memory_of, on_device, power_of_two, runs_behind


def test_only_a_cpu_has_done_its_work_when_a_call_returns() -> None:
    assert not runs_behind(torch.device("cpu"))
    assert runs_behind(torch.device("cuda", 1))
    assert runs_behind(torch.device("mps"))


def test_a_tensor_for_the_cpu_is_not_copied() -> None:
    tensor = torch.arange(3)
    assert on_device(tensor, torch.device("cpu")) is tensor


def test_free_memory_counts_what_torch_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(device.torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(device.torch.cuda, "memory_allocated", lambda device: 300)
    assert free_memory_of(torch.device("cuda")) == 1200


@pytest.mark.parametrize(("number", "power"), [(1, 1), (1.9, 1), (2, 2), (1000, 512), (2**15, 2**15)])
def test_a_power_of_two_is_never_larger(number: float, power: int) -> None:
    assert power_of_two(number) == power


@pytest.mark.gpu
def test_a_copy_to_a_gpu_waits_for_nothing() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        copy = on_device(torch.arange(1000), torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert copy.is_cuda
    assert torch.equal(copy.cpu(), torch.arange(1000))

"""The precision of training."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from mentorkd import precision
from mentorkd.precision import bfloat16_gain, choose_precision, use_tf32


def test_the_measured_gain_does_not_depend_on_other_processes() -> None:
    """The choice of precision must not depend on the load of the machine."""
    alone = bfloat16_gain("cpu")
    stop = threading.Event()

    def work() -> None:
        matrix = np.ones((600, 600))
        while not stop.is_set():
            matrix @ matrix

    others = [threading.Thread(target=work) for _ in range(3)]
    for other in others:
        other.start()
    try:
        busy = bfloat16_gain("cpu")
    finally:
        stop.set()
        for other in others:
            other.join()
    assert busy == pytest.approx(alone, rel=0.35)


def test_measuring_does_not_change_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    bfloat16_gain("cpu", repeats=2)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("gain", "chosen"), [(0.0, "float32"), (1.2, "float32"), (1.4, "bfloat16"), (8.0, "bfloat16")])
def test_bfloat16_is_chosen_from_a_gain_that_is_worth_its_rounding(
    gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bfloat16_gain", lambda device_type: gain)
    chose, why = choose_precision("cpu")
    assert chose == chosen
    assert f"{gain:.1f} times" in why


@pytest.mark.parametrize(
    ("capability", "chosen", "told"),
    [
        ((7, 0), "float32", "compute capability 7.0 has no bfloat16 units"),
        ((7, 5), "float32", "compute capability 7.5 has no bfloat16 units"),
        ((8, 0), "bfloat16", "compute capability 8.0 has bfloat16 units"),
        ((8, 9), "bfloat16", "compute capability 8.9 has bfloat16 units"),
        ((10, 0), "bfloat16", "compute capability 10.0 has bfloat16 units"),
    ],
)
def test_an_nvidia_gpu_is_not_measured(
    capability: tuple[int, int], chosen: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPUs before 8.0 emulate bfloat16, and torch says that they support it."""
    monkeypatch.setattr(precision, "bfloat16_gain", lambda device_type: pytest.fail("measured"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert choose_precision("cuda")[0] == chosen
    assert told in choose_precision("cuda")[1]


@pytest.mark.parametrize(("device", "hip"), [("cuda", "7.0"), ("mps", None)])
def test_other_devices_are_measured(device: str, hip: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_gain", lambda device_type: 2.0)
    monkeypatch.setattr(torch.version, "hip", hip)
    chose, why = choose_precision(device)
    assert chose == "bfloat16"
    assert why.startswith(f"measured on {device}")


def test_tf32_is_for_cuda_alone() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        use_tf32(torch.device("cpu"))
        assert torch.backends.cuda.matmul.allow_tf32 == before
        use_tf32(torch.device("cuda"))
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.mkldnn.matmul.fp32_precision == "none", "products on the CPU keep their digits"
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before

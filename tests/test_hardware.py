from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from mentorkd import hardware
from mentorkd.hardware import bfloat16_gain, choose_precision, describe_host, measured, versions


def test_the_measured_gain_is_stable_beside_other_work() -> None:
    """The rule that is measured must not depend on how busy the machine is."""
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


def test_measuring_leaves_the_threads_alone() -> None:
    threads = torch.get_num_threads()
    bfloat16_gain("cpu", repeats=2)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("gain", "chosen"), [(0.0, "float32"), (1.2, "float32"), (1.4, "bfloat16"), (8.0, "bfloat16")])
def test_bfloat16_is_chosen_where_it_is_worth_its_rounding(
    gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "bfloat16_gain", lambda device_type: gain)
    precision, why = choose_precision("cpu")
    assert precision == chosen
    assert f"{gain:.1f} times" in why


def test_a_stretch_of_work_is_measured() -> None:
    with measured() as small:
        pass
    with measured() as large:
        np.ones(100 * 2**20, dtype=np.int8)
    assert large.peak_memory_mb - small.peak_memory_mb == pytest.approx(100, abs=15)
    assert large.seconds > 0


def test_the_host_is_described_without_names() -> None:
    host = describe_host()
    assert host["cores"] >= 1
    assert host["processor"]
    assert not {"host", "hostname", "user", "node"} & host.keys()
    assert {"python", "torch", "transformers"} <= versions().keys()

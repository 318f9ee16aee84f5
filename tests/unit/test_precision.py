"""The precision of training."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from mentorkd import precision
from mentorkd.precision import bfloat16_gain, choose_precision


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

"""Sharded weights (FSDP2): two processes train as one does, on CPUs too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tiny_training import assert_same, weights
from train_sharded import BFLOAT16, CASES, LAYER_NORMS, train_case
from two_processes import start_two


@pytest.mark.slow
def test_sharded_weights_are_trained_as_whole_ones(tmp_path: Path) -> None:
    """With adapters, with an objective's own weights, with the best epoch's weights, with weights that text does not reach, and after
    a kill."""
    two = start_two("train_sharded.py", tmp_path / "two")
    one = {case: train_case(case, tmp_path / "one" / case, sharded=False) for case in CASES}
    assert [process.wait(timeout=200) for process in two] == [0, 0]
    for case, (result, loaded) in one.items():
        assert result.fused
        rough = 100 if case in (BFLOAT16, LAYER_NORMS) else 1  # rounded sums, in another order
        saved = load_file(tmp_path / "two" / f"{case}.safetensors")
        assert_same(saved, weights(loaded), rtol=1e-3, atol=rough * 1e-4)
        history = json.loads((tmp_path / "two" / f"{case}.json").read_text())
        for of_two, of_one in zip(history, result.history, strict=True):
            assert of_two == {name: pytest.approx(value, rel=rough * 1e-4) for name, value in of_one.items()}

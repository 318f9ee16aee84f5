"""Which rationales `inspect` measures; the measures themselves are held in test_score.py."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from mentorkd.distillation.inspect import inspect_store
from mentorkd.distillation.soft_labels import SoftLabelWriter, StoreMeta
from mentorkd.errors import StoreError

META = StoreMeta("hidden", "mentor-1", "tokenizer-1", "arrow", vocab_size=6, width=4)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Rationales of 20, 19 .. 1 tokens, longest first as `score` writes them."""
    make = torch.Generator().manual_seed(0)
    with closing(SoftLabelWriter(tmp_path, META, {"weight": torch.randn(6, 4, generator=make)})) as writer:
        for tokens in range(20, 0, -1):
            hidden = torch.randn(tokens, 4, generator=make).bfloat16().view(torch.int16).numpy().view(np.uint16)
            writer.append([(f"r{tokens}", {"labels": np.zeros(tokens, np.int32), "hidden": hidden})])
        writer.finish()
    return tmp_path


@pytest.mark.parametrize(("sample", "mean_length"), [(1, 20), (2, 15), (4, 12.5), (13, 11.23), (19, 11), (20, 10.5)])
def test_the_sample_is_spread_over_all_lengths(sample: int, mean_length: float, store: Path) -> None:
    assert inspect_store(store, sample=sample)["sampled_tokens"] / sample == pytest.approx(mean_length, abs=0.01)
    assert inspect_store(store, sample=sample + 20)["sampled_tokens"] == 210


def test_nothing_measured_is_none_and_not_a_number(store: Path) -> None:
    description = inspect_store(store, sample=0)
    assert (description["sampled_tokens"], description["nll"], description["entropy"]) == (0, None, None)
    assert description["tokens"] == 210


def test_a_flipped_byte_is_found_in_a_rationale_that_is_not_measured(store: Path) -> None:
    file = store / "hidden.bin"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match="rationale r1 are damaged"):
        inspect_store(store, sample=1)

"""The provenance of a stage: what its work took, and the machine and versions that did it."""

from __future__ import annotations

import mmap

import pytest

from mentorkd.pipeline.provenance import describe_host, measured, versions


def test_a_stretch_of_work_is_measured() -> None:
    with measured() as small:
        pass
    with measured() as large, mmap.mmap(-1, 100 * 2**20) as memory:  # and not what was freed before
        for _ in range(100):
            memory.write(bytes(2**20))
    assert large.peak_memory_mb - small.peak_memory_mb == pytest.approx(100, abs=15)
    assert large.seconds > 0


def test_the_host_is_described_without_names() -> None:
    host = describe_host()
    assert host["cores"] >= 1
    assert host["processor"]
    assert not {"host", "hostname", "user", "node"} & host.keys()
    assert {"python", "torch", "transformers"} <= versions().keys()

"""A recipe on a Ray cluster: the same bytes as on one machine, whatever is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from recording_reporter import RecordingReporter
from small_recipe import small_recipe

ray = pytest.importorskip("ray", reason="ray is not installed; pip install 'mentorkd[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without a GPU, and two nodes with a fake one each."""
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ |= environment
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    raw = small_recipe(folder, seeds=[1, 2])
    raw["training"] |= {"epochs": 2}
    raw["sampling"] |= {"samples": 2, "max_new_tokens": 8}
    (folder / "recipe.yaml").write_text(json.dumps(raw))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def alone(recipe: Path) -> Path:
    """The run folder of the recipe on one machine, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    Pipeline(load_recipe(recipe), recipe.parent / "alone").run()
    torch.set_num_threads(before)
    return recipe.parent / "alone"


def made(run: Path) -> dict[str, bytes]:
    """What the stages made, by path, without what tells of time."""
    told = [file for part in ("data", "teacher", "budget", "learners") for file in (run / part).rglob("*")]
    files = [file for file in [*told, run / "report" / "results.json"] if file.is_file()]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def test_a_cluster_makes_the_bytes_of_one_machine(cluster: Any, recipe: Path, alone: Path, tmp_path: Path) -> None:
    reporter = RecordingReporter()
    Pipeline(load_recipe(recipe), tmp_path / "run", reporter).run(on=cluster.address)
    assert made(tmp_path / "run") == made(alone)
    assert not list((tmp_path / "run" / ".work").iterdir())
    again = RecordingReporter()
    Pipeline(load_recipe(recipe), tmp_path / "run", again).run(on=cluster.address)
    assert not again.ran

"""The processor threads and GPUs of a stage, which are fixed before the run."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from mentorkd.pipeline.provenance import cores
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.learner import ResourcesConfig, StageKind
from mentorkd.recipe.schema import Recipe

log = logging.getLogger(__name__)

# Devices of GPU drivers on Linux: NVIDIA, AMD, and either under Windows.
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def wanted(recipe: Recipe, stage: Stage) -> ResourcesConfig:
    """What the recipe wants for a stage: the learner's `resources` of its kind, else the recipe's. None where neither says anything."""
    shared, learner = _of(recipe.resources, stage.kind), recipe.learners.get(stage.mentor or stage.learner)
    own = ResourcesConfig() if learner is None else _of(learner.resources, stage.kind)
    return ResourcesConfig(
        cpus=shared.cpus if own.cpus is None else own.cpus, gpus=shared.gpus if own.gpus is None else own.gpus
    )


def _of(resources: Mapping[StageKind, ResourcesConfig], kind: str) -> ResourcesConfig:
    return next((each for name, each in resources.items() if name == kind), ResourcesConfig())


def room(recipe: Recipe) -> int:
    """How many stages of a recipe this machine has room for: one a GPU, or one a core where it has none."""
    return len(groups_of_gpus(recipe)) or cores()


def groups_of_gpus(recipe: Recipe) -> list[str]:
    """The GPUs of this machine in groups, each for the largest training of the recipe, as CUDA_VISIBLE_DEVICES calls them; one group
    if there are too few."""
    gpus = list(filter(None, visible_gpus())) if recipe.device in ("auto", "cuda") else []
    trained = [learner.training.processes for learner in recipe.learners.values() if learner.rationales]
    size = min(max(trained, default=1), max(1, len(gpus)))
    return [",".join(gpus[first : first + size]) for first in range(0, len(gpus) - size + 1, size)]


def share_of_cores(jobs: int) -> int | None:
    """The threads of a stage for which the recipe gives none: an equal share of the cores, or OMP_NUM_THREADS, with a warning where
    it is another number. None with one job, whose libraries decide."""
    if jobs == 1:
        return None
    share, given = max(1, cores() // jobs), os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if not (given.isdecimal() and int(given) > 0):
        return share
    if int(given) != share:
        log.warning(
            "OMP_NUM_THREADS gives each of %d jobs %s threads; its share of %d cores is %d (`resources` of the recipe goes "
            "before both)",
            *(jobs, given, cores(), share),
        )
    return int(given)


def visible_gpus() -> list[str]:
    """The CUDA devices that this process sees, as CUDA_VISIBLE_DEVICES calls them."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return visible.split(",")
    if not may_have_gpu():
        return []
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def may_have_gpu() -> bool:
    """Whether there is a GPU driver. Only torch knows for certain, and its import takes seconds."""
    return shutil.which("nvidia-smi") is not None or any(Path(driver).exists() for driver in _DRIVERS)

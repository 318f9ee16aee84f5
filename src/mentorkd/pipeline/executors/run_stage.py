"""How one stage is carried out, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from mentorkd.errors import DataError, explaining
from mentorkd.pipeline import provenance
from mentorkd.pipeline.executors.imports import import_stages
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run_folder import RunFolder, Stage, sealed
from mentorkd.pipeline.stages import step_of
from mentorkd.recipe.schema import Recipe


def run_stage(
    stage: Stage,
    recipe: Recipe,
    folder: RunFolder,
    workdir: Path,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> StageRecord:
    """Carry out a stage in the folder of an attempt; return its record, with the sizes and hashes of its outputs.

    Nothing outside this folder changes, apart from what stages share (`.engines`). `threads`: of the processor; None leaves their
    number as it is.
    """
    with explaining(stage.name, folder.root):
        import_stages()
        from mentorkd.pipeline.context import RunContext  # imports torch

        context, step = RunContext(recipe, folder, progress, note), step_of(stage.kind)
        try:
            with _threads(threads), provenance.measured() as cost:
                record = step(context, stage, workdir)
        except DataError:
            folder.discard_if_empty(workdir)
            raise
        if context.holds_gpu:
            cost.gpu_seconds, cost.accelerator = cost.seconds, provenance.accelerator()
        cost.include(context.costs)
        return sealed(replace(record, **asdict(cost), made_by=provenance.here()), stage, workdir)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Run with a number of threads, which decides the last bits of sums."""
    import torch

    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

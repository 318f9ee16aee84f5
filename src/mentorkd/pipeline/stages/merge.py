"""Merge: the rows of all shards of a stage in one file, as the whole stage would write it."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from mentorkd.files import allow_open_files
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run_folder import Stage
from mentorkd.records import Question

R = TypeVar("R", bound=StageRecord)


def merge(
    context: RunContext, stage: Stage, workdir: Path, file: str, kind: type[R], questions: Sequence[Question]
) -> list[R]:
    """Write a file of all shards' rows in the order of `questions`, and give the shards' records.

    Each shard's file has this order, and all rows of a question are in one. Lines are copied as they are, one in memory a shard.
    """
    order = {question.id: number for number, question in enumerate(questions)}

    def place(line: bytes) -> int:
        return order[json.loads(line)["question_id"]]

    files = [context.folder.output(shard, file) for shard in stage.merged]
    allow_open_files(len(files))
    with ExitStack() as stack:
        shards: list[Iterable[bytes]] = [stack.enter_context(each.open("rb")) for each in files]
        merged = stack.enter_context((workdir / "out" / file).open("wb"))
        lines = heapq.merge(*shards, key=place)
        merged.writelines(lines)
        merged.flush()
        os.fsync(merged.fileno())
    return [context.folder.record_of(kind, shard) for shard in stage.merged]

"""The selection log of a training tells of every rationale that its sources wrote and the learner did not read."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

from mentorkd.pipeline.records import TrainRecord
from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.pipeline.selection_log import SELECTION, selection_log
from mentorkd.records import Rationale


def test_what_is_left_out_is_told_by_filter(small_run: Path) -> None:
    folder, stage = RunFolder(small_run / "run"), "learners/student/seed-1/train"
    record = folder.record_of(TrainRecord, stage)
    lines = [json.loads(line) for line in folder.output(stage, SELECTION).read_text().splitlines()]
    dropped = Counter({row.filter: 0 for row in record.filters})
    for row in record.filters:
        dropped[row.filter] += row.before - row.after
    assert Counter(line["dropped_by"] for line in lines) == dropped
    assert dropped["correct"] > 0
    written = [*folder.rationales("annotate"), *folder.rationales("learners/mentor/seed-1/augment")]
    left = {rationale.id for rationale in written} - {line["rationale_id"] for line in lines}
    assert len(left) == record.rows


def test_likelihoods_are_kept_but_infinite_ones(tmp_path: Path) -> None:
    with selection_log(tmp_path / SELECTION) as log:
        log.score({"a": 1.23456789, "b": math.inf})
        log.drop("perplexity", Rationale("b", "q", "text", None, "wrong", "teacher", 0))
    assert [json.loads(line) for line in (tmp_path / SELECTION).read_text().splitlines()] == [
        {"rationale_id": "a", "nll": 1.234568},
        {"rationale_id": "b", "dropped_by": "perplexity"},
    ]

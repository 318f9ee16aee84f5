"""The one scoring pass, against one mentor pass of the reference profile over the same rows, and an unpadded forward.

Ours is `mentorkd.distillation.scoring.score`, from rows to a finished store of hidden states. The reference's pass, which it pays in
every epoch, is the mentor's forward on rows padded to the data set's longest, with whole logits in float32. The unpadded
forward is what no padding, no disk and no checks would cost: the same stack in the same arithmetic and batches of the same
size, on rows all of one length (the mean), nothing done with what comes out.

Each side's time is that of a sample, extrapolated to all rows by their tokens. Ours scores runs of neighbouring rows from all
over the order in which all rows would be scored, so that they pad as all rows do; what ours costs once, whatever the rows (the
tap is tried, the head saved, the tokenizer hashed), is measured apart and counted once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from common import arguments, in_fresh_process, peak_extra_bytes, report
from svamp import SHAPES, data_argument, flan_t5, reference_batch, reference_scoring, tokenizer_and_rows

from mentorkd.data.batching import Collator, sorted_batches
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import TOKENS_PER_BATCH, head_is_linear, target_hidden
from mentorkd.distillation.scoring import score
from mentorkd.models import LoadedModel
from mentorkd.precision import choose_precision
from mentorkd.records import ModelKind

REFERENCE, OURS, UNPADDED = "reference", "ours", "unpadded"
BATCH = 8


def main() -> None:
    parser = arguments(__doc__)
    data_argument(parser)
    parser.add_argument("--rows", type=int, help="rows that ours scores (default 240; short 60)")
    parser.add_argument("--mentor", choices=SHAPES, help="default flan-t5-large; short: quarter")
    parser.add_argument("--tokens-per-batch", type=int, default=TOKENS_PER_BATCH)
    parser.add_argument("--mode", choices=["hidden", "top_k"], default="hidden")
    parser.add_argument("--without-reference", action="store_true", help="ours and the unpadded forward alone")
    parser.add_argument("--peak-of", choices=[REFERENCE, OURS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rows = options.rows or (60 if options.short else 240)
    options.mentor = options.mentor or ("quarter" if options.short else "flan-t5-large")
    options.repeats = min(options.repeats, 2 if options.short else 5)
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options)
    sides = {REFERENCE: bench.reference, OURS: bench.ours, UNPADDED: bench.unpadded}

    if options.peak_of:
        print(peak_extra_bytes(sides[options.peak_of]))
        return
    peaks = {}
    if options.without_reference:
        del sides[REFERENCE]
    else:
        peaks = {side: peak_in_fresh_process(side, options) for side in (REFERENCE, OURS)}
    bench.warm_up()
    wall: dict[str, list[float]] = {side: [] for side in sides}
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(options.repeats):
        for side, run in sides.items():
            once = timed(bench.nothing) if side == OURS else (0.0, 0.0)
            for times, spent, at_once in zip((wall, cpu), timed(run), once, strict=True):
                begun = len(bench.runs) if side == OURS else 0
                times[side].append((spent - begun * at_once) * bench.times_all[side] + at_once)
    medians, cpu_medians = ({side: statistics.median(times) for side, times in both.items()} for both in (wall, cpu))
    first = UNPADDED if options.without_reference else REFERENCE
    report(
        "score",
        wall,
        reference=first,
        ours=OURS,
        peak_bytes=peaks,
        as_json=options.json,
        seconds_are="of all rows, extrapolated from the sample",
        of_unpadded_throughput=medians[UNPADDED] / medians[OURS],
        cpu_ratio=cpu_medians[first] / cpu_medians[OURS],
        cpu_of_unpadded_throughput=cpu_medians[UNPADDED] / cpu_medians[OURS],
        cpu_seconds=cpu,
        settings={
            "mentor": options.mentor,
            "rows": len(bench.rows),
            "sampled_rows": bench.sampled,
            "tokens_per_batch": options.tokens_per_batch,
            "mode": options.mode,
            "precision": bench.precision,
        },
    )


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the wall's clock and the processor's."""
    start = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def peak_in_fresh_process(side: str, options: argparse.Namespace) -> int:
    flags = [f"--peak-of={side}", "--rows=24", f"--mentor={options.mentor}", f"--data={options.data}"]
    flags += [f"--mode={options.mode}", f"--tokens-per-batch={options.tokens_per_batch}"]
    flags += [f"--threads={options.threads}"] if options.threads else []
    return int(in_fresh_process(__file__, flags))


def tokens(rows: Sequence[Example]) -> int:
    return sum(row.length for row in rows)


def neighbours(
    rows: Sequence[Example], count: int, tokens_per_batch: int, kind: ModelKind = "seq2seq"
) -> list[list[Example]]:
    """About `count` rows: runs of batches that lie at equal distances in the order of all rows."""
    batches = sorted_batches([row.padded_sides(kind) for row in rows], tokens_per_batch=tokens_per_batch)
    runs = [batches[first : first + 3] for first in range(0, len(batches), 3)]
    wanted = max(1, round(len(runs) * count / len(rows)))
    chosen = [runs[int((number + 0.5) * len(runs) / wanted)] for number in range(wanted)]
    return [[rows[row] for batch in run for row in batch] for run in chosen]


class Bench:
    """Each side does a sample of the rows; the model is made when it is first needed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tokenizer, self.rows = tokenizer_and_rows(options.data)
        self.runs = neighbours(self.rows, options.rows, options.tokens_per_batch)
        self.sample = [row for run in self.runs for row in run]
        self.sampled = {REFERENCE: BATCH, OURS: len(self.sample), UNPADDED: len(self.sample)}
        share = tokens(self.rows) / tokens(self.sample)
        self.times_all = {REFERENCE: len(self.rows) / BATCH, OURS: share, UNPADDED: share}
        self.precision = choose_precision("cpu")[0]
        self._mentors: dict[str, LoadedModel] = {}

    def mentor(self, side: str) -> LoadedModel:
        """A side's own mentor: scoring keeps the weights of its products in bfloat16, and the reference does not."""
        if side not in self._mentors:
            self._mentors[side] = flan_t5(self.options.mentor, self.tokenizer, 1)
            self._mentors[side].model.eval()
        return self._mentors[side]

    def warm_up(self) -> None:
        self._score(self.sample[:2])
        self._forward(self.sample[:2])

    def reference(self) -> None:
        longest = max(len(row.source_ids) for row in self.rows)
        reference_scoring(self.mentor(REFERENCE), reference_batch(self.rows[:BATCH], longest))

    def nothing(self) -> None:
        """What a scoring pass costs once: the tap is tried, the head saved, the tokenizer hashed."""
        self._score([])
        collate = Collator.for_model("seq2seq", self.tokenizer, self.mentor(OURS).model.config)
        with self._arithmetic():
            head_is_linear(self.mentor(OURS).model, collate([self.sample[0]]))

    def _arithmetic(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    def ours(self) -> None:
        for rows in self.runs:
            self._score(rows)

    def unpadded(self) -> None:
        self._forward(self.sample)

    def _score(self, rows: Sequence[Example]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            score(
                self.mentor(OURS),
                rows,
                folder=Path(folder),
                mode=self.options.mode,
                top_k=64,
                temperature=2.0,
                mentor_digest="random",
                target="arrow",
                bfloat16=self.precision == "bfloat16",
                on_progress=lambda done, total: None,
                tokens_per_batch=self.options.tokens_per_batch,
            )

    def _forward(self, rows: Sequence[Example]) -> None:
        sources = round(statistics.mean(len(row.source_ids) for row in rows))
        targets = round(statistics.mean(len(row.target_ids) for row in rows))
        alike = [Example(row.rationale_id, [5] * sources, [5] * targets) for row in rows]
        collate = Collator.for_model("seq2seq", self.tokenizer, self.mentor(OURS).model.config)
        for batch in sorted_batches(
            [row.padded_sides("seq2seq") for row in alike], tokens_per_batch=self.options.tokens_per_batch
        ):
            with torch.inference_mode(), self._arithmetic():
                target_hidden(self.mentor(OURS).model, collate([alike[number] for number in batch]))


if __name__ == "__main__":
    main()

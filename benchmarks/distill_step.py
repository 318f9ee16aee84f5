"""One epoch of distillation from stored soft labels, against the reference profile.

Ours is `mentorkd.training.train.train` as the pipeline calls it: updates on eight random rows, read in parts of similar length, the
mentor's hidden states read from a store, the fused loss, arithmetic by the measured rule. The reference's epoch runs the
mentor in every step, on rows padded to the data set's longest, with whole logits in float32.

An epoch is 242 batches of 8. Both sides are measured on a sample and extrapolated by cost: a reference batch costs the same
whatever its rows are, so its time is multiplied by the number of batches; ours is measured on rows whose lengths are
spread as those of all rows are, and multiplied by the number of rows. The store holds random hidden states, for what
they are costs nothing. Saving, validation and the first step of a run (which sets up libraries) are left out on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from common import arguments, in_fresh_process, peak_extra_bytes, report
from svamp import (
    SHAPES,
    data_argument,
    evenly,
    flan_t5,
    reference_batch,
    reference_trainer,
    tokenizer_and_rows,
)
from torch import Tensor

from mentorkd.data.encoding import Example
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.soft_labels import SoftLabelWriter, StoredSoftLabels, StoreMeta
from mentorkd.models import LoadedModel, tokenizer_digest
from mentorkd.precision import choose_precision
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.training.train import train

REFERENCE, OURS = "reference", "ours"
BATCH = 8
KD_WEIGHT, TEMPERATURE = 0.3, 2.0


def main() -> None:
    parser = arguments(__doc__)
    data_argument(parser)
    parser.add_argument("--batches", type=int, help="batches of ours in a run (default 24; short 4)")
    parser.add_argument("--student", choices=SHAPES, help="default flan-t5-small; short: quarter")
    parser.add_argument("--mentor", choices=SHAPES, help="default flan-t5-large; short: quarter")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument(
        "--micro-batches", type=int, default=1, help="of an update of ours (default 1, which `split: auto` divides)"
    )
    parser.add_argument("--length-window", type=int, default=1, help="updates sorted by length among them (default 1)")
    parser.add_argument("--compile", action="store_true", help="torch_compile on our side")
    parser.add_argument("--only", choices=[REFERENCE, OURS], help="measure one side and print its seconds an epoch")
    parser.add_argument("--peak-of", choices=[REFERENCE, OURS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.batches = options.batches or (4 if options.short else 24)
    options.student = options.student or ("quarter" if options.short else "flan-t5-small")
    options.mentor = options.mentor or ("quarter" if options.short else "flan-t5-large")
    options.repeats = min(options.repeats, 1 if options.short else 5)
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options, reference_rows=BATCH // 4 if options.short else BATCH)

    if options.peak_of:
        print(peak_extra_bytes(bench.peak_of_reference if options.peak_of == REFERENCE else bench.peak_of_ours))
        return
    peaks = {} if options.only else {side: peak_in_fresh_process(side, options) for side in (REFERENCE, OURS)}
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for side, run in {REFERENCE: bench.reference_epoch, OURS: bench.our_epoch}.items():
            if options.only in (None, side):
                seconds, cpu_seconds = run()
                wall.setdefault(side, []).append(seconds)
                cpu.setdefault(side, []).append(cpu_seconds)
    if options.only:
        print({"wall": wall, "cpu": cpu})
        return
    report(
        "distill_step",
        wall,
        reference=REFERENCE,
        ours=OURS,
        peak_bytes=peaks,
        as_json=options.json,
        seconds_are="of an epoch, extrapolated from the sample",
        cpu_ratio=statistics.median(cpu[REFERENCE]) / statistics.median(cpu[OURS]),
        cpu_seconds=cpu,
        settings={
            "student": options.student,
            "mentor": options.mentor,
            "batch": BATCH,
            "rows": len(bench.rows),
            "sampled_rows": {REFERENCE: bench.reference_rows, OURS: options.batches * BATCH},
            "micro_batches": options.micro_batches,
            "length_window": options.length_window,
            "precision": bench.precision,
            "tokens_a_row": round(statistics.mean(row.length for row in bench.rows), 1),
            "reference_tokens_a_row": bench.longest_source + 512,
        },
    )


def peak_in_fresh_process(side: str, options: argparse.Namespace) -> int:
    flags = [f"--peak-of={side}", f"--precision={options.precision}", f"--data={options.data}"]
    flags += [f"--student={options.student}", f"--mentor={options.mentor}", f"--micro-batches={options.micro_batches}"]
    flags += [f"--threads={options.threads}"] if options.threads else []
    flags += ["--short"] if options.short else []
    return int(in_fresh_process(__file__, flags))


class Bench:
    """Both sides on the same rows. Models are made when a side first needs them. `distil` off is fine-tuning alone.

    The reference's step is measured on `reference_rows` rows, fewer where a batch does not fit into memory.
    """

    def __init__(self, options: argparse.Namespace, *, distil: bool = True, reference_rows: int = BATCH) -> None:
        self.options, self.distil, self.reference_rows = options, distil, reference_rows
        self.tokenizer, self.rows = tokenizer_and_rows(options.data)
        self.longest_source = max(len(row.source_ids) for row in self.rows)
        self.precision = choose_precision("cpu")[0] if options.precision == "auto" else options.precision
        self._step: Callable[[dict[str, Tensor]], float] | None = None
        self._student: LoadedModel | None = None

    def reference_epoch(self) -> tuple[float, float]:
        """Seconds of an epoch, by the wall's clock and the processor's."""
        if self._step is None:
            student = flan_t5(self.options.student, self.tokenizer, 0)
            mentor = flan_t5(self.options.mentor, self.tokenizer, 1) if self.distil else None
            self._step = reference_trainer(student, mentor, kd_weight=KD_WEIGHT, temperature=TEMPERATURE)
            self._step(reference_batch(self.rows[:1], self.longest_source))  # sets up libraries
        batch = reference_batch(self.rows[: self.reference_rows], self.longest_source)
        start = time.perf_counter(), time.process_time()
        self._step(batch)
        batches = len(self.rows) / self.reference_rows
        return (time.perf_counter() - start[0]) * batches, (time.process_time() - start[1]) * batches

    def our_epoch(self) -> tuple[float, float]:
        rows = evenly(self.rows, (self.options.batches + 1) * BATCH)
        clocks: dict[int, tuple[float, float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            self._train(
                rows, Path(folder), lambda step: clocks.update({step: (time.perf_counter(), time.process_time())})
            )
        (wall, cpu), (wall_end, cpu_end) = clocks[1], clocks[self.options.batches + 1]
        scale = len(self.rows) / (self.options.batches * BATCH)
        return (wall_end - wall) * scale, (cpu_end - cpu) * scale

    def _train(self, rows: Sequence[Example], folder: Path, at_step: Callable[[int], None]) -> None:
        if self._student is None:
            self._student = flan_t5(self.options.student, self.tokenizer, 0)
        objective = None
        if self.distil:
            source = StoredSoftLabels([self._store(rows, folder / "store")], device=torch.device("cpu"))
            objective = Distillation([(1.0, source)], KD_WEIGHT, TEMPERATURE, True, "forward_kl")
        train(
            self._student,
            rows,
            TrainingConfig(
                epochs=1,
                batch_size=BATCH // self.options.micro_batches,
                gradient_accumulation=self.options.micro_batches,
                split="auto" if self.options.micro_batches == 1 else "none",
                length_window=self.options.length_window,
                learning_rate=2e-4,
                torch_compile=self.options.compile,
            ),
            seed=0,
            folder=folder / "run",
            precision=self.precision,
            objective=objective,
            on_progress=lambda step, steps: at_step(step),
        )

    def _store(self, rows: Sequence[Example], folder: Path) -> Path:
        width = SHAPES[self.options.mentor]["d_model"]
        meta = StoreMeta("hidden", "random", tokenizer_digest(self.tokenizer), "arrow", 32_128, width)
        make = torch.Generator().manual_seed(0)
        head = torch.randn(32_128, width, generator=make) / width**0.5
        with closing(SoftLabelWriter(folder, meta, {"weight": head})) as writer:
            for row in rows:
                hidden = torch.randn(len(row.target_ids), width, generator=make).bfloat16()
                states = hidden.view(torch.int16).numpy().view(np.uint16)
                writer.append([(row.rationale_id, {"labels": np.array(row.target_ids), "hidden": states})])
            writer.finish()
        return folder

    def peak_of_reference(self) -> None:
        self.reference_epoch()

    def peak_of_ours(self) -> None:
        """Two steps, on the longest rows of all: the most that an epoch takes."""
        rows = sorted(self.rows, key=lambda row: -row.length)[: 2 * BATCH]
        with tempfile.TemporaryDirectory() as folder:
            self._train(rows, Path(folder), lambda step: None)


if __name__ == "__main__":
    main()

"""End to end: mentor, augmentation, 20-epoch student with validation after every epoch, and evaluation on the test set.

Two forms. The default takes SVAMP's real rows, T5's own vocabulary and FlanT5's shapes, measures each part of both profiles
on a sample, and multiplies by how often a run of 20 epochs does it (`COUNTS`). With `--whole` both profiles run from the
first step to the last on the quickstart's task and nano models, which are small enough for that, and the students' validation
accuracies stand beside the times.

The reference profile: rows padded to the data set's longest, a mentor's forward pass in every student step, whole logits in
float32, sampling in unsorted batches of 16 padded to the longest.
"""

from __future__ import annotations

import gc
import statistics
import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import augment
import distill_step
import score
import torch
from common import Peaks, arguments, report
from svamp import SHAPES, data_argument
from whole_run import our_run, reference_run

from mentorkd.distillation.hidden_states import TOKENS_PER_BATCH

REFERENCE, OURS = "reference", "ours"
EPOCHS = 20
SEQUENCES = 96
"""Sequences that our side generates at once."""
COUNTS = {"train": 630, "validation": 70, "test": 150, "student_rows_per_teacher_row": 1.9, "samples": 3}
"""SVAMP as a recipe divides it; rows as the paper's student has them once the mentor's rationales are added (1.9 times)."""
EVERY_EPOCH = {REFERENCE: COUNTS["test"], OURS: COUNTS["validation"]}
"""Questions that mentor and student answer after every epoch: the published script takes the whole test set."""


def main() -> None:
    parser = arguments(__doc__)
    data_argument(parser)
    parser.add_argument("--whole", action="store_true", help="run both profiles wholly, on the quickstart's task")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the student and the mentor (default 20)")
    parser.add_argument(
        "--questions", type=int, help="questions sampled for (default 32; short 16); --whole: trained on"
    )
    parser.add_argument("--student", choices=SHAPES)
    parser.add_argument(
        "--mentor", choices=SHAPES, help="default flan-t5-base: large does not train in 24 GB at batch 8"
    )
    parser.add_argument("--steps", type=int, default=600, help="training steps of the model that samples")
    parser.add_argument(
        "--sampler", type=Path, help="folder that keeps the model that samples (see augment.py --model)"
    )
    options = parser.parse_args()
    options.repeats = min(options.repeats, 1 if options.short else 3)
    if options.threads:
        torch.set_num_threads(options.threads)
    (whole if options.whole else composed)(options)


def whole(options: Namespace) -> None:
    """Both profiles from first to last, once each."""
    questions = options.questions or (60 if options.short else 300)
    epochs = 2 if options.short else options.epochs
    peaks = Peaks()
    outcomes = {
        side: peaks.of(side, partial(run, questions, epochs))
        for side, run in {REFERENCE: reference_run, OURS: our_run}.items()
    }
    report(
        "pipeline",
        {side: [outcome.seconds] for side, outcome in outcomes.items()},
        reference=REFERENCE,
        ours=OURS,
        peak_bytes=peaks,
        as_json=options.json,
        validation_accuracy={side: outcome.accuracy for side, outcome in outcomes.items()},
        parts={side: outcome.parts for side, outcome in outcomes.items()},
        settings={"training_questions": questions, "epochs": epochs, "models": "nano-t5"},
    )


def composed(options: Namespace) -> None:
    """Each part's seconds on a sample, times how often a run does it."""
    options.student = options.student or ("tiny" if options.short else "flan-t5-small")
    options.mentor = options.mentor or ("tiny" if options.short else "flan-t5-base")
    options.questions = options.questions or (16 if options.short else 32)
    options.steps = min(options.steps, 100) if options.short else options.steps
    measured: dict[str, dict[str, list[float]]] = {REFERENCE: {}, OURS: {}}
    peaks = Peaks()
    for measure in (training, scoring, sampling):
        for side, parts in measure(options, peaks).items():
            measured[side] |= parts
        gc.collect()
    medians = {side: {name: statistics.median(times) for name, times in of.items()} for side, of in measured.items()}
    report(
        "pipeline",
        {side: [sum(parts.values())] for side, parts in medians.items()},
        reference=REFERENCE,
        ours=OURS,
        peak_bytes=peaks,
        as_json=options.json,
        seconds_are="of a whole run, composed of its parts",
        parts={side: {name: round(seconds, 1) for name, seconds in parts.items()} for side, parts in medians.items()},
        part_ratios={
            name: round(medians[REFERENCE][name] / medians[OURS][name], 1) for name in medians[OURS] if name != "score"
        },
        settings={"student": options.student, "mentor": options.mentor, "epochs": options.epochs, **COUNTS},
    )


def training(options: Namespace, peaks: Peaks) -> dict[str, dict[str, list[float]]]:
    """Epochs of the mentor (on the teacher's rows) and of the student (on 1.9 times as many)."""
    found: dict[str, dict[str, list[float]]] = {REFERENCE: {}, OURS: {}}
    epochs = {"mentor": options.epochs, "student": options.epochs * COUNTS["student_rows_per_teacher_row"]}
    for role, shape in (("mentor", options.mentor), ("student", options.student)):
        settings = {"student": shape, "mentor": options.mentor, "batches": 4 if options.short else 16}
        bench = distill_step.Bench(
            Namespace(data=options.data, precision="auto", compile=False, micro_batches=1, length_window=1, **settings),
            distil=role == "student",
            reference_rows=2
            if role == "mentor"
            else distill_step.BATCH,  # a batch of 8 does not fit beside its optimiser
        )
        for _ in range(options.repeats):
            for side, epoch in {REFERENCE: bench.reference_epoch, OURS: bench.our_epoch}.items():
                seconds = peaks.of(side, epoch)[0] * epochs[role]
                found[side].setdefault(f"{role} training", []).append(seconds)
        del bench
        gc.collect()
    return found


def scoring(options: Namespace, peaks: Peaks) -> dict[str, dict[str, list[float]]]:
    """The one pass of ours; the reference has none, for it runs the mentor in every step."""
    rows = 24 if options.short else 120
    bench = score.Bench(
        Namespace(
            data=options.data,
            mentor=options.mentor,
            rows=rows,
            mode="hidden",
            tokens_per_batch=TOKENS_PER_BATCH,
        )
    )
    bench.warm_up()
    once = partial(score.timed, bench.ours)
    share = COUNTS["student_rows_per_teacher_row"] * bench.times_all[OURS]
    return {REFERENCE: {}, OURS: {"score": [peaks.of(OURS, once)[0] * share for _ in range(options.repeats)]}}


def sampling(options: Namespace, peaks: Peaks) -> dict[str, dict[str, list[float]]]:
    """Augmentation by a model of the mentor's shape; greedy answers (after every epoch of both) and test."""
    tokenizer, rows = augment.data(options.data)
    small = augment.learnt(options.sampler, options.steps, tokenizer, rows)
    questions, longest = augment.chosen(tokenizer, rows, options.questions)
    found: dict[str, dict[str, list[float]]] = {REFERENCE: {}, OURS: {}}
    for role, shape in (("mentor", options.mentor), ("student", options.student)):
        model = augment.inflated(small, SHAPES[shape])
        engine = augment.engine_of("transformers", model, tokenizer, SEQUENCES, Path())
        once = COUNTS["test"] if role == "student" else 0
        validation = {side: every * options.epochs + once for side, every in EVERY_EPOCH.items()}
        jobs = {"validation": (1, 0.0, validation)}
        if role == "mentor":
            jobs["augmentation"] = (3, 0.7, dict.fromkeys(EVERY_EPOCH, COUNTS["train"]))
        for job, (samples, temperature, counts) in jobs.items():
            sides = {
                REFERENCE: partial(augment.reference, model, tokenizer, questions, longest, samples, temperature),
                OURS: partial(augment.sampled, engine, questions, samples, temperature),
            }
            for _ in range(options.repeats):
                for side, run in sides.items():
                    start = time.perf_counter()
                    peaks.of(side, run)
                    seconds = (time.perf_counter() - start) * counts[side] / len(questions)
                    found[side].setdefault(f"{role} {job}", []).append(seconds)
    return found


if __name__ == "__main__":
    main()

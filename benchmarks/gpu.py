"""What a GPU does in eight minutes: steps of training and distillation, sampling by engine, their share of the GPU's peak, memory.

Measured are the pipeline's own `train`, `score` and `open_engine` on models with random weights of several shapes. Nothing is fetched
and no data is read, so it runs on a borrowed machine (README.md says how to carry it there). Every part is a process of its own with a
time limit. What fails, or is not installed, is a line that says why.

Training: updates in bfloat16, after some that are not timed; all positions of a row's target are targets. `SFT` is cross-entropy, and
the others are the distillation loss from soft labels that are stored (`hidden`, `top_k`) or come from the mentor in every step
(`online`). The share of the peak counts 6 operations a weight and token of the student (2 of the mentor, online), source and target.
Sampling: texts of about 100 tokens, at most 256, at temperature 0.7; the baseline is the decoding loop of commit 7b4a6c6.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import torch
from common import arguments, hardware, versions

MINUTES = 8.0
NAMED = "`SFT`"
BEFORE = "7b4a6c6's loop"
GOALS = {"step": 1.10, "peak": 0.40, "sampling": 10.0}
"""A distillation step in steps of SFT, at most; share of the GPU's peak of the 1B student, at least; sampling in times the baseline's."""

PEAKS = {
    "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "GH200": 989, "H800": 989, "H20": 148, "B200": 2250, "B100": 1750,
    "A100": 312, "A800": 312, "A30": 165, "A10G": 70, "A10": 125, "A40": 150, "L40S": 362, "L40": 181, "L4": 121,
    "RTX A6000": 155, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip
"""Dense bfloat16 TFLOP/s by words of the GPU's name, from the makers' data sheets. The first that fits counts."""


@dataclass(frozen=True)
class Row:
    """One measurement, or why there is none. Rows of one group have a reference among them."""

    group: str
    measure: str
    seconds: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    """Operations in `seconds`; 0 where they are not counted."""
    peak_bytes: int = 0
    why: str = ""
    """Why it was not measured, or a remark."""


Rows = Iterator[Row]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all parts together (default 8)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.in_this_process:
        measure(options)
        return
    rows = list(measured(options))
    table = table_of(rows, options)
    print(json.dumps([asdict(row) for row in rows]) if options.json else table)
    if options.out:
        options.out.write_text(table, encoding="utf-8")


# --- parts, each in a process of its own -----------------------------------------------------------------------------


def measured(options: argparse.Namespace) -> Rows:
    """The rows of all parts, while there is time. The short form has one process for all of them."""
    end = time.monotonic() + 60 * options.minutes
    groups = [options.parts] if options.short else [[name] for name in options.parts]
    for names in groups:
        left = end - time.monotonic()
        limit = min(left, sum(PARTS[name].seconds for name in names))
        if left < 10:
            yield from (Row(name, "all", why=f"the {options.minutes:g} minutes were over") for name in names)
            continue
        yield from _in_process(names, limit, options)


def _in_process(names: Sequence[str], limit: float, options: argparse.Namespace) -> Rows:
    """The rows of some parts, as their process prints them. It is ended with all that it started after `limit` seconds."""
    flags = ["--in-this-process", f"--device={options.device}", *(["--short"] if options.short else [])]
    flags += [f"--threads={options.threads}"] if options.threads else []
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, __file__, *flags, "--parts", *names]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        reader = threading.Thread(target=_read_lines, args=(process, lines), daemon=True)
        reader.start()
        end, name = time.monotonic() + limit, names[0]
        why = ""
        try:
            while (line := lines.get(timeout=max(0.0, end - time.monotonic()))) is not None:
                if line.startswith("part "):
                    name = line.split(" ", 1)[1].strip()
                elif line.startswith("{"):
                    row = Row(**json.loads(line))
                    print(f"{row.group}: {row.measure} {row.why}", file=sys.stderr, flush=True)
                    yield row
        except queue.Empty:
            why = f"not finished within {limit:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            reader.join()
        code = process.wait()
        if why or code:
            log.seek(0)
            last = [line.strip() for line in log.read().splitlines() if line.strip()][-1:]
            yield Row(name, "the rest", why=why or f"its process ended with {code}: {' '.join(last)[:200]}")


def _read_lines(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    process.wait()
    lines.put(None)


def measure(options: argparse.Namespace) -> None:
    """Measure parts in this process, and print a line for each row."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the rows
    device = torch.device(options.device)
    for name in options.parts:
        print(f"part {name}", file=out, flush=True)
        part = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            try:
                for step in part.steps(Bench(name, device, options.short, Path(folder))):
                    for row in step:
                        print(json.dumps(asdict(row)), file=out, flush=True)
            except Exception as error:  # the other parts go on
                traceback.print_exc()
                print(json.dumps(asdict(Row(name, "the rest", why=_reason(error)))), file=out, flush=True)


# --- what parts have in common ---------------------------------------------------------------------------------------


class Bench:
    """Where a part measures, at which size."""

    def __init__(self, part: str, device: torch.device, short: bool, folder: Path) -> None:
        self.part, self.device, self.short, self.folder = part, device, short, folder
        self.warm, self.timed = (1, 2) if short else (3, 8)
        self.precision: Any = "float32" if device.type == "cpu" else "bfloat16"

    def row(self, group: str, measure: str, run: Callable[[], Row]) -> Rows:
        """What `run` measures, or why it failed."""
        try:
            self.free()
            yield run()
        except Exception as error:
            traceback.print_exc()
            yield Row(group, measure, why=_reason(error))

    def free(self) -> None:
        """Give back what the last measurement left."""
        gc.collect()  # a Trainer and its callbacks name each other
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


# --- training --------------------------------------------------------------------------------------------------------


def trainings(student: str, mentor: str, *, length: int | None, batch: int) -> Callable[[Bench], Iterator[Rows]]:
    """A student's updates of `batch` rows of `length` tokens: SFT, packed SFT, and distillation from a mentor."""

    def steps(bench: Bench) -> Iterator[Rows]:
        training = Training(bench, student, mentor, length, batch)
        yield training.sft()
        if length is not None:
            yield training.packed()
        yield from (training.stored(form) for form in ("hidden", "top_k"))
        yield training.online()

    return steps


class _Enough(Exception):
    """Ends a training after its last timed update, before anything is saved."""


class Training:
    """Updates of one student on random rows."""

    def __init__(self, bench: Bench, student: str, mentor: str, length: int | None, batch: int) -> None:
        from gpu_models import SHAPES

        self.bench, self.batch = bench, batch
        if bench.short:
            student = mentor = "tiny-t5" if length is None else "tiny"
            self.batch, length = 2, length and 64
        self.student, self.mentor, self.length = SHAPES[student], SHAPES[mentor], length
        rows = f"rows of {length:,} tokens" if length else "rows of SVAMP's lengths"
        self.group = f"{bench.part}: {student} <- {mentor}, {rows}"

    def sft(self) -> Rows:
        return self.bench.row(self.group, NAMED, self._largest_batch)

    def _largest_batch(self) -> Row:
        """SFT with as many rows as the memory holds, which all others then have."""
        while self.batch > 1:
            with suppress(torch.OutOfMemoryError):
                return self._updates(NAMED, None)
            self.batch //= 2
            self.bench.free()
        return self._updates(NAMED, None)

    def packed(self) -> Rows:
        from mentorkd.recipe.learner import TrainingConfig

        measure = f"{NAMED}, rows of SVAMP's lengths packed to {self.length:,} tokens"
        if "packed" not in get_args(TrainingConfig.model_fields["split"].annotation):
            yield Row(self.group, measure, why="this version of mentorkd does not pack rows")
            return
        config = {"split": "packed", "tokens_per_batch": self.length, "gradient_accumulation": self.batch}
        yield from self.bench.row(self.group, measure, lambda: self._updates(measure, None, **config))

    def stored(self, form: Any) -> Rows:
        """Score the rows, then train on what was stored."""
        from mentorkd.distillation.objectives.soft_labels import Distillation
        from mentorkd.distillation.scoring import score
        from mentorkd.distillation.soft_labels import StoredSoftLabels

        store = self.bench.folder / form

        def scored() -> Row:
            mentor, rows = self.mentor.load(1, self.bench.device), self._rows(self.length)
            options: dict[str, Any] = {"mode": form, "top_k": 32, "temperature": 2.0, "mentor_digest": "random"}
            options |= {"target": "arrow", "bfloat16": self.bench.precision == "bfloat16"}
            score(mentor, rows[:1], folder=self.bench.folder / f"{form}-warm", on_progress=lambda *_: None, **options)
            start = self.bench.now()
            score(mentor, rows, folder=store, on_progress=lambda *_: None, **options)
            seconds, tokens = self.bench.now() - start, sum(row.length for row in rows)
            return Row(self.group, f"scoring, `{form}`", seconds, tokens, peak_bytes=self.bench.peak())

        def trained() -> Row:
            labels = StoredSoftLabels([store], device=self.bench.device)
            return self._updates(f"`{form}`", Distillation([(1.0, labels)], 0.3, 2.0, True, "forward_kl"))

        yield from self.bench.row(self.group, f"scoring, `{form}`", scored)
        yield from self.bench.row(self.group, f"`{form}`", trained)

    def online(self) -> Rows:
        from mentorkd.distillation.mentors import OnlineMentor
        from mentorkd.distillation.objectives.soft_labels import Distillation

        def run() -> Row:
            mentor = self.mentor.load(1, self.bench.device)
            objective = Distillation([(1.0, OnlineMentor(mentor))], 0.3, 2.0, True, "forward_kl")
            return self._updates("`online`", objective, mentor)

        return self.bench.row(self.group, "`online`", run)

    def _rows(self, length: int | None, count: int | None = None) -> list[Any]:
        from gpu_models import rows_of

        return rows_of(self.student, count or 2 * self.batch, length)

    def _updates(self, measure: str, objective: Any, mentor: Any = None, **config: Any) -> Row:
        """Seconds of an update of `train`, the mean of the timed ones."""
        from gpu_models import flops

        from mentorkd.recipe.learner import TrainingConfig
        from mentorkd.training.schedule import schedule_training
        from mentorkd.training.train import train

        bench, marks = self.bench, list[float]()
        loaded = self.student.load(0, bench.device)
        settings = TrainingConfig(**{"batch_size": self.batch, "epochs": 1, "learning_rate": 1e-5, **config})
        packed = "tokens_per_batch" in config
        rows = self._rows(None, 1024 if not bench.short else 32) if packed else self._rows(self.length)
        first, last = bench.warm, bench.warm + bench.timed
        updates = 100 * (last + 1)  # a training logs, and so waits for the GPU, a hundred times
        plan = schedule_training(rows, loaded.kind, settings, seed=0, updates=updates).plan.batches
        parts = settings.gradient_accumulation
        read = [rows[number] for number in itertools.chain(*plan[first * parts : last * parts])]

        def at(step: int, steps: int) -> None:
            if step in (first, last):
                marks.append(bench.now())
            if step == last:
                raise _Enough

        with tempfile.TemporaryDirectory(dir=bench.folder) as folder, suppress(_Enough):
            train(
                loaded,
                rows,
                settings,
                seed=0,
                folder=Path(folder),
                precision=bench.precision,
                objective=objective,
                updates=updates,
                on_progress=at,
            )
        source = sum(len(row.source_ids) for row in read) / bench.timed
        target = sum(len(row.target_ids) for row in read) / bench.timed
        operations = flops(loaded, int(source), int(target))
        operations += 0 if mentor is None else flops(mentor, int(source), int(target)) / 3
        seconds = (marks[1] - marks[0]) / bench.timed
        why = "" if packed else f"{self.batch} rows"
        return Row(self.group, measure, seconds, round(source + target), operations, bench.peak(), why)


# --- the other side --------------------------------------------------------------------------------------------------


def trl(bench: Bench) -> Iterator[Rows]:
    """Updates of TRL's GKDTrainer, whose teacher reads every batch, beside ours with the mentor in every step."""
    training = Training(bench, "135M", "360M", length=2048, batch=8)
    measure = "TRL's GKDTrainer, `lmbda: 0`"
    if find_spec("trl") is None:
        yield iter([Row(training.group, measure, why="trl is not installed")])
        return
    yield training.sft()
    yield training.online()
    yield bench.row(training.group, measure, lambda: _gkd(training, measure))
    why = "not measured: it samples texts in every step, which nothing of ours does"
    yield iter([Row(training.group, "TRL's DistillationTrainer", why=why)])


def _gkd(training: Training, measure: str) -> Row:
    from datasets import Dataset
    from transformers import TrainerCallback

    try:
        gkd = importlib.import_module("trl.experimental.gkd")
    except ModuleNotFoundError:
        gkd = importlib.import_module("trl")  # older versions
    bench, marks = training.bench, list[float]()
    last = bench.warm + bench.timed

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (bench.warm, last):
                marks.append(bench.now())

    rows = training._rows(training.length, training.batch * last)
    examples = [
        {
            "prompt": "",
            "input_ids": [*row.source_ids, *row.target_ids],
            "completion_mask": [0] * len(row.source_ids) + [1] * len(row.target_ids),
        }
        for row in rows
    ]
    student = training.student.load(0, bench.device)
    trainer = gkd.GKDTrainer(
        student.model,
        training.mentor.load(1, bench.device).model,
        gkd.GKDConfig(
            str(bench.folder / "gkd"),
            lmbda=0.0,
            beta=0.0,
            max_steps=last,
            max_length=training.length,
            per_device_train_batch_size=training.batch,
            learning_rate=1e-5,
            optim="adamw_torch_fused",
            bf16=bench.precision == "bfloat16",
            gradient_checkpointing=False,
            use_cpu=bench.device.type == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(examples),
        processing_class=student.tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    tokens = sum(row.length for row in rows) // last
    why = f"{training.batch} rows"
    return Row(training.group, measure, (marks[1] - marks[0]) / bench.timed, tokens, 0.0, bench.peak(), why)


def losses(bench: Bench) -> Iterator[Rows]:
    """The loss alone, forward and backward from hidden states and heads: ours beside Liger's chunked one."""
    tokens, widths, vocabulary = (64, (16, 32), 512) if bench.short else (8192, (2048, 4096), 128_256)
    group = f"{bench.part}: {tokens:,} tokens, vocabulary {vocabulary:,}, widths {widths[0]:,} <- {widths[1]:,}"
    like: dict[str, Any] = {"device": bench.device, "dtype": getattr(torch, bench.precision)}
    hidden, theirs = (torch.randn(tokens, width, **like) for width in widths)
    heads = [torch.randn(vocabulary, width, **like).div_(width**0.5) for width in widths]
    labels = torch.randint(vocabulary, (tokens,), device=bench.device)
    own = [hidden.requires_grad_(), heads[0].requires_grad_()]

    def timed(measure: str, loss: Callable[[], torch.Tensor]) -> Row:
        for turn in range(-bench.warm, bench.timed):
            if not turn:
                start = bench.now()
            for weight in own:
                weight.grad = None
            loss().backward()  # type: ignore[no-untyped-call]
        return Row(group, measure, (bench.now() - start) / bench.timed, tokens, 0.0, bench.peak())

    def ours() -> torch.Tensor:
        from mentorkd.distillation.fused_losses import fused_distillation_loss
        from mentorkd.distillation.losses import MentorHidden

        mentor = MentorHidden(theirs, heads[1])
        how: dict[str, Any] = {"kd_weight": 0.5, "temperature": 2.0, "tau_squared": False, "divergence": "forward_kl"}
        sums = fused_distillation_loss(own[0], own[1], labels, mentor, **how)
        return sums.loss / sums.tokens

    def ligers() -> torch.Tensor:
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(0.5, 0.5, beta=0.0, temperature=2.0, compiled=bench.device.type == "cuda")
        value: torch.Tensor = loss(own[0], own[1], theirs, heads[1], labels)
        return value

    yield bench.row(group, "fused loss, forward KL", lambda: timed("fused loss, forward KL", ours))
    measure = "Liger's LigerFusedLinearJSDLoss, beta 0"
    if find_spec("liger_kernel") is None:
        yield iter([Row(group, measure, why="liger-kernel is not installed")])
        return
    yield bench.row(group, measure, lambda: timed(measure, ligers))


# --- sampling --------------------------------------------------------------------------------------------------------


class Sampling:
    """Texts of one model by several engines."""

    def __init__(self, bench: Bench, shape: str) -> None:
        from gpu_models import SHAPES, prompts, with_ends

        shape = ("tiny-t5" if "t5" in shape else "tiny") if bench.short else shape
        self.bench, self.shape = bench, SHAPES[shape]
        self.limit, mean, self.few, self.many = (8, 5, 8, 16) if bench.short else (256, 120, 64, 1024)
        self.prompts, self.mean = prompts(self.shape, self.many), mean
        self.loaded = with_ends(self.shape.load(0, bench.device), mean)
        self.group = f"sampling: {shape}"

    def before(self) -> Rows:
        from old_loop import sample_as_before

        from mentorkd.data.encoding import encode_prompt

        def run() -> Row:
            encoded = [
                encode_prompt(self.loaded.tokenizer, self.loaded.kind, prompt) for prompt in self.prompts[: self.few]
            ]
            ends = set(self.loaded.model.generation_config.eos_token_id)
            self.loaded.model.eval()
            sample_as_before(self.loaded, encoded[:2], temperature=0.7, limit=4, ends=ends)
            start = self.bench.now()
            written = sample_as_before(self.loaded, encoded, temperature=0.7, limit=self.limit, ends=ends)
            tokens, why = sum(map(len, written)), f"{self.few} texts, 32 at a time, in float32"
            return Row(self.group, BEFORE, self.bench.now() - start, tokens, peak_bytes=self.bench.peak(), why=why)

        return self.bench.row(self.group, BEFORE, run)

    def engine(self, measure: str, texts: int, rows: int, open_it: Callable[[], Any], remark: str) -> Rows:
        """Texts of an engine, after a call for `rows` texts that is not timed."""
        from mentorkd.generation.engine import SamplingParams

        def run() -> Row:
            params = SamplingParams(temperature=0.7, max_new_tokens=self.limit)
            with closing(open_it()) as engine:
                engine.sample(self.prompts[:rows], params, seed=1)
                start = self.bench.now()
                results = engine.sample(self.prompts[:texts], params, seed=0)
                seconds = self.bench.now() - start
            tokens, why = sum(text.tokens for [text] in results), f"{texts:,} texts, {remark}"
            peak = 0 if engine.name == "vllm" else self.bench.peak()  # its memory is another process's
            return Row(self.group, measure, seconds, tokens, peak_bytes=peak, why=why)

        return self.bench.row(self.group, measure, run)

    def opened(self, name: Any, **options: Any) -> Any:
        from mentorkd.generation import open_engine
        from mentorkd.models import save_model

        folder = self.bench.folder / "model"
        if not folder.exists():
            save_model(self.loaded, folder, card="")
        place: dict[str, Any] = {
            "model_dir": folder,
            "device": self.bench.device,
            "cache_dir": self.bench.folder / "cache",
        }
        return open_engine(name, dtype=self.bench.precision, **place, **options)


def loops(shape: str) -> Callable[[Bench], Iterator[Rows]]:
    """The baseline, then the engines of transformers over the same weights."""

    def steps(bench: Bench) -> Iterator[Rows]:
        from mentorkd.generation.transformers_engine import TransformersEngine

        sampling, rows = Sampling(bench, shape), 8 if bench.short else 256
        loaded = sampling.loaded
        yield sampling.before()
        how: dict[str, Any] = {"dtype": bench.precision, "batch_size": rows}
        remark = f"{rows} at a time, in {bench.precision}"
        for measure, texts, by_generate in (
            ("own loop", sampling.many, False),
            ("`generate` of transformers", sampling.many // 4, True),
        ):
            yield sampling.engine(
                measure,
                texts,
                rows,
                lambda by=by_generate: TransformersEngine(  # type: ignore[misc]
                    loaded.model, loaded.tokenizer, loaded.kind, use_generate=by, **how
                ),
                remark,
            )

    return steps


def other_engine(name: str, shape: str) -> Callable[[Bench], Iterator[Rows]]:
    def steps(bench: Bench) -> Iterator[Rows]:
        sampling = Sampling(bench, shape)
        if find_spec(name) is None:
            yield iter([Row(sampling.group, name, why=f"{name} is not installed")])
        elif name == "vllm" and bench.device.type != "cuda":
            yield iter([Row(sampling.group, name, why="vllm needs a CUDA device")])
        else:
            rows = 8 if bench.short else 256
            remark = f"in {bench.precision}" + ("" if name == "vllm" else f", {rows} at a time")
            yield sampling.engine(name, sampling.many, rows, lambda: sampling.opened(name, batch_size=rows), remark)

    return steps


@dataclass(frozen=True)
class Part:
    steps: Callable[[Bench], Iterator[Rows]]
    seconds: float
    """The most that it may take, with the start of its process."""


PARTS = {
    "train-1b": Part(trainings("1B", "1B", length=2048, batch=8), 110),
    "sample-360m": Part(loops("360M"), 100),
    "train-t5": Part(trainings("flan-t5-small", "flan-t5-large", length=None, batch=64), 60),
    "sample-t5": Part(loops("flan-t5-small"), 70),
    "train-135m": Part(trainings("135M", "360M", length=2048, batch=8), 60),
    "trl": Part(trl, 60),
    "liger": Part(losses, 50),
    "vllm": Part(other_engine("vllm", "360M"), 120),
    "ctranslate2": Part(other_engine("ctranslate2", "flan-t5-small"), 60),
    "train-360m": Part(trainings("360M", "1.7B", length=2048, batch=8), 70),
}
"""The most important first, since the time may be over before the last."""


# --- the table -------------------------------------------------------------------------------------------------------


def peak_of(gpu: str) -> float | None:
    """Dense bfloat16 operations a second of a GPU; None for one that is not known."""
    return next((1e12 * peak for words, peak in PEAKS.items() if re.search(rf"\b{words}\b", gpu)), None)


def table_of(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """The rows as a Markdown page, with the machine, versions and command."""
    machine = hardware()
    gpu = machine.get("gpu", "no GPU") if options.device != "cpu" else "no GPU"
    peak = peak_of(gpu)
    known = f"{peak / 1e12:,.0f} TFLOP/s" if peak else "not known, so no share of it is given"
    lines = [
        f"- command: `{' '.join(['python', *sys.argv])}`",
        f"- machine: {', '.join(f'{key} {value}' for key, value in machine.items())}",
        f"- versions: {', '.join(f'{key} {value}' for key, value in versions().items())}",
        f"- peak of {gpu} (dense bfloat16): {known}",
        f"- goals: a distillation step of at most {GOALS['step']:.2f} of SFT; {GOALS['peak']:.0%} of the peak for the 1B student; "
        f"sampling {GOALS['sampling']:.0f} times as fast as the loop of 7b4a6c6",
    ]
    if options.short:
        lines.append("- a short run with tiny models: its figures say nothing")
    for group in dict.fromkeys(row.group for row in rows):
        own = [row for row in rows if row.group == group]
        # Rates of another process of the same group are compared with its reference, too.
        reference = next((row for row in own if row.measure in (NAMED, BEFORE) and row.seconds), None)
        lines += [
            "",
            f"### {group}",
            "",
            "| | time | tokens/s | share of peak | beside | peak GiB | |",
            "|" + "---|" * 7,
        ]
        lines += ["| " + " | ".join(_cells(row, reference, peak)) + " |" for row in own]
    return "\n".join(lines) + "\n"


def _cells(row: Row, reference: Row | None, peak: float | None) -> list[str]:
    if not row.seconds:
        return [row.measure, "", "", "", "", "", row.why.replace("|", "/")]
    share = f"{row.flops / row.seconds / peak:.1%}" if peak and row.flops else ""
    time_taken = f"{1000 * row.seconds:,.1f} ms" if row.seconds < 10 else f"{row.seconds:,.1f} s"
    memory = f"{row.peak_bytes / 2**30:.1f}" if row.peak_bytes else ""
    rate = f"{row.tokens / row.seconds:,.0f}"
    return [row.measure, time_taken, rate, share, _beside(row, reference), memory, row.why]


def _beside(row: Row, reference: Row | None) -> str:
    """The row in terms of its group's reference, by time a token."""
    if reference is None or row is reference or row.measure.startswith("scoring"):
        return ""
    faster = (row.tokens / row.seconds) / (reference.tokens / reference.seconds)
    return f"{faster:.1f} times {BEFORE}" if reference.measure == BEFORE else f"{1 / faster:.2f} of SFT"


if __name__ == "__main__":
    main()

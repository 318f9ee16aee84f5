"""Updates of eight random rows: all at once, in four micro-batches of two, and in the parts of `split: auto`.

Prints the processor seconds of an update of each side on SVAMP, and padded tokens by tokens on four tasks. An update is one of training on
targets alone, since soft labels add the same work to all sides. The first of a run, which sets up libraries, is left out.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from common import arguments, hardware, versions
from svamp import SHAPES, data_argument, evenly, flan_t5, tokenizer_and_rows
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from mentorkd.data.encoding import Example
from mentorkd.data.padding import MULTIPLE, padded_width
from mentorkd.data.prompts import render_target
from mentorkd.data.splitting import cost_of_part, split_rows
from mentorkd.models import LoadedModel
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.records import ModelKind
from mentorkd.training.train import train

BATCH = 8
TASKS = ("svamp", "tracking_shuffled_objects", "date_understanding", "last_letter_concatenation")
SIDES = {
    "at once": TrainingConfig(epochs=1, learning_rate=1e-5, batch_size=BATCH, split="none"),
    "four micro-batches": TrainingConfig(
        epochs=1, learning_rate=1e-5, batch_size=BATCH // 4, gradient_accumulation=4, split="none"
    ),
    "auto": TrainingConfig(epochs=1, learning_rate=1e-5, batch_size=BATCH, split="auto"),
}


def main() -> None:
    parser = arguments(__doc__)
    data_argument(parser)
    parser.add_argument(
        "--student", choices=["causal", *SHAPES], default="flan-t5-small", help="causal: a Llama, 512x8"
    )
    parser.add_argument("--updates", type=int, help="measured updates in a run (default 12; short 2)")
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=list(SIDES), help="to be timed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or 1)
    kind: ModelKind = "causal" if options.student == "causal" else "seq2seq"
    tokenizer, rows = tokenizer_and_rows(options.data, kind)
    student = llama(tokenizer) if kind == "causal" else flan_t5(options.student, tokenizer, 0)
    updates = options.updates or (2 if options.short else 12)
    sample = evenly(rows, (updates + 1) * BATCH)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.repeats):
        for side in options.sides:
            seconds[side].append(seconds_of_update(student, sample, SIDES[side]))
    result = {
        "student": options.student,
        "processor_seconds": dict(seconds),
        "median_seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "padded": {
            task: padded(sides_of_task(task, options.data, tokenizer, kind), student.model.num_parameters())
            for task in TASKS
        },
    }
    print(json.dumps({**result, "hardware": hardware(), "versions": versions()}, indent=None if options.json else 1))


def seconds_of_update(student: LoadedModel, rows: Sequence[Example], config: TrainingConfig) -> float:
    clock: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        train(
            student,
            rows,
            config,
            seed=0,
            folder=Path(folder),
            precision="float32",
            on_progress=lambda step, steps: clock.append(time.process_time()) if step else None,
        )
    return (clock[-1] - clock[0]) / (len(clock) - 1)


def padded(rows: Sequence[tuple[int, ...]], parameters: int) -> dict[str, float]:
    """Padded tokens by tokens over 200 updates, and the parts of an update."""
    cost, rng = cost_of_part(parameters, "cpu"), random.Random(0)
    tokens = parts = 0
    widths: dict[str, int] = defaultdict(int)
    for _ in range(200):
        sides = rng.sample(rows, BATCH)
        order = sorted(range(BATCH), key=lambda row: sides[row][-1])
        pairs = [order[start : start + 2] for start in range(0, BATCH, 2)]
        divided = split_rows(sides, [None] * BATCH, fixed_cost=cost, multiple=MULTIPLE)
        tokens += sum(map(sum, sides))
        parts += len(divided)
        for side, groups in {"at once": [order], "four micro-batches": pairs, "auto": divided}.items():
            for group in groups:
                longest = [max(sides[row][each] for row in group) for each in range(len(sides[0]))]
                widths[side] += len(group) * sum(map(padded_width, longest))
                widths[f"{side}, multiples of eight"] += len(group) * sum(-(-side // 8) * 8 for side in longest)
    return {side: round(width / tokens, 3) for side, width in widths.items()} | {"parts of auto": parts / 200}


def sides_of_task(task: str, data: Path, tokenizer: PreTrainedTokenizerBase, kind: ModelKind) -> list[tuple[int, ...]]:
    """Tokens of source and target of the teacher's rows; of a causal model, their sum."""
    rows = json.loads((data / f"data/mentor-kd/main/{task}_3_train.json").read_text(encoding="utf-8"))
    texts = [(row["input"], render_target(row["chain"].strip(), str(row["answer"]), "arrow")) for row in rows]
    sides = [tuple(len(tokenizer(text)["input_ids"]) for text in pair) for pair in texts]
    return sides if kind == "seq2seq" else [(sum(pair),) for pair in sides]


def llama(tokenizer: PreTrainedTokenizerBase) -> LoadedModel:
    """A Llama of 512 x 8 with T5's vocabulary and random weights."""
    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return LoadedModel(LlamaForCausalLM(LlamaConfig(vocab_size=32_128, **shape, **ends)), tokenizer, "causal")


if __name__ == "__main__":
    main()

"""Ways of the decoding loop on a CPU: fixed batches, refilled ones, and caches of fixed shapes.

Two models with random weights write sampled texts: a T5 of the quickstart's size, and a llama of two layers of width 256. The lengths of
the texts are drawn beforehand, from 5 tokens to the limit, and do not depend on the prompts. The sides run in turn on one thread; what
counts is processor time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from mentorkd.generation.backlog import Backlog, TextRow
from mentorkd.generation.continuous import Loop, write_rows
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.sampling import group
from mentorkd.records import ModelKind

SIDES = {
    "dynamic, fixed batches": Loop(),
    "dynamic, refilled": Loop(refill=True),
    "dynamic, fixed batches, a look every 16 steps": Loop(look_every=16),
    "static, fixed batches": Loop(static=True),
    "static, refilled": Loop(static=True, refill=True),
}
VOCABULARY = 500


def models() -> dict[str, tuple[Any, ModelKind]]:
    torch.manual_seed(0)
    t5 = T5Config(
        vocab_size=VOCABULARY, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=1024, **sizes)
    return {
        "T5, 2 layers x 128": (T5ForConditionalGeneration(t5).eval(), "seq2seq"),
        "llama, 2 layers x 256": (LlamaForCausalLM(llama).eval(), "causal"),
    }


def write(
    model: Any,
    kind: ModelKind,
    prompts: Sequence[list[int]],
    lengths: Sequence[int],
    params: SamplingParams,
    rows: int,
    loop: Loop,
) -> list[list[int]]:
    """Write texts of these lengths; their tokens."""
    texts = [
        TextRow(prompt, replace(params, max_new_tokens=length), (), own_seed=number)
        for number, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
    ]
    batches = group(list(map(len, prompts)), 1, params.max_new_tokens, rows=rows)
    backlog = Backlog([[texts[piece.prompt] for piece in batch] for batch in batches], refill=loop.refill)
    write_rows(model, kind, backlog.take, start_id=0 if kind == "seq2seq" else None, pad_id=0, loop=loop)
    return [text.ids for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-new-tokens", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(0)
    prompts = [[draw.randrange(13, VOCABULARY) for _ in range(draw.randint(10, 80))] for _ in range(options.prompts)]
    lengths = [min(options.max_new_tokens, 5 + int(draw.expovariate(1 / 37))) for _ in prompts]
    params = SamplingParams(temperature=0.7, max_new_tokens=options.max_new_tokens)
    for name, (model, kind) in models().items():
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        texts: dict[str, list[list[int]]] = {}
        for _ in range(options.rounds):
            for side, loop in SIDES.items():
                begin = time.process_time()
                texts[side] = write(model, kind, prompts, lengths, params, options.batch_size, loop)
                seconds[side].append(time.process_time() - begin)
        first, *others = texts.values()
        assert all(one == first for one in others), "the sides wrote different texts"
        print(
            f"{name}: {len(prompts)} texts of {min(lengths)} to {max(lengths)} tokens, {statistics.mean(lengths):.0f} on average"
        )
        base = statistics.median(seconds["dynamic, fixed batches"])
        for side, taken in seconds.items():
            median = statistics.median(taken)
            print(f"| {side} | {median:.2f} ({min(taken):.2f} - {max(taken):.2f}) | {base / median:.2f} |", flush=True)


if __name__ == "__main__":
    main()

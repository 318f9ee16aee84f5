"""Pretrain the nano models of the quickstart on generated skills (`nano_skills.py`), from random weights to a folder.

    python scripts/pretrain_nano.py                      # both models; needs torch 2.9 or later (Muon)
    python scripts/pretrain_nano.py --only nano-t5-small

One run is deterministic on one machine and number of threads. A run that is stopped continues from its last checkpoint.
Writes `src/mentorkd/quickstart/models/<name>` (fp16 safetensors, tokenizer, generation config, model card) and the loss
curve `docs/results/nano-pretraining.{csv,svg}`.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nano_skills import SKILLS, Example, build_tokenizer, example
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "src/mentorkd/quickstart/models"
RESULTS = ROOT / "docs/results"
BATCH = 64
CHUNK = 16
"""Batches that are cut together from examples sorted by length, so that little is padding."""
CURRICULUM = 0.25
"""Share of the first round over which the examples grow to their full length."""
WARMUP = 200
MUON_RATE = 1e-3
ADAM_RATE = 4e-3
LOG_EVERY = 150
PERIODS = torch.tensor([200.0, 100.0, 50.0, 33.0, 25.0, 20.0, 10.0, 5.0, 4.0, 2.0])
"""Of the waves in which the embeddings of the numbers 0 to 99 begin."""
MATRICES = tuple(f".{name}.weight" for name in ("q", "k", "v", "o", "wi_0", "wi_1", "wo"))


@dataclass(frozen=True)
class Size:
    """Architecture and length of training of one model of the family.

    `steps`: of a first round, in which every skill has one form, and of a second, in which sums are written in many forms.
    """

    d_model: int
    d_ff: int
    heads: int
    layers: int
    steps: tuple[int, int]


SIZES = {
    "nano-t5-small": Size(d_model=128, d_ff=512, heads=4, layers=2, steps=(3_300, 1_200)),
    "nano-t5-large": Size(d_model=192, d_ff=768, heads=6, layers=3, steps=(2_400, 3_000)),
}


def build_model(size: Size, tokenizer: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=size.d_model,
        d_kv=32,
        d_ff=size.d_ff,
        num_heads=size.heads,
        num_layers=size.layers,
        num_decoder_layers=size.layers,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=True,
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = T5ForConditionalGeneration(config)
    # The same numbers a fifth faster on a CPU: one GELU kernel for T5's chain of five, and attention without the
    # fused kernel, whose backward pass is slow for heads this small.
    model.set_attn_implementation("eager")
    for module in model.modules():
        if isinstance(module, T5DenseGatedActDense):
            module.act = torch.nn.GELU(approximate="tanh")
    initialise(model, tokenizer)
    return model


@torch.no_grad()
def initialise(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Weights that begin where much of a pretraining would only arrive: able to look back, to copy and to see sizes."""
    # Embeddings of T5's own deviation 1 drown what the first layers add to the residual stream. Smaller ones need a
    # larger gain before the tied output layer, for logits that can be sure of a token.
    torch.nn.init.normal_(model.shared.weight, std=0.3)
    torch.nn.init.constant_(model.decoder.final_layer_norm.weight, 3.0)
    # Numbers lie on circles of several periods, so that a sum is a product of waves, which a gated layer can form.
    angles = torch.arange(100)[:, None] * (2 * torch.pi / PERIODS)
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    axes = torch.linalg.qr(torch.randn(model.config.d_model, waves.shape[1]))[0]
    told = waves @ axes.T
    rows = tokenizer.convert_tokens_to_ids([f"▁{number}" for number in range(100)])
    model.shared.weight[rows] = 0.5 * model.shared.weight[rows] + 0.3 * told / told.std()
    # Some heads begin by looking at a neighbour; every head passes on what it looks at; cross-attention looks for what
    # is alike. Copying is half of every skill.
    for stack, neighbours in ((model.encoder, (1, 17, 2)), (model.decoder, (1, 2, 3))):  # buckets of distances
        bias = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        torch.nn.init.zeros_(bias)
        for head, bucket in enumerate(neighbours):
            bias[bucket, head] = 5.0
        for block in stack.block:
            block.layer[0].SelfAttention.q.weight *= 0.3
            _pass_on(block.layer[0].SelfAttention)
    for block in model.decoder.block:
        attention = block.layer[1].EncDecAttention
        _pass_on(attention)
        torch.nn.init.orthogonal_(attention.q.weight, gain=0.5)
        attention.k.weight.copy_(attention.q.weight)


def _pass_on(attention: Any) -> None:
    torch.nn.init.orthogonal_(attention.v.weight)
    attention.o.weight.copy_(attention.v.weight.T)


def build_optimizers(model: T5ForConditionalGeneration) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embeddings, biases and norms."""
    matrices = [p for name, p in model.named_parameters() if ".layer." in name and name.endswith(MATRICES)]
    chosen = set(map(id, matrices))
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon([{"params": matrices, "peak": MUON_RATE}], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([{"params": rest, "peak": ADAM_RATE}], betas=(0.9, 0.98), weight_decay=0.0),
    ]


def collate(rows: list[tuple[list[int], list[int]]], pad: int) -> dict[str, Tensor]:
    """Pad sources and targets of a batch on the right; padding carries no label."""
    width, length = max(len(s) for s, _ in rows), max(len(t) for _, t in rows)
    sources = torch.tensor([s + [pad] * (width - len(s)) for s, _ in rows])
    labels = torch.tensor([t + [-100] * (length - len(t)) for _, t in rows])
    return {"input_ids": sources, "attention_mask": (sources != pad).long(), "labels": labels}


def encode(tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> list[tuple[list[int], list[int]]]:
    sources, targets = ([pair[side] for pair in examples] for side in (0, 1))
    return list(zip(tokenizer(sources).input_ids, tokenizer(targets).input_ids, strict=True))


def batches(
    tokenizer: PreTrainedTokenizerFast, first: int, rounds: tuple[int, ...]
) -> Iterator[tuple[float, dict[str, Tensor]]]:
    """The batches from step `first` on, each with its share of the peak rates, whatever was trained before."""
    for number, steps in enumerate(rounds):
        for chunk in range(first // CHUNK, -(-steps // CHUNK)):
            rng = random.Random(f"nano {chunk}" + " again" * number)
            reach = 1.0 if number else min(1.0, 0.1 + 0.9 * chunk * CHUNK / (CURRICULUM * steps))
            rows = encode(tokenizer, [example(rng, reach, forms=number > 0) for _ in range(BATCH * CHUNK)])
            rows.sort(key=lambda row: len(row[0]) + len(row[1]))
            cut = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
            rng.shuffle(cut)
            for step, batch in enumerate(cut, start=chunk * CHUNK):
                if first <= step < steps:
                    share = min((step + 1) / WARMUP, (steps - step) / (steps - WARMUP))
                    yield share / 2**number, collate(batch, tokenizer.pad_token_id)
        first = max(0, first - steps)


@torch.no_grad()
def accuracy(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, device: str) -> dict[str, float]:
    """Share of held-out examples (100 a skill) whose target the model predicts without one wrong token."""
    shares = {}
    for skill in SKILLS:
        rng = random.Random(f"nano held out {skill.__name__}")
        batch = collate(encode(tokenizer, [skill(rng, 1.0) for _ in range(100)]), tokenizer.pad_token_id)
        batch = {key: value.to(device) for key, value in batch.items()}
        with torch.autocast(device, dtype=torch.bfloat16):
            guess = model(**batch).logits.argmax(-1)
        right = (guess == batch["labels"]) | (batch["labels"] == -100)
        shares[skill.__name__] = right.all(-1).float().mean().item()
    return shares


def pretrain(name: str, size: Size, work: Path, device: str) -> list[dict[str, float]]:
    """Train one model to its end, write its folder, and return its log."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = build_model(size, tokenizer).to(device)
    optimizers = build_optimizers(model)
    log: list[dict[str, float]] = []
    first = 0
    checkpoint = work / f"{name}.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, log = state["step"], state["log"]
        print(f"{name}: continues at step {first}", flush=True)

    losses: list[float] = []
    seconds = log[-1]["seconds"] if log else 0.0
    began = time.perf_counter()
    for step, (share, batch) in enumerate(batches(tokenizer, first, size.steps), start=first):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(**{key: value.to(device) for key, value in batch.items()}).loss
        if not torch.isfinite(loss):
            raise SystemExit(f"{name}: the loss is {loss.item()} at step {step}; lower MUON_RATE")
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == sum(size.steps):
            row = {"step": step + 1, "seconds": round(seconds + time.perf_counter() - began, 1)}
            row |= {"loss": round(sum(losses) / len(losses), 5)}
            row |= {skill: round(share, 3) for skill, share in accuracy(model, tokenizer, device).items()}
            log.append(row)
            losses.clear()
            print(name, json.dumps(row), flush=True)
            state = {"model": model.state_dict(), "step": step + 1, "log": log}
            state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    save(name, model, tokenizer, log)
    return log


def save(
    name: str, model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, log: list[dict[str, float]]
) -> None:
    folder = MODELS / name
    model.generation_config = GenerationConfig(
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        max_new_tokens=128,
    )
    model.cpu().half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card(name, model, tokenizer, log), encoding="utf-8")


def card(
    name: str, model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, log: list[dict[str, float]]
) -> str:
    config, last = model.config, log[-1]
    skills = "\n".join(
        f"| {skill.__name__.replace('_', ' ')} | {100 * last[skill.__name__]:.0f} % |" for skill in SKILLS
    )
    return f"""---
license: apache-2.0
library_name: transformers
language: en
---
# {name}

A tiny T5 of {model.num_parameters() / 1e6:.1f} million parameters, made for `mentorkd`'s quickstart: small enough to be
fine-tuned on a CPU in less than a minute, and good enough with words and numbers to be useful after that. It is a
starting point for fine-tuning and knows nothing of the world.

- Architecture: encoder-decoder, {config.num_layers} + {config.num_decoder_layers} layers, width {config.d_model},
  feed-forward {config.d_ff} (gated GELU), {config.num_heads} heads of {config.d_kv}, tied embeddings.
- Vocabulary: {len(tokenizer)} pieces: the quickstart's words, common English words, the numbers 0 to 99,
  single characters.
- Pretraining: {int(last["step"]):,} steps of {BATCH} generated examples of the skills below (Muon and AdamW, linear
  decay), the last {SIZES[name].steps[1]:,} of them a second round, in which sums are written in many forms. None of
  the examples is a question or a rationale of the quickstart. Made by `scripts/pretrain_nano.py`;
  last training loss {last["loss"]:.4f} nats per token.
- Weights: float16 safetensors.

| skill (held-out examples without one wrong token, given the correct preceding tokens) | share |
|---|---|
{skills}

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
inputs = tokenizer("run signed: 12 up 5 , skip 9 down 4", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))  # 12 + 5 : 17 ; 17 - 4 : 13
```
"""


def write_curve(logs: dict[str, list[dict[str, float]]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "nano"
    import matplotlib.pyplot as plt

    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "nano-pretraining.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = list(next(iter(logs.values()))[0])
        writer.writerow(["model", *columns])
        writer.writerows([name, *(row[column] for column in columns)] for name, log in logs.items() for row in log)
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for name, log in logs.items():
        axes.plot([row["step"] for row in log], [row["loss"] for row in log], label=name)
    axes.set(xlabel="step", ylabel="training loss (nats a token)", yscale="log")
    axes.legend()
    figure.savefig(RESULTS / "nano-pretraining.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(SIZES), help="pretrain this model alone (and write no curve)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=Path, default=ROOT / "build/pretrain", help="folder of the checkpoints")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    names = [options.only] if options.only else list(SIZES)
    logs = {name: pretrain(name, SIZES[name], options.work, options.device) for name in names}
    if not options.only:
        write_curve(logs)


if __name__ == "__main__":
    main()

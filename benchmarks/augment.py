"""Augmentation: several samples a question from a model that has learnt to stop, against the reference's way.

The reference side samples in data set order, 16 questions at once, every prompt padded to the data set's longest, by
`generate` with its usual sampler, each batch until its longest text has ended. Ours is the transformers engine, or with
`--engine ctranslate2` that one, in float32; its conversion is not timed.

The model has a T5's shape and vocabulary. What it knows, above all when to stop, it learnt as a T5 of width 64 from
teacher rationales; its weights are set into the large shape with zeros around them, which computes the same function at
the large shape's cost. `--model DIR` keeps the small one.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from common import Peaks, arguments, in_turn, report
from svamp import SHAPES
from transformers import GenerationConfig, PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine, SamplingParams
from mentorkd.generation.transformers_engine import TransformersEngine
from mentorkd.models import load_tokenizer
from mentorkd.recipe.learner import ModelConfig

REFERENCE, OURS = "reference", "ours"
SHARED = Path(__file__).resolve().parents[1].parent / "shared"
SMALL = SHAPES["tiny"]
VOCABULARY = 32_128
SETTINGS = ("shape", "questions", "samples", "batch_size", "engine", "max_new_tokens")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--data", type=Path, default=SHARED, help="folder with data/ and tokenizers/ (default ../shared)"
    )
    parser.add_argument("--model", type=Path, help="folder that keeps the small model, made if it is not there")
    parser.add_argument("--shape", choices=SHAPES, help="default flan-t5-small; short: tiny")
    parser.add_argument("--questions", type=int, help="default 96; short 32")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument(
        "--batch-size", type=int, default=96, help="sequences that our side generates at once (default 96)"
    )
    parser.add_argument("--engine", choices=["transformers", "ctranslate2"], default="transformers", help="of our side")
    parser.add_argument("--max-new-tokens", type=int, help="default 512; short 256")
    parser.add_argument("--steps", type=int, help="training steps of the small model (default 600; short 150)")
    options = parser.parse_args()
    options.shape = options.shape or ("tiny" if options.short else "flan-t5-small")
    options.questions = options.questions or (32 if options.short else 96)
    options.steps = options.steps or (150 if options.short else 600)
    options.max_new_tokens = options.max_new_tokens or (256 if options.short else 512)
    options.repeats = min(options.repeats, 1 if options.short else 3)
    if options.threads:
        torch.set_num_threads(options.threads)

    tokenizer, rows = data(options.data)
    model = inflated(learnt(options.model, options.steps, tokenizer, rows), SHAPES[options.shape])
    questions, longest = chosen(tokenizer, rows, options.questions)
    how = {"samples": options.samples, "temperature": 0.7, "max_new_tokens": options.max_new_tokens}
    lengths: dict[str, list[int]] = {}
    peaks = Peaks()
    with TemporaryDirectory() as folder:
        engine = engine_of(options.engine, model, tokenizer, options.batch_size, Path(folder))
        sides = {
            REFERENCE: lambda: lengths.update(reference=reference(model, tokenizer, questions, longest, **how)),
            OURS: lambda: lengths.update(ours=sampled(engine, questions, **how)),
        }
        timed = {side: partial(peaks.of, side, run) for side, run in sides.items()}
        seconds = in_turn(timed, options.repeats, warm_up=0)
    report(
        "augment",
        seconds,
        reference=REFERENCE,
        ours=OURS,
        peak_bytes=peaks,
        as_json=options.json,
        settings={key: getattr(options, key) for key in SETTINGS},
        tokens_a_text={side: described(found, options.max_new_tokens) for side, found in lengths.items()},
    )


def data(folder: Path) -> tuple[PreTrainedTokenizerBase, list[dict[str, Any]]]:
    """T5's vocabulary, and the teacher's rationales of SVAMP."""
    tokenizer = load_tokenizer(ModelConfig(name="t5", tokenizer=str(folder / "tokenizers/t5/spiece.model")))
    recorded = (folder / "data/mentor-kd/main/svamp_3_train.json").read_text(encoding="utf-8")
    return tokenizer, json.loads(recorded)


def chosen(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], count: int) -> tuple[list[str], int]:
    """Some of the questions at random, and the tokens of the longest of all."""
    unique = list(dict.fromkeys(row["input"].strip() for row in rows))
    return random.Random(0).sample(unique, count), max(len(tokenizer(text)["input_ids"]) for text in unique)


def described(lengths: list[int], limit: int) -> dict[str, float]:
    """Both sides must have written texts of about the same lengths, or the ratio means nothing."""
    cut = sum(length >= limit for length in lengths) / len(lengths)
    return {"mean": statistics.mean(lengths), "median": statistics.median(lengths), "longest": max(lengths), "cut": cut}


@torch.inference_mode()
def reference(
    model: T5ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    questions: list[str],
    longest: int,
    samples: int,
    temperature: float,
    max_new_tokens: int = 512,
) -> list[int]:
    """Tokens of each text, in batches of 16 questions; temperature 0 is greedy."""
    torch.manual_seed(0)
    settings = GenerationConfig(
        **({"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}),
        num_return_sequences=samples,
        max_new_tokens=max_new_tokens,
        eos_token_id=1,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    lengths = []
    for start in range(0, len(questions), 16):
        batch = tokenizer(questions[start : start + 16], padding="max_length", max_length=longest, return_tensors="pt")
        written = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=settings)
        lengths += (written[:, 1:] != 0).sum(1).tolist()
    return lengths


def engine_of(
    name: str, model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, batch_size: int, folder: Path
) -> Engine:
    if name == "transformers":
        return TransformersEngine(model, tokenizer, "seq2seq", batch_size=batch_size)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return open_engine(
        "ctranslate2",
        model_dir=folder / "model",
        cache_dir=folder / "cache",
        device=model.device,
        dtype="float32",
        batch_size=batch_size,
    )


def sampled(
    engine: Engine, questions: list[str], samples: int, temperature: float, max_new_tokens: int = 512
) -> list[int]:
    """Tokens of each text."""
    params = SamplingParams(samples, temperature, max_new_tokens=max_new_tokens)
    results = engine.sample(questions, params, seed=0)
    return [completion.tokens for texts in results for completion in texts]


# --- the model ----------------------------------------------------------------------------------------------------


def learnt(
    folder: Path | None, steps: int, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]
) -> T5ForConditionalGeneration:
    """The small model, from its folder or trained: teacher-forced on SVAMP's teacher rationales."""
    if folder and folder.exists():
        return T5ForConditionalGeneration.from_pretrained(folder)
    sources = [tokenizer(row["input"].strip())["input_ids"] for row in rows]
    targets = [tokenizer(f"{row['chain'].strip()} --> {row['answer']}")["input_ids"] for row in rows]
    usable = [i for i, target in enumerate(targets) if len(target) <= 200]
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(_config(SMALL, dropout_rate=0.0))
    with torch.no_grad():
        model.shared.weight.mul_(0.05)
    # The loss is taken over the tokens that occur, and one that stands for all others: a tenth of the time.
    used = torch.tensor(sorted({i for target in targets for i in target}))
    place = torch.full((VOCABULARY,), -100)
    place[used] = torch.arange(len(used))
    other = next(i for i in range(VOCABULARY) if place[i] < 0 and i > 0)
    columns = torch.cat([used, torch.tensor([other])])
    others = torch.tensor([0.0] * len(used) + [float(VOCABULARY - len(used))]).clamp(min=1).log()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    draw = random.Random(0)
    start = time.perf_counter()
    for step in range(steps):
        chosen = sorted(draw.sample(usable, 64), key=lambda i: len(targets[i]))
        first = draw.randrange(4) * 16
        batch = chosen[first : first + 16]
        source, target = _padded([sources[i] for i in batch]), _padded([targets[i] for i in batch])
        shifted = torch.cat([torch.zeros(len(batch), 1, dtype=torch.long), target[:, :-1]], dim=1)
        mask = (source != 0).long()
        encoded = model.encoder(input_ids=source, attention_mask=mask).last_hidden_state
        hidden = model.decoder(
            input_ids=shifted, encoder_hidden_states=encoded, encoder_attention_mask=mask
        ).last_hidden_state
        logits = hidden @ model.lm_head.weight[columns].T + others
        loss = F.cross_entropy(logits.flatten(0, 1), place[target].masked_fill(target == 0, -100).flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        if step % 50 == 49:
            print(f"training step {step + 1}: loss {loss:.2f}, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    with torch.no_grad():
        unused = place < 0
        model.shared.weight[unused] = model.shared.weight[other].clone()
    if folder:
        model.save_pretrained(folder)
    return model.eval()


def inflated(model: T5ForConditionalGeneration, shape: dict[str, int]) -> T5ForConditionalGeneration:
    """The same function in a larger shape: weights are set into zeros, and the norms undo the larger width."""
    large = T5ForConditionalGeneration(_config(shape))
    parts = dict(model.named_parameters())
    shrink = (SMALL["d_model"] / shape["d_model"]) ** 0.5  # of a root mean square over mostly zeros
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            parameter.zero_()
            if name not in parts:
                continue
            part = parts[name]
            if name.endswith((".q.weight", ".k.weight", ".v.weight")):
                heads = part.view(SMALL["num_heads"], SMALL["d_kv"], -1)
                _corner(parameter.view(shape["num_heads"], shape["d_kv"], -1), heads)
            elif name.endswith(".o.weight"):
                heads = part.view(len(part), SMALL["num_heads"], SMALL["d_kv"])
                _corner(parameter.view(len(parameter), shape["num_heads"], shape["d_kv"]), heads)
            elif "layer_norm" in name:
                _corner(parameter, part * shrink)
            else:
                _corner(parameter, part)
    return large.eval()


def _corner(into: torch.Tensor, part: torch.Tensor) -> None:
    into[tuple(slice(0, size) for size in part.shape)] = part


def _config(shape: dict[str, int], **more: Any) -> T5Config:
    flan = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # which leaves outputs unscaled
    return T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **{**flan, **shape, **more})


def _padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


if __name__ == "__main__":
    main()

"""Throughput of `mentorkd serve` for many clients at once, against the same engine on the same prompts in one batch.

The endpoint runs in a process of its own, and the clients are coroutines of this one over real connections: each asks one question and
waits for its text. Texts are greedy, so both sides write the same tokens. The model has random weights in the shape of T5 models (its
texts run to `--max-new-tokens`) or is the quickstart's small one (whose texts end by themselves).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import torch
import yaml
from common import arguments, in_turn, report

from mentorkd.data.prompts import render_prompt
from mentorkd.generation.engine import SamplingParams
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.run import open_run
from mentorkd.quickstart.task import MODELS, write_task

TINY = str(MODELS / "nano-t5-small")
SHAPES: dict[str, dict[str, Any]] = {
    "quarter": {"d_model": 256, "d_ff": 512, "num_layers": 4, "num_heads": 4},
    "small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
}
"""A quarter of FlanT5-small, and FlanT5-small."""
T5 = {
    "model_type": "t5",
    "d_kv": 64,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
ENGINE, ENDPOINT, STREAMS = "engine", "endpoint", "endpoint, streams"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=int, default=64, help="requests at once (default 64)")
    parser.add_argument("--shape", choices=["nano", *SHAPES], help="the model (default quarter; nano with --short)")
    parser.add_argument("--engine", default="auto", help="auto, transformers, ctranslate2 or vllm")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args()
    options.shape = options.shape or ("nano" if options.short else "quarter")
    threads = options.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    with TemporaryDirectory() as folder:
        run = make_run(Path(folder), options)
        questions = [json.loads(line)["question"] for line in (Path(folder) / "data" / "train.jsonl").open()]
        with endpoint(run, threads) as url:
            tokens: dict[str, int] = {}
            ask_engine = engine_side(run, questions, options.max_new_tokens)
            sides = {
                ENGINE: lambda: tokens.update({ENGINE: ask_engine()}),
                ENDPOINT: lambda: tokens.update({ENDPOINT: asyncio.run(ask(url, questions, stream=False))}),
                STREAMS: lambda: tokens.update({STREAMS: asyncio.run(ask(url, questions, stream=True))}),
            }
            seconds = in_turn(sides, options.repeats)
    rates = {side: round(tokens[side] / statistics.median(times)) for side, times in seconds.items()}
    settings = {key: getattr(options, key) for key in ("clients", "shape", "engine", "max_new_tokens")}
    report(
        "serve",
        seconds,
        reference=ENGINE,
        ours=ENDPOINT,
        as_json=options.json,
        settings=settings,
        tokens=tokens,
        tokens_a_second=rates,
        share_of_the_engines_throughput={side: round(rate / rates[ENGINE], 3) for side, rate in rates.items()},
    )


def make_run(folder: Path, options: Any) -> Path:
    """A run folder with one untrained learner."""
    write_task(folder / "data", train=options.clients, validation=1, test=1, annotated=1, samples=1)
    shape = SHAPES.get(options.shape)
    model = {"name": TINY} if shape is None else {"tokenizer": TINY, "from_config": {**T5, **shape}}
    recipe = {
        "name": "serve",
        "data": {"root": str(folder / "data")},
        "task": {
            "name": "totals",
            **{split: f"{split}.jsonl" for split in ("train", "validation", "test")},
            "answer": "number",
        },
        "teacher": {"kind": "recorded", "rationales": "teacher.jsonl"},
        "learners": {"served": {"model": model, "rationales": []}},
        "sampling": {"max_new_tokens": options.max_new_tokens, "engine": options.engine, "batch_size": options.clients},
        "seeds": [1],
    }
    run = folder / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return run


def engine_side(run: Path, questions: Sequence[str], limit: int) -> Any:
    """A function that writes the texts of all questions in one batch, and counts their tokens."""
    pipeline = open_run(run)
    context, learner = RunContext(pipeline.recipe, pipeline.folder), pipeline.recipe.learners["served"]
    engine = context.engine(learner, context.model_folder("served", 1, None))
    prompts = [render_prompt(question, learner.eval_prompt) for question in questions]
    params = SamplingParams(max_new_tokens=limit)
    return lambda: sum(completion.tokens for [completion] in engine.sample(prompts, params, seed=0))


@contextmanager
def endpoint(run: Path, threads: int) -> Iterator[str]:
    """The base URL of `mentorkd serve`, in a process of its own."""
    command = [sys.executable, "-m", "mentorkd", "serve", str(run), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            found = re.search(r"http\S+", line)
            assert found is not None, line
            yield found[0]
        finally:
            server.terminate()


async def ask(url: str, questions: Sequence[str], *, stream: bool) -> int:
    """Ask all questions at once; the tokens of all texts."""
    limits = httpx.Limits(max_connections=len(questions), max_keepalive_connections=len(questions))
    async with httpx.AsyncClient(timeout=600, limits=limits) as client:

        async def one(question: str) -> int:
            body: dict[str, Any] = {"model": "served", "prompt": question, "stream": stream}
            body |= {"stream_options": {"include_usage": True}} if stream else {}
            reply = await client.post(f"{url}/completions", json=body)
            reply.raise_for_status()
            last = reply.text.rstrip().split("data: ")[-2] if stream else reply.text
            return int(json.loads(last)["usage"]["completion_tokens"])

        return sum(await asyncio.gather(*map(one, questions)))


if __name__ == "__main__":
    main()

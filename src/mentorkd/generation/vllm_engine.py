"""The vLLM engine (an extra): causal models on CUDA, with paged attention and continuous batching."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.errors import MissingExtraError, ModelError
from mentorkd.generation import sampling
from mentorkd.generation.engine import Completion, EngineDtype, OnPrompts, SamplingParams, ignore
from mentorkd.generation.live import LiveRow, Scored, Take
from mentorkd.generation.vllm_process import Request, VllmProcess, WrittenText
from mentorkd.models import load_tokenizer, model_kind
from mentorkd.recipe.learner import ModelConfig
from mentorkd.records import ModelKind

AS_LONG_AS_FITS = -1
"""A `max_model_len` of vLLM: the model's positions, or as many of them as the memory holds."""


@dataclass(eq=False)
class VllmEngine:
    """Generates with vLLM's offline `LLM` over a saved causal model, in a process of its own (`vllm_process`).

    The seed of each request is a function of the call's seed, the prompt and the number of its earlier occurrences. The
    samples of a prompt therefore do not depend on other prompts, apart from rounding that differs between vLLM's batches.

    The process starts at once, so that what vLLM refuses is known, and starts again after an error, and for texts that are longer
    than `most_tokens` (prompt and text; None: as long as the memory holds). Before it starts, the memory that a training left
    to torch's allocator is given back.
    """

    name = "vllm"
    batch_size = 1024
    """vLLM itself decides how many of them share a batch."""
    joins = True

    model_dir: Path
    _: KW_ONLY
    device: torch.device
    dtype: EngineDtype | None = None
    separator: str = CAUSAL_SEPARATOR
    stop: Sequence[str] = ()
    chat: Mapping[str, Any] = field(default_factory=dict)
    most_tokens: int | None = None
    _process: VllmProcess | None = field(init=False, default=None)
    _opened_for: int = field(init=False, default=0)
    _numbers: Iterator[int] = field(init=False, default_factory=itertools.count)
    """Of requests; none is used twice."""

    def __post_init__(self) -> None:
        if find_spec("vllm") is None:
            raise MissingExtraError("engine vllm", "vllm")
        self.config = AutoConfig.from_pretrained(self.model_dir)
        if model_kind(self.config) != "causal":
            raise ModelError(
                f"vllm serves causal models; {self.model_dir} is a {self.config.model_type}: set `engine: auto`"
            )
        if self.device.type != "cuda":
            raise ModelError(f"the vllm engine needs a CUDA device, got {self.device.type}: set `engine: auto`")
        if self.dtype == "int8":
            raise ModelError("the vllm engine has no int8; set `engine: ctranslate2` or another dtype")
        self.kind: ModelKind = "causal"
        self.tokenizer = load_tokenizer(ModelConfig(name=str(self.model_dir), **self.chat))
        self.end_ids = sampling.saved_end_token_ids(self.model_dir, self.tokenizer)
        with self._running():
            pass

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def sample(
        self, prompts: Sequence[str], params: SamplingParams, *, seed: int, on_progress: OnPrompts = ignore
    ) -> list[list[Completion]]:
        if not prompts:
            return []
        encoded = sampling.encode_prompts(
            prompts, self.tokenizer, "causal", self.config, params.max_new_tokens, separator=self.separator
        )
        requests = {
            str(next(self._numbers)): (ids, source.getrandbits(31))
            for ids, source in zip(encoded, sampling.prompt_seeds(prompts, seed), strict=True)
        }
        joining = [
            Request(name, ids, self._settings(params, own_seed), streamed=False)
            for name, (ids, own_seed) in requests.items()
        ]
        results: dict[str, list[Completion]] = {}
        with self._running(max(map(len, encoded)) + params.max_new_tokens) as process:
            while len(results) < len(requests):
                written = process.advance(joining)
                if not written:
                    raise ModelError(f"vllm left {len(requests) - len(results)} of {len(requests)} prompts unanswered")
                for request in written:
                    if request.error is not None:
                        raise ModelError(f"vllm refused a prompt: {request.error}")
                    results[request.name] = [self._completion(text, params) for text in request.texts]
                on_progress(len(written))
                joining = []
        return [results[name] for name in requests]

    def _completion(self, text: WrittenText, params: SamplingParams) -> Completion:
        completion = sampling.completion(text.ids, self.tokenizer, self.end_ids, self.stop)
        if completion.finish_reason == "length" and completion.tokens < params.max_new_tokens:
            raise _too_long(completion.tokens, params)
        return completion

    def stream(self, take: Take) -> None:
        """Write rows as `LiveEngine` says; vLLM decides which of them share a batch."""
        rows: dict[str, LiveRow] = {}
        aborted: list[str] = []
        with self._running() as process:
            while (taken := take(len(rows))) or rows:
                joining = {str(next(self._numbers)): row for row in taken}
                rows |= joining
                requests = [self._live_request(name, row) for name, row in joining.items()]
                written, aborted = process.advance(requests, aborted), []
                for request in written:
                    row = rows[request.name]
                    if request.error is not None:
                        row.fail(ModelError(f"vllm refused the prompt: {request.error}"))
                    ended = any(_push(row, text) for text in request.texts)
                    if request.finished and not ended:
                        row.fail(_too_long(row.written, row.params))  # unless it has failed
                    if ended or request.finished:
                        del rows[request.name]
                    if ended and not request.finished:
                        aborted.append(request.name)
            if aborted:
                process.advance([], aborted)

    @contextmanager
    def _running(self, tokens: int = 0) -> Iterator[VllmProcess]:
        """The process, for texts of that many tokens. After any error it is ended, since its answers would be of another request."""
        length = self._length(tokens)
        if self._process is not None and length > self._opened_for:
            self.close()
        if self._process is None:
            release_memory()
            options = {"dtype": self.dtype or _dtype_of(self.config), "max_model_len": length}
            self._process, self._opened_for = VllmProcess(self.model_dir, self.device, options), length
        try:
            yield self._process
        except BaseException:
            self.close()
            raise

    def _length(self, tokens: int) -> int:
        if self.most_tokens is None:
            return AS_LONG_AS_FITS
        return longest_text(max(tokens, self.most_tokens), getattr(self.config, "max_position_embeddings", None))

    def _settings(self, params: SamplingParams, seed: int | None, likeliest: int | None = None) -> dict[str, Any]:
        return {
            "n": params.n,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k or -1,
            "max_tokens": params.max_new_tokens,
            "seed": seed,
            "stop_token_ids": self.end_ids,
            "stop": list(self.stop),
            "detokenize": bool(self.stop),  # vLLM finds stop texts only in decoded text
            "logprobs": likeliest,
        }

    def _live_request(self, name: str, row: LiveRow) -> Request:
        return Request(name, row.prompt_ids, self._settings(row.params, row.own_seed, row.likeliest), streamed=True)


def longest_text(tokens: int, positions: int | None) -> int:
    """`max_model_len` for texts of `tokens` tokens, prompt included; None positions are no limit."""
    return tokens if positions is None else min(tokens, positions)


def release_memory() -> None:
    """Give back the GPU memory of models and optimisers that nothing uses any more."""
    gc.collect()  # a Trainer and its callbacks name each other
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _dtype_of(config: Any) -> str:
    """The type of the weights: vLLM's own `auto` would run float32 weights in a shorter type."""
    return "auto" if config.dtype is None else str(config.dtype).removeprefix("torch.")


def _too_long(written: int, params: SamplingParams) -> ModelError:
    return ModelError(
        f"vllm ended a text after {written} of {params.max_new_tokens} tokens, since its memory holds no longer one; lower "
        "`sampling.max_new_tokens`, or set `engine: transformers`"
    )


def _push(row: LiveRow, text: WrittenText) -> bool:
    """Tell new tokens; whether the row ends."""
    for place, token in enumerate(text.ids):
        own, likeliest = None, list[Scored]()
        if row.likeliest is not None:
            assert text.logprobs is not None
            scores = text.logprobs[place]
            own = scores[token]
            likeliest = sorted(scores.items(), key=lambda scored: -scored[1])[: row.likeliest]
        if row.push(token, own, likeliest):
            return True
    return False

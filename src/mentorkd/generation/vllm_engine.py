"""The vLLM engine (an extra): causal models on CUDA, with paged attention and continuous batching."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
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
from mentorkd.models import load_tokenizer, model_kind
from mentorkd.recipe.learner import ModelConfig
from mentorkd.records import ModelKind

PROMPTS_PER_CALL = 512
"""Prompts of one call to vLLM: enough to fill its batches, few enough for a progress bar to move."""


@dataclass(eq=False)
class VllmEngine:
    """Generates with vLLM's offline `LLM` over a saved causal model.

    The seed of each request is a function of the call's seed, the prompt and the number of its earlier occurrences. The
    samples of a prompt therefore do not depend on other prompts, apart from rounding that differs between vLLM's batches.
    """

    name = "vllm"
    batch_size = 1024
    """Live rows. vLLM itself decides how many of them share a batch."""
    joins = True

    model_dir: Path
    _: KW_ONLY
    device: torch.device
    dtype: EngineDtype | None = None
    separator: str = CAUSAL_SEPARATOR
    stop: Sequence[str] = ()
    chat: Mapping[str, Any] = field(default_factory=dict)
    _numbers: Iterator[int] = field(init=False, default_factory=itertools.count)
    """Of live requests. None is used twice: after an error, vLLM may still have old ones."""

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
        from vllm import LLM

        self.kind: ModelKind = "causal"
        self.tokenizer = load_tokenizer(ModelConfig(name=str(self.model_dir), **self.chat))
        self.end_ids = sampling.saved_end_token_ids(self.model_dir, self.tokenizer)
        # generation_config="vllm" ignores the sampling settings of the model's own file.
        self.llm = LLM(model=str(self.model_dir), dtype=self.dtype or "auto", generation_config="vllm")

    def sample(
        self, prompts: Sequence[str], params: SamplingParams, *, seed: int, on_progress: OnPrompts = ignore
    ) -> list[list[Completion]]:
        import vllm

        encoded = sampling.encode_prompts(
            prompts, self.tokenizer, "causal", self.config, params.max_new_tokens, separator=self.separator
        )
        settings = [
            vllm.SamplingParams(
                n=params.n,
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k or -1,
                max_tokens=params.max_new_tokens,
                seed=source.getrandbits(31),
                stop_token_ids=self.end_ids,
                stop=list(self.stop),
                detokenize=bool(self.stop),  # vLLM finds stop texts only in decoded text
            )
            for source in sampling.prompt_seeds(prompts, seed)
        ]
        results: list[list[Completion]] = []
        for start in range(0, len(encoded), PROMPTS_PER_CALL):
            part = slice(start, start + PROMPTS_PER_CALL)
            requests = [{"prompt_token_ids": ids} for ids in encoded[part]]
            for output in self.llm.generate(requests, settings[part], use_tqdm=False):
                samples = sorted(output.outputs, key=lambda sample: sample.index)
                results.append(
                    [sampling.completion(s.token_ids, self.tokenizer, self.end_ids, self.stop) for s in samples]
                )
            on_progress(len(requests))
        return results

    def stream(self, take: Take) -> None:
        """Write rows as `LiveEngine` says; vLLM decides which of them share a batch."""
        engine = self.llm.llm_engine
        rows: dict[str, LiveRow] = {}
        try:
            while (joining := take(len(rows))) or rows:
                for row in joining:
                    name = str(next(self._numbers))
                    rows[name] = row
                    engine.add_request(name, {"prompt_token_ids": list(row.prompt_ids)}, self._live_settings(row))
                for output in engine.step():
                    ended = _push(rows[output.request_id], output.outputs[0])
                    if ended or output.finished:
                        del rows[output.request_id]
                    if ended and not output.finished:
                        engine.abort_request([output.request_id])
        finally:
            if rows:
                engine.abort_request(list(rows))

    def _live_settings(self, row: LiveRow) -> Any:
        import vllm

        temperature, top_p, top_k = row.settings
        return vllm.SamplingParams(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k or -1,
            max_tokens=row.params.max_new_tokens,
            seed=row.own_seed,
            stop_token_ids=self.end_ids,
            logprobs=row.likeliest,
            detokenize=False,
        )


def _push(row: LiveRow, written: Any) -> bool:
    """Tell the tokens that are new in vLLM's output, which holds all so far; whether the row ends."""
    for place in range(row.written, len(written.token_ids)):
        token, own, likeliest = written.token_ids[place], None, list[Scored]()
        if row.likeliest is not None:
            scores = {other: score.logprob for other, score in written.logprobs[place].items()}
            own = scores[token]
            likeliest = sorted(scores.items(), key=lambda scored: -scored[1])[: row.likeliest]
        if row.push(token, own, likeliest):
            return True
    return False

"""The default engine: a Hugging Face model, with our decoding loop or with the model's own `generate`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.errors import ModelError
from mentorkd.generation import sampling
from mentorkd.generation.decoding import FAMILIES, choose, decode, pad
from mentorkd.generation.engine import Completion, OnPrompts, SamplingParams, ignore
from mentorkd.precision import Precision, autocast
from mentorkd.records import ModelKind


@dataclass(eq=False)
class TransformersEngine:
    """Generates with a model in memory, in batches of prompts of similar length.

    The families of `decoding.FAMILIES` use our loop, other families use `generate`; `use_generate` forces `generate`.

    In our loop each sample has its own random stream, a function of `seed`, the prompt, the number of earlier
    occurrences of the prompt in the call, and the sample's number. A sample is therefore independent of the other
    prompts and of the batch size, unless a draw falls within rounding (about 1e-7) of the border between two tokens.
    With `generate` the random state of each batch is set from `seed` and the prompts of the batch: the same call gives
    the same result, but another batch size may give another result.

    The model is in evaluation mode while it generates; its mode is restored afterwards. `dtype` turns autocast on. The
    other options are those of `open_engine`.
    """

    name = "transformers"

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind
    _: KW_ONLY
    batch_size: int = 32
    tokens_per_batch: int | None = None
    dtype: Precision | None = None
    use_generate: bool = False
    separator: str = CAUSAL_SEPARATOR
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._stopped = sampling.stopper(self.tokenizer, self.stop)
        # Adapters are part of the base model's layers; peft's wrapper only hides the signature of the base model.
        self._base: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self._by_generate = self.use_generate or self._base.config.model_type not in FAMILIES

    def sample(
        self, prompts: Sequence[str], params: SamplingParams, *, seed: int, on_progress: OnPrompts = ignore
    ) -> list[list[Completion]]:
        n, limit = params.n, params.max_new_tokens
        config = self._base.config
        encoded = sampling.encode_prompts(prompts, self.tokenizer, self.kind, config, limit, separator=self.separator)
        lengths = [len(ids) for ids in encoded]
        seeds = [[source.getrandbits(63) for _ in range(n)] for source in sampling.prompt_seeds(prompts, seed)]
        end_ids = sampling.end_token_ids(self.tokenizer, self._base.generation_config)
        results: list[list[Completion]] = [[] for _ in prompts]
        write = self._by_own_generate if self._by_generate else self._by_loop
        with self._ready():
            for batch in sampling.group(lengths, n, limit, rows=self.batch_size, tokens=self.tokens_per_batch):
                chosen = [seeds[piece.prompt][piece.first : piece.first + piece.count] for piece in batch]
                written = iter(write([encoded[piece.prompt] for piece in batch], chosen, params, end_ids))
                for piece in batch:
                    results[piece.prompt] += [
                        sampling.completion(ids, self.tokenizer, end_ids, self.stop)
                        for ids in islice(written, piece.count)
                    ]
                on_progress(sum(len(results[piece.prompt]) == n for piece in batch))
        return results

    def _by_loop(
        self, prompts: list[list[int]], seeds: list[list[int]], params: SamplingParams, end_ids: list[int]
    ) -> list[list[int]]:
        """Token ids of the samples of `prompts`, one after the other; `seeds` has the seed of each sample of a prompt."""
        uniforms = None
        if not params.greedy:
            generators = [torch.Generator().manual_seed(seed) for of_prompt in seeds for seed in of_prompt]
            drawn = [torch.rand(params.max_new_tokens, generator=generator) for generator in generators]
            uniforms = torch.stack(drawn).to(self._base.device)
        return decode(
            self._base,
            self.kind,
            prompts,
            copies=len(seeds[0]),
            max_new_tokens=params.max_new_tokens,
            start_id=self._start_id(),
            end_ids=set(end_ids),
            pad_id=self._pad_id(end_ids),
            choose=partial(choose, temperature=params.temperature, top_p=params.top_p, top_k=params.top_k),
            uniforms=uniforms,
            stopped=self._stopped,
        )

    def _by_own_generate(
        self, prompts: list[list[int]], seeds: list[list[int]], params: SamplingParams, end_ids: list[int]
    ) -> list[list[int]]:
        pad_id = self._pad_id(end_ids)
        ids, mask = pad(prompts, pad_id, left=self.kind == "causal", device=self._base.device)
        drawing: dict[str, Any] = {"do_sample": False}
        if not params.greedy:
            filters = {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
            drawing = {"do_sample": True, "num_return_sequences": len(seeds[0]), **filters}
        settings = GenerationConfig(
            max_new_tokens=params.max_new_tokens,
            num_beams=1,
            eos_token_id=end_ids,
            pad_token_id=pad_id,
            decoder_start_token_id=self._start_id(),
            **drawing,
        )
        start, stopped = 1 if self.kind == "seq2seq" else ids.shape[1], self._stopped
        criteria = StoppingCriteriaList() if stopped is None else StoppingCriteriaList([_each_row(stopped, start)])
        # `generate` takes every setting that a call leaves open from the model's own generation config.
        own, self._base.generation_config = self._base.generation_config, GenerationConfig()
        try:
            with torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else []):
                torch.manual_seed(random.Random(str([of_prompt[0] for of_prompt in seeds])).getrandbits(63))
                output = self._base.generate(
                    ids, attention_mask=mask, generation_config=settings, stopping_criteria=criteria
                )
        finally:
            self._base.generation_config = own
        rows: list[list[int]] = output[:, start:].tolist()
        return rows

    def _start_id(self) -> int | None:
        """The token that a decoder starts from; None for causal models."""
        if self.kind == "causal":
            return None
        for settings in (self._base.generation_config, self._base.config):
            start_id = getattr(settings, "decoder_start_token_id", None)
            if start_id is not None:
                return int(start_id)
        raise ModelError("the model's config has no `decoder_start_token_id`; set it (T5's is the padding token, 0)")

    def _pad_id(self, end_ids: list[int]) -> int:
        pad_id = self.tokenizer.pad_token_id
        return int(end_ids[0] if pad_id is None else pad_id)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Evaluation mode and autocast; the model's own mode is restored afterwards."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), autocast(self._base.device.type, self.dtype):
                yield
        finally:
            self.model.train(training)


def _each_row(stopped: Callable[[Sequence[int]], bool], start: int) -> Callable[..., Tensor]:
    """`stopped` as a stopping criterion of `generate`: for token ids [R, S], generated from column `start` on."""
    return lambda ids_RS, *_, **__: torch.tensor(
        [stopped(row[start:]) for row in ids_RS.tolist()], device=ids_RS.device
    )

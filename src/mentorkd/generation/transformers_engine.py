"""The engine that is always there: a Hugging Face model, by our decoding loop or by its own `generate`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import GenerationConfig

from mentorkd.errors import ModelError
from mentorkd.generation import Completion, sampling
from mentorkd.generation.decoding import FAMILIES, Text, choose, decode, pad
from mentorkd.generation.sampling import Request
from mentorkd.recipe import ModelKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """Generates with a model in memory, in batches of prompts of about the same length.

    Families named in `decoding.FAMILIES` go through our loop, others through `generate`; `use_generate` forces that.

    In our loop each sample has its own random stream, a function of `seed`, the prompt, how often that prompt stood
    before in the call, and the sample's number. So it is the same whatever other prompts and batch sizes are, but
    for a draw that falls within rounding (about 1e-7) of the border of two tokens. With `generate` the random state is
    set for each batch from `seed` and the batch's prompts: the same call gives the same result, another batch size may
    not.

    The model is in evaluation mode while it generates and as it was before after. `dtype` turns autocast on.
    """

    name = "transformers"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        kind: ModelKind,
        *,
        batch_size: int = 32,
        tokens_per_batch: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        use_generate: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.kind = kind
        self.batch_size = batch_size
        self.tokens_per_batch = tokens_per_batch
        self.dtype = dtype
        # Adapters sit inside the base model's layers; peft's wrapper around it only hides its signature.
        self._base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._by_generate = use_generate or self._base.config.model_type not in FAMILIES

    def sample(
        self,
        prompts: Sequence[str],
        *,
        n: int,
        temperature: float,
        top_p: float,
        top_k: int,
        max_new_tokens: int,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        request = Request(n, temperature, top_p, top_k, max_new_tokens, seed)
        encoded = sampling.encode_prompts(prompts, self.tokenizer, self.kind, self._base.config, max_new_tokens)
        end_ids = sampling.end_token_ids(self.tokenizer, self._base.generation_config)
        texts = [
            [Text(prompt, None if request.greedy else random.Random(source.getrandbits(63))) for _ in range(n)]
            for prompt, source in enumerate(sampling.prompt_seeds(prompts, seed))
        ]
        missing = [n] * len(prompts)

        def on_end(text: Text) -> None:
            missing[text.prompt] -= 1
            if missing[text.prompt] == 0 and on_progress is not None:
                on_progress(1)

        lengths = [len(ids) for ids in encoded]
        groups = sampling.group(lengths, n, max_new_tokens, rows=self.batch_size, tokens=self.tokens_per_batch)
        batches = (
            (
                [encoded[piece.prompt] for piece in pieces],
                [text for piece in pieces for text in texts[piece.prompt][piece.first : piece.first + piece.count]],
            )
            for pieces in groups
        )
        with self._ready():
            if self._by_generate:
                self._generate(batches, request, end_ids, on_end)
            else:
                decode(
                    self._base,
                    self.kind,
                    batches,
                    max_new_tokens=max_new_tokens,
                    start_id=self._start_id(),
                    end_ids=set(end_ids),
                    pad_id=self._pad_id(end_ids),
                    choose=partial(choose, temperature=temperature, top_p=top_p, top_k=top_k),
                    on_end=on_end,
                )
        return [[sampling.completion(text.ids, self.tokenizer, end_ids) for text in those] for those in texts]

    def _generate(
        self,
        batches: Iterable[tuple[list[list[int]], list[Text]]],
        request: Request,
        end_ids: list[int],
        on_end: Callable[[Text], None],
    ) -> None:
        """Write the texts of all batches by the model's own `generate`."""
        pad_id = self._pad_id(end_ids)
        for prompts, texts in batches:
            drawing: dict[str, Any] = {"do_sample": False}
            if not request.greedy:
                filters = {"temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k}
                drawing = {"do_sample": True, "num_return_sequences": len(texts) // len(prompts), **filters}
            settings = GenerationConfig(
                max_new_tokens=request.max_new_tokens,
                num_beams=1,
                eos_token_id=end_ids,
                pad_token_id=pad_id,
                decoder_start_token_id=self._start_id(),
                **drawing,
            )
            ids, mask = pad(prompts, pad_id, left=self.kind == "causal", device=self._base.device)
            seeds = [text.draw.getrandbits(63) for text in texts if text.draw is not None]
            with torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else []), _own_settings_off(self._base):
                torch.manual_seed(random.Random(str(seeds)).getrandbits(63))
                rows = self._base.generate(ids, attention_mask=mask, generation_config=settings)
            start = 1 if self.kind == "seq2seq" else ids.shape[1]
            for text, row in zip(texts, rows[:, start:].tolist(), strict=True):
                text.ids = row
                on_end(text)

    def _start_id(self) -> int | None:
        """The token that a decoder starts from; None for causal models."""
        if self.kind == "causal":
            return None
        for settings in (self._base.generation_config, self._base.config):
            found = getattr(settings, "decoder_start_token_id", None)
            if found is not None:
                return int(found)
        raise ModelError("the model's config names no `decoder_start_token_id`; set it (T5's is the padding token, 0)")

    def _pad_id(self, end_ids: list[int]) -> int:
        found = self.tokenizer.pad_token_id
        return int(end_ids[0] if found is None else found)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Evaluation mode and autocast; the model's own mode is restored after."""
        training = self.model.training
        self.model.eval()
        narrow = self.dtype is not None and self.dtype != "float32"
        dtype = getattr(torch, self.dtype or "float32")
        try:
            with torch.inference_mode(), torch.autocast(self._base.device.type, dtype) if narrow else nullcontext():
                yield
        finally:
            self.model.train(training)


@contextmanager
def _own_settings_off(model: Any) -> Iterator[None]:
    """Without the model's own generation config, which fills every setting that a call leaves open."""
    kept = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept

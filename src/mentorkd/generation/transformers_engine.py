"""The default engine: a Hugging Face model, with our decoding loop or with the model's own `generate`."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.errors import ModelError
from mentorkd.generation import sampling
from mentorkd.generation.backlog import Backlog, TextRow
from mentorkd.generation.continuous import Loop, score, write_rows
from mentorkd.generation.decoding import FAMILIES, first_logits, pad
from mentorkd.generation.engine import Completion, OnPrompts, SamplingParams, ignore
from mentorkd.generation.live import LiveRow, Take, write_fixed
from mentorkd.generation.memory import bytes_per_row, rows_that_fit
from mentorkd.generation.weights import weights_in
from mentorkd.models import decoder_start_id
from mentorkd.models.device import free_memory_of
from mentorkd.precision import Precision
from mentorkd.records import ModelKind

log = logging.getLogger(__name__)

MOST_CHANGE, ROUGH_CHANGE = 1e-3, 0.05
"""Largest changes of logits by padding, as a share of their range, that are rounding: in float32, and in shorter types."""


@dataclass(eq=False)
class TransformersEngine:
    """Generates with a model in memory, in batches of prompts of similar length.

    The families of `decoding.FAMILIES` use our loop, other families use `generate`; `use_generate` forces `generate`.

    In our loop each sample has its own random stream, a function of `seed`, the prompt, the number of earlier
    occurrences of the prompt in the call, and the sample's number. A sample is therefore independent of the other
    prompts and of the batch size, unless a draw falls within rounding (about 1e-7) of the border between two tokens.
    With `generate` the random state of each batch is set from `seed` and the prompts of the batch: the same call gives
    the same result, but another batch size may give another result.

    Prompts of causal models are padded on the left. A model that does not ignore that padding (RWKV) is refused.

    The model is in evaluation mode while it generates; its mode is restored afterwards. With a `dtype`, so are its weights, of which a
    call makes a copy in that type (`weights.weights_in`). With `by_memory`, a batch of `sample` on CUDA holds as many rows as its
    memory does, in place of `batch_size`. `loop` is by default what is fastest on the device. The other options are those of
    `open_engine`.
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
    by_memory: bool = False
    loop: Loop | None = None
    separator: str = CAUSAL_SEPARATOR
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._stopped = sampling.stopper(self.tokenizer, self.stop)
        # Adapters are part of the base model's layers; peft's wrapper only hides the signature of the base model.
        self._base: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        self._by_generate = self.use_generate or self._base.config.model_type not in FAMILIES
        self._padding_is_ignored = False

    def sample(
        self, prompts: Sequence[str], params: SamplingParams, *, seed: int, on_progress: OnPrompts = ignore
    ) -> list[list[Completion]]:
        n, limit = params.n, params.max_new_tokens
        config = self._base.config
        encoded = sampling.encode_prompts(prompts, self.tokenizer, self.kind, config, limit, separator=self.separator)
        seeds = [[source.getrandbits(63) for _ in range(n)] for source in sampling.prompt_seeds(prompts, seed)]
        write = self._by_own_generate if self._by_generate else self._by_loop
        with self._ready():
            written = write(encoded, seeds, params, on_progress)
        return [
            [sampling.completion(ids, self.tokenizer, self.end_ids, self.stop) for ids in samples]
            for samples in written
        ]

    def close(self) -> None:
        """It holds nothing outside of this process."""

    @property
    def config(self) -> PretrainedConfig:
        config: PretrainedConfig = self._base.config
        return config

    @property
    def joins(self) -> bool:
        return not self._by_generate

    @property
    def end_ids(self) -> list[int]:
        return sampling.end_token_ids(self.tokenizer, self._base.generation_config)

    def stream(self, take: Take) -> None:
        """Write rows as `LiveEngine` says. In our loop, rows join a batch and leave it at any token.

        With `generate`, the rows that wait are a batch, which is written to its end.
        """
        pad_id = self._pad_id(self.end_ids)
        with self._ready():
            if not self._by_generate:
                # Clients wait for each token, so the host looks at every step.
                write_rows(self._base, self.kind, take, start_id=self._start_id(), pad_id=pad_id, loop=Loop())
            else:
                write_fixed(take, self._stream_by_generate, self.name)

    def _stream_by_generate(self, batch: Sequence[LiveRow]) -> None:
        ended = torch.zeros(len(batch), dtype=torch.bool, device=self._base.device)
        logits: list[Tensor] = []

        def record(ids_RS: Tensor, logits_RV: Tensor) -> Tensor:
            """As a logits processor of `generate`: keep the model's own logits of this step."""
            logits[:] = [logits_RV]
            return logits_RV

        def push(ids_RS: Tensor, *_: Any, **__: Any) -> Tensor:
            """As a stopping criterion of `generate`: tell the new token of each row."""
            tokens_R = ids_RS[:, -1]
            wanted = [None if done else row.likeliest for row, done in zip(batch, ended.tolist(), strict=True)]
            scores = score(logits[0], tokens_R, wanted)
            for place, (row, token) in enumerate(zip(batch, tokens_R.tolist(), strict=True)):
                if not ended[place]:
                    ended[place] = row.push(token, *scores.get(place, (None, ())))
            return ended.clone()

        first = batch[0]
        params = replace(first.params, max_new_tokens=max(row.params.max_new_tokens for row in batch))
        prompts = [list(row.prompt_ids) for row in batch]
        self._check_padding(prompts, self.end_ids)
        seed = random.SystemRandom().getrandbits(63) if first.seed is None else first.seed
        self._generate(prompts, 1, seed, params, self.end_ids, [push], [record])

    def _check_padding(self, prompts: Sequence[Sequence[int]], end_ids: list[int]) -> None:
        """Raise ModelError if the padding before a causal prompt changes its logits. Measured on the first batch that has any."""
        short, long = min(prompts, key=len), max(prompts, key=len)
        if self.kind == "seq2seq" or self._padding_is_ignored or len(short) == len(long):
            return
        alone_V, padded_V = self._first_logits([short], end_ids)[0], self._first_logits([long, short], end_ids)[1]
        change = float((padded_V - alone_V).abs().max() / (alone_V.max() - alone_V.min()).clamp(min=1e-9))
        in_tf32 = alone_V.is_cuda and torch.backends.cuda.matmul.allow_tf32
        rough = in_tf32 or self.dtype not in (None, "float32") or self._base.dtype != torch.float32
        if not change <= (ROUGH_CHANGE if rough else MOST_CHANGE):
            raise ModelError(
                f"{type(self._base).__name__} does not ignore the padding before a prompt: {len(long) - len(short)} tokens of it "
                f"change the logits of the first answer token by {change:.2g} of their range, so prompts of different lengths "
                "cannot share a batch; set `batch_size: 1` (of the learner's `sampling`, or of the teacher), which pads nothing"
            )
        self._padding_is_ignored = True

    def _first_logits(self, prompts: Sequence[Sequence[int]], end_ids: list[int]) -> Tensor:
        """Logits [prompts, V] of the first new tokens, in float32."""
        pad_id = self._pad_id(end_ids)
        if not self._by_generate:
            return first_logits(self._base, prompts, pad_id).float()
        ids, mask = pad(prompts, pad_id, left=True, device=self._base.device)
        settings = GenerationConfig(
            max_new_tokens=1, do_sample=False, pad_token_id=pad_id, output_logits=True, return_dict_in_generate=True
        )
        with self._own_settings_aside():
            logits: Tensor = self._base.generate(ids, attention_mask=mask, generation_config=settings).logits[0]
        return logits.float()

    @contextmanager
    def _own_settings_aside(self) -> Iterator[None]:
        """`generate` takes every setting that a call leaves open from the model's own generation config."""
        own, self._base.generation_config = self._base.generation_config, GenerationConfig()
        try:
            yield
        finally:
            self._base.generation_config = own

    def _by_loop(
        self, prompts: list[list[int]], seeds: list[list[int]], params: SamplingParams, on_progress: OnPrompts
    ) -> list[list[list[int]]]:
        """Token ids of the samples of each prompt; `seeds` has the seed of each sample."""
        ends = set(self.end_ids)
        texts = [
            [TextRow(prompt, params, ends, own_seed=seed, stopped=self._stopped) for seed in of_prompt]
            for prompt, of_prompt in zip(prompts, seeds, strict=True)
        ]
        complete = 0

        def advance() -> None:
            nonlocal complete
            before, complete = complete, sum(all(row.ended for row in samples) for samples in texts)
            if complete > before:
                on_progress(complete - before)

        rows, tokens = self._rows_at_once(prompts, params), self.tokens_per_batch
        while unfinished := [samples for samples in texts if not all(row.ended for row in samples)]:
            lengths = [len(samples[0].prompt_ids) for samples in unfinished]
            batches = [
                [row for piece in batch for row in unfinished[piece.prompt][piece.first : piece.first + piece.count]]
                for batch in sampling.group(lengths, params.n, params.max_new_tokens, rows=rows, tokens=tokens)
            ]
            if self._write(batches, advance):
                break
            most = max(map(len, batches))
            rows, tokens = most // 2, None if tokens is None else tokens // 2
            log.warning("the device has no memory for %d texts at once; sampling continues with %d", most, rows)
            for row in (row for samples in unfinished for row in samples):
                row.begin_again()
        advance()
        return [[row.ids for row in samples] for samples in texts]

    def _write(self, batches: list[list[TextRow]], advance: Callable[[], None]) -> bool:
        """Write the rows; False if the device has no memory for all of them."""
        loop = self.loop or Loop.on(self._base.device)
        backlog = Backlog(batches, refill=loop.refill)
        pad_id = self._pad_id(self.end_ids)

        def take(live: int) -> list[TextRow]:
            if joining := backlog.take(live):
                advance()
                self._check_padding([row.prompt_ids for row in joining], self.end_ids)
            return joining

        try:
            write_rows(self._base, self.kind, take, start_id=self._start_id(), pad_id=pad_id, loop=loop)
        except torch.OutOfMemoryError:
            if max(map(len, batches)) == 1:
                raise
            return False
        return True

    def _rows_at_once(self, prompts: Sequence[Sequence[int]], params: SamplingParams) -> int:
        if not (self.by_memory and self._base.device.type == "cuda"):
            return self.batch_size
        row = bytes_per_row(
            self._base.config,
            source=max(map(len, prompts)),
            new=params.max_new_tokens,
            item_bytes=self._base.dtype.itemsize,
        )
        return rows_that_fit(free_memory_of(self._base.device), row)

    def _by_own_generate(
        self, prompts: list[list[int]], seeds: list[list[int]], params: SamplingParams, on_progress: OnPrompts
    ) -> list[list[list[int]]]:
        """Like `_by_loop`."""
        written: list[list[list[int]]] = [[] for _ in prompts]
        lengths, limit = [len(ids) for ids in prompts], self.tokens_per_batch
        for batch in sampling.group(lengths, params.n, params.max_new_tokens, rows=self.batch_size, tokens=limit):
            own = [prompts[piece.prompt] for piece in batch]
            self._check_padding(own, self.end_ids)
            chosen = [seeds[piece.prompt][piece.first] for piece in batch]
            seed = random.Random(str(chosen)).getrandbits(63)
            start = 1 if self.kind == "seq2seq" else max(map(len, own))
            stops = [] if self._stopped is None else [_each_row(self._stopped, start)]
            rows = iter(self._generate(own, batch[0].count, seed, params, self.end_ids, stops))
            for piece in batch:
                written[piece.prompt] += islice(rows, piece.count)
            on_progress(sum(len(written[piece.prompt]) == params.n for piece in batch))
        return written

    def _generate(
        self,
        prompts: list[list[int]],
        copies: int,
        seed: int,
        params: SamplingParams,
        end_ids: list[int],
        criteria: Sequence[Callable[..., Tensor]],
        processors: Sequence[Callable[..., Tensor]] = (),
    ) -> list[list[int]]:
        """Token ids of the model's own `generate`, with functions that end rows and functions that see all logits."""
        pad_id = self._pad_id(end_ids)
        ids, mask = pad(prompts, pad_id, left=self.kind == "causal", device=self._base.device)
        drawing: dict[str, Any] = {"do_sample": False}
        if not params.greedy:
            filters = {"temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
            drawing = {"do_sample": True, "num_return_sequences": copies, **filters}
        settings = GenerationConfig(
            max_new_tokens=params.max_new_tokens,
            num_beams=1,
            eos_token_id=end_ids,
            pad_token_id=pad_id,
            decoder_start_token_id=self._start_id(),
            **drawing,
        )
        start = 1 if self.kind == "seq2seq" else ids.shape[1]
        forked = torch.random.fork_rng(devices=[ids.device] if ids.is_cuda else [])
        with self._own_settings_aside(), forked:
            torch.manual_seed(seed)
            output = self._base.generate(
                ids,
                attention_mask=mask,
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList(criteria),
                logits_processor=LogitsProcessorList(processors),
            )
        rows: list[list[int]] = output[:, start:].tolist()
        return rows

    def _start_id(self) -> int | None:
        """The token that a decoder starts from; None for causal models."""
        if self.kind == "causal":
            return None
        start_id = getattr(self._base.generation_config, "decoder_start_token_id", None)
        return decoder_start_id(self._base.config) if start_id is None else int(start_id)

    def _pad_id(self, end_ids: list[int]) -> int:
        pad_id = self.tokenizer.pad_token_id
        return int(end_ids[0] if pad_id is None else pad_id)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Evaluation mode and weights in `dtype`; the model's own mode and weights are restored afterwards."""
        training = self.model.training
        self.model.eval()
        try:
            with weights_in(self._base, self.dtype), torch.inference_mode():
                yield
        finally:
            self.model.train(training)


def _each_row(stopped: Callable[[Sequence[int]], bool], start: int) -> Callable[..., Tensor]:
    """`stopped` as a stopping criterion of `generate`: for token ids [R, S], generated from column `start` on."""
    return lambda ids_RS, *_, **__: torch.tensor(
        [stopped(row[start:]) for row in ids_RS.tolist()], device=ids_RS.device
    )

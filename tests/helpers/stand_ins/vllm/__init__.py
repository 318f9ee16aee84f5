"""A stand-in for vLLM 0.33: the calls that mentorkd makes, with vLLM's own names of arguments, and no model.

Every call is held strictly against what vLLM takes: an argument that it does not know is an error, as is a value that it refuses. A
request writes the numbers after its prompt's last token: 21, 22, ... after 20. Its folder is put on the path of a test, and the
process of the engine imports it from there. `FAULT` in its environment makes it fail: `import`, `memory`, `start`, or `die` or `hang`
at the third step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vllm.sampling_params import RequestOutputKind, SamplingParams, VLLMValidationError

__all__ = ["LLM", "SamplingParams"]

FAULT = os.environ.get("FAULT")
GIB = 2**30
FREE, TOTAL = 22 * GIB, 24 * GIB
POSITIONS = 64
TOKENS_OF_OTHERS = [7]
"""What else was likely, for log-probabilities."""

if FAULT == "import":
    raise ImportError("libcudart.so.13: cannot open shared object file")

# A machine without CUDA takes part in the contract with a GPU that this process makes up.
torch.cuda.mem_get_info = lambda device=None: (FREE, TOTAL)


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]
    finished: bool


@dataclass
class _Text:
    start: int
    room: int
    ids: list[int] = field(default_factory=list)
    told: int = 0
    finished: bool = False


@dataclass
class _Request:
    params: SamplingParams
    texts: list[_Text]


class LLMEngine:
    def __init__(self, max_model_len: int) -> None:
        self.max_model_len = max_model_len
        self.requests: dict[str, _Request] = {}
        self.names: set[str] = set()
        self.steps = 0

    def add_request(
        self,
        request_id: str,
        prompt: dict[str, Any],
        params: SamplingParams,
        arrival_time: float | None = None,
        lora_request: Any = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        trace_headers: Any = None,
        priority: int = 0,
    ) -> str:
        if not isinstance(request_id, str):
            raise TypeError(f"request_id must be a string, got {type(request_id)}")
        assert set(prompt) == {"prompt_token_ids"}
        assert request_id not in self.names, "a name is used twice"
        ids = prompt["prompt_token_ids"]
        assert isinstance(ids, list)
        assert all(type(token) is int for token in ids)
        # By default, vLLM takes a prompt that leaves room for one token.
        if len(ids) >= self.max_model_len:
            raise VLLMValidationError(f"The decoder prompt (length {len(ids)}) is longer than the maximum model length")
        self.names.add(request_id)
        room = self.max_model_len - len(ids)
        self.requests[request_id] = _Request(params, [_Text(ids[-1] + number, room) for number in range(params.n)])
        return request_id

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        _note(aborted=request_ids)
        for name in request_ids:
            self.requests.pop(name, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def step(self) -> list[RequestOutput]:
        self.steps += 1
        if self.steps == 3 and FAULT == "die":
            print("CUDA error: an illegal memory access was encountered", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == 3 and FAULT == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        outputs = []
        for name, request in list(self.requests.items()):
            for text in request.texts:
                self._write(request.params, text)
            finished = all(text.finished for text in request.texts)
            final_only = request.params.output_kind is RequestOutputKind.FINAL_ONLY
            if finished or not final_only:
                outputs.append(RequestOutput(name, [self._told(request, text) for text in request.texts], finished))
            if finished:
                del self.requests[name]
        return outputs

    def _write(self, params: SamplingParams, text: _Text) -> None:
        if not text.finished:
            text.ids.append(text.start + 1 + len(text.ids))
            text.finished = text.ids[-1] in params.stop_token_ids or len(text.ids) in (params.max_tokens, text.room)

    def _told(self, request: _Request, text: _Text) -> CompletionOutput:
        params, delta = request.params, request.params.output_kind is RequestOutputKind.DELTA
        new = text.ids[text.told if delta else 0 :]
        text.told = len(text.ids)
        logprobs = None
        if params.logprobs is not None:
            others = {token: Logprob(-0.5) for token in TOKENS_OF_OTHERS[: params.logprobs]}
            logprobs = [{**others, token: Logprob(-2.0)} for token in new]
        reason = None if not text.finished else "stop" if text.ids[-1] in params.stop_token_ids else "length"
        return CompletionOutput(request.texts.index(text), "", new, None, logprobs, reason)


class LLM:
    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        skip_tokenizer_init: bool = False,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        max_model_len: int | None = None,
        generation_config: str = "auto",
        max_num_seqs: int | None = None,
    ) -> None:
        assert (Path(model) / "config.json").is_file()
        assert dtype in ("auto", "half", "float16", "bfloat16", "float", "float32")
        assert generation_config == "vllm"
        assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
        _note(model=model, dtype=dtype, share=gpu_memory_utilization, max_model_len=max_model_len)
        if gpu_memory_utilization * TOTAL > FREE:
            raise ValueError("Free memory on device cuda:0 on startup is less than desired GPU memory utilization")
        if FAULT == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if FAULT == "start":
            raise ValueError("Model architectures ['NewForCausalLM'] are not supported for now")
        if max_model_len is not None and max_model_len > POSITIONS:
            raise ValueError(f"User-specified max_model_len ({max_model_len}) is greater than the derived one")
        self.llm_engine = LLMEngine(POSITIONS if max_model_len in (None, -1) else max_model_len)


def _note(**what: Any) -> None:
    """Tell a test what was called, and by which process with which GPU."""
    with open(os.environ["NOTES"], "a", encoding="utf-8") as file:
        gpu = {"pid": os.getpid(), "gpu": os.environ["CUDA_VISIBLE_DEVICES"]}
        file.write(json.dumps({**what, **gpu}, default=str) + "\n")

"""vLLM in a process of its own: both ends of the pipe.

vLLM takes what a training must keep for itself: a CUDA context, most of the free GPU memory, environment variables, signal handlers and
the way in which processes are started. The process ends with its owner, whatever ends the owner, and gives all memory back when it ends.
"""

from __future__ import annotations

import math
import os
import queue
import tempfile
import traceback
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mentorkd.errors import ModelError
from mentorkd.printable import printable
from mentorkd.worker_processes import Messages, Worker, log_warning, serving

if TYPE_CHECKING:
    import torch

MOST_SHARE = 0.92
"""vLLM's own default of `gpu_memory_utilization`."""

RESERVE = 2 * 2**30
"""Bytes of free GPU memory that vLLM does not get: its CUDA context and its CUDA graphs are not part of its share."""

_EXIT_SECONDS = 10
_LOG_LINES, _LOG_BYTES = 5, 4096
_INSTEAD = "set `engine: transformers`"


@dataclass(frozen=True, slots=True)
class Request:
    """Texts to write after a prompt."""

    name: str
    """Used once."""
    prompt_ids: Sequence[int]
    settings: Mapping[str, Any]
    """The arguments of vLLM's `SamplingParams`."""
    streamed: bool
    """Whether each token is sent at once; else all texts of the request are sent together when they are complete."""


@dataclass(frozen=True, slots=True)
class WrittenText:
    """New tokens of one text of a request, and for each of them the log-probabilities that were asked for, by token id."""

    ids: Sequence[int]
    logprobs: Sequence[Mapping[int, float]] | None


@dataclass(frozen=True, slots=True)
class Written:
    """What is new of a request: of all its texts, in the order of their numbers. A request that vLLM refuses has an error."""

    name: str
    texts: Sequence[WrittenText] = ()
    finished: bool = True
    error: str | None = None


class VllmProcess:
    """A process with vLLM's `LLM` over a saved model, on the GPU `device`; `options` are further arguments of `LLM`.

    Every fault of it is a ModelError with the last lines of its log. It must be closed after any error.
    """

    def __init__(self, model_dir: Path, device: torch.device, options: Mapping[str, Any]) -> None:
        self._model_dir = model_dir
        self._log = tempfile.TemporaryFile("a+b")  # noqa: SIM115 (`close` closes it)
        self._messages: Messages = queue.SimpleQueue()
        program, own = f"{__name__}:serve", environment(device, os.environ)
        self._worker = Worker(program, own, self._messages, str(model_dir), log=self._log)
        self._end = weakref.finalize(self, _end, self._worker, self._log)
        try:
            self._answer(options)
        except BaseException:
            self.close()
            raise

    def advance(self, joining: Sequence[Request], aborted: Sequence[str] = ()) -> list[Written]:
        """Begin requests and end others, then write until there is something new of any; empty if none is left."""
        written: list[Written] = self._answer((joining, aborted))
        return written

    def close(self) -> None:
        """End the process, and wait until it has."""
        self._end()

    def _answer(self, task: Any) -> Any:
        self._worker.send(task)
        _, event, value = self._messages.get()
        while event == "warning":
            log_warning(value)
            _, event, value = self._messages.get()
        if event == "answer":
            return value
        why = str(value[0]) if event == "failed" else self._ending()
        raise ModelError(f"vllm cannot serve {self._model_dir}: {why}; {_INSTEAD}")

    def _ending(self) -> str:
        return (
            f"its process {self._worker.ending('stop other programs')}. The last lines of its log: {self._last_lines()}"
        )

    def _last_lines(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        # Not by a seek: the process writes to the same file.
        text = os.pread(self._log.fileno(), _LOG_BYTES, max(0, size - _LOG_BYTES)).decode(errors="replace")
        lines = [printable(line.strip()) for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-_LOG_LINES:]) or "(empty)"


def _end(worker: Worker, log: IO[bytes]) -> None:
    worker.hang_up()
    worker.wait(_EXIT_SECONDS)
    log.close()


def environment(device: torch.device, own: Mapping[str, str]) -> dict[str, str]:
    """The environment of the process, which sees one GPU: the one that is number `device.index` of this process.

    The engine's core runs in the process itself, so that one process holds all GPU memory, its errors have their own messages, and
    requests are batched in the same way each time. vLLM sends reports on its use, unless the user's environment says otherwise.
    """
    visible = own.get("CUDA_VISIBLE_DEVICES")
    number = device.index or 0
    gpu = str(number) if visible is None else visible.split(",")[number]
    forced = {"CUDA_VISIBLE_DEVICES": gpu, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    return {"VLLM_NO_USAGE_STATS": "1", **own, **forced}


def memory_share(free: int, total: int) -> float:
    """`gpu_memory_utilization`: the share of a GPU's `total` bytes that vLLM may take of the `free` ones.

    Raises ModelError if it leaves nothing.
    """
    share = math.floor(100 * min(MOST_SHARE, (free - RESERVE) / total)) / 100
    if share <= 0:
        raise ModelError(
            f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB of GPU memory are free, expected more than "
            f"{RESERVE / 2**30:.0f}; stop other programs on this GPU"
        )
    return share


def serve() -> None:
    """The program of the process: open the model, then answer every task, until stdin closes."""
    with serving() as (send, receive):
        try:
            engine = _open(receive(), receive())
            send("answer", None)
            while True:
                send("answer", _advance(engine, *receive()))
        except Exception as error:
            traceback.print_exc()
            # As text: the owner would import vLLM to read an error of vLLM.
            what = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
            raise ModelError(printable(what.strip()[:500])) from None


def _open(model: str, options: Mapping[str, Any]) -> Any:
    import torch
    from vllm import LLM

    share = memory_share(*torch.cuda.mem_get_info())
    # generation_config="vllm" ignores the sampling settings of the model's own file.
    return LLM(model=model, generation_config="vllm", gpu_memory_utilization=share, **options).llm_engine


def _advance(engine: Any, joining: Sequence[Request], aborted: Sequence[str]) -> list[Written]:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    if aborted:
        engine.abort_request(list(aborted))
    refused = []
    for request in joining:
        kind = RequestOutputKind.DELTA if request.streamed else RequestOutputKind.FINAL_ONLY
        try:
            settings = SamplingParams(**request.settings, output_kind=kind)
            engine.add_request(request.name, {"prompt_token_ids": list(request.prompt_ids)}, settings)
        except Exception as error:  # of this request alone, such as a prompt that is too long
            refused.append(Written(request.name, error=printable(str(error))))
    outputs: Sequence[Any] = ()
    while not (outputs or refused) and engine.has_unfinished_requests():
        outputs = engine.step()
    return refused + [_written(output) for output in outputs]


def _written(output: Any) -> Written:
    if reasons := {text.finish_reason for text in output.outputs} - {None, "stop", "length"}:
        return Written(output.request_id, error=f"its text ended with {', '.join(sorted(reasons))}")
    texts = [
        WrittenText(
            list(text.token_ids),
            text.logprobs and [{i: score.logprob for i, score in scores.items()} for scores in text.logprobs],
        )
        for text in sorted(output.outputs, key=lambda text: text.index)
    ]
    return Written(output.request_id, texts, output.finished)

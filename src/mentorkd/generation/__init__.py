"""Text generation: one protocol and three engines.

`transformers` is always installed and serves every model. `ctranslate2` (an extra) converts a saved model once and runs
it in float or int8. `vllm` (an extra) serves causal models on CUDA.
The docstring of `Engine` states what every engine guarantees.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.errors import MissingExtraError, ModelError
from mentorkd.generation.engine import EngineDtype
from mentorkd.generation.live import LiveEngine
from mentorkd.recipe.learner import AUTO_ROWS, EngineName, ModelConfig

if TYPE_CHECKING:
    import torch

    from mentorkd.models import LoadedModel

log = logging.getLogger(__name__)

CONVERTED = frozenset({"t5"})
"""`model_type`s that `auto` converts on a CPU: their conversions ran faster in floating point (docs/results/generation.md)."""

LARGEST_CONVERTED = 4 * 2**30
"""Largest weights, in bytes, that `auto` converts: a conversion holds up to three copies of the model in memory."""


def open_engine(
    name: EngineName,
    *,
    model_dir: Path | None = None,
    loaded: LoadedModel | None = None,
    device: torch.device,
    cache_dir: Path | None = None,
    batch_size: int | Literal["auto"] = "auto",
    tokens_per_batch: int | None = None,
    dtype: EngineDtype | None = None,
    separator: str = CAUSAL_SEPARATOR,
    stop: Sequence[str] = (),
    chat_date: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    most_tokens: int | None = None,
) -> LiveEngine:
    """Open an engine over a saved model (`model_dir`) or one in memory (`loaded`).

    A batch holds `batch_size` sequences, or at most `tokens_per_batch` padded tokens (prompt and `max_new_tokens`) if
    given; vllm does its own batching. `auto` takes AUTO_ROWS sequences, and those that memory holds where transformers runs on CUDA.
    `dtype` is that of the arithmetic, by default that of the weights.
    `separator` follows each prompt to a causal model without a chat template; "" passes prompts unchanged.
    A text ends before the first of the `stop` texts that the model writes. `chat_date` and `chat_template_kwargs` are settings of
    a recipe's `model`, for the chat template of a saved model. `most_tokens` is the length that a prompt and its text are expected to
    have together at most: vllm sets aside memory for one such text, and starts again for a longer one; by default it takes the
    model's positions, as far as memory holds them.
    `cache_dir` keeps converted models, keyed by the content of the model. `choose_engine` decides for `auto`; if the
    engine that it chose refuses the model, or cannot start, `auto` opens the transformers engine and logs the reason.
    Close the engine after use: vllm holds a process and GPU memory.

    Raises MissingExtraError if the engine is not installed, ModelError if it does not serve the model.
    """
    if (model_dir is None) == (loaded is None):
        raise ModelError("an engine needs a model: give either `model_dir` (a saved model) or `loaded` (one in memory)")
    options: dict[str, Any] = {"separator": separator, "stop": stop}
    chat: dict[str, Any] = {"chat_date": chat_date, "chat_template_kwargs": dict(chat_template_kwargs or {})}
    limits: dict[str, Any] = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch, **options}
    if name == "auto":
        chosen = choose_engine(model_dir, device=device, cache_dir=cache_dir, dtype=dtype)
        how: dict[str, Any] = {
            "model_dir": model_dir,
            "loaded": loaded,
            "device": device,
            "cache_dir": cache_dir,
            "dtype": dtype,
        }
        how |= {**limits, **chat, "most_tokens": most_tokens}
        try:
            return open_engine(chosen, **how)
        except ModelError as refusal:
            if chosen == "transformers" or dtype == "int8":
                raise
            log.warning("`engine: auto` uses transformers: %s", refusal)
            return open_engine("transformers", **how)
    by_memory = batch_size == "auto"
    limits["batch_size"] = AUTO_ROWS if by_memory else batch_size
    match name:
        case "transformers":
            from mentorkd.generation.transformers_engine import TransformersEngine
            from mentorkd.generation.weights import cast_weights
            from mentorkd.models import load_folder

            if dtype == "int8":
                raise ModelError("the transformers engine has no int8; set `engine: ctranslate2` or another dtype")
            if loaded is None:
                assert model_dir is not None
                loaded = load_folder(model_dir, device=device, **chat)
                if dtype is not None:
                    cast_weights(loaded.model, dtype)  # the engine's own: no copy in another type is needed
            return TransformersEngine(
                loaded.model, loaded.tokenizer, loaded.kind, dtype=dtype, by_memory=by_memory, **limits
            )
        case "ctranslate2":
            from mentorkd.generation.ctranslate2_engine import CTranslate2Engine

            if model_dir is None or cache_dir is None:
                raise ModelError("the ctranslate2 engine converts a saved model: give `model_dir` and `cache_dir`")
            how = {"device": device, "dtype": dtype, "chat": chat, **limits}
            return CTranslate2Engine(model_dir, cache_dir=cache_dir, **how)
        case "vllm":
            from mentorkd.generation.vllm_engine import VllmEngine

            if model_dir is None:
                raise ModelError("the vllm engine reads a saved model: give `model_dir`")
            how = {"device": device, "dtype": dtype, "chat": chat, "most_tokens": most_tokens, **options}
            return VllmEngine(model_dir, **how)
        case _:
            raise ModelError(f"got engine {name!r}, expected one of {', '.join(get_args(EngineName))}")


def choose_engine(
    model_dir: Path | None, *, device: torch.device, cache_dir: Path | None, dtype: EngineDtype | None
) -> Literal["transformers", "ctranslate2", "vllm"]:
    """The fastest installed engine that serves the model.

    The choice is a fixed rule, not a measurement, so that a resumed run repeats it: vllm for causal models on CUDA;
    ctranslate2 on a CPU for the families in `CONVERTED`, up to `LARGEST_CONVERTED` bytes, and for every family in int8,
    which needs an explicit `dtype`; otherwise transformers, with our own decoding loop.
    """
    if dtype == "int8":
        if find_spec("ctranslate2") is None:
            raise MissingExtraError("generation in int8", "ctranslate2")
        return "ctranslate2"
    if model_dir is None:
        return "transformers"
    from mentorkd.models import config_of

    config = config_of(ModelConfig(name=str(model_dir)))
    if device.type == "cuda" and find_spec("vllm") is not None and not config.is_encoder_decoder:
        return "vllm"
    weights = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    converts = config.model_type in CONVERTED and weights <= LARGEST_CONVERTED
    if device.type == "cpu" and cache_dir is not None and find_spec("ctranslate2") is not None and converts:
        return "ctranslate2"
    return "transformers"

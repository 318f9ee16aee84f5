"""Hugging Face models: loading, building from a config, the tap on the head, saving with a model card."""

from __future__ import annotations

import hashlib
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Tokenizer,
)

from mentorkd.errors import MissingExtraError, ModelError
from mentorkd.losses import IGNORE_INDEX
from mentorkd.recipe import LoraConfig, ModelConfig, ModelKind

__all__ = [
    "LoadedModel",
    "head_parameters",
    "kind_of",
    "load_folder",
    "load_model",
    "load_tokenizer",
    "model_kind",
    "resolve_device",
    "save_model",
    "tap_is_exact",
    "target_hidden",
    "target_logits",
    "tokenizer_digest",
]

VOCABULARY_MULTIPLE = 64
"""Rows of a new embedding are a multiple of this, as T5's 32128 are for its 32100 tokens: kinder to matrix units."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def resolve_device(name: str) -> torch.device:
    """`auto` is an accelerator if there is one."""
    if name != "auto":
        if name == "cuda" and not torch.cuda.is_available():
            raise ModelError("got device cuda, but this torch sees no CUDA device; set `device: auto` or `cpu`")
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def model_kind(config: PretrainedConfig) -> ModelKind:
    return "seq2seq" if config.is_encoder_decoder else "causal"


def _explain(what: str, error: Exception) -> ModelError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(f"cannot load {what}: {first}; give a Hugging Face name or a folder that `from_pretrained` loads")


def kind_of(config: ModelConfig) -> ModelKind:
    """The kind of a model that is not loaded yet, from its config alone."""
    if config.from_config is not None:
        settings = dict(config.from_config)
        return model_kind(AutoConfig.for_model(settings.pop("model_type"), **settings))
    try:
        found = AutoConfig.from_pretrained(
            config.name, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _explain(f"the model {config.name!r}", error) from error
    return model_kind(found)


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model: its own, or the one that `tokenizer` names (folder, hub name or SentencePiece file).

    A tokenizer without a padding token pads with its end token; attention masks, not ids, tell padding from text.
    """
    source = config.tokenizer or config.name
    assert source is not None
    try:
        if source.endswith(".model"):
            tokenizer = _load_sentencepiece(Path(source))
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                source, revision=config.revision, trust_remote_code=config.trust_remote_code
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _explain(f"the tokenizer {source!r}", error) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer {source!r} has no end token, so a model could not learn to stop; "
            "set `eos_token` in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_sentencepiece(file: Path) -> PreTrainedTokenizerBase:
    if not file.is_file():
        raise ModelError(f"the tokenizer {str(file)!r} is no file; give a SentencePiece .model file, a folder or a hub name")
    # T5Tokenizer reads a folder that holds a file of exactly this name.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "spiece.model").write_bytes(file.read_bytes())
        return T5Tokenizer.from_pretrained(folder)  # type: ignore[no-any-return]


def _dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    if config.dtype != "auto":
        return getattr(torch, config.dtype)  # type: ignore[no-any-return]
    # Full training keeps float32 master weights; a frozen LoRA base may be held in half the memory.
    half = config.lora is not None and device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if half else torch.float32


def load_model(config: ModelConfig, *, seed: int, device: torch.device) -> LoadedModel:
    """Load a pretrained model, or build one with random weights that `seed` decides, adapters added if asked."""
    tokenizer = load_tokenizer(config)
    if config.from_config is not None:
        loaded = _build(config.from_config, tokenizer, seed)
        model = loaded.to(_dtype(config, device))
    else:
        assert config.name is not None
        try:
            own = AutoConfig.from_pretrained(
                config.name, revision=config.revision, trust_remote_code=config.trust_remote_code
            )
            auto = AutoModelForSeq2SeqLM if own.is_encoder_decoder else AutoModelForCausalLM
            model = auto.from_pretrained(
                config.name,
                revision=config.revision,
                dtype=_dtype(config, device),
                trust_remote_code=config.trust_remote_code,
                use_safetensors=True,
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise _explain(f"the model {config.name!r}", error) from error
        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            raise ModelError(
                f"the tokenizer of {config.name!r} has {len(tokenizer)} tokens, its model only "
                f"{model.get_input_embeddings().weight.shape[0]}; give the `tokenizer` that belongs to the model"
            )
    kind = model_kind(model.config)
    if kind == "causal" and model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if config.lora is not None:
        model = _add_adapters(model, config.lora, kind, seed)
    return LoadedModel(model.to(device), tokenizer, kind)


def _build(values: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    settings = dict(values)
    model_type = settings.pop("model_type")
    rows = math.ceil(len(tokenizer) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    settings.setdefault("vocab_size", rows)
    settings.setdefault("pad_token_id", tokenizer.pad_token_id)
    settings.setdefault("eos_token_id", tokenizer.eos_token_id)
    if settings["vocab_size"] < len(tokenizer):
        raise ModelError(
            f"`from_config` has vocab_size {settings['vocab_size']}, its tokenizer {len(tokenizer)} tokens; "
            f"give at least {len(tokenizer)}, or leave vocab_size out"
        )
    try:
        config = AutoConfig.for_model(model_type, **settings)
        if config.is_encoder_decoder and config.decoder_start_token_id is None:
            config.decoder_start_token_id = tokenizer.pad_token_id
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        # Initial weights depend on the seed alone, whatever ran before in this process.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model: PreTrainedModel = auto.from_config(config)
    except (ValueError, KeyError, TypeError) as error:
        raise _explain(f"`from_config` of type {model_type!r}", error) from error
    return model


def _add_adapters(model: PreTrainedModel, lora: LoraConfig, kind: ModelKind, seed: int) -> PreTrainedModel:
    try:
        from peft import LoraConfig as PeftLora
        from peft import TaskType, get_peft_model
    except ImportError as error:
        raise MissingExtraError("LoRA", "lora") from error
    settings = PeftLora(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=TaskType.SEQ_2_SEQ_LM if kind == "seq2seq" else TaskType.CAUSAL_LM,
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return get_peft_model(model, settings)  # type: ignore[return-value]
    except ValueError as error:
        raise ModelError(f"LoRA does not fit the model: {error}; name its linear layers in `lora.target_modules`") from error


def load_folder(folder: Path, *, device: torch.device, dtype: torch.dtype | None = None) -> LoadedModel:
    """Load a model that `save_model` wrote, for inference."""
    tokenizer = load_tokenizer(ModelConfig(name=str(folder)))
    config = AutoConfig.from_pretrained(folder)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=dtype or "auto", use_safetensors=True).to(device).eval()
    return LoadedModel(model, tokenizer, model_kind(config))


def save_model(loaded: LoadedModel, folder: Path, *, card: str) -> None:
    """Write a plain Hugging Face folder: safetensors, config, generation config, tokenizer, README.md.

    Adapters are merged into the weights, so the folder loads without peft.
    """
    model = loaded.model
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    with warnings.catch_warnings():
        # Stray sampling settings of the base model draw a warning on every save; they are the base model's business.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*generation.*")
        model.save_pretrained(folder, safe_serialization=True)
    loaded.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


# --- the tap on the head ------------------------------------------------------------------------------------------


def head_parameters(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight [V, D] and bias [V] (or None) of the head that turns hidden states into logits."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if head is None or not isinstance(getattr(head, "weight", None), torch.Tensor):
        raise ModelError(f"{type(model).__name__} has no linear head (lm_head); only language models with one can be distilled")
    return head.weight, getattr(head, "bias", None)


@contextmanager
def _identity_head(model: nn.Module) -> Iterator[None]:
    """While open, the head hands its input through, so the model returns hidden states for logits.

    What comes out is what the head receives, whatever the model does before it (T5 scales by d_model^-0.5 when
    embeddings are tied).
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward


def _call(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits[batch["labels"] != IGNORE_INDEX]


def target_hidden(model: nn.Module, batch: Mapping[str, torch.Tensor], *, tapped: nn.Module | None = None) -> torch.Tensor:
    """Hidden states [N, D] as the head receives them, at the N target positions of a batch, in row-major order.

    `tapped` is the model that owns the head when `model` is a wrapper of it (DistributedDataParallel).
    """
    with _identity_head(tapped or model):
        return _call(model, batch)


def target_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The model's own logits [N, V] at the target positions."""
    return _call(model, batch)


def tap_is_exact(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> bool:
    """Whether head(tapped hidden states) equals the model's own logits on `batch`.

    False for models that change logits after the head (soft-capping, scaling, a separate bias).
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            own = target_logits(model, batch)
            try:
                hidden = target_hidden(model, batch)
            except RuntimeError:  # what follows the head expects V columns, not D
                return False
            weight, bias = head_parameters(model)
            if hidden.shape[-1] != weight.shape[1]:
                return False
            rebuilt = nn.functional.linear(hidden.to(weight.dtype), weight, bias)
    finally:
        model.train(training)
    scale = own.float().abs().amax().clamp(min=1e-6)
    return bool((own.float() - rebuilt.float()).abs().amax() <= 1e-2 * scale)


# --- identity -----------------------------------------------------------------------------------------------------


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what makes two tokenizers interchangeable: the vocabulary with its ids, and the special tokens."""
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        digest.update(f"{index}:{token}\n".encode())
    digest.update(repr((tokenizer.eos_token_id, tokenizer.pad_token_id)).encode())
    return digest.hexdigest()[:16]

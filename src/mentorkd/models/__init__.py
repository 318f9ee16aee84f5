"""Hugging Face models: load, build from a config, save with a model card."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import constants as hub
from huggingface_hub import get_session
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
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from mentorkd.errors import ModelError
from mentorkd.hub import cached_commit
from mentorkd.hub.chat import fixed_template
from mentorkd.models.attention import check_attention
from mentorkd.models.gguf import plain_folder
from mentorkd.models.layers import Stack, cut_config, cut_model
from mentorkd.models.loading import LOADING_ERRORS, loading, one_line
from mentorkd.models.quantization import (
    check_quantisable,
    in_four_bits,
    is_quantised,
    keep_unpacked,
    merge_into_dequantised,
    weight_count,
)
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from mentorkd.recipe.vocabularies import VOCABULARY_MULTIPLE
from mentorkd.records import ModelKind


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: ModelKind

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def parameter_count(self) -> int:
        return sum(weight_count(p) for p in self.model.parameters())

    @property
    def has_adapters(self) -> bool:
        return hasattr(self.model, "peft_config")


def resolve_device(name: str) -> torch.device:
    """The device of this name; `auto` is an accelerator if the machine has one. Raises ModelError for an absent GPU."""
    if name != "auto":
        if name == "cuda" and not torch.cuda.is_available():
            raise ModelError("got `device: cuda`, but torch finds no CUDA device; set `device: auto` or `cpu`")
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def model_kind(config: PretrainedConfig) -> ModelKind:
    return "seq2seq" if config.is_encoder_decoder else "causal"


def kind_of(config: ModelConfig) -> ModelKind:
    """The kind of a model that is not loaded yet, from its config alone."""
    return model_kind(config_of(config))


def decoder_start_id(config: PretrainedConfig) -> int:
    """The token from which the decoder starts: the config's, or else the decoder's BOS (T5Gemma). Raises ModelError without both."""
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(config.get_text_config(decoder=True), "bos_token_id", None)
    if start is None:
        raise ModelError(
            f"the config of this {config.model_type} has neither `decoder_start_token_id` nor a BOS for its decoder; set the "
            "first in its config.json (T5's is the padding token, 0)"
        )
    return int(start)


def has_own_decoder(config: PretrainedConfig) -> bool:
    """Whether the decoder has a config of its own (T5Gemma). Such a decoder takes padding ids for padding unless it gets a mask."""
    return isinstance(getattr(config, "decoder", None), PretrainedConfig)


_LOGIT_CHANGES: dict[str, float | None] = {
    "final_logit_softcapping": None,  # Gemma 2, Gemma 3n, Gemma 4, T5Gemma, VaultGemma, nanochat
    "logits_soft_cap": None,  # RecurrentGemma
    "logit_scale": 1.0,  # Cohere
    "logits_scaling": 1.0,  # Granite
    "lm_head_multiplier": 1.0,  # Falcon H1
    "output_multiplier": 1.0,
}
"""Settings by which families change their logits after the head, each with the value that changes nothing."""

_BALANCING = ("router_aux_loss_coef", "aux_loss_alpha", "moe_loss_weight")
"""Settings that weight the loss by which a mixture of experts keeps its experts equally busy."""


def logit_change(config: PretrainedConfig) -> str | None:
    """The setting by which a model changes its logits after the head, as `name: value`; None if the config tells of none.

    What a config does not tell, `head_is_linear` measures once the model is loaded.
    """
    text = config.get_text_config(decoder=True)
    for name, neutral in _LOGIT_CHANGES.items():
        value = getattr(text, name, None)
        if value is not None and value != neutral:
            return f"{name}: {value:g}"
    return None


def balancing_loss(config: PretrainedConfig) -> str | None:
    """The weight of the loss that balances a model's experts, as `name: value`; None for a model without one."""
    text = config.get_text_config(decoder=True)
    for part in (text, getattr(text, "ffn_config", None)):
        for name in _BALANCING:
            if isinstance(value := getattr(part, name, None), float) and value > 0:
                return f"{name}: {value:g}"
    return None


def dropped_layers(config: PretrainedConfig) -> str | None:
    """The probability with which training skips a whole layer, as `name: value`; None for a model that skips none (M2M100 does)."""
    for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
        if value := getattr(config, name, None):
            return f"{name}: {value:g}"
    return None


def layer_count(config: PretrainedConfig) -> int:
    """Layers of the stack below the head: of the decoder, if there is one."""
    return Stack.of(config, "decoder").depth


def vocabulary_size(config: ModelConfig) -> int:
    """Rows of the head of a model that is not loaded yet."""
    if config.from_config is not None:
        decoder = config.from_config.get("decoder")
        given = {**config.from_config, **(decoder if isinstance(decoder, dict) else {})}
        return int(given["vocab_size"]) if "vocab_size" in given else _embedding_rows(load_tokenizer(config))
    return int(config_of(config).get_text_config().vocab_size)


def config_of(config: ModelConfig) -> PretrainedConfig:
    """The Hugging Face config of a model that is not loaded yet, cut to its `layers`."""
    whole = _whole_config(config)
    return whole if config.layers is None else cut_config(whole, config.layers)


def _whole_config(config: ModelConfig) -> PretrainedConfig:
    if config.from_config is not None:
        settings = dict(config.from_config)
        model_type = settings.pop("model_type")
        with loading(f"`from_config` of type {model_type!r}"):
            return AutoConfig.for_model(model_type, **settings)
    assert config.name is not None
    source = plain_folder(config.name)
    _refuse_absent("model", source)
    with loading(f"the model {config.name!r}"):
        return AutoConfig.from_pretrained(source, **_origin(config, source))


def _origin(config: ModelConfig, source: str) -> dict[str, Any]:
    """The commit in the local cache, if there is one: it is the commit that fingerprints hash."""
    revision = cached_commit(source, config.revision) or config.revision
    return {"revision": revision, "trust_remote_code": config.trust_remote_code}


def _embedding_rows(tokenizer: PreTrainedTokenizerBase) -> int:
    return math.ceil(len(tokenizer) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def _refuse_absent(what: str, name: str) -> None:
    """Raise ModelError for a path that does not exist, and for a hub name if the hub is needed and cannot be reached.

    transformers takes such a path for a hub name, and retries an unreachable hub for half a minute.
    """
    if Path(name).exists():
        return
    if Path(name).is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"the {what} {name!r} does not exist; give an existing folder or a Hugging Face name")
    cached = Path(hub.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    if not cached.exists() and (error := _hub_error()):
        raise ModelError(
            f"cannot load the {what} {name!r}: it is not in the local cache, and {hub.ENDPOINT} cannot be reached ({error}); give "
            "a folder, or run this on a machine with a connection"
        )


@cache
def _hub_error() -> str | None:
    """Why the hub cannot be reached; None if it answers, even with an error."""
    reason = ""
    for pause in (1, 0):
        try:
            get_session().head(hub.ENDPOINT, timeout=10)
            return None
        except Exception as error:  # the hub's HTTP library, and with it the exceptions, changed more than once
            reason = one_line(error)
            time.sleep(pause)
    return reason


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model: its own, or the one that `tokenizer` names (folder, hub name, SentencePiece or GGUF file).

    A tokenizer without a padding token pads with its end token; attention masks, not ids, separate padding from text. Its chat
    template gets a fixed date and the config's variables. Raises ModelError for a tokenizer that cannot be loaded, has no end
    token, or has no use for the config's `chat_date` or `chat_template_kwargs`.
    """
    source = config.tokenizer or config.name
    assert source is not None
    folder = plain_folder(source)
    _refuse_absent("tokenizer", folder)
    with loading(f"the tokenizer {source!r}"):
        if source.endswith(".model"):
            tokenizer = _load_sentencepiece(Path(source))
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, **_origin(config, folder))
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer {source!r} has no end token, without which a model cannot learn to stop; "
            "set `eos_token` in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _fix_chat_template(tokenizer, source, config)
    return tokenizer


def chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template of a tokenizer's chats without tools; None if it has none."""
    templates = tokenizer.chat_template
    template = templates.get("default") if isinstance(templates, dict) else templates
    return template or None


def _fix_chat_template(tokenizer: PreTrainedTokenizerBase, source: str, config: ModelConfig) -> None:
    template, day, variables = chat_template(tokenizer), config.chat_date, config.chat_template_kwargs
    if template is None:
        if day is not None or variables:
            unused = "chat_date" if day is not None else "chat_template_kwargs"
            raise ModelError(f"the tokenizer {source!r} has no chat template; remove `{unused}`")
        return
    try:
        fixed = fixed_template(template, day, variables)
    except ModelError as error:
        raise ModelError(f"the tokenizer {source!r}: {error}") from None
    if fixed != template:
        named = tokenizer.chat_template
        tokenizer.chat_template = {**named, "default": fixed} if isinstance(named, dict) else fixed


def _load_sentencepiece(file: Path) -> PreTrainedTokenizerBase:
    if not file.is_file():
        raise ModelError(f"the tokenizer {str(file)!r} is not a file; give a SentencePiece .model file, or a folder")
    # T5Tokenizer loads a folder with a file of exactly this name.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "spiece.model").write_bytes(file.read_bytes())
        return T5Tokenizer.from_pretrained(folder)


def _dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    if config.dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.dtype)
        return dtype
    # Full training needs float32 master weights; the frozen base of LoRA does not.
    half = config.lora is not None and device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if half else torch.float32


def check_structure(config: ModelConfig) -> None:
    """Raise ModelError for a model that is not loaded yet if its `layers` cannot be cut out of it, if its adapters would adapt
    tied weights, if it cannot be held in 4 bits, or if it does not have the `attn_implementation`.

    Builds the model without memory for its weights.
    """
    adapters = config.lora is not None and config.lora.target_modules is not None
    quantised = config.lora is not None and config.lora.bits is not None
    if config.layers is None and config.attn_implementation is None and not adapters and not quantised:
        return
    settings = _whole_config(config)
    auto = AutoModelForSeq2SeqLM if settings.is_encoder_decoder else AutoModelForCausalLM
    with loading(f"the model of type {settings.model_type!r}"), torch.device("meta"):
        model: PreTrainedModel = auto.from_config(
            settings, trust_remote_code=config.trust_remote_code, **_attention(config)
        )
    if config.layers is not None:
        with torch.device("meta"):
            model = cut_model(model, config.layers)
    if quantised:
        check_quantisable(model)
    if config.lora is None or not adapters:
        return
    if config.name is not None and getattr(settings, "scale_decoder_outputs", True) is False:
        return  # T5 v1.1 and FlanT5 have a head of their own, and a config that ties it: the loaded weights decide
    _refuse_tied(model, config.lora)


def _refuse_tied(model: nn.Module, lora: LoraConfig) -> None:
    """Raise ModelError for adapters of a layer whose weights another layer has too: they are trained as a change of one layer,
    and merged they change both."""
    layers: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            layers.setdefault(id(parameter), []).append(name)
    ends = tuple(f".{target}" for target in lora.target_modules or ())
    for names in layers.values():
        if len(names) > 1 and (adapted := [name for name in names if f".{name}".endswith(ends)]):
            raise ModelError(
                f"got `lora.target_modules` with {', '.join(adapted)}, but {' and '.join(names)} share their weights: merged, "
                "the adapters of one would change the others; leave it out, or take a model whose embeddings are not tied"
            )


def _attention(config: ModelConfig) -> dict[str, str]:
    """Arguments of `from_pretrained` and `from_config` for the attention; a saved model's config.json does not tell it."""
    return {} if config.attn_implementation is None else {"attn_implementation": config.attn_implementation}


def load_model(config: ModelConfig, *, seed: int, device: torch.device) -> LoadedModel:
    """Load a pretrained model, or build one with random weights from `seed`; cut to `layers`, and with adapters if the config has `lora`.

    Raises ModelError for a model that cannot be loaded or built, for a tokenizer with more tokens than the model, and for attention
    that the machine or the model does not have.
    """
    check_attention(config.attn_implementation, device)
    tokenizer = load_tokenizer(config)
    if config.from_config is not None:
        model: PreTrainedModel = _build(config, tokenizer, seed).to(_dtype(config, device))
    else:
        dtype = _dtype(config, device)
        four_bits = config.lora is not None and config.lora.bits is not None
        model = _pretrained(config, dtype, **(in_four_bits(dtype, device) if four_bits else {}))
        if four_bits:
            keep_unpacked(model)
        rows = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > rows:
            raise ModelError(
                f"the tokenizer {config.tokenizer or config.name!r} has {len(tokenizer)} tokens, the model "
                f"{config.name!r} only {rows}; give the `tokenizer` that belongs to the model"
            )
    if config.layers is not None:
        model = cut_model(model, config.layers)
        if config.attn_implementation is not None:
            model.set_attn_implementation(config.attn_implementation)
    kind = model_kind(model.config)
    if kind == "causal" and model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    _optimize_for_training(model, device, chosen=config.attn_implementation is not None)
    if config.lora is not None:
        model = _add_adapters(model, config.lora, kind, seed)
    return LoadedModel(model if is_quantised(model) else model.to(device), tokenizer, kind)


def _pretrained(config: ModelConfig, dtype: torch.dtype | Literal["auto"], **options: Any) -> PreTrainedModel:
    auto = AutoModelForSeq2SeqLM if _whole_config(config).is_encoder_decoder else AutoModelForCausalLM
    assert config.name is not None
    source = plain_folder(config.name)
    with loading(f"the model {config.name!r}"):
        options |= _attention(config) | _origin(config, source)
        return auto.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)


def _build(given: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    settings = dict(given.from_config or {})
    model_type = settings.pop("model_type")
    _fill_vocabulary(settings, tokenizer)
    if settings["vocab_size"] < len(tokenizer):
        raise ModelError(
            f"`from_config` has vocab_size {settings['vocab_size']}, its tokenizer {len(tokenizer)} tokens; "
            f"give at least {len(tokenizer)}, or leave vocab_size out"
        )
    try:
        config = AutoConfig.for_model(model_type, **settings)
        if config.is_encoder_decoder and "decoder_start_token_id" not in settings:
            # The default of a model type (BART's 2) is an id of its own vocabulary, not of this tokenizer's.
            config.decoder_start_token_id = config.pad_token_id
            if has_own_decoder(config) and config.decoder.bos_token_id is not None:
                config.decoder_start_token_id = config.decoder.bos_token_id
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        # Initial weights depend only on the seed, not on what ran before in this process.
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model: PreTrainedModel = auto.from_config(config, **_attention(given))
    except LOADING_ERRORS as error:
        raise ModelError(
            f"cannot build {model_type!r} from `from_config`: {one_line(error)}; check its values"
        ) from error
    return model


def _fill_vocabulary(settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a config, and those of its encoder and decoder where it has such (T5Gemma), what the tokenizer decides."""
    settings.setdefault("vocab_size", _embedding_rows(tokenizer))
    for token in ("pad_token_id", "eos_token_id", "bos_token_id"):
        settings.setdefault(token, getattr(tokenizer, token))
    vocabulary = {name: settings[name] for name in ("vocab_size", "pad_token_id", "eos_token_id", "bos_token_id")}
    for part in ("encoder", "decoder"):
        if isinstance(settings.get(part), dict):
            settings[part] = vocabulary | settings[part]


def _optimize_for_training(model: PreTrainedModel, device: torch.device, *, chosen: bool) -> None:
    """Compute the same functions in fewer operations: a training step of T5 models on a CPU takes 8 to 17 % less time.

    transformers' `gelu_new` (T5 v1.1, FlanT5, GPT-2) has seven operations, and each keeps a tensor for the backward pass.
    T5's position bias needs a gradient, and scaled-dot-product attention has no fast path for that on a CPU; `chosen` attention stays.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
    if device.type == "cpu" and not chosen and model.config.model_type in ("t5", "mt5", "umt5"):
        model.set_attn_implementation("eager")


def _add_adapters(model: PreTrainedModel, lora: LoraConfig, kind: ModelKind, seed: int) -> PreTrainedModel:
    from peft import LoraConfig as PeftLora  # slow to import, and rarely needed
    from peft import TaskType, get_peft_model

    settings = PeftLora(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=TaskType.SEQ_2_SEQ_LM if kind == "seq2seq" else TaskType.CAUSAL_LM,
    )
    _refuse_tied(model, lora)
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            # peft warns that it adapts to GPT-2's transposed layers, and uses a name that newer transformers changed.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            warnings.filterwarnings("ignore", category=FutureWarning)
            torch.manual_seed(seed)
            return get_peft_model(model, settings)
    except ValueError as error:
        raise ModelError(
            f"LoRA does not fit the model: {one_line(error)}; name its linear layers in `lora.target_modules`"
        ) from error


def load_folder(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    chat_date: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a model that `save_model` wrote, or another in a folder, for inference."""
    config = ModelConfig(name=str(folder), chat_date=chat_date, chat_template_kwargs=dict(chat_template_kwargs or {}))
    tokenizer = load_tokenizer(config)
    model = _pretrained(config, dtype or "auto").to(device).eval()
    return LoadedModel(model, tokenizer, model_kind(model.config))


def merge_adapters(loaded: LoadedModel) -> LoadedModel:
    """The model with its adapters merged into its weights, in place, and without 4-bit weights; the model itself if it has none."""
    if not loaded.has_adapters:
        return loaded
    model = loaded.model
    return replace(loaded, model=merge_into_dequantised(model) if is_quantised(model) else model.merge_and_unload())


def save_model(loaded: LoadedModel, folder: Path, *, card: str) -> None:
    """Write a plain Hugging Face folder: safetensors, config, generation config, tokenizer, README.md.

    Adapters are merged into the weights, so the folder loads without peft. Raises ModelError if the folder does not load to
    exactly these weights.
    """
    model = merge_adapters(loaded).model
    with warnings.catch_warnings():
        # Sampling settings in the base model's generation config cause a warning on every save.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*generation.*")
        model.save_pretrained(folder, safe_serialization=True)
    for weights in folder.glob("*.safetensors"):  # safetensors gives rights to their owner alone
        shutil.copymode(folder / "config.json", weights)
    loaded.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    _check_saved(model, folder)


@torch.no_grad()
def _check_saved(model: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError unless `from_pretrained` makes the same weights of a folder.

    Names and shapes in the file are those of the family's first release, and tied weights are there once. This check is the
    proof that loading reverts both. It takes as long as the next stage's loading.
    """
    # What `is_remote_code` of newer versions of transformers says.
    config = ModelConfig(name=str(folder), trust_remote_code=model._auto_class is not None)
    saved, weights = _pretrained(config, "auto").state_dict(), model.state_dict()
    wrong = sorted(saved.keys() ^ weights.keys())
    for name in saved.keys() & weights.keys():
        if saved[name].dtype != weights[name].dtype or not torch.equal(saved[name], weights[name].cpu()):
            wrong.append(name)
    if wrong:
        raise ModelError(
            f"the model saved in {folder} does not load to the weights that were saved: {len(wrong)} of {len(weights)} differ "
            f"({min(wrong)}); this version of transformers does not save {type(model).__name__} exactly, take another one"
        )


def cast_linear_layers(model: nn.Module) -> None:
    """Cast the weights of all linear layers except the head to bfloat16, in place, for inference in bfloat16 autocast.

    Autocast would cast them in every batch, to the same numbers. Embeddings, norms and the residual stream are not changed.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head:
            module.to(torch.bfloat16)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the vocabulary with its ids, and of the special tokens: equal for tokenizers that are interchangeable."""
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        digest.update(f"{index}:{token}\n".encode())
    digest.update(repr((tokenizer.eos_token_id, tokenizer.pad_token_id)).encode())
    return digest.hexdigest()[:16]

"""GGUF files: metadata, vocabulary and weights under llama.cpp's names, in float32, in float16, or in blocks of 8-bit integers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import PretrainedConfig

from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel
from mentorkd.models.gguf import ARCHITECTURES
from mentorkd.sharing.gguf.vocabulary import Vocabulary

if TYPE_CHECKING:
    from gguf import GGUFWriter

GgufType = Literal["F32", "F16", "Q8_0"]

_BLOCK = 32
"""Weights of a row that share a scale in Q8_0."""
_TRANSPOSED = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
"""Layers of GPT-2 that keep [in, out]; a file keeps [out, in]."""


def check_architecture(config: PretrainedConfig) -> None:
    """Raise ModelError for a model that a GGUF file cannot hold so that llama.cpp and transformers read it alike."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise ModelError(
            f"got a model of type {kind}; a GGUF file holds {', '.join(ARCHITECTURES)}: export it with `--as ctranslate2` or `--as hf`"
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    positions, heads = getattr(config, "n_positions", 1024), getattr(config, "head_dim", 128)
    width = getattr(config, "n_inner", None) or 4 * config.hidden_size
    checks = [
        (rope != "default", f"positions of type {rope}, expected default ones (unscaled RoPE)"),
        (bool(getattr(config, "use_sliding_window", False)), "a sliding attention window, expected full attention"),
        *(
            (bool(getattr(config, name, False)), f"biases (`{name}`), expected none")
            for name in ("attention_bias", "mlp_bias")
        ),
        # transformers takes these sizes for granted.
        (kind == "gpt2" and positions != 1024, f"{positions} positions, expected GPT-2's 1024"),
        (
            kind == "gpt2" and width != 4 * config.hidden_size,
            f"inner layers of width {width}, expected four times the outer",
        ),
        (kind == "qwen3" and heads != 128, f"heads of width {heads}, expected Qwen 3's 128"),
    ]
    if faults := [fault for wrong, fault in checks if wrong]:
        raise ModelError(
            f"this {kind} has {'; '.join(faults)}: transformers would read another model from a GGUF file; export it with "
            "`--as ctranslate2` or `--as hf`"
        )


def write_gguf(
    file: Path, loaded: LoadedModel, vocabulary: Vocabulary, *, kind: GgufType, name: str, chat_template: str
) -> dict[str, GgufType]:
    """Write a causal model, and return the type in which each of its parameters lies in the file.

    As in llama.cpp's own files, vectors and GPT-2's positions stay in float32, and matrices whose rows are no whole blocks go
    from Q8_0 to F16.
    """
    import gguf

    config = loaded.model.config
    writer = gguf.GGUFWriter(file, config.model_type)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    if kind == "Q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, config)
    _add_vocabulary(writer, vocabulary, chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers)
    types: dict[str, GgufType] = {}
    for parameter, weight in loaded.model.named_parameters():  # a tied head is not among them, nor in the file
        stored = names.get_name(parameter, (".weight", ".bias"))
        if stored is None:
            raise ModelError(f"llama.cpp has no name for the weights {parameter} of a {config.model_type}")
        array = _laid_out(parameter, weight.detach().float(), config).contiguous().numpy()
        types[parameter] = chosen = _type(kind, stored, array.shape)
        packed = gguf.GGMLQuantizationType[chosen]
        writer.add_tensor(stored, gguf.quantize(array, packed), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return types


def _type(kind: GgufType, stored: str, shape: tuple[int, ...]) -> GgufType:
    if len(shape) == 1 or stored.startswith("position_embd"):
        return "F32"
    return "F16" if kind == "Q8_0" and shape[-1] % _BLOCK else kind


def _laid_out(parameter: str, weight: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """A weight as a file keeps it: [out, in], and for Llama's rotary positions the halves of each head interleaved."""
    if parameter.endswith(_TRANSPOSED):
        return weight.T
    if config.model_type == "llama":
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
            parameter.split(".")[-2]
        )
        if heads is not None:
            return weight.reshape(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
    return weight


def _add_sizes(writer: GGUFWriter, config: PretrainedConfig) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary, chat_template: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    add: Mapping[str, Any] = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for name, index in vocabulary.special.items():
        add[name](index)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(False)
    writer.add_chat_template(chat_template)

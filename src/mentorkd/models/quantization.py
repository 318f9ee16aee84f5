"""Weights in 4 bits under the adapters of a LoRA training (QLoRA, arXiv 2305.14314), and the plain model that comes of it.

The linear layers are held as NF4 by bitsandbytes; the head and the embeddings stay as they are.
"""

from __future__ import annotations

import logging
import math
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mentorkd.errors import MissingExtraError, ModelError

# On CPUs with AVX-512 and bfloat16, bitsandbytes warns at its import, by way of peft in every training with adapters, that a kernel for
# packed weights cannot be loaded. `keep_unpacked` leaves that kernel nothing to do.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

_PACKS = "support_avx512bf16_for_cpu"
"""The attribute of bitsandbytes' 4-bit layer that says whether it packs its weights for inference."""


def check_quantisable(model: nn.Module) -> None:
    """Raise an error for a model, loaded or not, that cannot be held in 4 bits."""
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("`lora.bits`", "bitsandbytes")
    if any(isinstance(module, Conv1D) for module in model.modules()):
        raise ModelError(
            f"got `lora.bits`, but the layers of {type(model).__name__} are transposed, and cannot be saved again from 4 bits; "
            "remove `bits`, or take another model"
        )


def in_four_bits(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for weights in 4 bits, which are multiplied in `dtype`."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config, "device_map": {"": device}}


def keep_unpacked(model: nn.Module) -> None:
    """Keep 4-bit weights as they are on CPUs with AVX-512 and bfloat16, where bitsandbytes would pack them for inference.

    Packed weights cannot be dequantised by transformers, and layers whose size is no multiple of 32 cannot be packed at all.
    """
    for module in model.modules():
        if hasattr(module, _PACKS):
            setattr(module, _PACKS, False)


def is_quantised(model: nn.Module) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))


def weight_count(parameter: nn.Parameter) -> int:
    """The number of weights in a parameter, two of which are in a byte of 4-bit ones."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


@torch.no_grad()
def merge_into_dequantised(model: Any) -> PreTrainedModel:
    """The model in its data type, with its adapters (peft's) merged into the weights that the 4 bits stand for, in place.

    peft itself would merge into 4 bits again, and round a part of the training away. Merged in main memory, since a GPU that holds
    the model in 4 bits may have no room for both.
    """
    from peft.tuners.lora import LoraLayer

    device = model.device
    model.to("cpu")
    adapted = model.get_base_model().named_modules()
    adapters = {name: layer for name, layer in adapted if isinstance(layer, LoraLayer)}
    base = model.unload()
    plain: PreTrainedModel = base.dequantize(base.dtype)
    for name, layer in adapters.items():
        weight = plain.get_submodule(name).weight
        weight.copy_(weight.float() + layer.get_delta_weight("default").float())
    plain.is_loaded_in_4bit = False  # transformers leaves this mark
    return plain.to(device)

"""A model cut to some of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from mentorkd.errors import ModelError
from mentorkd.models.loading import LOADING_ERRORS, one_line
from mentorkd.recipe.learner import Layers

_COUNTS = {
    "encoder": ("encoder_layers", "num_layers", "num_hidden_layers"),
    "decoder": ("num_decoder_layers", "decoder_layers", "num_hidden_layers"),
}
"""Keys under which families keep the number of layers of a stack; the first that a config has is the one (T5's and BART's own)."""


@dataclass(frozen=True)
class Cut:
    """A stack of layers and those of it that are kept."""

    stack: str
    """`encoder` or `decoder`; a causal model has a decoder."""
    part: str | None
    """The config's key of the config that counts its layers; None for the config itself."""
    key: str
    """The key of the count."""
    count: int
    kept: Sequence[int]


def cut_config(config: PretrainedConfig, layers: Layers) -> PretrainedConfig:
    """The config of a model that is cut to these layers: its counts, and its lists of one value a layer.

    Raises ModelError for a layer or a stack that the model does not have, and for a config that such a cut makes invalid.
    """
    settings = config.to_dict()
    for cut in _cuts(config, layers):
        part = settings if cut.part is None else settings[cut.part]
        for key, value in part.items():
            if "layer" in key and isinstance(value, list) and len(value) == cut.count:
                part[key] = [value[index] for index in cut.kept]
        part[cut.key] = len(cut.kept)
        if cut.stack == "encoder" and cut.key == "encoder_layers" and "num_hidden_layers" in part:
            part["num_hidden_layers"] = len(cut.kept)  # BART's second name of the same
    try:
        cut_down: PretrainedConfig = type(config).from_dict(settings)
    except LOADING_ERRORS as error:
        raise _uncuttable(config, one_line(error)) from error
    return cut_down


def cut_model(model: PreTrainedModel, layers: Layers) -> PreTrainedModel:
    """A new model of these layers, which takes over the weights of `model`.

    It is what `from_pretrained` builds of the cut config. Where only a stack's first layer has some weights (T5's relative
    positions), the new first layer has them too. Raises ModelError where a layer's form depends on its place.
    """
    with torch.random.fork_rng():
        try:
            cut_down: PreTrainedModel = type(model)(cut_config(model.config, layers))
        except LOADING_ERRORS as error:
            raise _uncuttable(model.config, one_line(error)) from error
    weights = model.state_dict()
    origins = _origins(model, cut_down, layers)
    # Assigned, not copied: each weight keeps its data type, and is in memory once.
    cut_down.load_state_dict({name: weights[origin] for name, origin in origins.items()}, assign=True)
    cut_down.tie_weights()
    cut_down.generation_config = model.generation_config
    return cut_down.train(model.training)


def _cuts(config: PretrainedConfig, layers: Layers) -> Iterator[Cut]:
    stacks = ("encoder", "decoder") if config.is_encoder_decoder else ("decoder",)
    if isinstance(layers, Mapping) and not config.is_encoder_decoder:
        raise ModelError(f"got `layers` of encoder and decoder, but {config.model_type} has one stack; give a list")
    for stack in stacks:
        kept = layers.get(stack) if isinstance(layers, Mapping) else layers
        if kept is None:
            continue
        part, counted = _counting_config(config, stack)
        names = (type(counted).attribute_map.get(name, name) for name in _COUNTS[stack])
        known = counted.to_dict()
        key = next((name for name in names if isinstance(known.get(name), int)), None)
        if key is None:
            raise _uncuttable(config, "its config tells no number of layers")
        if kept[-1] >= (count := known[key]):
            named = f"its {stack}'s" if config.is_encoder_decoder else "its"
            raise ModelError(
                f"got `layers` with {kept[-1]}, but the {config.model_type} has {count} layers; {named} layers are 0 to {count - 1}"
            )
        yield Cut(stack, part, key, count, kept)


def _counting_config(config: PretrainedConfig, stack: str) -> tuple[str | None, PretrainedConfig]:
    """The key and the config that counts the layers of a stack: the whole, or a part (T5Gemma's decoder, Gemma 3's text)."""
    part, key = config, None
    if config.is_encoder_decoder:
        key = stack if isinstance(getattr(config, stack, None), PretrainedConfig) else None
        part = getattr(config, stack) if key else config
    elif isinstance(getattr(config, "text_config", None), PretrainedConfig):
        key, part = "text_config", config.text_config
    return key, part


def _origins(model: PreTrainedModel, cut_down: PreTrainedModel, layers: Layers) -> dict[str, str]:
    """The names of the cut model's weights, each with the name of the weight that it gets."""
    weights, wanted = model.state_dict(), cut_down.state_dict()
    origins = {name: name for name in wanted}
    for cut in _cuts(model.config, layers):
        place = _layer_list(model, cut)
        for new, old in enumerate(cut.kept):
            start = f"{place}.{new}."
            names = [name.removeprefix(start) for name in wanted if name.startswith(start)]
            lost = {name for name in weights if name.startswith(f"{place}.{old}.")} - {f"{place}.{old}.{n}" for n in names}
            for name in names:
                own, first = f"{place}.{old}.{name}", f"{place}.0.{name}"
                origins[start + name] = first if new == 0 and own not in weights else own
            if lost:
                raise _uncuttable(model.config, f"the cut model has no place for {min(lost)}")
            _check_alike(model, cut_down, f"{place}.{old}", f"{place}.{new}")
    for name, origin in origins.items():
        if origin not in weights or weights[origin].shape != wanted[name].shape:
            raise _uncuttable(model.config, f"the cut model's {name} differs from {origin}")
    return origins


def _layer_list(model: PreTrainedModel, cut: Cut) -> str:
    """The name of a stack's list of layers: the outermost list of that length."""
    stack = model.get_encoder() if cut.stack == "encoder" else model.get_decoder()
    lists = [module for module in stack.modules() if isinstance(module, nn.ModuleList) and len(module) == cut.count]
    names = [name for name, module in model.named_modules() if any(module is each for each in lists)]
    outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    if len(outermost) != 1:
        raise _uncuttable(model.config, f"its {cut.stack} has {len(outermost)} lists of {cut.count} layers, expected one")
    return outermost[0]


def _check_alike(model: PreTrainedModel, cut_down: PreTrainedModel, old: str, new: str) -> None:
    """Raise ModelError unless a layer is built alike in its new place: its modules, and their numbers, flags and names."""
    places = (int(old.rpartition(".")[2]), int(new.rpartition(".")[2]))
    modules = dict(model.get_submodule(old).named_modules())
    for name, module in cut_down.get_submodule(new).named_modules():
        if name not in modules:
            continue  # of the first layer alone: `_origins` finds its weights
        values, others = (_plain_values(each) for each in (modules[name], module))
        for key in values.keys() | others.keys():
            value, other = values.get(key), others.get(key)
            if value != other and (value, other) != places and key not in _OF_THE_FIRST:
                raise _uncuttable(model.config, f"`{key}` of layer {places[0]} is {value}, and would be {other} as layer {places[1]}")


_OF_THE_FIRST = {"has_relative_attention_bias"}
"""Flags of a stack's first layer, which a new first layer has too (T5's)."""


def _plain_values(module: nn.Module) -> dict[str, Any]:
    values = {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
    return {**values, "training": None, "type": type(module).__name__}


def _uncuttable(config: PretrainedConfig, why: str) -> ModelError:
    return ModelError(f"a {config.model_type} cannot be cut to these `layers`: {why}; keep others, or leave `layers` out")

"""A model cut to some of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

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
"""Keys under which families keep the number of layers of a stack; the first that a config has is the one (BART's and T5's own)."""

_OF_THE_FIRST = {"has_relative_attention_bias"}
"""Flags of a stack's first layer, which a new first layer has too (T5's)."""


@dataclass(frozen=True)
class Stack:
    """A stack of layers, as a config counts it. A causal model has a decoder alone."""

    name: Literal["encoder", "decoder"]
    path: tuple[str, ...]
    """The keys that lead to the part of the config that counts its layers (T5Gemma's decoder, Gemma 3's text)."""
    key: str
    """The key of the count in that part."""
    depth: int
    """The count."""

    @classmethod
    def of(cls, config: PretrainedConfig, name: Literal["encoder", "decoder"]) -> Stack:
        """Raises ModelError for a config that tells no number of layers."""
        part = config
        path: tuple[str, ...] = ()
        for key in (name, "text_config"):
            if isinstance(inner := getattr(part, key, None), PretrainedConfig):
                part, path = inner, (*path, key)
        settings = part.to_dict()
        keys = (type(part).attribute_map.get(key, key) for key in _COUNTS[name])
        for key in keys:
            if isinstance(depth := settings.get(key), int):
                return cls(name, path, key, depth)
        raise ModelError(f"the config of this {config.model_type} tells no number of layers")


def cut_config(config: PretrainedConfig, layers: Layers) -> PretrainedConfig:
    """The config of a model that is cut to these layers: its counts, and its lists of one value a layer.

    Raises ModelError for a layer or a stack that the model does not have, and for a config that such a cut makes invalid.
    """
    settings = config.to_dict()
    for stack, kept in _cuts(config, layers):
        part = settings
        for key in stack.path:
            part = part[key]
        for key, value in part.items():
            if "layer" in key and isinstance(value, list) and len(value) == stack.depth:
                part[key] = [value[index] for index in kept]
        part[stack.key] = len(kept)
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


def _cuts(config: PretrainedConfig, layers: Layers) -> Iterator[tuple[Stack, list[int]]]:
    """The stacks that are cut, each with the layers that it keeps."""
    if isinstance(layers, dict) and not config.is_encoder_decoder:
        raise ModelError(f"got `layers` of encoder and decoder, but a {config.model_type} has one stack; give a list")
    names: list[Literal["encoder", "decoder"]] = ["encoder", "decoder"] if config.is_encoder_decoder else ["decoder"]
    for name in names:
        kept = layers.get(name) if isinstance(layers, dict) else layers
        if kept is None:
            continue
        stack = Stack.of(config, name)
        if kept[-1] >= stack.depth:
            last = f"the last {name} layer of this {config.model_type} is {stack.depth - 1}"
            raise ModelError(f"got `layers` with {kept[-1]}, but {last}; layers are counted from 0")
        yield stack, kept


def _origins(model: PreTrainedModel, cut_down: PreTrainedModel, layers: Layers) -> dict[str, str]:
    """The names of the cut model's weights, each with the name of the weight that it gets."""
    weights, wanted = model.state_dict(), cut_down.state_dict()
    origins = {name: name for name in wanted}
    for stack, kept in _cuts(model.config, layers):
        place = _layer_list(model, stack)
        for new, old in enumerate(kept):
            start, old_start = f"{place}.{new}.", f"{place}.{old}."
            names = [name.removeprefix(start) for name in wanted if name.startswith(start)]
            lost = {name for name in weights if name.startswith(old_start)} - {old_start + name for name in names}
            if lost:
                raise _uncuttable(model.config, f"the cut model has no place for {min(lost)}")
            for name in names:
                of_the_first = new == 0 and old_start + name not in weights
                origins[start + name] = f"{place}.0.{name}" if of_the_first else old_start + name
            _check_alike(model, cut_down, f"{place}.{old}", f"{place}.{new}")
    for name, origin in origins.items():
        if origin not in weights or weights[origin].shape != wanted[name].shape:
            raise _uncuttable(model.config, f"the cut model's {name} is not {origin}")
    return origins


def _layer_list(model: PreTrainedModel, stack: Stack) -> str:
    """The name of a stack's list of layers: the outermost list of that length."""
    module = model.get_encoder() if stack.name == "encoder" else model.get_decoder()
    lists = {id(each) for each in module.modules() if isinstance(each, nn.ModuleList) and len(each) == stack.depth}
    names: list[str] = [name for name, each in model.named_modules() if id(each) in lists]
    outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    if len(outermost) != 1:
        raise _uncuttable(
            model.config, f"its {stack.name} has {len(outermost)} lists of {stack.depth} layers, expected one"
        )
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
                change = f"`{key}` of layer {places[0]} is {value}, and would be {other} as layer {places[1]}"
                raise _uncuttable(model.config, change)


def _plain_values(module: nn.Module) -> dict[str, Any]:
    values = {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
    return {**values, "training": None, "type": type(module).__name__}


def _uncuttable(config: PretrainedConfig, why: str) -> ModelError:
    return ModelError(
        f"a {config.model_type} cannot be cut to these `layers`: {why}; keep others, or leave `layers` out"
    )

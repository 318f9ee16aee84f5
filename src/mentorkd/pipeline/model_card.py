"""The model card that is saved beside a learner's weights. `model_card.md.jinja` is its text, whose blocks another template may fill."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.hub import GGUF
from mentorkd.pipeline.records import TrainRecord
from mentorkd.printable import printable
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.learner import Layers, Learner, ModelConfig
from mentorkd.recipe.objectives import OBJECTIVES
from mentorkd.recipe.rounds import share_of
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import dump_yaml
from mentorkd.records import GOLD, SELF, TEACHER
from mentorkd.teachers.annotate import open_teacher

_WIDTHS = ("d_model", "hidden_size", "n_embd")
_DEPTHS = ("num_layers", "num_hidden_layers", "n_layer")


def describe_model(config: ModelConfig) -> str:
    """A short name of a model: its hub name, its folder's or file's name, or its type and size; with what is done to its weights."""
    if config.learner is not None:
        text = f"those of {config.learner} after its training"
    elif config.name is not None:
        text = Path(config.name).name if config.name.startswith("/") else config.name
    else:
        settings = config.from_config or {}
        sizes = "x".join(str(settings[key]) for key in (*_DEPTHS, *_WIDTHS) if key in settings)
        text = " ".join(filter(None, [settings["model_type"], sizes, "from scratch"]))
    parts = [text]
    if config.name is not None and config.name.endswith(GGUF):
        from mentorkd.models.gguf import describe_weights  # imports torch

        parts.append(describe_weights(config.name))
    if config.layers is not None:
        parts.append(f"cut to {_layers(config.layers)}")
    if config.lora is not None:
        base = "" if config.lora.bits is None else f" on weights in {config.lora.bits} bits (NF4)"
        parts.append(f"LoRA r={config.lora.r}{base}")
    return ", ".join(parts)


def _layers(layers: Layers) -> str:
    stacks = {f"{name} ": kept for name, kept in layers.items()} if isinstance(layers, dict) else {"": layers}
    return " and ".join(f"{name}layers {', '.join(map(str, kept))}" for name, kept in stacks.items())


class Extension(NamedTuple):
    """A template that extends that of the card, for what is known later than a training."""

    package: str
    template: str
    values: Mapping[str, Any]
    """The variables that it adds."""


_OWN = Extension("mentorkd.pipeline", "model_card.md.jinja", {})


def card_environment(*packages: str) -> Environment:
    """What renders the templates of cards in these packages."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, ".") for package in packages]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def model_card(
    recipe: Recipe,
    name: str,
    learner: Learner,
    seed: int,
    record: TrainRecord,
    *,
    number: int | None = None,
    part: range | None = None,
    extension: Extension = _OWN,
) -> str:
    """Markdown with the front matter of a Hugging Face model card: task, lineage, data counts, scores, use.

    Its Python snippet asks the model as evaluation does: greedily, with the evaluation's prompt.

    Args:
        learner: the recipe's learner of that name, with the values of its trial if it is searched.
        number, part: of a training of a learner with own texts, its number and its part of the learner's updates. The card of the
            best training is that of the published model.
        extension: what sharing adds; by default nothing.
    """
    from mentorkd.models import kind_of

    environment = card_environment(_OWN.package, extension.package)
    environment.filters |= {
        "author": partial(_author, recipe, name),
        "setting": _setting,
        "model": describe_model,
        "repr": repr,
        "yaml": dump_yaml,
    }
    card = environment.get_template(extension.template).render(
        recipe=recipe,
        name=name,
        learner=learner,
        seed=seed,
        record=record,
        share=None if number is None else share_of(learner, number),
        part=part,
        rows_each=OBJECTIVES[learner.objective].rows_per_rationale,
        base=initial_model(recipe, name),
        seq2seq=kind_of(initial_model(recipe, name)) == "seq2seq",
        separator=CAUSAL_SEPARATOR,
        gold=GOLD,
        **extension.values,
    )
    return printable(card)


def _setting(value: Any) -> str:
    """A setting with one value, or with one for each source."""
    if isinstance(value, dict):
        return " and ".join(f"{_setting(each)} on {source}" for source, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _author(recipe: Recipe, reader: str, source: str) -> str:
    if source == GOLD:
        return "nobody: the gold answers"
    if source == TEACHER:
        return f"the teacher ({open_teacher(recipe).describe().name})"
    if source == SELF:
        return f"{reader} itself"
    return f"{source} ({describe_model(initial_model(recipe, source))})"

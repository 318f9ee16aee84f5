"""Pages that mkdocs generates: the reference of recipes, from their schema; that of the command line, from its commands; and the table of
memory, by the estimates of `mentorkd plan`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML

Schema = Mapping[str, Any]

RECIPE_PAGE, COMMANDS_PAGE, MEMORY_PAGE = "recipe-reference.md", "commands.md", "memory.md"
_EXAMPLES = Path(__file__).with_name("recipe_examples.yaml")
_SINCE = "0.1.0"
_SECTIONS = {
    "Recipe": "The whole recipe",
    "DataConfig": "`data`",
    "TaskConfig": "`task`",
    "RecordedTeacherConfig": "`teacher` of recorded rationales",
    "OpenAITeacherConfig": "`teacher` with `kind: openai`",
    "LocalTeacherConfig": "`teacher` with `kind: local`",
    "UntilCorrectConfig": "`teacher.until_correct`",
    "BudgetConfig": "`teacher.budget`",
    "PriceConfig": "`teacher.price`",
    "Learner": "`learners.NAME`",
    "ModelConfig": "`learners.NAME.model`",
    "LoraConfig": "`learners.NAME.model.lora`",
    "OwnTextsConfig": "`learners.NAME.own_texts`",
    "SelectConfig": "`select` and `reads.SOURCE`",
    "PerplexityConfig": "`select.perplexity`",
    "TrainingConfig": "`training`",
    "SamplingConfig": "`sampling`",
    "SearchConfig": "`search`",
    "ResourcesConfig": "`resources.KIND`",
    "Variant": "`variants.NAME`",
}
"""Titles, in the order of the page."""
_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}


def on_files(files: Any, config: Any) -> Any:
    """mkdocs's hook: add the pages."""
    from mkdocs.structure.files import File

    pages = ((RECIPE_PAGE, recipe_page), (COMMANDS_PAGE, commands_page), (MEMORY_PAGE, memory_page))
    for name, page in pages:
        files.append(File.generated(config, name, content=page()))
    return files


def recipe_page() -> str:
    """Every key of a recipe, in a table for each section."""
    from mentorkd.recipe.load import recipe_schema

    schema, examples = recipe_schema(), read_examples()
    sections = {"Recipe": schema, **schema["$defs"]}
    lines = [
        "# Recipe reference",
        "",
        "Every key of a recipe, from the schema that `mentorkd schema` prints. A key without a default has to be given.",
        "",
    ]
    for section in _SECTIONS:
        lines += [f"## {_SECTIONS[section]}", "", _flat(sections[section]["description"]), ""]
        lines += ["| key | type | default | meaning | example | since |", "| --- | --- | --- | --- | --- | --- |"]
        required = sections[section].get("required", ())
        for key, field in sections[section]["properties"].items():
            default = "" if key in required else _default(section, key)
            example = _example(examples, section, key, field)
            cells = (f"`{key}`", _type(field), default, field.get("description", ""), example)
            lines.append(f"| {' | '.join(map(_cell, cells))} | {field.get('since', _SINCE)} |")
        lines.append("")
    return "\n".join(lines)


def models() -> dict[str, type[BaseModel]]:
    """The classes of the sections."""
    from mentorkd.recipe import learner, schema, teacher

    places = [vars(module) for module in (schema, learner, teacher)]
    return {name: next(place[name] for place in places if name in place) for name in _SECTIONS}


def _default(section: str, key: str) -> str:
    value = models()[section].model_fields[key].get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "that of a task of the paper"
    return "that of its keys" if isinstance(value, BaseModel) else f"`{_yaml(value)}`"


def read_examples() -> dict[str, dict[str, Any]]:
    examples: dict[str, dict[str, Any]] = YAML(typ="safe").load(_EXAMPLES.read_text(encoding="utf-8"))
    return examples


def example_of(examples: Mapping[str, Mapping[str, Any]], section: str, key: str, field: Schema) -> Any:
    """The example of a key, else a value other than its default, else its default. KeyError if it has none."""
    if key in examples.get(section, {}):
        return examples[section][key]
    others = [value for value in field.get("enum", ()) if value != field.get("default")]
    if others:
        return others[0]
    if isinstance(field.get("default"), bool):
        return not field["default"]
    if field.get("default") in (None, {}, []):
        raise KeyError(f"{section}.{key} has no example; add one to {_EXAMPLES.name}")
    return field["default"]


def _example(examples: Mapping[str, Mapping[str, Any]], section: str, key: str, field: Schema) -> str:
    value = example_of(examples, section, key, field)
    return "" if isinstance(value, dict) and key not in examples.get(section, {}) else f"`{key}: {_yaml(value)}`"


def _yaml(value: Any) -> str:
    """A value in YAML's flow style, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return value if isinstance(value, str) and value.replace("_", "").replace("-", "").isalnum() else json.dumps(value)


def _type(field: Schema) -> str:
    """The type of a field in words."""
    if reference := field.get("$ref"):
        return _link(reference)
    if choices := field.get("oneOf") or field.get("anyOf"):
        return " or ".join(dict.fromkeys(map(_type, choices)))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{_yaml(value)}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if field.get("type") == "object":
        values = field.get("additionalProperties") or next(iter(field.get("patternProperties", {}).values()), True)
        return f"mapping to {_type(values)}" if isinstance(values, dict) else "mapping"
    name = _TYPES.get(field.get("type", ""), "any value")
    bounds = [
        f"{words} {field[key]:g}"
        for key, words in (
            ("minimum", "at least"), ("exclusiveMinimum", "over"), ("maximum", "at most"), ("exclusiveMaximum", "under")
        )
        if key in field
    ]  # fmt: skip
    return " ".join([name, " and ".join(bounds)]).strip()


def _link(reference: str) -> str:
    section = reference.rpartition("/")[2]
    title = _SECTIONS[section]
    anchor = "".join(sign for sign in title.lower() if sign.isalnum() or sign in " _-").replace(" ", "-")
    return f"[{title}](#{anchor})"


def commands_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from mentorkd.cli.app import app

    lines = ["# Commands", "", "What `mentorkd COMMAND --help` says, of all commands.", ""]
    for name, command in _commands(typer.main.get_command(app)):
        lines += [f"## mentorkd {name}", "", _flat(command.help or ""), ""]
        lines += ["| argument or option | meaning | default |", "| --- | --- | --- |"]
        for parameter in command.params:
            if parameter.name == "help" or getattr(parameter, "hidden", False):
                continue
            names = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
            if parameter.param_type_name == "argument":
                names = f"`{parameter.metavar or parameter.name.upper()}`"
            default = parameter.default
            shown = "" if default in (None, False, (), []) or callable(default) else f"`{default}`"
            cells = (names, getattr(parameter, "help", "") or "", "required" if parameter.required else shown)
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        lines.append("")
    return "\n".join(lines)


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of a group and of the groups in it, by name."""
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield f"{prefix}{name}", command
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


_MODELS = (
    "google/flan-t5-small", "google/flan-t5-base", "google/flan-t5-large", "google/flan-t5-xl", "google/flan-t5-xxl",
    "gpt2", "gpt2-medium", "gpt2-large", "HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-360M",
    "HuggingFaceTB/SmolLM2-1.7B", "Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B",
    "Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.1-8B",
)  # fmt: skip
_TRAININGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all weights": ({}, {}),
    "all, checkpointing": ({}, {"gradient_checkpointing": True}),
    "LoRA": ({"lora": {}}, {}),
    "LoRA, checkpointing": ({"lora": {}}, {"gradient_checkpointing": True}),
    "LoRA in 4 bits, checkpointing": ({"lora": {"bits": 4}}, {"gradient_checkpointing": True}),
}
"""Columns of the table of memory: settings of the model and of the training."""
_GPUS = (8, 12, 16, 24, 40, 48, 80, 141)
_ROWS, _SOURCE, _TARGET = 8, 512, 256
_SAMPLED = 32


def memory_page() -> str:
    """What each known model takes on a GPU."""
    lines = [
        "# GPU and memory",
        "",
        "What `mentorkd plan` estimates for a GPU, in GB (10^9 bytes), and the smallest common GPU that has it. The estimates rest on the "
        "models' published configs and are **untested on a GPU**; [plan-estimates](results/plan-estimates.md) compares them with measured "
        "peaks on a CPU.",
        "",
        f"Training: bfloat16 autocast, {_ROWS} rows of {_SOURCE} + {_TARGET} tokens at once, no mentor in memory; the longest rows decide. "
        f"Generation: {_SAMPLED} texts of {_TARGET} tokens together. For your own recipe: `mentorkd plan RECIPE --gpu-memory 24`.",
        "",
        f"| model | weights | {' | '.join(_TRAININGS)} | generation |",
        f"| --- | --- |{' --- |' * (len(_TRAININGS) + 1)}",
    ]
    for name in _MODELS:
        weights, cells = memory_row(name)
        fits = [_cell_of(value) for value in cells]
        lines.append(f"| `{name}` | {weights} | {' | '.join(fits)} |")
    lines += [
        "",
        "Where a model does not fit: a smaller `training.batch_size` with `gradient_accumulation`, `gradient_checkpointing: true`, "
        "`model.lora`, or `sharding: fsdp` on [several GPUs](many-gpus.md). The parts of each estimate: weights in float32 (bfloat16 for "
        "LoRA), their gradients and AdamW's two moments in float32, activations for the backward pass with autocast's copies of the "
        "weights, one chunk of logits with the gradient of the head, and 1 GB for CUDA.",
        "",
    ]
    return "\n".join(lines)


def memory_row(name: str) -> tuple[str, list[float]]:
    """The weights of a model in words, and the bytes of each training and of the generation."""
    from mentorkd.pipeline.estimates.lengths import Lengths
    from mentorkd.pipeline.estimates.memory import generation_memory, training_memory
    from mentorkd.recipe.learner import ModelConfig, TrainingConfig
    from mentorkd.recipe.sizes import in_words, size_of

    lengths = Lengths(_SOURCE, _TARGET, _SOURCE, _TARGET, _SOURCE, _TARGET, None, 1)
    size = size_of(ModelConfig(name=name))
    assert size is not None, f"{name} is none of the known models"
    cells = []
    for model, training in _TRAININGS.values():
        settings = TrainingConfig(batch_size=_ROWS, **training)
        config = ModelConfig(name=name, **model)
        cells.append(training_memory(name, size, config, settings, lengths, "gpu").total)
    cells.append(generation_memory(name, size, ModelConfig(name=name), _SAMPLED, _SOURCE, _TARGET, "gpu").total)
    return in_words(size.parameters), cells


def _cell_of(value: float) -> str:
    gpu = next((gpu for gpu in _GPUS if value <= gpu * 1e9), None)
    return f"{value / 1e9:.{1 if value < 1e10 else 0}f} ({f'{gpu} GB' if gpu else 'several GPUs'})"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _flat(text).replace("|", "\\|")

"""The model card that is saved beside a learner's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mentorkd.recipe import TEACHER, LocalSource, ModelConfig, OpenAISource, Recipe, RecordedTeacher

__all__ = ["describe_model", "describe_teacher", "model_card"]


_WIDTHS = ("d_model", "hidden_size", "n_embd")
_DEPTHS = ("num_layers", "num_hidden_layers", "n_layer")


def describe_model(config: ModelConfig) -> str:
    """A few words that name a model: its hub name or its folder's, or its type and size."""
    if config.name is not None:
        text = Path(config.name).name if config.name.startswith("/") else config.name
    else:
        settings = config.from_config or {}
        sizes = [str(settings[key]) for keys in (_DEPTHS, _WIDTHS) for key in keys if key in settings]
        text = (
            f"{settings['model_type']} {'x'.join(sizes)} from scratch"
            if sizes
            else f"{settings['model_type']} from scratch"
        )
    return f"{text}, LoRA r={config.lora.r}" if config.lora else text


def describe_teacher(teacher: RecordedTeacher | OpenAISource | LocalSource) -> str:
    """A few words that name a teacher: `recorded`, or its model and where that runs."""
    if isinstance(teacher, RecordedTeacher):
        return "recorded"
    model = describe_model(ModelConfig(name=teacher.model))
    return f"{model} at {teacher.base_url}" if isinstance(teacher, OpenAISource) else f"{model}, run here"


def model_card(recipe: Recipe, name: str, seed: int, record: Mapping[str, Any]) -> str:
    """Markdown with the front matter of a Hugging Face model card: task, lineage, data counts, scores, how to use it.

    Args:
        record: what the train stage records: `filters`, `encoding`, `updates`, `validation_accuracy`, ...
    """
    learner = recipe.learners[name]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["mentorkd", "knowledge-distillation", "chain-of-thought"],
    }
    # Only hub names are names on the hub; a local folder would be a dead link.
    if learner.model.name and not learner.model.name.startswith("/"):
        front["base_model"] = learner.model.name
    role = "student of " + learner.soft_labels if learner.soft_labels else "learner of rationales"
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        f"# {recipe.name}: {name} (seed {seed})",
        "",
        f"A {role} on the task `{recipe.task.name}`, made by [mentorkd](https://arxiv.org/abs/2410.09037).",
        "",
        "## Lineage",
        "",
        f"- weights before training: {describe_model(learner.model)}",
        f"- rationales by: {', '.join(_author(recipe, source) for source in learner.rationales)}",
    ]
    if learner.soft_labels:
        weight = f"weight {learner.kd_weight:g}, temperature {learner.temperature:g}, {learner.divergence}"
        lines.append(f"- soft labels of: {_author(recipe, learner.soft_labels)} ({weight})")
    encoding = record["encoding"]
    lines += [
        "",
        "## Training",
        "",
        f"- rows: {encoding['kept']} of {encoding['rows']} selected rationales ({encoding['rows'] - encoding['kept']} too long)",
        f"- updates: {record['updates']} ({learner.training.epochs} epochs), weights of update {record['best_step']}",
        f"- learning rate {learner.training.learning_rate:g} ({learner.training.schedule}), {record['precision']}, seed {seed}",
    ]
    if record.get("validation_accuracy") is not None:
        where = (
            "TEST set (the paper's protocol; not an unseen score)"
            if learner.training.select_on == "test"
            else "validation set"
        )
        lines.append(f"- accuracy on the {where}: {100 * record['validation_accuracy']:.1f} %")
    lines += [
        "",
        "| source | filter | before | after |",
        "|---|---|---:|---:|",
        *(f"| {row['source']} | {row['filter']} | {row['before']} | {row['after']} |" for row in record["filters"]),
        "",
        "## Use",
        "",
        "Test accuracy and its interval are in the run's report. Prompt template: "
        + repr(learner.prompt)
        + "; the answer follows "
        + ("`-->`." if learner.target == "arrow" else "`Therefore, the answer is`."),
        "",
    ]
    return "\n".join(lines)


def _author(recipe: Recipe, source: str) -> str:
    if source == TEACHER:
        return f"the teacher ({describe_teacher(recipe.teacher)})"
    return f"{source} ({describe_model(recipe.learners[source].model)})"

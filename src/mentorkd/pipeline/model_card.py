"""The model card that is saved beside a learner's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mentorkd.data.prompts import CAUSAL_SEPARATOR
from mentorkd.pipeline.records import TrainRecord
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.recipe.objectives import OBJECTIVES
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import dump_yaml
from mentorkd.records import GOLD, TEACHER
from mentorkd.teachers.annotate import open_teacher

_WIDTHS = ("d_model", "hidden_size", "n_embd")
_DEPTHS = ("num_layers", "num_hidden_layers", "n_layer")


def describe_model(config: ModelConfig) -> str:
    """A short name of a model: its hub name, its folder's name, or its type and size."""
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


def model_card(recipe: Recipe, name: str, learner: Learner, seed: int, record: TrainRecord) -> str:
    """Markdown with the front matter of a Hugging Face model card: task, lineage, data counts, scores, use.

    Args:
        learner: the recipe's learner of that name, with the values of its trial if it is searched.
    """
    front: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["mentorkd", "knowledge-distillation", "chain-of-thought"],
    }
    # On the hub, the name of a local folder would be a dead link.
    if learner.model.name and not learner.model.name.startswith("/"):
        front["base_model"] = learner.model.name
    role = "learner of answers" if learner.rationales == [GOLD] else "learner of rationales"
    if learner.mentor_weights:
        role = f"student of {' and '.join(learner.mentor_weights)}"
    lines = [
        "---",
        dump_yaml(front).strip(),
        "---",
        "",
        f"# {recipe.name}: {name} (seed {seed})",
        "",
        f"A {role} on the task `{recipe.task.name}`, made by mentorkd after the "
        "[paper on Mentor-KD](https://arxiv.org/abs/2410.09037).",
        "",
        "## Lineage",
        "",
        f"- weights before training: {describe_model(learner.model)}",
        f"- rationales by: {', '.join(_author(recipe, source) for source in learner.rationales)}",
    ]
    if learner.mentor_weights:
        weight = f"weight {learner.kd_weight:g}, temperature {learner.temperature:g}, {learner.divergence}"
        lines.append(
            f"- soft labels of: {', '.join(_author(recipe, mentor) for mentor in learner.mentor_weights)} ({weight})"
        )
    if learner.objective != "rationale":
        lines.append(f"- objective: {learner.objective}, weight {learner.alpha:g}")
    many = OBJECTIVES[learner.objective].rows_per_rationale
    each = f" ({many} rows each, bare answers one)" if many > 1 else ""
    lines += [
        "",
        "## Training",
        "",
        f"- rows: {record.encoding.kept} of {record.encoding.rows} of the selected rationales{each}, the others too long",
        f"- updates: {record.updates} ({learner.training.epochs} epochs), weights of update {record.best_step}",
        f"- learning rate {learner.training.learning_rate:g} ({learner.training.schedule}), {record.precision}, seed {seed}",
    ]
    if record.validation_accuracy is not None:
        where = (
            "TEST set (the paper's protocol; not an unseen score)"
            if learner.training.select_on == "test"
            else "validation set"
        )
        lines.append(f"- accuracy on the {where}: {100 * record.validation_accuracy:.1f} %")
    lines += [
        "",
        "| source | filter | before | after |",
        "|---|---|---:|---:|",
        *(f"| {row.source} | {row.filter} | {row.before} | {row.after} |" for row in record.filters),
        "",
        "## Use",
        "",
        f"```python\n{_snippet(learner)}\n```",
        "",
        _form(learner),
        "",
        "## Test accuracy",
        "",
        "Not known when this card was written. The run's report has it, with its interval: `report/index.html` in the run "
        "folder, which is `../../../../report/index.html` as long as the model stays in the run folder.",
        "",
    ]
    return "\n".join(lines)


def _form(learner: Learner) -> str:
    if learner.rationales == [GOLD]:
        return "It writes the answer alone."
    marker = "-->" if learner.target == "arrow" else "Therefore, the answer is"
    return f"It reasons first; the answer follows `{marker}`."


def _snippet(learner: Learner) -> str:
    """Python that asks the model of the current folder as evaluation does: greedily, with the evaluation's prompt."""
    from mentorkd.models import kind_of

    seq2seq = kind_of(learner.model) == "seq2seq"
    auto = "AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM"
    lines = [
        f"from transformers import {auto}, AutoTokenizer",
        "",
        'folder = "."  # of this card, or the name on the hub',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = {auto}.from_pretrained(folder)",
        'question = "..."',
        f'prompt = {learner.eval_prompt!r}.replace("{{question}}", question)',
    ]
    if seq2seq:
        lines.append('inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)')
    else:
        lines += [
            "chat = bool(tokenizer.chat_template)",
            "if chat:",
            '    turns = [{"role": "user", "content": prompt}]',
            "    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)",
            "else:",
            f"    prompt += {CAUSAL_SEPARATOR!r}",
            'inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=not chat, return_token_type_ids=False)',
        ]
    written = "[0]" if seq2seq else '[0, inputs["input_ids"].shape[1]:]'
    lines += [
        f"tokens = model.generate(**inputs, do_sample=False, max_new_tokens={learner.sampling.max_new_tokens})",
        f"print(tokenizer.decode(tokens{written}, skip_special_tokens=True))",
    ]
    return "\n".join(lines)


def _author(recipe: Recipe, source: str) -> str:
    if source == GOLD:
        return "nobody: the gold answers"
    if source == TEACHER:
        return f"the teacher ({open_teacher(recipe).describe().name})"
    return f"{source} ({describe_model(recipe.learners[source].model)})"

"""A first recipe for a model that the user names: its settings fit that model, each with the reason in a comment."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from mentorkd.errors import ModelError
from mentorkd.hub import GGUF, model_folder, on_hub
from mentorkd.hub.chat import stored_templates
from mentorkd.quickstart.task import MODELS
from mentorkd.recipe.advice import BYTES_A_WEIGHT, Advice, advice_for, mentor_for
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.sizes import ModelSize, in_words, size_of
from mentorkd.recipe.vocabularies import kind_of_files
from mentorkd.records import ModelKind


@dataclass(frozen=True)
class Starter:
    """The text of a recipe, and what was taken for granted about its model."""

    text: str
    assumed: str


@dataclass(frozen=True)
class _Model:
    """What is known of a model without its weights."""

    name: str
    """As the recipe names it."""
    size: ModelSize | None
    weights: float | None
    kind: ModelKind
    chat: bool
    thinks: bool
    """Whether its chat template has a switch for thinking."""
    basis: str

    @property
    def advice(self) -> Advice:
        return advice_for(self.weights, self.kind, self.size.positions if self.size else None)

    @property
    def words(self) -> str:
        form = "an encoder-decoder model" if self.kind == "seq2seq" else "a decoder-only model"
        return f"{form} of {in_words(self.weights)} weights" if self.weights else f"{form} of unknown size"


def starter_recipe(name: str, model: str) -> Starter:
    """The recipe of a run `name` for a student `model`: a hub name, a local folder or a GGUF file. Asks no server.

    Raises ModelError for a path at which there is nothing.
    """
    student = _look_at(model)
    larger = mentor_for(model)
    mentor = student if larger is None else _look_at(larger)
    quoted = json.dumps(name, ensure_ascii=False)  # a folder may be called 2024 or no
    return Starter(_recipe(quoted, student, mentor), f"{student.name}: {student.words}, by {student.basis}")


def _look_at(model: str) -> _Model:
    name = model
    if "/" not in model and (MODELS / model).is_dir():
        files = str(MODELS / model)
    elif on_hub(model) and model.count("/") < 2 and not model.endswith(GGUF):
        files = model
    else:
        files = name = os.path.abspath(os.path.expanduser(model))
        if not os.path.exists(files):
            raise ModelError(f"no file or folder at {files}; give a hub name, a folder or a GGUF file")
    config = ModelConfig(name=files)
    size, kind = size_of(config), kind_of_files(config)
    weights = None if size is None else float(size.parameters)
    bases = [] if size is None else [size.basis]
    if weights is None and (given := re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", files.lower())):
        weights = float(given[1]) * (1e9 if given[2] == "b" else 1e6)
        bases.append("the number in its name")
    if kind is None:
        kind = size.kind if size is not None else "seq2seq" if "t5" in files.lower() else "causal"
        bases += [] if size is not None else ["the family that its name suggests"]
    folder = None if files.endswith(GGUF) else model_folder(files, None)
    templates = [] if folder is None else list(stored_templates(folder))
    ending = Path(files).name.lower()
    qwen3 = ending.startswith("qwen3-") and not ending.endswith("-base")
    chat = bool(templates) or (folder is None and (qwen3 or re.search(r"-(instruct|chat|it)\b", ending) is not None))
    thinks = any("enable_thinking" in text for text in templates) if folder else qwen3
    return _Model(name, size, weights, kind, chat and kind == "causal", thinks, " and ".join(bases) or "its files")


def _model_line(model: _Model) -> str:
    """The value of `model:`."""
    name = json.dumps(model.name, ensure_ascii=False) if not re.fullmatch(r"[\w./-]+", model.name) else model.name
    parts = [f"name: {name}"]
    if model.advice.lora:
        parts.append("lora: {r: 64, alpha: 32}")
    if model.thinks:
        parts.append("chat_template_kwargs: {enable_thinking: false}")
    return name if len(parts) == 1 else f"{{{', '.join(parts)}}}"


def _reasons_for_model(model: _Model) -> list[str]:
    """What to know of a model, a comment each."""
    reasons = [model.words]
    if model.advice.lora:
        bytes_ = BYTES_A_WEIGHT * (model.weights or 0) / 1e9
        reasons.append(
            f"adapters alone are trained: all weights would take {bytes_:.0f} GB ({BYTES_A_WEIGHT} bytes each)"
        )
    if model.chat:
        reasons.append("a chat model: a question is the user's turn of its own chat template")
    if model.thinks:
        reasons.append("without thinking, whose length would not fit `max_target_tokens`")
    return reasons


def _recipe(name: str, student: _Model, mentor: _Model) -> str:
    own, large = student.advice, mentor.advice
    t5 = student.kind == "seq2seq"
    epochs, mentor_epochs = (20, 10) if t5 else (5, 3)
    ours, theirs = _reasons_for_model(student), _reasons_for_model(mentor)
    if mentor is student:
        theirs = [
            "the same model: none is known by its name that is larger and has its vocabulary; name one if there is one"
        ]
    ours_text, theirs_text = ("\n".join(f"    # {reason}" for reason in reasons) for reasons in (ours, theirs))
    checkpointing = ", gradient_checkpointing: true" if large.lora else ""
    mentor_training = (
        f"{{epochs: {mentor_epochs}, learning_rate: {large.rates.usual:.1e}, batch_size: {large.batch_size}, "
        f"gradient_accumulation: {large.gradient_accumulation}{checkpointing}}}"
    )
    rows = [
        (
            "epochs",
            epochs,
            "the paper's number" if t5 else "a decoder-only model learns the form of rationales in few passes",
        ),
        ("batch_size", own.batch_size, "rows in memory at once, for a model of this size"),
        (
            "gradient_accumulation",
            own.gradient_accumulation,
            f"{own.batch_size * own.gradient_accumulation} rows an update; the gradient is that of one batch",
        ),
        (
            "learning_rate",
            f"{own.rates.usual:.1e}",
            f"usual for {own.rates.who}; `search` under a learner tries several",
        ),
        (
            "schedule",
            "constant" if t5 else "linear",
            "the paper's" if t5 else "a falling rate keeps what the model knows",
        ),
        (
            "warmup_ratio",
            "0.0" if t5 else "0.05",
            "none, as in the paper" if t5 else "AdamW's first steps are the roughest",
        ),
        (
            "max_source_tokens",
            own.max_source_tokens,
            "longer questions are dropped and counted, not cut; see `mentorkd plan`",
        ),
        ("max_target_tokens", own.max_target_tokens, _length_reason(student)),
        (
            "precision",
            "auto",
            "bfloat16 where the hardware is fast at it" + ("; T5 overflows in float16" if t5 else ""),
        ),
        *([("gradient_checkpointing", "true", "less memory for more time")] if own.lora else []),
    ]
    training = "\n".join(_line(f"  {key}: {value}", why) for key, value, why in rows)
    sampled = "how many texts are written at once"
    return f"""\
# A recipe for {student.name} and your own data: edit the four lines marked "yours", then `mentorkd plan` and `mentorkd run` this file.
# Files are JSON Lines, JSON, CSV or Parquet, or `hub:NAME`. A tenth of the training questions is held out to choose the best epoch.
# What is assumed of the model: {student.words}, by {student.basis}.
name: {name}

data:
{_line("  root: .", "yours: the folder of the files below")}

task:
  name: {name}
{_line("  train: train.jsonl", "yours: rows of {question, answer}")}
{_line("  test: test.jsonl", "yours: the same columns, unseen questions")}
{_line("  answer: number", "number, choice, yes_no, text or math")}
  # columns: {{question: NAME, answer: NAME, rationale: NAME}}    # if your files, the teacher's too, have other column names

teacher:
  kind: recorded
{_line("  rationales: teacher.jsonl", "yours: rows of {question, answer, rationale}, with completion if known")}

learners:
{_line("  vanilla:", "the student without a mentor: the baseline of Mentor-KD")}
{ours_text}
    model: {_model_line(student)}
{_line("  mentor:", "learns from the teacher, then writes rationales for every training question")}
{theirs_text}
    model: {_model_line(mentor)}
    training: {mentor_training}
{_line("  student:", "Mentor-KD: text of the teacher and the mentor, and the mentor's token distributions")}
    model: {_model_line(student)}
    rationales: [teacher, mentor]
    soft_labels: mentor
{_line("    kd_weight: 0.3", "the paper's lambda")}
{_line("    temperature: 2.0", "the paper's tau, which shows the student the less likely tokens")}

training:
{training}

sampling:
{_line("  samples: 3", "rationales of the mentor per question (the paper: 3)")}
{_line("  temperature: 0.7", "the paper's: different texts for one question, most of them sound")}
{_line(f"  max_new_tokens: {own.max_target_tokens}", "as long as a target of the training")}
{_line(f"  batch_size: {own.sampling_batch_size}", sampled)}

{_line("seeds: [1, 2, 3]", "with three seeds the report speaks of learners, and not of single trainings")}
"""


def _length_reason(model: _Model) -> str:
    positions = None if model.size is None else model.size.positions
    if positions is not None and positions < 1100:
        return f"with the question under the model's {positions:,} positions; longer rationales are dropped and counted"
    return "a rationale of some sentences has under 200 tokens; longer ones are dropped and counted"


def _line(text: str, reason: str) -> str:
    return f"{text:<40}# {reason}"

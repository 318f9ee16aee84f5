"""The learners of a recipe: their models, their sources and mentors, their training and sampling."""

from __future__ import annotations

import json
from datetime import date
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from mentorkd.hub import GGUF
from mentorkd.hub.chat import RESERVED
from mentorkd.recipe.objectives import OBJECTIVES, DivergenceName, ObjectiveName, task_prompt
from mentorkd.records import SELF, TEACHER


class Strict(BaseModel):
    """A part of a recipe. Unknown keys are faults; pydantic's messages do not repeat values, since one may be a pasted API key."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


StageKind = Literal["annotate", "augment", "score", "train", "evaluate", "sample"]
"""Kinds of stages that run models."""


class ResourcesConfig(Strict):
    """What a stage takes of a machine. The number of threads decides the last bits of its results, so it is fixed before the run."""

    cpus: int | None = Field(default=None, ge=1)
    """Processor threads; null takes an equal share of the cores among --jobs, and one on a cluster."""
    gpus: float | None = Field(default=None, ge=0.0)
    """GPUs on a cluster, a whole number or a share of one; null takes one where the cluster has GPUs and `device` allows them, and
    one for each of `training.processes`."""

    @field_validator("gpus")
    @classmethod
    def _several_are_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"got {gpus:g}; expected a share of one GPU, or a whole number of GPUs")
        return gpus


def _iso_date(value: Any) -> Any:
    """A date as text; YAML reads an unquoted 2024-07-26 as a date."""
    value = value.isoformat() if isinstance(value, date) else value
    if value is not None:
        try:
            value = date.fromisoformat(value).isoformat()
        except (TypeError, ValueError):
            raise ValueError("expected a date as YYYY-MM-DD, such as 2024-07-26") from None
    return value


def _free_names(variables: dict[str, Any]) -> dict[str, Any]:
    for name in variables:
        if not name.isidentifier() or name in RESERVED:
            raise ValueError(f"`{name}` cannot be a variable of a chat template; give names that the template reads")
    try:
        json.dumps(variables, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("expected text, numbers, true, false, null, lists and mappings; put dates in quotes") from None
    return variables


ChatDate = Annotated[str | None, BeforeValidator(_iso_date)]
"""A fixed date for chat templates."""
ChatVariables = Annotated[dict[str, Any], AfterValidator(_free_names)]
"""Values for the variables of a chat template."""


def _layers_to_keep(value: Any) -> Any:
    if value is None:
        return None
    stacks = ("encoder", "decoder")
    lists = value if isinstance(value, dict) and value and value.keys() <= {*stacks} else {"": value}
    for kept in lists.values():
        whole = isinstance(kept, list) and bool(kept) and all(type(index) is int and index >= 0 for index in kept)
        if not whole or any(low >= high for low, high in pairwise(kept)):
            expected = "layers from 0 in rising order, each once, e.g. [0, 3, 6] or {encoder: [0, 2], decoder: [0, 2]}"
            raise ValueError(f"got {kept}; expected {expected}")
    return value


Layers = list[int] | dict[Literal["encoder", "decoder"], list[int]]
"""Layers of a model, by their number from 0: of every stack, or of each stack its own."""


class PerplexityConfig(Strict):
    """The filter of rationales by their perplexity under a model."""

    model: str = Field(min_length=1)
    """The model: a learner of the recipe, which is trained before the learners that use this filter, or a hub name or folder."""
    drop: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of a source's rationales to drop: the ones with the highest negative log-likelihood per token."""


class SelectConfig(Strict):
    """The filters of a source's rationales: which of them enter training."""

    correct: bool = True
    """Keep only rationales whose own answer equals the gold answer (the paper's filter). If false, wrong rationales are
    trained with the gold answer after them, as in the reference code."""
    deduplicate: bool = True
    """Drop repeated rationales of a question; differences in whitespace do not count."""
    questions: str | None = Field(default=None, min_length=1)
    """Keep only the rationales of questions of which another source has a rationale: the teacher, `gold` or a learner. Those of that
    source count that pass its own filters, `perplexity` and `questions` aside. `reads: {mentor: {questions: teacher}}` separates
    rewording from coverage. Null keeps the rationales of all questions."""
    min_tokens: int = Field(default=0, ge=0)
    """Shortest rationale to keep, in tokens of the learner that reads it. The answer and the end token do not count."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest rationale to keep, in the same tokens; null sets no limit."""
    answer_in_rationale: bool = False
    """Drop rationales whose reasoning, without the answer at its end, gives another answer. The check is coarse for numbers."""
    arithmetic: bool = False
    """Drop rationales with a false equation. Equations that cannot be parsed are ignored."""
    perplexity: PerplexityConfig | None = None
    """Drop the rationales with the highest perplexity under a given model; null drops none."""
    diverse: int | None = Field(default=None, ge=1)
    """Keep at most this number of rationales per question, those that differ most in their words; null keeps all."""
    max_per_question: int | None = Field(default=None, ge=1)
    """Keep at most this number of rationales per question, in sample order; null keeps all."""
    question_ratio: float = Field(default=1.0, gt=0.0, le=1.0)
    """Keep the rationales of this share of the questions (the paper's low-resource setting, Figure 5)."""
    weight: Literal["equal", "frontier"] = "equal"
    """Weight of a question's rationales in the loss. `frontier` is p (1 - p), at least 0.05, where p is the share of correct texts
    among the reader's own texts of the round (PACED, arXiv 2603.11178); the mean weight is 1. It needs the reader's `own_texts`."""

    def of_each(self) -> SelectConfig:
        """The filters whose result depends on one source only.

        The result of the others also depends on the reader's other sources, since a text that two sources share is kept once.
        """
        alone = {"questions": None, "perplexity": None, "diverse": None, "max_per_question": None, "weight": "equal"}
        return self.model_copy(update=alone)

    @model_validator(mode="after")
    def _some_length_fits(self) -> SelectConfig:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            lengths = f"`min_tokens: {self.min_tokens}` is above `max_tokens: {self.max_tokens}`"
            raise ValueError(f"{lengths}; lower one or raise the other")
        return self


class LoraConfig(Strict):
    """Low-rank adapters (peft), merged into the weights when the model is saved."""

    bits: Literal[4] | None = None
    """Keep the frozen weights of the linear layers in 4 bits during the training (NF4, by the extra `bitsandbytes`),
    which takes a quarter of the memory of bfloat16. The saved model has these rounded weights, with the adapters merged, in the
    model's `dtype`. Null keeps them as they are."""
    r: int = Field(default=64, ge=1)
    """Rank of the update."""
    alpha: int = Field(default=32, ge=1)
    """Scale: the update is multiplied by alpha / r."""
    dropout: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Dropout probability of the adapter's input."""
    target_modules: list[str] | None = None
    """Names of the linear layers with adapters; null uses peft's default for the architecture (q and v for T5). Layers that share
    their weights, as a tied `lm_head` and `embed_tokens` do, cannot have adapters."""


_OF_A_SOURCE = ("tokenizer", "revision", "layers", "chat_date", "chat_template_kwargs", "trust_remote_code")
"""Settings of a model that a learner has from the learner whose weights it starts from."""


class ModelConfig(Strict):
    """A Hugging Face model: a pretrained one by name or folder, or one with random weights from a config."""

    name: str | None = None
    """Hub name or local folder of a pretrained model, or a GGUF file (llama, qwen2, qwen3, gpt2), whose weights are dequantised.
    `nano-t5-small` and `nano-t5-large` are tiny models of this package."""
    gguf_file: str | None = None
    """A GGUF file in the local folder `name`, in place of the folder's other weights: {name: FOLDER, gguf_file: FILE} is
    {name: FOLDER/FILE}."""
    learner: str | None = None
    """Another learner of the recipe, whose trained weights are the initial ones."""
    from_config: dict[str, Any] | None = None
    """Arguments of the model's config, with `model_type`, for random weights. Sizes that are left out are the type's defaults."""
    tokenizer: str | None = None
    """Hub name or folder of a tokenizer, a nano model's name, a SentencePiece `.model` file, or a GGUF file; null uses the model's
    own."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null uses the default branch."""
    layers: Annotated[Layers | None, BeforeValidator(_layers_to_keep)] = None
    """Cut the model to these layers before training, e.g. [0, 3, 6]; they are counted from 0. A list is for every stack of layers, and
    {encoder: [...], decoder: [...]} for each its own, where a stack that is not named is kept whole. Null keeps all layers."""
    lora: LoraConfig | None = None
    """Train low-rank adapters; null trains all weights."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights in memory; auto is float32 for full training, and bfloat16 for LoRA if the hardware supports it."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = None
    """How training computes attention; null leaves it to transformers. `flash_attention_2` (package flash-attn, 16-bit precision)
    and `flex_attention` need a GPU, and skip what packed rows do not attend to (`training.split: packed`)."""
    trust_remote_code: bool = False
    """Run the Python code in the model's repository. Read that code before you set this to true."""
    chat_date: ChatDate = None
    """The date (YYYY-MM-DD) for a chat template that asks for today's; with today's, prompts would change at midnight. Null takes
    2024-07-26, or the date that a model trained by mentorkd already has in its template."""
    chat_template_kwargs: ChatVariables = Field(default_factory=dict)
    """Variables of the chat template, e.g. {enable_thinking: false}. They are saved with the model, as defaults of its template."""

    @model_validator(mode="before")
    @classmethod
    def _join_gguf_file(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(file := values.get("gguf_file"), str):
            return values
        name = values.get("name")
        if not isinstance(name, str) or name.endswith(GGUF):
            raise ValueError("`gguf_file` is a file in a folder; give the folder as `name`")
        if not file.endswith(GGUF):
            raise ValueError(f"got `gguf_file: {file}`; expected the name of a file that ends in {GGUF}")
        return {**values, "name": f"{name}/{file}", "gguf_file": None}

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if sum(source is not None for source in (self.name, self.learner, self.from_config)) != 1:
            ways = "`name` (a pretrained model), `learner` (a learner's weights) and `from_config` (random weights)"
            raise ValueError(f"give exactly one of {ways}")
        if self.learner is not None and (own := [key for key in _OF_A_SOURCE if getattr(self, key)]):
            raise ValueError(f"`{own[0]}` belongs to the model of `{self.learner}`; remove it here")
        if self.from_config is not None:
            if "model_type" not in self.from_config:
                raise ValueError("`from_config` needs `model_type`, e.g. t5, gpt2, llama")
            if self.tokenizer is None:
                raise ValueError("`from_config` needs `tokenizer`: a folder, a hub name or a SentencePiece .model file")
        return self


def _model_shorthand(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


VALIDATION_SHARE = 0.15
"""The most that all validations of a training take with `validate_every: auto`, as a share of its updates' cost."""


def _auto_or_count(value: Any) -> Any:
    """The value of a key that is `auto` or a number; one message for both types."""
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"got {value!r}; expected auto, or a whole number of at least 1")


class TrainingConfig(Strict):
    """Training of a learner. A recipe-level `training:` gives the defaults of all learners."""

    epochs: int = Field(default=20, ge=1)
    """Passes over the training rows, and the number of points at which the model can be saved and validated (see `validate_every`)."""
    updates: int | None = Field(default=None, ge=1)
    """Exact number of optimiser steps, in place of the number that `epochs` gives. Rows are cycled, and `epochs` is then
    the number of equal intervals after which the model is saved and validated. Null uses `epochs`."""
    batch_size: int = Field(default=8, ge=1)
    """Rows in a micro-batch on one device."""
    tokens_per_batch: int | None = Field(default=None, ge=1)
    """Padded tokens (source + target) in a micro-batch, in place of `batch_size` rows; null uses `batch_size`. With `split: packed`
    there is no padding, and rows fill the micro-batches."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Micro-batches in an optimiser step. The loss is weighted by tokens, so the split does not change it."""
    split: Literal["none", "auto", "packed"] = "auto"
    """How the rows of a micro-batch are read: `auto`, in parts of similar length, as many as cost least with their padding; `none`, all
    at once. The parts' gradients add up to that of the whole. `sharding` reads all at once instead of in parts. `packed` (causal models)
    joins the rows in one sequence without padding, with attention inside each row alone; on a CPU that is slower than `auto`."""
    processes: int = Field(default=1, ge=1)
    """Processes that train together, each on a GPU of its own. An optimiser step has `gradient_accumulation` micro-batches in each
    process, so n processes train as one does with n times the accumulation."""
    sharding: Literal["none", "fsdp"] = "none"
    """With several processes, what each of them holds: `none`, the whole model and optimiser; `fsdp`, a share of the weights,
    gradients and optimiser, which takes less memory and more communication (torch's FSDP2). The weights are the same."""
    length_window: int = Field(default=1, ge=1)
    """Updates whose rows are drawn at random together and then sorted by length into micro-batches. With 1, every update is
    a random sample of the rows, and only its micro-batches hold rows of similar length. A larger window needs less padding,
    but updates of similar rows train worse."""
    learning_rate: float = Field(default=3e-4, gt=0.0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning-rate schedule after the warm-up (the paper: constant)."""
    warmup_ratio: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the updates in which the learning rate rises from 0 to its peak."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, ge=0.0)
    """Largest norm of the gradient; a larger gradient is clipped. 0 turns clipping off (the paper)."""
    max_source_tokens: int = Field(default=512, ge=1)
    """Longest prompt in tokens. Rows with a longer prompt are dropped and counted."""
    max_target_tokens: int = Field(default=512, ge=1)
    """Longest target in tokens. Rows with a longer target are dropped and counted, since a truncated row loses its answer."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the forward and backward pass. auto: on NVIDIA GPUs bfloat16 from compute capability 8.0 on and float32 before; on
    other devices bfloat16 if it is measured to be fast."""
    torch_compile: bool = False
    """Compile the model with torch.compile."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, which takes less memory and more time."""
    validate_every: Literal["auto"] | Annotated[int, Field(ge=1)] = 1
    """Epochs from one validation (by generation) to the next; with `updates`, intervals. The model is always validated after the last.
    `auto` takes the fewest with which validations take about 15 % of the training's time at most, by a rule that counts tokens."""
    patience: float | None = Field(default=None, gt=0.0, lt=1.0)
    """End the training at a plateau: when the best validation accuracy is older than this share of the updates so far, and at least
    three validations are no better. The number of updates that it would do otherwise is then its limit. Null never ends it early."""
    cooldown: float = Field(default=0.0, ge=0.0, le=1.0)
    """Length of the cool-down, in which the learning rate falls linearly to 0, as a share of the updates before it. It begins at the
    plateau (`patience`), or so that it ends at the limit. It needs `schedule: constant`."""
    select_on: Literal["validation", "test", "last"] = "validation"
    """Set on which the best epoch is chosen. `test` is the paper's protocol, and the report warns of it; `last` uses the last epoch."""
    report_to: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = Field(default_factory=list)
    """Experiment trackers. Runs are named by learner and seed. TensorBoard's files go to `tensorboard/` in the run folder."""

    @field_validator("validate_every", mode="before")
    @classmethod
    def _rounds_are_counted(cls, value: Any) -> Any:
        return _auto_or_count(value)


EngineName = Literal["auto", "transformers", "ctranslate2", "vllm"]
"""Names of generation engines."""


AUTO_ROWS = 32
"""What `sampling.batch_size: auto` stands for on a CPU, and wherever results must not depend on the machine."""


class SamplingConfig(Strict):
    """Sampling of text from a learner. A recipe-level `sampling:` gives the defaults of all learners."""

    samples: int = Field(default=3, ge=1)
    """Rationales that a mentor writes per question (the paper: 3)."""
    temperature: float = Field(default=0.7, gt=0.0)
    """Softmax temperature of augmentation, and of `test_samples`. Evaluation is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: the smallest set of tokens with this probability mass."""
    top_k: int = Field(default=0, ge=0)
    """Sample from the k most likely tokens; 0 samples from all."""
    test_samples: int = Field(default=0, ge=0)
    """Texts to sample per test question beside the greedy one, for the report's majority vote and pass@k; 0 samples none."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Longest text to generate, in augmentation, validation and evaluation."""
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Sequences that are generated together; auto takes 32, and on CUDA as many as fit in the free memory (at most 1024)."""
    tokens_per_batch: int | None = Field(default=None, ge=1)
    """Padded tokens (prompt + `max_new_tokens`) that are generated together, in place of `batch_size` sequences; null uses `batch_size`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights in augmentation, validation and evaluation. Auto takes bfloat16 on CUDA if the learner is trained in bfloat16,
    else the type of the saved weights."""
    engine: EngineName = "auto"
    """Generation engine; auto uses the fastest installed engine that supports the model."""

    @field_validator("batch_size", mode="before")
    @classmethod
    def _sequences_are_counted(cls, value: Any) -> Any:
        return _auto_or_count(value)

    @property
    def rows(self) -> int:
        """Sequences that are generated together where memory does not decide."""
        return AUTO_ROWS if self.batch_size == "auto" else self.batch_size


Rate = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class SearchConfig(Strict):
    """Values to try for a learner's settings. Each combination is trained and validated, and none is tested. The
    combination with the best validation accuracy becomes the learner (among equals, the first). A recipe-level `search:`
    holds for every arm without its own."""

    learning_rate: list[Rate] | None = Field(default=None, min_length=1)
    """Values of `training.learning_rate`."""
    weight_decay: list[Annotated[float, Field(ge=0.0)]] | None = Field(default=None, min_length=1)
    """Values of `training.weight_decay`."""
    kd_weight: list[Share] | None = Field(default=None, min_length=1)
    """Values of `kd_weight`; for learners with soft labels."""
    temperature: list[Rate] | None = Field(default=None, min_length=1)
    """Values of `temperature`; for learners with soft labels."""
    objective_weight: list[Annotated[float, Field(ge=0.0)]] | None = Field(default=None, min_length=1)
    """Values of `objective_weight`; for learners with `objective: step_by_step` or `mcc`."""
    trials: int | None = Field(default=None, ge=1)
    """Number of combinations to try, drawn at random, and the same for every seed; null tries all."""


BySource = Literal["kd_weight", "temperature", "divergence"]
"""Settings with one value, or one for each source."""


class OwnTextsConfig(Strict):
    """Rounds of training on texts that the learner writes itself.

    A first training reads the learner's other sources. Each round after it samples texts from the model of the round before, and
    trains that model on them and on the other sources. All trainings have an equal share of the learner's updates.
    """

    rounds: int = Field(default=4, ge=1, le=100)
    """Trainings with own texts, after the first one."""
    samples: int = Field(default=2, ge=1)
    """Texts that the learner writes per question and round."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Softmax temperature of the sampling. Soft labels are on the learner's own distribution only at 1, without `top_p` and `top_k`."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: the smallest set of tokens with this probability mass."""
    top_k: int = Field(default=0, ge=0)
    """Sample from the k most likely tokens; 0 samples from all."""


class Learner(Strict):
    """A model that is trained on rationales. If it names a mentor in `soft_labels`, it also imitates the mentor's soft labels.

    A learner with `rationales: []` is not trained. The model is evaluated as it is, in a row of its own.
    """

    model: Annotated[ModelConfig, BeforeValidator(_model_shorthand)]
    """Hub name or folder of the model, or a mapping with more settings."""
    rationales: list[str] = Field(default_factory=lambda: [TEACHER])
    """Sources of its training text: `teacher`, names of other learners, `gold` (the bare answers), and `self` (texts that the
    learner writes itself, see `own_texts`). With an empty list the model is not trained and is evaluated as it is."""
    reads: dict[str, SelectConfig] = Field(default_factory=dict)
    """This learner's own filters by source. A key that is left out has the value of the source's `select`."""
    objective: ObjectiveName = Field(
        default="rationale",
        description="What the learner learns from a rationale, and its loss. "
        + " ".join(f"`{name}` ({spec.label}): {spec.summary}." for name, spec in OBJECTIVES.items()),
    )
    objective_weight: float | None = Field(
        default=None,
        ge=0.0,
        description="alpha in the loss of the objective. Null takes the published value: "
        + ", ".join(f"`{name}` {spec.weight:g}" for name, spec in OBJECTIVES.items() if spec.weight)
        + ".",
    )
    objective_temperature: float = Field(default=1.0, gt=0.0)
    """Softmax temperature of the two distributions that `mcc` compares."""
    soft_labels: str | dict[str, Annotated[float, Field(gt=0.0)]] | None = None
    """The mentor whose token distributions it imitates, or several mentors with their weights, e.g. {large: 2, base: 1}."""
    kd_weight: Share | dict[str, Share] = 0.3
    """The weight w in (1 - w) CE + w KL, the paper's lambda: one number, or one for each source, as {teacher: 0.3, self: 0.9}. A
    source that is left out has 0.3, and `self` has 1, which is no cross-entropy on own texts. It has no effect without
    `soft_labels`."""
    temperature: Rate | dict[str, Rate] = 1.0
    """Softmax temperature tau of both distributions in the divergence, or one for each source (1 for one that is left out)."""
    tau_squared: bool = True
    """Multiply the divergence by tau^2, so that `kd_weight` has the same meaning at every temperature (the paper: false)."""
    divergence: DivergenceName | dict[str, DivergenceName] = "forward_kl"
    """Divergence of the student's distribution from the mentor's, or one for each source (`forward_kl` for one that is left out).
    `hidden_states` compares layers instead: it is the mean squared difference between learned projections of the student's hidden
    states and the mentor's (needs `soft_label_store: online`)."""
    layers: dict[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """For `hidden_states`: layers of the student, each with the layer of the mentor that it is compared with. Layers are
    counted from 1, in the decoder if there is one. Null maps all layers of the student uniformly."""
    soft_label_store: Literal["auto", "hidden", "top_k", "online", "chunks"] = "auto"
    """`hidden` stores the mentor's last hidden states (exact up to rounding to bfloat16). `top_k` stores its k largest
    probabilities. `online` stores nothing and recomputes the mentor's forward pass in every step. `chunks` stores the mentor's
    likelihood of each piece of text after which a token of both models ends, and serves any two tokenizers. `auto` is `hidden`, or
    `chunks` for a mentor with another vocabulary."""
    top_k: int = Field(default=64, ge=1)
    """k of the `top_k` store."""
    chunk_temperature: float | None = Field(default=None, gt=0.0)
    """Temperature tau of the binary KL between chunk likelihoods p^(1/tau) and q^(1/tau); null is its limit for large tau."""
    mentor_reads: Literal["question", "gold"] = "question"
    """What the mentor reads when it scores: the question, or the question with its gold answer."""
    shuffle_soft_labels: bool = False
    """A control: give each target token the mentor's distribution of another, random token of the same source's training texts, so that
    soft labels keep their marginal distribution and tell nothing about the token. It needs stored distributions (`hidden`, `top_k`)."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share e of the uniform distribution over the vocabulary in the target of the cross-entropy: (1 - e) CE + e mean(-log p)."""
    target: Literal["arrow", "therefore"] = "arrow"
    """Target text: `{rationale} --> {answer}` or `{rationale} Therefore, the answer is {answer}.`."""
    prompt: str = "{question}"
    """Prompt template; `{question}` is replaced by the question. A chat model gets the prompt as the user's turn."""
    select: SelectConfig = SelectConfig()
    """Filters of the rationales that this learner writes."""
    training: TrainingConfig = TrainingConfig()
    """Training of this learner. A key that is left out has the value of the recipe's `training`."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling from this learner. A key that is left out has the value of the recipe's `sampling`."""
    resources: dict[StageKind, ResourcesConfig] = Field(default_factory=dict)
    """Threads and GPUs of this learner's stages by kind, where they differ from the recipe's `resources`."""
    search: SearchConfig | None = None
    """Settings to choose by validation. For an arm, null uses the recipe's `search`."""
    own_texts: OwnTextsConfig | None = None
    """Rounds of training on its own texts, for a learner with `self` among its `rationales`. Without soft labels the correct own
    texts are training text (self-training); with soft labels they are imitated, correct or wrong (on-policy distillation)."""
    folds: int = Field(default=1, ge=1)
    """Cross-fitting of a mentor: it is trained this many times, each time without one part of the questions, and each model writes
    and scores for the part that it has not seen. Questions outside the training set are answered and scored by the first model."""

    def kd_weight_of(self, source: str) -> float:
        """w on the texts of a source."""
        if isinstance(self.kd_weight, dict):
            return self.kd_weight.get(source, 1.0 if source == SELF else 0.3)
        return 1.0 if source == SELF else self.kd_weight

    def temperature_of(self, source: str) -> float:
        """tau on the texts of a source."""
        return self.temperature.get(source, 1.0) if isinstance(self.temperature, dict) else self.temperature

    def divergence_of(self, source: str) -> DivergenceName:
        """The divergence on the texts of a source."""
        return self.divergence.get(source, "forward_kl") if isinstance(self.divergence, dict) else self.divergence

    def by_source(self, key: BySource) -> Any:
        """The value of a setting for the texts that the learner reads: one for all, or a mapping where sources differ."""
        of_source = {
            "kd_weight": self.kd_weight_of,
            "temperature": self.temperature_of,
            "divergence": self.divergence_of,
        }
        values = {source: of_source[key](source) for source in self.rationales}
        return values if len(set(values.values())) > 1 else next(iter(values.values()), getattr(self, key))

    @property
    def imitates_own_texts(self) -> bool:
        """Whether its own texts are imitated (on-policy distillation), and not only trained on where they are correct."""
        return SELF in self.rationales and self.soft_labels is not None

    @property
    def mentor_weights(self) -> dict[str, float]:
        """The mentors whose distributions it imitates, with their weights, which sum to 1."""
        weights = {self.soft_labels: 1.0} if isinstance(self.soft_labels, str) else self.soft_labels or {}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    @property
    def eval_prompt(self) -> str:
        """The prompt template for evaluation."""
        return task_prompt(OBJECTIVES[self.objective].answer_task, self.prompt)

    @property
    def alpha(self) -> float:
        """`objective_weight`, or the published value."""
        return OBJECTIVES[self.objective].weight if self.objective_weight is None else self.objective_weight

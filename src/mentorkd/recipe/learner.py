"""The learners of a recipe: their models, whom they learn from, how they are trained and sampled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mentorkd.records import TEACHER

__all__ = [
    "EXPLAIN",
    "PREDICT",
    "Learner",
    "LoraConfig",
    "ModelConfig",
    "ObjectiveName",
    "PerplexityConfig",
    "SamplingConfig",
    "SearchConfig",
    "SelectConfig",
    "Strict",
    "TrainingConfig",
]

PREDICT, EXPLAIN = "predict: ", "explain: "
"""What stands before the prompts of Distilling Step-by-Step: of the answer, of the rationale."""

ObjectiveName = Literal["rationale", "step_by_step", "mcc"]
"""What a learner makes of its rationales: plain text, Distilling Step-by-Step, MCC-KD."""


class Strict(BaseModel):
    """A part of a recipe. Unknown keys are faults; pydantic's messages do not repeat values, since one may be a pasted API key."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), hide_input_in_errors=True
    )


class PerplexityConfig(Strict):
    """The filter of what can hardly be learnt: which model judges, and how much is dropped."""

    model: str = Field(min_length=1)
    """A learner of the recipe, which is trained before those that read by its judgement; or a model's hub name or folder."""
    drop: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of a source's rationales to drop: those with the highest negative log-likelihood a token."""


class SelectConfig(Strict):
    """Which of a source's rationales enter training."""

    correct: bool = True
    """Keep only rationales whose own answer equals the gold one (the paper's filter). Wrong ones that are kept are still
    trained with the gold answer behind them, as in the reference code."""
    deduplicate: bool = True
    """Drop rationales of one question that are equal but for whitespace."""
    min_tokens: int = Field(default=0, ge=0)
    """Shortest rationale to keep, in tokens of the learner that reads it, without the answer and the end token."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest rationale to keep, counted likewise."""
    answer_in_rationale: bool = False
    """Drop rationales whose reasoning, read without the answer at its end, arrives at another answer. Blunt on numbers."""
    steps: bool = False
    """Drop rationales in which an equation is false; equations that cannot be read are left alone."""
    learnable: PerplexityConfig | None = None
    """Drop the rationales that a given model finds the least likely; null drops none."""
    diverse: int | None = Field(default=None, ge=1)
    """Keep at most so many rationales a question, those that differ most in their words."""
    max_per_question: int | None = Field(default=None, ge=1)
    """Keep at most so many rationales a question, in sample order."""
    question_ratio: float = Field(default=1.0, gt=0.0, le=1.0)
    """Keep the rationales of only this share of the questions (the paper's low-resource setting, Figure 5)."""

    def of_each(self) -> SelectConfig:
        """The filters that judge a rationale by itself or its own source. The others choose among rationales, so what they
        leave out depends on the other sources of whoever reads, whose texts are not taken twice.
        """
        return self.model_copy(update={"learnable": None, "diverse": None, "max_per_question": None})

    @model_validator(mode="after")
    def _some_length_fits(self) -> SelectConfig:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(
                f"`min_tokens: {self.min_tokens}` is over `max_tokens: {self.max_tokens}`; nothing would fit"
            )
        return self


class LoraConfig(Strict):
    """Low-rank adapters by peft, merged into the weights on save."""

    r: int = Field(default=64, ge=1)
    """Rank."""
    alpha: int = Field(default=32, ge=1)
    """Scale; the update is multiplied by alpha / r."""
    dropout: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Dropout before the adapter."""
    target_modules: list[str] | None = None
    """Names of the adapted linear layers; null takes peft's default for the architecture (q and v for T5)."""


class ModelConfig(Strict):
    """A Hugging Face model: by name or folder, or built from a config with random weights."""

    name: str | None = None
    """Hub name or local folder of a pretrained model, or `nano-t5-small` for a tiny one of this package."""
    from_config: dict[str, Any] | None = None
    """Arguments of the model's config (with `model_type`) to build it with random weights; sizes not given are the type's own."""
    tokenizer: str | None = None
    """Tokenizer's hub name, folder (or nano model), or SentencePiece `.model` file; null takes the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    lora: LoraConfig | None = None
    """Train low-rank adapters instead of all weights."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights in memory; auto is float32 for full training and bfloat16 for LoRA where the hardware has it."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you have read it."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if (self.name is None) == (self.from_config is None):
            raise ValueError("give exactly one of `name` (a pretrained model) and `from_config` (random weights)")
        if self.from_config is not None:
            if "model_type" not in self.from_config:
                raise ValueError("`from_config` needs `model_type`, e.g. t5, gpt2, llama")
            if self.tokenizer is None:
                raise ValueError("`from_config` needs `tokenizer`: a folder, a hub name or a SentencePiece .model file")
        return self


def _model_shorthand(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class TrainingConfig(Strict):
    """How a learner is trained. A recipe-level `training:` gives the defaults of all learners."""

    epochs: int = Field(default=20, ge=1)
    """Passes over the training rows, and the number of times at which a training stops to save (see `validate_every`)."""
    updates: int | None = Field(default=None, ge=1)
    """Exactly so many optimiser steps instead of what the epochs come to: rows are cycled, and `epochs` is left as the number
    of equal distances at which the model is saved and validated."""
    batch_size: int = Field(default=8, ge=1)
    """Rows in a micro-batch of one device."""
    tokens_per_batch: int | None = Field(default=None, ge=1)
    """Padded tokens (source + target) in a micro-batch, instead of `batch_size` rows."""
    gradient_accumulation: int = Field(default=1, ge=1)
    """Micro-batches in an optimiser step; the loss is weighted by tokens, so the split does not change it."""
    length_window: int = Field(default=1, ge=1)
    """Updates whose rows are drawn at random and then sorted by length into micro-batches. With 1 every update is a random
    sample, and only its micro-batches are alike; more pads less, but updates of like rows train worse."""
    learning_rate: float = Field(default=3e-4, gt=0.0)
    """Peak learning rate of AdamW."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning-rate schedule after the warm-up (the paper: constant)."""
    warmup_ratio: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the updates over which the learning rate rises from 0."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, ge=0.0)
    """Clip the gradient's norm; 0 turns clipping off (the paper)."""
    max_source_tokens: int = Field(default=512, ge=1)
    """Longest prompt; rows over it are dropped and counted."""
    max_target_tokens: int = Field(default=512, ge=1)
    """Longest target; rows over it are dropped and counted, since a cut row loses its answer."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the forward and backward pass; auto takes bfloat16 where the hardware is fast at it."""
    torch_compile: bool = False
    """Compile the model with torch.compile."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    validate_every: int = Field(default=1, ge=1)
    """Validate (by generation) every so many epochs, or of those equal distances, and always after the last."""
    select_on: Literal["validation", "test", "last"] = "validation"
    """Where the best epoch is chosen: `test` is the paper's protocol and is shouted in the report; `last` takes the last epoch."""
    report_to: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = Field(default_factory=list)
    """Experiment trackers; runs are called by learner and seed. TensorBoard's files go to `tensorboard/` in the run folder."""


class SamplingConfig(Strict):
    """How text is sampled from a learner. A recipe-level `sampling:` gives the defaults of all learners."""

    samples: int = Field(default=3, ge=1)
    """Rationales a question that a mentor writes (the paper: 3)."""
    temperature: float = Field(default=0.7, gt=0.0)
    """Softmax temperature of augmentation; evaluation is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: smallest set of tokens with this probability mass."""
    top_k: int = Field(default=0, ge=0)
    """Sample from the k likeliest tokens; 0 samples from all."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Longest text to generate, in augmentation, validation and evaluation."""
    batch_size: int = Field(default=32, ge=1)
    """Sequences generated at once."""
    engine: Literal["auto", "transformers", "ctranslate2", "vllm"] = "auto"
    """What generates; auto takes the fastest one present that serves the model."""


Rate = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class SearchConfig(Strict):
    """Values to try for a learner's settings: each combination is trained and validated, and never tested; the best by
    validation accuracy (of equal ones the first) becomes the learner. At recipe level, for every arm without its own."""

    learning_rate: list[Rate] | None = Field(default=None, min_length=1)
    """Values of `training.learning_rate`."""
    weight_decay: list[Annotated[float, Field(ge=0.0)]] | None = Field(default=None, min_length=1)
    """Values of `training.weight_decay`."""
    kd_weight: list[Share] | None = Field(default=None, min_length=1)
    """Values of `kd_weight`; for learners with soft labels."""
    temperature: list[Rate] | None = Field(default=None, min_length=1)
    """Values of `temperature`; for learners with soft labels."""
    objective_weight: list[Annotated[float, Field(ge=0.0)]] | None = Field(default=None, min_length=1)
    """Values of `objective_weight`; for learners with such an objective."""
    trials: int | None = Field(default=None, ge=1)
    """Try only so many of the combinations, drawn at random, the same for every seed; null tries all."""


class Learner(Strict):
    """A model that is trained on rationales, and imitates soft labels if it names a mentor for them.

    One with `rationales: []` is not trained: it is the model as it is, in a row of its own.
    """

    model: Annotated[ModelConfig, BeforeValidator(_model_shorthand)]
    """Hub name or folder, or a mapping with more."""
    rationales: list[str] = Field(default_factory=lambda: [TEACHER])
    """Whom it learns text from: `teacher`, names of other learners, and `gold`, the bare answers. Empty: nobody; the model is
    evaluated as it is."""
    reads: dict[str, SelectConfig] = Field(default_factory=dict)
    """This learner's own filters, by source; keys not given are those of the source's `select`."""
    objective: ObjectiveName = "rationale"
    """What it learns of its rows: `rationale` writes rationale and answer; `step_by_step` (Distilling Step-by-Step) answers under
    `predict: ` and reasons under `explain: `; `mcc` (MCC-KD) is `rationale`, and answers alike behind two rationales of a
    question."""
    objective_weight: float | None = Field(default=None, ge=0.0)
    """alpha: of `alpha CE(predict) + (1 - alpha) CE(explain)` step by step, of `CE + alpha KL` in mcc. Null takes the published
    0.5 and 0.1."""
    objective_temperature: float = Field(default=1.0, gt=0.0)
    """Softmax temperature of the two distributions that `mcc` compares."""
    soft_labels: str | dict[str, Annotated[float, Field(gt=0.0)]] | None = None
    """The learner whose token distributions it imitates; several with their weights, e.g. {large: 2, base: 1}."""
    kd_weight: float = Field(default=0.3, ge=0.0, le=1.0)
    """w of (1 - w) CE + w KL, the paper's lambda; has no effect without `soft_labels`."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Softmax temperature tau of both distributions in the divergence."""
    tau_squared: bool = True
    """Multiply the divergence by tau^2, so that `kd_weight` means the same at every temperature (the paper: false)."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "mse", "soft_ce", "hidden_states"] = "forward_kl"
    """How far the student's distribution is from the mentor's; `hidden_states` compares layers instead, by the mean squared
    difference between learned projections of its hidden states and the mentor's (needs `soft_label_store: online`)."""
    layers: dict[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Which layer of the mentor each layer of the student is compared with in `hidden_states`, counted from 1 (of the decoder,
    where there is one); null maps all of the student's uniformly."""
    soft_label_store: Literal["hidden", "top_k", "online"] = "hidden"
    """`hidden` stores the mentor's last hidden states (exact up to rounding to bfloat16), `top_k` its k largest
    probabilities, `online` recomputes the mentor's forward pass every step."""
    top_k: int = Field(default=64, ge=1)
    """k of the `top_k` store."""
    target: Literal["arrow", "therefore"] = "arrow"
    """Target text: `{rationale} --> {answer}` or `{rationale} Therefore, the answer is {answer}.`."""
    prompt: str = "{question}"
    """Prompt template; `{question}` is replaced. Chat models get it as the user's turn."""
    select: SelectConfig = SelectConfig()
    """Filter for the rationales that this learner writes."""
    training: TrainingConfig = TrainingConfig()
    """Overrides of the recipe's `training`."""
    sampling: SamplingConfig = SamplingConfig()
    """Overrides of the recipe's `sampling`."""
    search: SearchConfig | None = None
    """Settings to choose by validation; null takes the recipe's `search`, if this is an arm."""

    @property
    def mentor_weights(self) -> dict[str, float]:
        """The learners whose distributions it imitates, with their weights, which sum to 1."""
        named = {self.soft_labels: 1.0} if isinstance(self.soft_labels, str) else self.soft_labels or {}
        return {name: weight / sum(named.values()) for name, weight in named.items()}

    @property
    def eval_prompt(self) -> str:
        """The prompt template under which it answers questions."""
        return PREDICT + self.prompt if self.objective == "step_by_step" else self.prompt

    @property
    def alpha(self) -> float:
        """`objective_weight`, or what was published."""
        published = {"rationale": 0.0, "step_by_step": 0.5, "mcc": 0.1}
        return published[self.objective] if self.objective_weight is None else self.objective_weight

"""The recipe's `teacher:`, a class for each kind: a file of recorded rationales, an endpoint, or a model that runs here."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from mentorkd.recipe.learner import ChatDate, ChatVariables, EngineName, SelectConfig, Strict

_OPENAI_URL = "https://api.openai.com/v1"
_NEW_QUESTION = "\nQ:"
"""A base model continues after its answer with a new question, which begins with this text."""
PromptKind = Literal["zero_shot_cot", "two_stage", "few_shot", "custom"]


def _is_json_lines(value: str) -> str:
    # `mentorkd view` appends to the file that a run's recipe names, whoever made the run.
    if not value.endswith(".jsonl"):
        raise ValueError(f"got {value!r}; expected a file of JSON Lines, NAME.jsonl")
    return value


OverlayFile = Annotated[str, AfterValidator(_is_json_lines)]


class RecordedTeacherConfig(Strict):
    """A teacher whose rationales were recorded in a file."""

    model_keys: ClassVar[tuple[str, ...]] = ()
    has_shards: ClassVar[bool] = False
    cache: ClassVar[None] = None

    kind: Literal["recorded"] = "recorded"
    rationales: str
    """File of recorded rationales, in any of the supported shapes."""
    columns: dict[str, str] | None = None
    """Column mapping of this file: our field (`question`, `answer`, `rationale`, `completion`, `id`, `logprobs`) -> its field.
    Null takes the mapping that `task.columns` has for all files; a mapping here replaces that one, and `{}` takes the usual names."""
    select: SelectConfig = SelectConfig()
    """Filter for these rationales."""
    overlay: OverlayFile | None = None
    """File of decisions about single rationales (rejected, edited), relative to the recipe's folder; `mentorkd view` writes it. A file
    that does not exist has none."""


class UntilCorrectConfig(Strict):
    """Rejection sampling: a question is asked again until it has enough correct rationales."""

    want: int = Field(default=3, ge=1)
    """Correct rationales that each question needs."""
    tries: int = Field(default=8, ge=1)
    """Most samples to ask for a question."""


class BudgetConfig(Strict):
    """Hard limits over all runs of a run folder; no request that could cross one is sent."""

    dollars: float | None = Field(default=None, gt=0.0)
    """US dollars, at the teacher's `price`."""
    requests: int | None = Field(default=None, ge=1)
    """HTTP requests, including retries."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens of prompts and replies together."""


class PriceConfig(Strict):
    """Price of the endpoint, in US dollars a million tokens (to six decimals)."""

    input: float = Field(ge=0.0)
    """Tokens of the prompt."""
    output: float = Field(ge=0.0)
    """Tokens of the reply."""


class AskedTeacherConfig(Strict):
    """What teachers that are asked have in common: the prompt, the sampling and the cache."""

    model_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that name a model or a tokenizer, which may be a folder."""
    has_shards: ClassVar[bool] = False
    """Whether parts of the questions may be annotated at the same time, in several places."""

    prompt: PromptKind = "zero_shot_cot"
    """`two_stage` is the paper's Zero-shot-CoT: one call for the rationale, a second for the answer; `zero_shot_cot`
    asks for both in one call; `few_shot` shows worked examples; `custom` fills `template`."""
    template: str | None = None
    """Jinja text of `prompt: custom`, with the variables `question`, `exemplars` (each with `question`, `rationale`,
    `answer`) and `answer_form`; `file:PATH` reads the text from a file."""
    exemplars: str | None = None
    """File of worked examples for `few_shot` (rows of question, rationale and answer, in any of the supported shapes), or
    `train` for those in the training file. Wrong examples and the question itself are never shown."""
    shots: int = Field(default=4, ge=1)
    """Worked examples in a prompt."""
    samples: int = Field(default=3, ge=1)
    """Rationales to ask for per question; with `until_correct`, those of the first round."""
    until_correct: UntilCorrectConfig | None = None
    """Further rounds for the questions that lack correct rationales; null asks each question once."""
    temperature: float = Field(default=0.7, ge=0.0)
    """Softmax temperature (the paper: 0.7); 0 is greedy and needs `samples: 1`."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus sampling: smallest set of tokens with this probability mass."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest reply, in tokens; a reply that is cut there is counted and graded as no answer."""
    answer_tokens: int = Field(default=32, ge=1)
    """Longest reply to the second call of `two_stage`, in tokens."""
    stop: list[Annotated[str, Field(min_length=1)]] | None = Field(default=None, max_length=4)
    """Texts that end a reply; null takes a new line that begins with "Q:" for base models (`endpoint: completions`, or a local
    model without a chat template), and none for chat models."""
    seed: int = 42
    """Seed of the choice of worked examples, and of the sampling of local teachers."""

    cache: str | None = None
    """File of the replies, for runs that share them; relative to the recipe's folder. Null: teacher/requests.sqlite of the run; of
    a local teacher with `shards`, a file of each unfinished shard."""
    select: SelectConfig = SelectConfig()
    """Filter for these rationales."""
    overlay: OverlayFile | None = None
    """File of decisions about single rationales (rejected, edited), relative to the recipe's folder; `mentorkd view` writes it. A file
    that does not exist has none."""

    def stops(self, *, base: bool) -> list[str]:
        """The texts that end a reply of a base model or of a chat model."""
        return self.stop if self.stop is not None else [_NEW_QUESTION] if base else []

    @model_validator(mode="after")
    def _prompt_and_samples_agree(self) -> AskedTeacherConfig:
        if (self.prompt == "custom") != (self.template is not None):
            raise ValueError("`prompt: custom` and `template` need each other: give both or neither")
        if self.prompt == "few_shot" and self.exemplars is None:
            raise ValueError("`prompt: few_shot` needs `exemplars`: a file of worked examples, or `train`")
        most = self.samples if self.until_correct is None else self.until_correct.tries
        if self.temperature == 0.0 and most > 1:
            alike = f"at `temperature: 0` a question's {most} samples would be alike"
            raise ValueError(f"{alike}; raise it or ask for 1 sample")
        if self.samples > most:
            limit = f"`samples: {self.samples}` is over `until_correct.tries: {most}`"
            raise ValueError(f"{limit}; lower one or raise the other")
        return self


class OpenAITeacherConfig(AskedTeacherConfig):
    """A teacher behind an OpenAI-compatible endpoint (OpenAI, vLLM, Ollama, llama.cpp, Gemini, ...)."""

    model_keys = ("tokenizer",)

    kind: Literal["openai"] = "openai"
    model: str = Field(min_length=1)
    """Name of the model at the endpoint."""
    base_url: str = _OPENAI_URL
    """Address of the endpoint, including its `/v1`."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; null for an endpoint that needs none. The key itself is never written to a file."""
    endpoint: Literal["chat", "completions"] = "chat"
    """`chat` for chat models; `completions` for base models."""
    system: str | None = None
    """System message of a chat; null sends none."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the length limit in the request; OpenAI's reasoning models need `max_completion_tokens`."""
    logprobs: bool = False
    """Ask for the log-probabilities of the sampled tokens, from which `soft_labels: teacher` makes its labels. Needs
    `temperature: 1` and `top_p: 1`, where all endpoints give the model's own values."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the request (`reasoning_effort`, `top_k`, ...)."""
    concurrency: int = Field(default=32, ge=1, le=1024)
    """Most requests in flight at once."""
    requests_per_minute: float | None = Field(default=None, gt=0.0)
    """Rate limit on requests, spread evenly; null sets none."""
    tokens_per_minute: float | None = Field(default=None, gt=0.0)
    """Rate limit on prompt tokens plus `max_tokens`, corrected by the real usage; null sets none."""
    timeout: float = Field(default=120.0, gt=0.0)
    """Seconds to wait for a reply; a reply that trickles in is cut off after twice this time."""
    retries: int = Field(default=6, ge=0)
    """Retries of a request after an overload, a server error, a lost connection, a timeout or an unreadable reply."""
    max_wait: float = Field(default=600.0, gt=0.0)
    """Longest wait for an endpoint that fails, in seconds: a request with a longer Retry-After is given up, and the annotation
    stops where requests fail for this time and none gets a reply."""
    tokenizer: str | None = None
    """Tokenizer (hub name or folder) for estimates; null counts four characters as a token."""
    budget: BudgetConfig = BudgetConfig()
    """Hard limits."""
    price: PriceConfig | None = None
    """Price in dollars a million tokens; `budget.dollars` needs it."""

    @field_validator("base_url")
    @classmethod
    def _address_is_plain(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"got {value!r}, expected an address such as {_OPENAI_URL}")
        if "@" in parts.netloc or parts.query or parts.fragment:
            hint = "`api_key_env` names the variable with the key"
            raise ValueError(f"keep user names, passwords and queries out of the address; {hint}")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _name_is_no_key(cls, value: str | None) -> str | None:
        # The value is not repeated in the message: it may be a key that was pasted here by mistake.
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("expected the NAME of an environment variable, such as OPENAI_API_KEY, not the key itself")
        return value

    @field_validator("extra_body")
    @classmethod
    def _extra_fields_are_free(cls, value: dict[str, Any]) -> dict[str, Any]:
        # `n` and `stream` change the reply's form, and `seed` would make all samples of a question alike.
        ours = {"model", "messages", "prompt", "n", "stream", "stop", "seed", "temperature", "top_p", "max_tokens"}
        if taken := sorted((ours | {"max_completion_tokens"}) & set(value)):
            why = "the client sets these fields itself or leaves them out"
            raise ValueError(f"{', '.join(taken)} cannot stand here: {why}")
        return value

    @model_validator(mode="after")
    def _parts_agree(self) -> OpenAITeacherConfig:
        if self.budget.dollars is not None and self.price is None:
            raise ValueError("`budget.dollars` needs `price: {input: ..., output: ...}`, dollars a million tokens")
        if self.system is not None and self.endpoint == "completions":
            raise ValueError("`system` needs `endpoint: chat`; a completion has no system message")
        if self.logprobs and (self.temperature, self.top_p) != (1.0, 1.0):
            got = f"temperature: {self.temperature:g}, top_p: {self.top_p:g}"
            why = "elsewhere some endpoints return values of the changed distribution"
            raise ValueError(f"`logprobs` needs `temperature: 1` and `top_p: 1`, got {got}; {why}")
        if self.logprobs and (taken := sorted({"logprobs", "top_logprobs"} & self.extra_body.keys())):
            raise ValueError(f"`extra_body`: {', '.join(taken)} cannot stand beside `logprobs: true`, which sets them")
        return self


class LocalTeacherConfig(AskedTeacherConfig):
    """A teacher that runs here: a Hugging Face model in one of the generation engines."""

    model_keys = ("model",)
    has_shards = True

    kind: Literal["local"] = "local"
    model: str = Field(min_length=1)
    """Hub name or folder of the model, or a GGUF file."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights in memory."""
    top_k: int = Field(default=0, ge=0)
    """Sample from the k most likely tokens; 0 samples from all."""
    batch_size: int = Field(default=32, ge=1)
    """Sequences generated at once."""
    engine: EngineName = "auto"
    """Generation engine; auto takes the fastest installed one that serves the model."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Leave this off unless you have read the code."""
    chat_date: ChatDate = None
    """The date (YYYY-MM-DD) for a chat template that asks for today's; null takes 2024-07-26."""
    chat_template_kwargs: ChatVariables = Field(default_factory=dict)
    """Variables of the chat template, e.g. {enable_thinking: false}."""


TeacherConfig = RecordedTeacherConfig | OpenAITeacherConfig | LocalTeacherConfig


def with_kind(raw: Any) -> Any:
    """The `teacher:` of a recipe, with its kind filled in where `rationales` names a file."""
    return {"kind": "recorded", **raw} if isinstance(raw, dict) and "rationales" in raw else raw


def model_keys(kind: Any) -> tuple[str, ...]:
    """The keys of a kind of teacher that name a model or a tokenizer; none of an unknown kind."""
    configs = get_args(TeacherConfig)
    return next((config.model_keys for config in configs if config.model_fields["kind"].default == kind), ())

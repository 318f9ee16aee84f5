"""A teacher that runs here, by any generation engine: the same prompts and records as those of an endpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mentorkd.errors import ModelError
from mentorkd.files import digest_path, fingerprint
from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine, SamplingParams
from mentorkd.generation.resumable import CHUNK_BATCHES
from mentorkd.hub import cached_commit, on_hub
from mentorkd.hub.chat import date_of, stored_templates
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.teacher import LocalTeacherConfig
from mentorkd.records import Progress, Question, content_id
from mentorkd.teachers.annotation import AnnotationLedger, Answer, Grade, SamplingResult, outcome, rationale_of
from mentorkd.teachers.asked import AskedTeacher, short_name
from mentorkd.teachers.cache import Reply, RequestCache, request_key
from mentorkd.teachers.dry_run import DryRun, dry_run
from mentorkd.teachers.limits import Spending
from mentorkd.teachers.prompting import Prompter
from mentorkd.teachers.teacher import AnnotationContext

if TYPE_CHECKING:
    import torch

_MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]


class LocalTeacher(AskedTeacher[LocalTeacherConfig]):
    """A Hugging Face model."""

    how_to_ask = AskedTeacher.how_to_ask | {"batch_size"}

    @property
    def name(self) -> str:
        return f"{short_name(self.config.model)}, run here"

    def identity(self) -> list[Any]:
        [settings], folder = super().identity(), Path(self.config.model)
        return [settings | {"model": digest_path(folder)} if folder.exists() else settings]

    def check(self) -> None:
        super().check()
        from mentorkd.models import load_tokenizer

        # Refuses settings that its template does not use, and tells the run, before a fingerprint is kept, the commit and
        # whether the template asks for a date.
        load_tokenizer(_model_config(self.config, self.config.model))

    def preview(self, questions: Sequence[Question], root: Path, *, roughly: bool) -> DryRun:
        return dry_run(questions, self.config, self.prompter)

    def sample(self, questions: Sequence[Question], cache: RequestCache, context: AnnotationContext) -> SamplingResult:
        engine, weights, stop = _open_engine(self.config, context.device(), context.engines)
        with closing(engine):
            return annotate_local(
                questions,
                self.config,
                engine,
                self.prompter,
                cache,
                grade=self.grader,
                weights=weights,
                stop=stop,
                on_progress=context.on_progress,
            )

    def cost(self, result: SamplingResult) -> Mapping[str, Any]:
        return {"requests": result.traffic["sampled"], **result.usage(), "dollars": None, "unsure_dollars": None}


def annotate_local(
    questions: Sequence[Question],
    teacher: LocalTeacherConfig,
    engine: Engine,
    prompter: Prompter,
    cache: RequestCache,
    *,
    grade: Grade,
    weights: str | None = None,
    stop: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> SamplingResult:
    """Sample rationales of `questions` from an engine, which reads prompts as they are and ends texts at `stop`.

    What was sampled before a kill is in the cache, where `weights` (a digest, say) tells models of one name apart. Raises
    DataError if a gold answer cannot be read.
    """
    ledger = AnnotationLedger(questions, teacher, grade)
    sampler = _CachedEngine(teacher, engine, cache, weights or f"{teacher.model}@{teacher.revision or 'main'}", stop)
    # Whole questions, so that their samples are drawn together.
    size = max(1, CHUNK_BATCHES * engine.batch_size // teacher.samples) * teacher.samples
    while not ledger.queue.over:
        jobs = list(islice(iter(ledger.queue.next, None), size))
        texts = [ledger.questions[index].text for index, _ in jobs]
        first = [(prompter.first(text), sample) for text, (_, sample) in zip(texts, jobs, strict=True)]
        answers = [[answer] for answer in sampler.ask(first, teacher.max_tokens, teacher.temperature)]
        if prompter.two_stage:
            again = [place for place, (answer,) in enumerate(answers) if outcome(answer.reply) == "ok"]
            second = [(prompter.second(texts[at], answers[at][0].reply.text), jobs[at][1]) for at in again]
            for place, answer in zip(again, sampler.ask(second, teacher.answer_tokens, 0.0), strict=True):
                answers[place].append(answer)
        for (index, sample), calls in zip(jobs, answers, strict=True):
            ledger.enter(index, sample, rationale_of(ledger.questions[index], sample, calls, prompter, grade))
        if on_progress is not None:
            on_progress(ledger.queue.finished, ledger.queue.asked)
    return ledger.close(Spending(), {"sampled": sampler.sampled, "cached": sampler.cached})


@dataclass
class _CachedEngine:
    """An engine behind the cache."""

    teacher: LocalTeacherConfig
    engine: Engine
    cache: RequestCache
    weights: str
    stop: Sequence[str]
    sampled: int = 0
    cached: int = 0

    def ask(self, prompts: Sequence[tuple[str, int]], max_tokens: int, temperature: float) -> list[Answer]:
        """An answer to each (prompt, sample), cached or sampled; samples of one prompt are drawn together."""
        requests = [self._request(prompt, max_tokens, temperature) for prompt, _ in prompts]
        keys = [request_key(request) for request in requests]
        known = [self.cache.get(key, sample) for key, (_, sample) in zip(keys, prompts, strict=True)]
        answers = {place: Answer(keys[place], reply, True) for place, reply in enumerate(known) if reply is not None}
        self.cached += len(answers)
        places_of: dict[str, list[int]] = defaultdict(list)
        for place, (prompt, _) in enumerate(prompts):
            if place not in answers:
                places_of[prompt].append(place)
        by_count: dict[int, list[list[int]]] = defaultdict(list)
        for places in places_of.values():
            # A greedy engine gives one completion a prompt, so there samples of a prompt are drawn one by one.
            for group in [places] if temperature else [[place] for place in places]:
                by_count[len(group)].append(group)
        for count, groups in by_count.items():
            replies = self._sample([prompts[group[0]] for group in groups], count, max_tokens, temperature)
            for group, drawn in zip(groups, replies, strict=True):
                for place, reply in zip(group, drawn, strict=True):
                    answers[place] = Answer(keys[place], reply)
        new = [place for place in answers if not answers[place].cached]
        for write in [self.cache.put(requests[place], prompts[place][1], answers[place].reply) for place in new]:
            write.result()
        self.sampled += len(new)
        return [answers[place] for place in range(len(prompts))]

    def _sample(
        self, prompts: Sequence[tuple[str, int]], count: int, max_tokens: int, temperature: float
    ) -> list[list[Reply]]:
        # The first sample's number enters the seed: a second round must not repeat the first.
        seed = content_id(str(self.teacher.seed), *(f"{sample} {prompt}" for prompt, sample in prompts))
        top_p, top_k = (self.teacher.top_p, self.teacher.top_k) if temperature else (1.0, 0)
        params = SamplingParams(count, temperature, top_p, top_k, max_tokens)
        completions = self.engine.sample([prompt for prompt, _ in prompts], params, seed=int(seed, 16) % 2**31)
        model = self.teacher.model
        return [
            [Reply(each.text, each.finish_reason, 0, each.tokens, model=model) for each in row] for row in completions
        ]

    def _request(self, prompt: str, max_tokens: int, temperature: float) -> dict[str, Any]:
        teacher = self.teacher
        body = {"model": self.weights, "dtype": teacher.dtype, "prompt": prompt, "seed": teacher.seed}
        body |= {"temperature": temperature, "top_p": teacher.top_p, "top_k": teacher.top_k, "max_tokens": max_tokens}
        body["stop"] = list(self.stop)
        return {"endpoint": f"local:{self.engine.name}", "body": body}


def _open_engine(teacher: LocalTeacherConfig, device: torch.device, engines: Path) -> tuple[Engine, str, list[str]]:
    """An engine over a teacher's model, a name that tells its weights apart from others, and the texts that end a reply.

    Base models read the prompts word for word, without the separator that learners are trained with.
    """
    from mentorkd.models import load_model, load_tokenizer
    from mentorkd.models.gguf import plain_folder

    folder = Path(plain_folder(teacher.model))
    if folder.is_dir():
        weights = digest_path(Path(teacher.model))
    else:
        folder = _fetch(teacher)
        weights = f"{teacher.model}@{folder.name}"
    config = _model_config(teacher, str(folder))
    tokenizer = load_tokenizer(config)
    if (chat := _chat_of(teacher, folder)) and tokenizer.chat_template:
        weights = f"{weights} {fingerprint(chat)}"
    stop = teacher.stops(base=not tokenizer.chat_template)
    options: dict[str, Any] = {"device": device, "batch_size": teacher.batch_size, "separator": "", "stop": stop}
    if teacher.trust_remote_code:
        if teacher.engine not in ("auto", "transformers"):
            raise ModelError(f"the engine {teacher.engine} runs no code of a model; set `engine: transformers`")
        loaded = load_model(config, seed=0, device=device)
        return open_engine("transformers", loaded=loaded, **options), weights, stop
    dtype = None if teacher.dtype == "auto" else teacher.dtype
    options |= {"chat_date": teacher.chat_date, "chat_template_kwargs": teacher.chat_template_kwargs}
    return open_engine(teacher.engine, model_dir=folder, cache_dir=engines, dtype=dtype, **options), weights, stop


def _model_config(teacher: LocalTeacherConfig, source: str) -> ModelConfig:
    """The teacher's model as a learner's, from the hub or a folder."""
    return ModelConfig(
        name=source,
        revision=teacher.revision if on_hub(source) else None,
        dtype=teacher.dtype,
        trust_remote_code=teacher.trust_remote_code,
        chat_date=teacher.chat_date,
        chat_template_kwargs=teacher.chat_template_kwargs,
    )


def _chat_of(teacher: LocalTeacherConfig, folder: Path) -> list[Any]:
    """What a prompt owes to the chat settings; empty where nothing. Replies of other settings are other replies."""
    days = {date_of(template, teacher.chat_date) for template in stored_templates(folder)} - {None}
    return [*sorted(map(str, days)), *([teacher.chat_template_kwargs] if teacher.chat_template_kwargs else [])]


def _fetch(teacher: LocalTeacherConfig) -> Path:
    """The folder of a model on the hub, downloaded if it is not there; the folder's name is the commit.

    A commit in the local cache is the one that fingerprints hash, so it is taken before what the branch is now.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    revision = cached_commit(teacher.model, teacher.revision) or teacher.revision
    try:
        return Path(snapshot_download(teacher.model, revision=revision, allow_patterns=_MODEL_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"cannot fetch the teacher {teacher.model!r}: {' '.join(str(error).split())[:200]}; "
            "give a Hugging Face name or a folder that `from_pretrained` loads"
        ) from None

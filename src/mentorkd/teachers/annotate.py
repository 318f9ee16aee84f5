"""Ask: an LLM's rationales for the training questions, by an endpoint or by a model that runs here (section 3.1)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mentorkd.data.prepare import prepare_recipe
from mentorkd.data.readers import read_rationales
from mentorkd.errors import MissingExtraError, ModelError
from mentorkd.files import digest_path
from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine
from mentorkd.grading.grade import Grader
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.load import data_path
from mentorkd.recipe.schema import LocalSource, OpenAISource, Recipe, RecordedTeacher
from mentorkd.records import Progress, Question
from mentorkd.teachers.annotation import Annotation
from mentorkd.teachers.cache import RequestCache
from mentorkd.teachers.dry_run import DryRun, dry_run, token_counter
from mentorkd.teachers.local import annotate_local
from mentorkd.teachers.openai import annotate_openai
from mentorkd.teachers.openai_client import read_key
from mentorkd.teachers.prompting import Exemplar, Prompter, exemplars_from, open_prompter

if TYPE_CHECKING:
    import torch

__all__ = ["account", "ask", "cache_file", "check_teacher", "open_cache", "preview", "prompter_of"]

CACHE = Path("teacher") / "requests.sqlite"
"""Where a run folder keeps replies. No stage publishes it, so it outlives kills, changed recipes and `--force`."""

Asked = OpenAISource | LocalSource
_TOLD_ALIKE = 3
_MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]


def cache_file(recipe: Recipe, root: Path) -> Path:
    """Where the replies of a recipe's teacher are kept: the recipe's `teacher.cache`, or a file in the run folder."""
    shared = None if isinstance(recipe.teacher, RecordedTeacher) else recipe.teacher.cache
    return root / CACHE if shared is None else Path(shared)


def open_cache(recipe: Recipe, root: Path) -> RequestCache:
    """The cache of a run; in a file that runs share, what a run spent is told apart by the recipe's name."""
    file = cache_file(recipe, root)
    return RequestCache(file) if file == root / CACHE else RequestCache(file, account=recipe.name)


def prompter_of(recipe: Recipe, teacher: Asked) -> Prompter:
    """What fills the teacher's prompts. Raises TeacherError or DataError for a template or examples that do not work."""
    assert recipe.task.answer is not None, "the recipe's checks fill this in"
    return open_prompter(
        teacher,
        answer_kind=recipe.task.answer,
        root=Path(recipe.data.root),
        choices=recipe.task.choices,
        training=lambda: _worked_examples(recipe),
    )


def _worked_examples(recipe: Recipe) -> list[Exemplar]:
    """Right rationales that the training file holds for its questions, but for those held out."""
    task, (questions, _) = recipe.task, prepare_recipe(recipe)
    assert task.answer is not None
    source = data_path(recipe, task.train)
    rationales = read_rationales(source, questions, kind=task.answer, choices=task.choices, columns=task.columns)
    return exemplars_from(questions, rationales)


def check_teacher(recipe: Recipe) -> None:
    """Refuse a teacher that could not be asked (no key, no package, a faulty prompt), before anything else runs."""
    if isinstance(recipe.teacher, RecordedTeacher):
        return
    prompter_of(recipe, recipe.teacher)
    if isinstance(recipe.teacher, OpenAISource):
        if find_spec("openai") is None:
            raise MissingExtraError("teacher: {kind: openai}", "openai")
        read_key(recipe.teacher.api_key_env)


def _counted(teacher: Asked) -> tuple[Callable[[str], int], str]:
    return token_counter(teacher.tokenizer if isinstance(teacher, OpenAISource) else None)


def preview(
    recipe: Recipe,
    questions: Sequence[Question],
    root: Path,
    *,
    roughly: bool = False,
) -> DryRun:
    """What asking the recipe's teacher would take, beyond what the run folder's cache holds. Asks for nothing.

    `roughly` counts tokens by characters, even if the recipe names a tokenizer: it would have to be loaded.
    """
    teacher = recipe.teacher
    assert not isinstance(teacher, RecordedTeacher)
    counted = token_counter(None) if roughly else _counted(teacher)
    known = open_cache(recipe, root) if cache_file(recipe, root).is_file() else None
    with known or nullcontext() as cache:
        return dry_run(
            questions,
            teacher,
            prompter_of(recipe, teacher),
            cache=cache,
            count_tokens=counted[0],
            counted_by=counted[1],
        )


def ask(
    recipe: Recipe,
    questions: Sequence[Question],
    *,
    cache: RequestCache,
    grader: Grader,
    device: torch.device | None,
    engines: Path,
    on_progress: Progress,
    note: Callable[[str], None],
) -> Annotation:
    """Ask the recipe's teacher for rationales of `questions`; what the cache holds is not asked for again.

    Args:
        device: where a local teacher runs; None for one that is asked over the network.
        engines: a folder in which engines keep what they make of a local teacher's model.
        note: hears of overloads and of requests that were given up.
    """
    teacher = recipe.teacher
    assert not isinstance(teacher, RecordedTeacher)
    prompter = prompter_of(recipe, teacher)
    if isinstance(teacher, LocalSource):
        assert device is not None, "a local teacher runs here"
        engine, identity, stop = _engine(teacher, device, engines)
        return annotate_local(
            questions,
            teacher,
            engine,
            prompter,
            cache,
            grade=grader,
            identity=identity,
            stop=stop,
            on_progress=on_progress,
        )
    with _warnings_as_notes(note):
        return annotate_openai(
            questions,
            teacher,
            prompter,
            cache,
            grade=grader,
            grade_in_threads=grader.kind == "math",
            count_tokens=_counted(teacher)[0],
            on_progress=on_progress,
        )


def account(annotation: Annotation, teacher: Asked) -> dict[str, Any]:
    """What an annotation came to, for the stage's record: `asked` in numbers, `tokens` in all, `faults` in words.

    `asked` is the report's TeacherAccount but for what training kept.
    """
    told, usage = annotation.summary(), [rationale.meta["usage"] for rationale in annotation.rationales]
    local = isinstance(teacher, LocalSource)
    tokens = {way: sum(each[way] for each in usage) for way in ("input_tokens", "output_tokens")}
    priced = isinstance(teacher, OpenAISource) and teacher.price is not None
    asked = {
        "questions": told["questions"],
        "solved": told["questions_solved"],
        "samples": len(annotation.rationales) + len(annotation.lost),
        "replies": len(annotation.rationales),
        "correct": told["correct"],
        "accuracy": told["accuracy"],
        "cut": told["length"],
        "refused": told["refusal"],
        "empty": told["empty"],
        "malformed": told.get("run_fault_malformed", 0),
        "lost": told["lost"],
        "requests": told["run_sampled"] if local else told["requests"],
        "cached": told["run_cached"],
        **(tokens if local else {way: told[way] for way in tokens}),
        "dollars": told["dollars"] if priced else None,
        "unsure_dollars": told["unsure_dollars"] if priced else None,
    }
    faults = []
    if annotation.lost:
        lost = f"{len(annotation.lost)} sample(s) of the teacher got no reply and are missing"
        again = "`--force annotate` asks for them again"
        faults = [f"{lost}; {again}; the first: {annotation.lost[0].reason}"]
    return {"asked": asked, "tokens": sum(tokens.values()), "faults": faults}


def _engine(teacher: LocalSource, device: torch.device, engines: Path) -> tuple[Engine, str, list[str]]:
    """An engine over a local teacher's model, a name that tells its weights apart from others', and what ends its texts.

    Base models read the prompts word for word, without the separator that learners are taught with.
    """
    from mentorkd.models import load_model, load_tokenizer

    folder = Path(teacher.model)
    if folder.is_dir():
        identity = digest_path(folder)
    else:
        folder = _fetched(teacher)
        identity = f"{teacher.model}@{folder.name}"
    config = ModelConfig(name=str(folder), dtype=teacher.dtype, trust_remote_code=teacher.trust_remote_code)
    stop = teacher.stops(base=not load_tokenizer(config).chat_template)
    options: dict[str, Any] = {"device": device, "batch_size": teacher.batch_size, "separator": "", "stop": stop}
    if teacher.trust_remote_code:
        if teacher.engine not in ("auto", "transformers"):
            raise ModelError(f"the engine {teacher.engine} runs no code of a model; set `engine: transformers`")
        loaded = load_model(config, seed=0, device=device)
        return open_engine("transformers", loaded=loaded, **options), identity, stop
    dtype = None if teacher.dtype == "auto" else teacher.dtype
    return open_engine(teacher.engine, model_dir=folder, cache_dir=engines, dtype=dtype, **options), identity, stop


def _fetched(teacher: LocalSource) -> Path:
    """The folder of a model of the hub, fetched if it is not there; its name is the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(teacher.model, revision=teacher.revision, allow_patterns=_MODEL_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"cannot fetch the teacher {teacher.model!r}: {' '.join(str(error).split())[:200]}; "
            "give a Hugging Face name or a folder that `from_pretrained` loads"
        ) from None


@contextmanager
def _warnings_as_notes(note: Callable[[str], None]) -> Iterator[None]:
    """Hand what the client logs to `note`; of messages that differ in their details alone, only the first few."""
    seen: Counter[str] = Counter()

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen[record.msg] += 1
            if seen[record.msg] <= _TOLD_ALIKE:
                more = "; more of this kind are not told" if seen[record.msg] == _TOLD_ALIKE else ""
                note(record.getMessage() + more)

    logger, handler = logging.getLogger("mentorkd.teachers"), Noting(logging.WARNING)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate

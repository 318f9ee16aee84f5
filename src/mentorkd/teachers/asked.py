"""What teachers that are asked have in common: the prompts, a cache of replies, an estimate and an account."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from mentorkd.data.prepare import prepare_recipe
from mentorkd.data.readers import read_rationales
from mentorkd.data.sources import source_identity
from mentorkd.errors import BudgetError, TeacherError
from mentorkd.files import digest_path
from mentorkd.recipe.aliases import drop_unset_later_keys
from mentorkd.recipe.grader import grader_of
from mentorkd.recipe.load import data_path
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.teacher import AskedTeacherConfig
from mentorkd.records import Question
from mentorkd.teachers.annotation import SamplingResult
from mentorkd.teachers.cache import RequestCache
from mentorkd.teachers.dry_run import DryRun
from mentorkd.teachers.prompting import Exemplar, Prompter, exemplars_from, open_prompter
from mentorkd.teachers.teacher import Annotation, AnnotationContext, Description, TeacherEstimate
from mentorkd.teachers.wire import causes

CACHE = Path("teacher") / "requests.sqlite"
"""Where a run folder keeps replies. No stage publishes this file, so it outlives kills, changed recipes and `--force`."""

Config = TypeVar("Config", bound=AskedTeacherConfig)


class AskedTeacher(ABC, Generic[Config]):
    """A teacher that is asked for what its cache does not hold. A kind adds how it is asked, and at what cost."""

    how_to_ask: ClassVar[frozenset[str]] = frozenset({"select", "cache", "overlay"})
    """Settings that reach no reply: they are no part of the teacher's identity."""

    def __init__(self, recipe: Recipe, config: Config) -> None:
        self.recipe, self.config = recipe, config
        self.grader = grader_of(recipe.task)

    @property
    @abstractmethod
    def name(self) -> str:
        """The model and where it runs, in words."""

    @abstractmethod
    def preview(self, questions: Sequence[Question], root: Path, *, roughly: bool) -> DryRun:
        """What asking `questions` would take, beyond what the cache holds."""

    @abstractmethod
    def sample(self, questions: Sequence[Question], cache: RequestCache, context: AnnotationContext) -> SamplingResult:
        """Ask `questions`; what the cache holds is not asked for again."""

    @abstractmethod
    def cost(self, result: SamplingResult) -> Mapping[str, Any]:
        """`requests`, `input_tokens`, `output_tokens`, `dollars` and `unsure_dollars` of the report's TeacherAccount."""

    def remarks(self, result: SamplingResult) -> list[str]:
        """What is strange about the replies, a line each."""
        return []

    @cached_property
    def prompter(self) -> Prompter:
        """Fills the prompts. Raises TeacherError or DataError for a template or examples that do not work."""
        return open_prompter(
            self.config,
            answer_kind=self.grader.kind,
            root=Path(self.recipe.data.root),
            choices=self.grader.choices,
            own=self.grader.own,
            training=self._worked_examples,
        )

    def check(self) -> None:
        _ = self.prompter  # made here, so that its faults show

    def identity(self) -> list[Any]:
        config, settings = self.config, self.config.model_dump(exclude=set(self.how_to_ask))
        if config.exemplars not in (None, "train"):
            settings["exemplars"] = source_identity(data_path(self.recipe, config.exemplars))
        if config.template is not None and config.template.startswith("file:"):
            settings["template"] = digest_path(Path(config.template.removeprefix("file:")))
        drop_unset_later_keys(settings)
        return [settings]

    def describe(self) -> Description:
        config, until = self.config, self.config.until_correct
        more = "" if until is None else f", up to {until.tries} until {until.want} are correct"
        samples = f"{config.samples} samples a question{more}"
        return Description(self.name, f"{samples}, temperature {config.temperature:g}, prompt {config.prompt}")

    def estimate(self, questions: Sequence[Question], root: Path, *, roughly: bool = False) -> TeacherEstimate:
        training = _training(questions)
        preview = self.preview(training, root, roughly=roughly)
        return TeacherEstimate(len(training) * self.config.samples, self.config.max_tokens, dry_run=preview)

    def annotate(self, questions: Sequence[Question], context: AnnotationContext) -> Annotation:
        with self.open_cache(context.root) as cache:
            result = self.sample(_training(questions), cache, context)
        account = {**result.account(), **self.cost(result)}
        if result.stopped is not None:
            context.note(f"teacher: {account['replies']} rationales so far, {account['correct']} of them correct")
            raise BudgetError(result.stopped)
        faults = self.remarks(result)
        if result.lost:
            new = sum(not rationale.meta["cached"] for rationale in result.rationales)
            lost = f"{len(result.lost):,} of the {len(result.lost) + new:,} samples asked for got no reply"
            why = causes(result.lost)
            kept = f"replies are kept in {self.cache_file(context.root)}"
            if not result.rationales:
                raise TeacherError(f"{self.name}: {lost}: {why}; run again when the endpoint works")
            # Of a resumed annotation, what this run asked for tells whether the endpoint still answers.
            if len(result.lost) > new and not context.accept_missing:
                hint = "run again when the endpoint works, or go on without these samples: mentorkd annotate RECIPE --force"
                raise TeacherError(f"{self.name}: {lost}: {why}; {kept}; {hint}")
            faults.append(f"{lost}: {why}; `mentorkd annotate RECIPE --force` asks for them again")
        return Annotation(result.rationales, faults, account, sum(result.usage().values()))

    def open_cache(self, root: Path) -> RequestCache:
        """The cache of a run. In a file that runs share, the recipe's name tells apart what each run has spent."""
        file = self.cache_file(root)
        return RequestCache(file) if file == root / CACHE else RequestCache(file, account=self.recipe.name)

    def cache_file(self, root: Path) -> Path:
        """The recipe's `teacher.cache`, or a file in the run folder `root`."""
        return root / CACHE if self.config.cache is None else Path(self.config.cache)

    def _worked_examples(self) -> list[Exemplar]:
        """Correct rationales that the training file holds for its questions, apart from those held out."""
        task, (questions, _) = self.recipe.task, prepare_recipe(self.recipe)
        source, kind = data_path(self.recipe, task.train), self.grader.kind
        rationales = read_rationales(
            source, questions, kind=kind, choices=task.choices, own=self.grader.own, columns=task.columns_of("train")
        )
        return exemplars_from(questions, rationales)


def short_name(model: str) -> str:
    """The name of a model on a hub or at an endpoint; of one in a folder, the folder's name."""
    return Path(model).name if model.startswith("/") else model


def _training(questions: Sequence[Question]) -> list[Question]:
    # Questions that are held out are not trained on, so nothing is paid for them.
    return [question for question in questions if question.split == "train"]

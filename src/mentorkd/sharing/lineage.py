"""Lineage: where every part of a trained learner came from, by the records of its run, with hashes of what was made."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mentorkd.data.sources import HUB, HubData, hub_data
from mentorkd.errors import DamagedError, RunError
from mentorkd.hub import GGUF, model_folder, on_hub
from mentorkd.pipeline.model_card import describe_model
from mentorkd.pipeline.records import (
    AnnotateRecord,
    CurateRecord,
    PrepareRecord,
    TeacherUsage,
    TrainRecord,
    count_verdicts,
)
from mentorkd.pipeline.run_folder import part_role, role
from mentorkd.pipeline.written import Author, TextFile
from mentorkd.recipe.graph import initial_model, links_of
from mentorkd.recipe.schema import Recipe, TaskConfig
from mentorkd.records import TEACHER, Split, Verdict
from mentorkd.reporting.schema import LearnerResult, Results
from mentorkd.reporting.statistics import wilson_interval
from mentorkd.reporting.write import read_results
from mentorkd.sharing.source import Source
from mentorkd.teachers.annotate import open_teacher

log = logging.getLogger(__name__)

LICENCE_KEYS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class Base:
    """The pretrained model that a learner starts from."""

    name: str
    """Its name on the hub."""
    commit: str | None


@dataclass(frozen=True)
class Texts:
    """A file of rationales."""

    author: str
    """`teacher`, `mentor@seed-1`."""
    model: str
    verdicts: Mapping[Verdict, int]
    sha256: str


@dataclass(frozen=True)
class Ancestor:
    """A learner that this one learned from, with the same seed."""

    name: str
    model: str
    gave: Sequence[str]
    """What it gave, to this learner or to another ancestor: `rationales`, `soft labels`, `perplexity`, `questions`, `weights`."""
    weights: Sequence[str]
    """SHA-256 of the files of its weights, those of all folds; empty for a model that is not trained."""


@dataclass(frozen=True)
class Score:
    """A measured test accuracy, a share from 0 to 1, with its 95 % interval."""

    accuracy: float
    interval: Sequence[float]
    questions: int


@dataclass(frozen=True)
class Lineage:
    """Where a learner of a run came from, and how well it answers."""

    teacher: str
    """Its model and place."""
    taught: bool
    """Whether the learner or an ancestor learned from the teacher."""
    usage: TeacherUsage | None
    """What the teacher did and cost; None for recorded rationales."""
    curated: CurateRecord | None
    texts: Sequence[Texts]
    """What the learner and its ancestors read."""
    ancestors: Sequence[Ancestor]
    weights: Mapping[str, str]
    """SHA-256 of the files of its own weights."""
    questions: Mapping[Split, int]
    questions_sha256: str
    base: Base | None
    """None for a model that is built from scratch, and for one of a local folder."""
    licence: Mapping[str, str]
    """The keys of the base's card about its licence; empty if they are not known here."""
    data_sets: Sequence[str]
    """Data sets of the hub."""
    benchmark: HubData | None
    """The test questions, if they are the whole test split of a data set of the hub."""
    version: str
    """Of mentorkd."""
    commit: str | None
    """Of the folder in which the training was started."""
    score: Score | None
    """Of these weights; None if they are not evaluated."""
    mean: Score | None
    """Over all seeds; None for one seed, and without a report of this version."""
    headline: str | None

    @property
    def licence_is_unknown(self) -> bool:
        """Whether the base has a licence that is not known on this machine."""
        return self.base is not None and not self.licence


def trace(source: Source) -> Lineage:
    """The lineage of a trained learner. Raises RunError if it is not trained, or not yet."""
    recipe, folder = source.pipeline.recipe, source.pipeline.folder
    record = train_record(source)
    if record.fingerprint not in {stage.fingerprint for stage in source.pipeline.stages if stage.name == record.stage}:
        log.warning(
            "%s trained with a recipe or data that the run does not have any more, and cards state those of now; `mentorkd run` "
            "trains it again",
            record.stage,
        )
    annotated, prepared = folder.record_of(AnnotateRecord, "annotate"), folder.record_of(PrepareRecord, "prepare")
    gave = _gave(source)
    made_by = record.made_by or {}
    results = _results(source)
    curated = folder.last("curate") if "curate" in {each.name for each in source.pipeline.stages} else None
    links = links_of(recipe)
    taught = any(TEACHER in (*links[name].rationales, *links[name].soft_labels) for name in (source.name, *gave))
    base = initial_model(recipe, source.name)
    known = base.name is not None and on_hub(base.name) and not base.name.endswith(GGUF)
    hub = [hub_data(file) for file in _data_files(source) if file.startswith(HUB)]
    return Lineage(
        teacher=open_teacher(recipe).describe().name,
        taught=taught,
        usage=annotated.asked,
        curated=curated if taught and isinstance(curated, CurateRecord) else None,
        texts=[_texts(source, text) for text in source.texts() if _is_read(source, text, gave)],
        ancestors=[_ancestor(source, name, kinds) for name, kinds in gave.items()],
        weights=_weights(record),
        questions=prepared.questions,
        questions_sha256=_sha256(prepared.files, "questions.jsonl"),
        base=Base(base.name or "", folder.hub_models.used(base.name or "", base.revision)) if known else None,
        licence=licence_of(None if base.name is None else model_folder(base.name, base.revision)),
        data_sets=list(dict.fromkeys(each.name for each in hub if not each.is_path)),
        benchmark=benchmark_of(recipe.task),
        version=made_by.get("versions", {}).get("mentorkd", "of an unknown version"),
        commit=made_by.get("git"),
        score=_score(source),
        mean=_mean(results, source.name),
        headline=None if results is None else results["headline"]["statement"],
    )


def train_record(source: Source) -> TrainRecord:
    """What the training of a learner recorded. Raises RunError if it is not trained, or not yet."""
    source.model()
    stage = source.pipeline.stage_of("train", source.name, source.seed)
    assert stage is not None, "a learner with a model is trained"
    return source.pipeline.folder.record_of(TrainRecord, stage)


def _gave(source: Source) -> dict[str, list[str]]:
    """What each ancestor gave; the nearest ancestors come first."""
    links = links_of(source.pipeline.recipe)
    gave: dict[str, list[str]] = {}
    waiting = [source.name]
    while waiting:
        link = links[waiting.pop(0)]
        kinds = {
            "rationales": link.rationales,
            "soft labels": link.soft_labels,
            "perplexity": link.perplexity_models,
            "questions": list(link.questions.values()),
            "weights": [] if link.initial is None else [link.initial],
        }
        for kind, names in kinds.items():
            for name in (name for name in names if name in links and name != source.name):
                if name not in gave:
                    waiting.append(name)
                if kind not in gave.setdefault(name, []):
                    gave[name].append(kind)
    return gave


def _ancestor(source: Source, name: str, kinds: Sequence[str]) -> Ancestor:
    pipeline = source.pipeline
    first, inputs = role("train", name, source.seed), pipeline.stages[-1].inputs
    folds = [part_role(first, fold) for fold in range(pipeline.recipe.learners[name].folds)]
    trained = [_weights(pipeline.folder.record(inputs[fold])) for fold in folds if fold in inputs]
    weights = [sha256 for files in trained for sha256 in files.values()]
    return Ancestor(name, describe_model(initial_model(source.pipeline.recipe, name)), kinds, weights)


def _is_read(source: Source, text: TextFile, ancestors: Iterable[str]) -> bool:
    """Whether the learner or an ancestor learned from these rationales."""
    links, author = links_of(source.pipeline.recipe), text.author
    readers = (source.name, *ancestors)
    if author.round is not None:  # texts that a learner wrote for its own training
        return author.source in readers and author.seed == source.seed
    return author.seed in (None, source.seed) and any(author.source in links[reader].rationales for reader in readers)


def _texts(source: Source, text: TextFile) -> Texts:
    recipe, author = source.pipeline.recipe, text.author
    verdicts = getattr(source.pipeline.folder.last(text.file.stage), "rationales", None)
    return Texts(author.name, model_of(recipe, author), verdicts or count_verdicts([]), text.file.digest)


def model_of(recipe: Recipe, author: Author) -> str:
    """The model that wrote the rationales of an author."""
    teacher = author.seed is None
    return open_teacher(recipe).describe().name if teacher else describe_model(initial_model(recipe, author.source))


def _weights(record: Any) -> dict[str, str]:
    """Names and SHA-256 of the weights that a training published; none for marks of earlier versions."""
    files = (record.files or {}).items()
    return {Path(name).name: seal.sha256 for name, seal in files if name.startswith("model/") and _holds_weights(name)}


def _holds_weights(file: str) -> bool:
    return file.endswith((".safetensors", ".bin"))


def _sha256(files: Mapping[str, Any] | None, name: str) -> str:
    return files[name].sha256 if files and name in files else "not recorded"


def _data_files(source: Source) -> list[str]:
    recipe = source.pipeline.recipe
    task = recipe.task
    files = [task.train, task.test, task.validation, task.unlabelled, getattr(recipe.teacher, "rationales", None)]
    return [file for file in files if file is not None]


def benchmark_of(task: TaskConfig) -> HubData | None:
    """The data set of the hub whose whole test split are the test questions; None if there is none."""
    data = hub_data(task.test) if task.test.startswith(HUB) else None
    if data is None or data.is_path or data.split not in (None, "test") or task.limit_test is not None:
        return None
    return data


def licence_of(folder: Path | None) -> dict[str, str]:
    """What the card of the base, which lies beside its weights or in the hub's cache, says of its licence."""
    from huggingface_hub.repocard import metadata_load

    card = None if folder is None else folder / "README.md"
    if card is None or not card.is_file():
        return {}
    facts: Any = None
    with suppress(ValueError):  # no front matter, or one that is no mapping
        facts = metadata_load(card)
    return {key: str(facts[key]) for key in LICENCE_KEYS if facts.get(key)} if isinstance(facts, dict) else {}


def _results(source: Source) -> Results | None:
    """The report of the run; None if there is none, or one of another version. Raises DamagedError for one that has changed."""
    try:
        return read_results(source.pipeline.folder.report())
    except DamagedError:
        raise
    except RunError:
        return None


def _score(source: Source) -> Score | None:
    try:
        predictions = source.predictions()
    except DamagedError:
        raise
    except RunError:  # it is trained, and not yet evaluated
        return None
    correct, count = sum(prediction.verdict == "correct" for prediction in predictions), len(predictions)
    interval = wilson_interval(correct, count)
    return Score(correct / count, [interval.low, interval.high], count)


def _mean(results: Results | None, name: str) -> Score | None:
    rows: list[LearnerResult] = [] if results is None else [row for row in results["learners"] if row["name"] == name]
    if not rows or len(rows[0]["per_seed"]) < 2 or rows[0]["accuracy"] is None or rows[0]["interval"] is None:
        return None
    return Score(rows[0]["accuracy"], rows[0]["interval"], rows[0]["per_seed"][0]["questions"])

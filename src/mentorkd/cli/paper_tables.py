"""The paper's tables and figures: a recipe filled in for a task, and our results beside the paper's.

Learners that cannot be run (missing data, a missing model, a teacher without a key) are left out, each with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mentorkd.data.readers import read_questions, read_rationales
from mentorkd.errors import MentorkdError, RunError
from mentorkd.paper.results import paper_results
from mentorkd.paper.tasks import Task
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.graph import arms, learning_order, links_of
from mentorkd.recipe.load import load_recipe, missing_files
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import read_yaml
from mentorkd.records import TEACHER, Question, write_jsonl
from mentorkd.reporting.statistics import Interval, wilson_interval

_SMOKE_QUESTIONS = 8

_SWEPT = {
    "figure3": "mentor.sampling.samples",
    "figure7": "mentor-kd.kd_weight",
    "table5": "teacher.select.question_ratio",
}
"""The swept key of each table of the paper that has one row for each value."""

_NOT_RECORDED = "no answers of GPT-3.5 to the test questions: the recorded rationales are for training questions, new ones need an API key"


@dataclass(frozen=True, slots=True)
class Score:
    """An accuracy, from 0 to 1."""

    accuracy: float
    interval: Interval
    """For the paper's scores: Wilson's interval of one run over the task's test questions."""
    seeds: int = 1
    selected_on_test: bool = True


@dataclass(frozen=True, slots=True)
class TableRow:
    """A learner with the paper's score and ours."""

    learner: str
    paper: Score | None
    """None where the paper gives none."""
    ours: Score | None
    why: str = ""
    """The reason why `ours` is None."""


def default_task(recipe: Path) -> str:
    """The task in a recipe file."""
    return str(_raw(recipe)["task"]["name"])


def _raw(recipe: Path) -> dict[str, Any]:
    return dict(read_yaml(recipe.read_text(encoding="utf-8"))[0])


def fill_in(
    recipe: Path, task: Task, *, data: Path, root: Path, smoke: bool = False, overrides: Sequence[str] = ()
) -> Recipe:
    """The paper's recipe in a file, filled in for a task whose data files may be absent; `overrides` apply last.

    Args:
        data: the folder that `mentorkd data paper` wrote.
        root: the run folder; figure 4 writes its questions into it first.
        smoke: shrink models, questions and lengths, so that everything runs in seconds.
    """
    raw = _raw(recipe)
    settings: dict[str, Any] = {
        "name": f"{recipe.stem}-{task.key}",
        "task.name": task.key,
        "data.root": str(data.absolute()),
    }
    if "train" in raw["task"]:
        settings |= _unsolved(task, data, root / "questions")
    if smoke:
        settings |= _shrunk(raw)
    assignments = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return load_recipe(recipe, [*assignments, *overrides], check_files=False)


def _unsolved(task: Task, data: Path, folder: Path) -> dict[str, Any]:
    """The training questions in two files: those that the teacher solved, for training, and the others, as the test set."""
    files = {"task.train": folder / "solved.jsonl", "task.test": folder / "unsolved.jsonl"}
    settings = {**{key: str(file.absolute()) for key, file in files.items()}, "teacher.rationales": task.teacher}
    if not all((data / name).is_file() for name in (task.train, task.teacher)):
        return settings | {"task.train": task.train, "task.test": task.test}  # the check of files reports them
    questions = read_questions(data / task.train, split="train", kind=task.answer)
    rationales = read_rationales(data / task.teacher, questions, kind=task.answer)
    solved = {rationale.question_id for rationale in rationales if rationale.verdict == "correct"}
    unsolved = [Question.create(q.text, q.answer, "test") for q in questions if q.id not in solved]
    if not unsolved:
        raise RunError(
            f"the recorded teacher solved all {len(questions)} training questions of {task.key}, so none is left for the test set; "
            "choose another task"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(files["task.train"], [question for question in questions if question.id in solved])
    write_jsonl(files["task.test"], unsolved)
    return settings


def _shrunk(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with which any recipe runs in seconds: tiny models, eight questions, one seed, the two ends of each sweep."""
    settings: dict[str, Any] = {
        "seeds": raw["seeds"][:1],
        "task.limit_train": _SMOKE_QUESTIONS,
        "task.limit_test": _SMOKE_QUESTIONS,
        "sampling": {"max_new_tokens": 8, "engine": "transformers"},
        "sweep": {key: [values[0], values[-1]] for key, values in raw.get("sweep", {}).items()},
    }
    learners = raw["learners"]
    kinds = list(dict.fromkeys(json.dumps(learner["model"]) for learner in learners.values()))
    for name, learner in learners.items():
        width = 32 + 8 * kinds.index(json.dumps(learner["model"]))  # different models stay different
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": width, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}
        lora = learner["model"].get("lora") if isinstance(learner["model"], dict) else None
        settings[f"learners.{name}.model"] = {
            "from_config": {"model_type": "t5", **sizes},
            "tokenizer": "nano-t5-small",
            "lora": lora,
        }
        settings[f"learners.{name}.training.epochs"] = 1
    # Texts of random models are never correct; the smoke test trains on them anyway.
    sources = {source for learner in learners.values() for source in learner.get("rationales", [])}
    return settings | {f"learners.{name}.select.correct": False for name in sources & learners.keys()}


def arms_of_student(recipe: Recipe, student: str) -> list[str]:
    """The arms of one student model (the last part of its name, e.g. flan-t5-small) and all learners they depend on."""
    models = {name: (recipe.learners[name].model.name or "from_config").rpartition("/")[2] for name in arms(recipe)}
    if student not in models.values():
        raise RunError(f"got --student {student}; expected one of {', '.join(dict.fromkeys(models.values()))}")
    links, names = links_of(recipe), [name for name, model in models.items() if model == student]
    for name in names:  # the list grows by dependencies
        names += [other for other in links[name].learners if other not in names]
    return [name for name in recipe.learners if name in names]


def unavailable_learners(recipe: Recipe, root: Path, *, fetch: str) -> dict[str, str]:
    """The learners that cannot be run here, each with the reason; none for a finished run.

    Args:
        fetch: the command that downloads the data.
    """
    files = [
        fault.message.partition(";")[0] for fault in missing_files(recipe) if not fault.key.startswith("learners.")
    ]
    if files:
        return dict.fromkeys(recipe.learners, f"{', '.join(files)}; `{fetch}` downloads the paper's data")
    if all(planned.state == "done" for planned in Pipeline(recipe, root).plan()):
        return {}
    from mentorkd.teachers.annotate import open_teacher

    try:
        open_teacher(recipe).check()
    except MentorkdError as error:
        return dict.fromkeys(recipe.learners, f"the teacher is not available: {error}")
    reasons = _missing_models(recipe)
    links = links_of(recipe)
    for name in learning_order(recipe):
        needed = [other for other in links[name].learners if other in reasons]
        if needed:
            reasons.setdefault(name, f"it learns from {needed[0]}, which cannot be run")
    return reasons


def _missing_models(recipe: Recipe) -> dict[str, str]:
    from mentorkd.models import kind_of, load_tokenizer

    errors: dict[str, str] = {}
    models = {name: learner.model.model_dump_json() for name, learner in recipe.learners.items()}
    for name, model in models.items():
        if model not in errors:
            errors[model] = ""
            try:
                kind_of(recipe.learners[name].model)
                load_tokenizer(recipe.learners[name].model)
            except MentorkdError as error:
                errors[model] = str(error)
    return {name: errors[model] for name, model in models.items() if errors[model]}


def without(recipe: Recipe, names: Collection[str]) -> Recipe:
    """The recipe without some learners; no remaining learner may depend on them."""
    learners, variants = (
        {name: value for name, value in mapping.items() if name not in names}
        for mapping in (recipe.learners, recipe.variants)
    )
    return recipe.model_copy(update={"learners": learners, "variants": variants})


def table_rows(
    recipe: Recipe, table: str, task: Task, learners: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]
) -> list[TableRow]:
    """The rows of a table of the paper for a task: the teacher, then the recipe's learners with the paper's score and ours.

    Args:
        learners: `learners` of the run's `results.json`.
        left_out: learners that were not run -> reason.
    """
    measured = {learner["name"]: learner for learner in learners}
    published = {(p.row, p.at): p.accuracy.get(task.key) for p in paper_results() if p.table == table}
    rows = []
    if (accuracy := published.get((TEACHER, None))) is not None:
        rows.append(TableRow(TEACHER, replace(_published(accuracy, task), selected_on_test=False), None, _NOT_RECORDED))
    for name in recipe.learners:
        row = paper_row(recipe, name, table)
        accuracy = published.get(row) if row else None
        paper = None if accuracy is None else _published(accuracy, task)
        ours = None
        if (ran := measured.get(name)) is not None:
            ours = Score(ran["accuracy"], Interval(*ran["interval"]), len(ran["per_seed"]), ran["on_test"])
        rows.append(TableRow(name, paper, ours, left_out.get(name, "")))
    return rows


def paper_row(recipe: Recipe, name: str, table: str) -> tuple[str, float | None] | None:
    """The row of the paper for a learner, and its value in the table's sweep; None for a variant of another sweep."""
    variant = recipe.variants.get(name)
    if variant is None:
        return name, None
    key = _SWEPT.get(table)
    return (variant.of, float(variant.values[key])) if key and set(variant.values) == {key} else None


def _published(accuracy: float, task: Task) -> Score:
    questions = task.test_questions
    return Score(accuracy / 100, wilson_interval(accuracy / 100 * questions, questions))

"""The paper's tables and figures, run here: a recipe filled in for a task, and our numbers beside the paper's.

What cannot be run (data or a model that is not there, a teacher without a key) is left out with its reason, never in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mentorkd.data.readers import read_questions, read_rationales
from mentorkd.errors import MentorkdError, RunError
from mentorkd.paper.results import paper_results
from mentorkd.paper.tasks import Task
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.graph import arms, links_of
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.load import learning_order, load_recipe, missing_files
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import read_yaml
from mentorkd.records import TEACHER, Question, write_jsonl
from mentorkd.statistics import Interval, wilson_interval

__all__ = ["Number", "Row", "beside_the_paper", "fill_in", "lacking", "of_student", "own_task", "row_of", "without"]

SMOKE_QUESTIONS = 8

SWEPT = {
    "figure3": "mentor.sampling.samples",
    "figure7": "mentor-kd.kd_weight",
    "table5": "teacher.select.question_ratio",
}
"""What a table of the paper has a row for each value of."""

NOT_ASKED = "GPT-3.5 was not asked about test questions: that takes an API key, and the recorded rationales are of training ones"


@dataclass(frozen=True, slots=True)
class Number:
    """An accuracy, from 0 to 1."""

    accuracy: float
    interval: Interval
    """Of the paper's: Wilson's, for one run over the task's test questions."""
    seeds: int = 1
    selected_on_test: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A learner: what the paper says of it, and what came out here."""

    learner: str
    paper: Number | None
    """None where the paper gives no number."""
    ours: Number | None
    why: str = ""
    """Why there is none of ours."""


def own_task(recipe: Path) -> str:
    """The task that the recipe of a file names itself."""
    return str(_raw(recipe)["task"]["name"])


def _raw(recipe: Path) -> dict[str, Any]:
    raw: dict[str, Any] = read_yaml(recipe.read_text(encoding="utf-8"))[0]
    return raw


def fill_in(
    recipe: Path, task: Task, *, data: Path, root: Path, smoke: bool = False, overrides: Sequence[str] = ()
) -> Recipe:
    """The paper's recipe of a file for a task, whose files may be absent; `overrides` come last.

    Args:
        data: where `mentorkd data paper` put the data.
        root: the run folder, for questions that are to be written first (figure 4).
        smoke: shrink models, questions and lengths, so that all of it runs in seconds.
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
    written = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return load_recipe(recipe, [*written, *overrides], check_files=False)


def _unsolved(task: Task, data: Path, folder: Path) -> dict[str, Any]:
    """The training questions as two files: those the teacher solved, to train on, and the others, as the test."""
    files = {"task.train": folder / "solved.jsonl", "task.test": folder / "unsolved.jsonl"}
    settings = {**{key: str(file.absolute()) for key, file in files.items()}, "teacher.rationales": task.teacher}
    if not all((data / name).is_file() for name in (task.train, task.teacher)):
        return settings | {"task.train": task.train, "task.test": task.test}  # whose absence is to be told
    questions = read_questions(data / task.train, split="train", kind=task.answer)
    rationales = read_rationales(data / task.teacher, questions, kind=task.answer)
    solved = {rationale.question_id for rationale in rationales if rationale.verdict == "correct"}
    unsolved = [Question.create(q.text, q.answer, "test") for q in questions if q.id not in solved]
    if not unsolved:
        raise RunError(
            f"the recorded teacher solved all {len(questions)} training questions of {task.key}; take another task"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(files["task.train"], [question for question in questions if question.id in solved])
    write_jsonl(files["task.test"], unsolved)
    return settings


def _shrunk(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under which a recipe of any models runs in seconds: tiny models, eight questions, the ends of each sweep."""
    settings: dict[str, Any] = {
        "task.limit_train": SMOKE_QUESTIONS,
        "task.limit_test": SMOKE_QUESTIONS,
        "sampling": {"max_new_tokens": 8, "engine": "transformers"},
        "sweep": {key: [values[0], values[-1]] for key, values in raw.get("sweep", {}).items()},
    }
    learners = raw["learners"]
    kinds = list(dict.fromkeys(json.dumps(learner["model"]) for learner in learners.values()))
    for name, learner in learners.items():
        width = 32 + 8 * kinds.index(json.dumps(learner["model"]))  # models that differ stay different
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": width, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}
        lora = learner["model"].get("lora") if isinstance(learner["model"], dict) else None
        settings[f"learners.{name}.model"] = {
            "from_config": {"model_type": "t5", **sizes},
            "tokenizer": "nano-t5-small",
            "lora": lora,
        }
        settings[f"learners.{name}.training.epochs"] = 1
    # What random models write is never right, and is to be read all the same.
    read = {source for learner in learners.values() for source in learner.get("rationales", [])}
    return settings | {f"learners.{name}.select.correct": False for name in read & learners.keys()}


def of_student(recipe: Recipe, student: str) -> list[str]:
    """The arms of one student model, named by the last part of its name, with all that they learn from."""
    models = {name: _short_name(recipe.learners[name].model) for name in arms(recipe)}
    if student not in models.values():
        raise RunError(f"got --student {student}; expected one of {', '.join(dict.fromkeys(models.values()))}")
    links, wanted = links_of(recipe), [name for name, model in models.items() if model == student]
    for name in wanted:  # which grows
        wanted += [other for other in links[name].learners if other not in wanted]
    return [name for name in recipe.learners if name in wanted]


def _short_name(model: ModelConfig) -> str:
    return (model.name or "from_config").rpartition("/")[2]


def lacking(recipe: Recipe, root: Path, *, fetch: str) -> dict[str, str]:
    """The learners that cannot be run here, each with the reason; of a run that is finished, none.

    Args:
        fetch: the command that fetches the data.
    """
    files = [
        fault.message.partition(";")[0] for fault in missing_files(recipe) if not fault.key.startswith("learners.")
    ]
    if files:
        return dict.fromkeys(recipe.learners, f"{', '.join(files)}; `{fetch}` fetches the paper's data")
    if all(planned.state == "done" for planned in Pipeline(recipe, root).plan()):
        return {}
    from mentorkd.teachers.annotate import open_teacher

    try:
        open_teacher(recipe).check()
    except MentorkdError as error:
        return dict.fromkeys(recipe.learners, f"the teacher cannot be asked: {error}")
    found = _absent_models(recipe)
    links = links_of(recipe)
    for name in learning_order(recipe):
        needed = [other for other in links[name].learners if other in found]
        if needed:
            found.setdefault(name, f"it learns from {needed[0]}, which cannot be run")
    return found


def _absent_models(recipe: Recipe) -> dict[str, str]:
    from mentorkd.models import kind_of, load_tokenizer

    told: dict[str, str] = {}
    for learner in recipe.learners.values():
        if (key := learner.model.model_dump_json()) in told:
            continue
        try:
            kind_of(learner.model)
            load_tokenizer(learner.model)
            told[key] = ""
        except MentorkdError as error:
            told[key] = str(error)
    reasons = {name: told[learner.model.model_dump_json()] for name, learner in recipe.learners.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def without(recipe: Recipe, names: Sequence[str] | Mapping[str, str]) -> Recipe:
    """The recipe less some learners, which no other one learns from."""
    learners, variants = (
        {name: value for name, value in mapping.items() if name not in names}
        for mapping in (recipe.learners, recipe.variants)
    )
    return recipe.model_copy(update={"learners": learners, "variants": variants})


def beside_the_paper(
    recipe: Recipe, table: str, task: Task, learners: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]
) -> list[Row]:
    """The paper's rows of a table for a task, those of the recipe's learners beside what `learners` of the run's
    `results.json` came to, in the recipe's order; `left_out` tells why a learner was not run."""
    measured = {learner["name"]: learner for learner in learners}
    published = {(p.row, p.at): p.accuracy.get(task.key) for p in paper_results() if p.table == table}
    rows = []
    if (told := published.get((TEACHER, None))) is not None:
        rows.append(Row(TEACHER, replace(_published(told, task), selected_on_test=False), None, NOT_ASKED))
    for name in recipe.learners:
        place = row_of(recipe, name, table)
        told = published.get(place) if place else None
        ours = _measured(measured[name]) if name in measured else None
        rows.append(Row(name, None if told is None else _published(told, task), ours, left_out.get(name, "")))
    return rows


def row_of(recipe: Recipe, name: str, table: str) -> tuple[str, float | None] | None:
    """The row of the paper that a learner is, and the point of the table's own sweep; None for a variant of another one."""
    variant = recipe.variants.get(name)
    if variant is None:
        return name, None
    key = SWEPT.get(table)
    return (variant.of, float(variant.values[key])) if key and set(variant.values) == {key} else None


def _published(accuracy: float, task: Task) -> Number:
    questions = task.test_questions
    return Number(accuracy / 100, wilson_interval(accuracy / 100 * questions, questions))


def _measured(learner: Mapping[str, Any]) -> Number:
    return Number(learner["accuracy"], Interval(*learner["interval"]), len(learner["per_seed"]), learner["on_test"])

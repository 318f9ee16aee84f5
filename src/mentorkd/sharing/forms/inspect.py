"""The form `inspect`: a log of Inspect AI, with a sample for each test question, that `inspect view` opens.

The format is that of `inspect_ai`'s log recorder: a zip archive with the header, a file for each sample, and the samples' summaries.
It is written here, because the package's dependencies clash with ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from mentorkd.data.prompts import render_prompt
from mentorkd.pipeline.model_card import describe_model
from mentorkd.pipeline.records import EvaluateRecord
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.schema import TaskConfig
from mentorkd.records import Prediction, Question, Verdict, content_id
from mentorkd.sharing.form import Form
from mentorkd.sharing.source import Source

Json = dict[str, Any]

_VERSION = 2
"""Of the format."""
_SCORER = "mentorkd/grade"
_VALUES: dict[Verdict, str] = {"correct": "C", "wrong": "I", "no_answer": "N"}
"""Inspect's own values of scores."""


def _write(source: Source, folder: Path, dtype: str | None) -> None:
    run = source.pipeline.folder
    stage = source.pipeline.stage_of("evaluate", source.name, source.seed)
    assert stage is not None, "every learner is evaluated"
    record = run.record_of(EvaluateRecord, stage)
    questions, predictions = source.test_questions(), source.predictions()
    end = run.output(stage, "predictions.jsonl").stat().st_mtime
    dates = {"started_at": _date(end - record.seconds), "completed_at": _date(end)}
    model = f"mentorkd/{source.name}"
    samples = [_sample(source, model, *pair) for pair in zip(questions, predictions, strict=True)]
    spec, plan = _spec(source, model, record, dates["started_at"], questions), _plan(source)
    header = {
        "version": _VERSION,
        "status": "success",
        "eval": spec,
        "plan": plan,
        "results": _results(predictions),
        "stats": {**dates, "model_usage": {}, "role_usage": {}},
    }
    started = dates["started_at"].replace(":", "-")
    file = folder / f"{started}_{spec['task'].replace('_', '-')}_{spec['task_id']}.eval"
    with ZipFile(file, "w", ZIP_DEFLATED) as archive:
        _add(archive, "_journal/start.json", {"version": _VERSION, "eval": spec, "plan": plan})
        for sample in samples:
            _add(archive, f"samples/{sample['id']}_epoch_1.json", sample)
        _add(archive, "summaries.json", [_summary(sample) for sample in samples])
        _add(archive, "header.json", header)


def _add(archive: ZipFile, name: str, value: Any) -> None:
    """Without the time of day, so that the same results give the same bytes."""
    member = ZipInfo(name)
    member.compress_type = ZIP_DEFLATED
    archive.writestr(member, json.dumps(value, ensure_ascii=False))


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _spec(source: Source, model: str, record: EvaluateRecord, created: str, questions: list[Question]) -> Json:
    recipe, learner = source.pipeline.recipe, source.learner
    identity = content_id(record.stage, record.fingerprint)
    made_by = record.made_by or {}
    return {
        "eval_id": identity,
        "run_id": content_id(recipe.name),
        "created": created,
        "task": recipe.task.name,
        "task_id": identity,
        "task_version": 0,
        "task_attribs": {},
        "task_args": {"prompt": learner.eval_prompt},
        "solver": "generate",
        "dataset": {
            "name": recipe.task.name,
            "samples": len(questions),
            "sample_ids": [question.id for question in questions],
            "shuffled": False,
        },
        "model": model,
        "model_generate_config": _decoding(source),
        "model_args": {"seed": source.seed, "weights": describe_model(initial_model(recipe, source.name))},
        "config": {"epochs": 1},
        "packages": made_by.get("versions", {}),
        "metadata": {
            "recipe": recipe.name,
            "learner": source.name,
            "seed": source.seed,
            "rationales": learner.rationales,
            "soft_labels": learner.mentor_weights,
            "objective": learner.objective,
            "engine": record.engine,
            "stage": record.stage,
            "fingerprint": record.fingerprint,
            "commit": made_by.get("git"),
        },
        "scorers": [
            {
                "name": _SCORER,
                "options": _grading(recipe.task),
                "metrics": [{"name": f"inspect_ai/{name}", "options": {}} for name in ("accuracy", "stderr")],
                "metadata": {},
            }
        ],
    }


def _grading(task: TaskConfig) -> Json:
    """How answers were graded; a grader of the user's by its file's name alone."""
    own = {} if task.grader is None else {"grader": Path(task.grader).name}
    return {"kind": task.answer, "choices": task.choices, **own}


def _decoding(source: Source) -> Json:
    return {"max_tokens": source.learner.sampling.max_new_tokens, "temperature": 0.0}


def _plan(source: Source) -> Json:
    step = {"solver": "generate", "params": {}, "params_passed": {}}
    return {"name": "plan", "steps": [step], "config": _decoding(source)}


def _results(predictions: Sequence[Prediction]) -> Json:
    count = len(predictions)
    accuracy = sum(prediction.verdict == "correct" for prediction in predictions) / count
    # Of the mean, from the sample variance, as Inspect computes it.
    error = math.sqrt(accuracy * (1 - accuracy) / (count - 1)) if count > 1 else 0.0
    values = {"accuracy": accuracy, "stderr": error}
    metrics = {name: {"name": name, "value": value, "params": {}} for name, value in values.items()}
    score = {"name": _SCORER, "scorer": _SCORER, "scored_samples": count, "unscored_samples": 0, "params": {}}
    return {"total_samples": count, "completed_samples": count, "scores": [{**score, "metrics": metrics}]}


def _sample(source: Source, model: str, question: Question, prediction: Prediction) -> Json:
    prompt = render_prompt(question.text, source.learner.eval_prompt)
    said = f"states {prediction.predicted}" if prediction.predicted is not None else "states no answer that can be read"
    reply = {
        "id": content_id(question.id, "reply"),
        "content": prediction.text,
        "source": "generate",
        "role": "assistant",
        "model": model,
    }
    asked = {"id": content_id(question.id, "prompt"), "content": prompt, "source": "input", "role": "user"}
    choice = {"message": reply, "stop_reason": "stop" if prediction.finished else "max_tokens"}
    score: Json = {
        "value": _VALUES[prediction.verdict],
        "answer": prediction.predicted,
        "explanation": f"{prediction.verdict}: the text {said}, and the gold answer is {question.answer}",
        "history": [],
    }
    return {
        "id": question.id,
        "epoch": 1,
        "input": prompt,
        "target": question.answer,
        "messages": [asked, reply],
        "output": {"model": model, "choices": [choice], "completion": prediction.text},
        "scores": {_SCORER: score},
        "metadata": {"tokens": prediction.tokens, "question": question.text},
        "store": {},
        "events": [],
        "model_usage": {},
        "role_usage": {},
        "attachments": {},
    }


def _summary(sample: Json) -> Json:
    """What lists of samples show."""
    keys = ("id", "epoch", "input", "target", "metadata", "scores", "model_usage", "role_usage")
    return {**{key: sample[key] for key in keys}, "completed": True, "message_count": len(sample["messages"])}


INSPECT = Form(_write)

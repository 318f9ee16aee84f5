"""What each stage reads from the run folder, and what it writes into its working folder.

One method a stage kind: it is given the stage and a working folder that survives a kill, leaves its outputs under
`out/` there, and returns what is worth recording.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mentorkd.data.encoding import Reader
from mentorkd.data.prepare import prepare_recipe
from mentorkd.distillation.agreement import agreement
from mentorkd.distillation.scoring import score
from mentorkd.files import digest_path, fingerprint, link, write_json
from mentorkd.generation.resumable import Decoding
from mentorkd.models import (
    kind_of,
    load_folder,
    load_model,
    save_model,
    vocabulary_size,
)
from mentorkd.pipeline import provenance
from mentorkd.pipeline.context import CHUNK_BATCHES, Workbench
from mentorkd.pipeline.graph import row_settings
from mentorkd.pipeline.model_card import model_card
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.stages.augment import augment
from mentorkd.pipeline.stages.report import read_inputs, report
from mentorkd.pipeline.stages.search import choose_trial
from mentorkd.recipe.graph import arms, judges_of
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.search import trials_of
from mentorkd.records import Prediction, Rationale, write_jsonl
from mentorkd.teachers.annotate import open_teacher
from mentorkd.teachers.teacher import AnnotationContext
from mentorkd.training.schedule import Arm, budget
from mentorkd.training.train import train

__all__ = ["Work"]


class Work(Workbench):
    """Carries out the stages of one recipe in one run folder."""

    def prepare(self, stage: Stage, place: Path) -> dict[str, Any]:
        questions, faults = prepare_recipe(self.recipe)
        lines = self._tell(faults)
        write_jsonl(place / "out" / "questions.jsonl", questions)
        counts = {split: sum(q.split == split for q in questions) for split in ("train", "validation", "test")}
        return {"questions": counts, "faults": lines}

    def annotate(self, stage: Stage, place: Path) -> dict[str, Any]:
        context = AnnotationContext(
            root=self.folder.root,
            engines=self.files.engines,
            device=lambda: self.device,
            on_progress=self.progress,
            note=self.note,
        )
        annotation = open_teacher(self.recipe).annotate(self.questions(stage), context)
        for line in annotation.faults:
            self.note(line)
        write_jsonl(place / "out" / "rationales.jsonl", annotation.rationales)
        record: dict[str, Any] = {"rationales": _verdicts(annotation.rationales), "faults": annotation.faults}
        if annotation.account is not None:
            record |= {"asked": annotation.account, "tokens": annotation.tokens}
        return record

    def budget(self, stage: Stage, place: Path) -> dict[str, Any]:
        compared: dict[str, Arm] = {}
        known: dict[str, Arm] = {}  # arms of a sweep have the same rows
        for name in arms(self.recipe):
            learner = self.recipe.learners[name]
            read = [f"rationales/{source}" for source in learner.rationales]
            read += [f"judge/{judge}" for judge in judges_of(self.recipe, name)]
            made = [stage.inputs.get(role) for role in read]
            key = fingerprint([learner.model.model_dump(), made, row_settings(self.recipe, name)])
            if key not in known:
                rows = self.rows(stage, name, Reader.of(learner.model))[0]
                known[key] = Arm(rows, kind_of(learner.model), learner.training)
            compared[name] = known[key]
        assert self.recipe.match != "epochs", "then there is no budget"
        record = budget(compared, self.recipe.match, seed=stage.seed)
        write_json(place / "out" / "budget.json", record)
        return record

    def train(self, stage: Stage, place: Path) -> dict[str, Any]:
        learner = self.learner(stage)
        loaded = load_model(learner.model, seed=stage.seed, device=self.device)
        rows, counts, filters = self.rows(stage, stage.learner, Reader.of(loaded))
        self._tell_encoding(
            stage, counts.source_too_long + counts.target_too_long, counts.with_unknown_tokens, counts.rows
        )
        budgeted = self.files.record(stage.inputs["budget"]) if "budget" in stage.inputs else None
        precision, objective = self.precision(learner), self.objective(stage, learner, loaded)
        result = train(
            loaded,
            rows,
            learner.training,
            seed=stage.seed,
            folder=place / "checkpoints",
            precision=precision,
            objective=objective,
            validate=self.validation(stage, learner, loaded),
            updates=None if budgeted is None else budgeted["arms"][stage.learner]["updates"],
            on_progress=self.progress,
            project=self.recipe.name,
            run_name=stage.target.removeprefix("learners/"),
            tensorboard=self.folder.root / "tensorboard" / stage.target.removeprefix("learners/"),
        )
        with (place / "out" / "metrics.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in result.history)
        record = {
            "filters": filters,
            "encoding": asdict(counts),
            "rows": counts.kept,
            "updates": result.updates,
            "epochs": result.history[-1]["epoch"],
            "target_tokens": int(sum(row.get("tokens", 0) for row in result.history)),
            "matched": None if budgeted is None else budgeted["match"],
            "best_step": result.best_step,
            "validation_accuracy": result.validation_accuracy,
            "fused_loss": result.fused,
            "precision": precision,
            "soft_labels": agreement(loaded, rows, objective, list(learner.mentor_weights), precision=precision),
            "parameters": loaded.parameter_count,
        }
        record["tokens"] = record["target_tokens"]
        recipe = self.recipe.model_copy(update={"learners": {**self.recipe.learners, stage.learner: learner}})
        save_model(loaded, place / "out" / "model", card=model_card(recipe, stage.learner, stage.seed, record))
        return record

    def search(self, stage: Stage, place: Path) -> dict[str, Any]:
        trials = trials_of(self.recipe.learners[stage.learner])
        names = [stage.inputs[f"trial/{number}"] for number in range(len(trials))]
        chosen, record = choose_trial(trials, [self.files.record(name) for name in names])
        for output in ("model", "metrics.jsonl"):
            link(self.files.outputs(names[chosen]) / output, place / "out" / output)
        return record

    def score(self, stage: Stage, place: Path) -> dict[str, Any]:
        learner = self.learner(stage)
        mentor_folder = self.model(stage, stage.mentor)
        mentor = load_folder(mentor_folder, device=self.device)
        rows, _, _ = self.rows(stage, stage.learner, Reader.of(mentor), scored=stage.source)
        made = score(
            mentor,
            rows,
            folder=place / "out" / stage.name.rpartition("/")[2],
            mode="top_k" if learner.soft_label_store == "top_k" else "hidden",
            top_k=learner.top_k,
            temperature=learner.temperature,
            mentor_digest=digest_path(mentor_folder),
            target=learner.target,
            bfloat16=self.precision(self.recipe.learners[stage.mentor]) == "bfloat16",
            vocab_size=self._shared_vocabulary(learner) if learner.soft_label_store == "top_k" else None,
            on_progress=self.progress,
        )
        return made

    def _shared_vocabulary(self, learner: Learner) -> int:
        """Leading vocabulary entries that a learner's head and all of its mentors' have; heads may be padded."""
        models = [learner.model, *(self.recipe.learners[name].model for name in learner.mentor_weights)]
        return min(vocabulary_size(model) for model in models)

    def augment(self, stage: Stage, place: Path) -> dict[str, Any]:
        learner = self.learner(stage)
        sampling = learner.sampling
        questions = self.questions(stage, "train")
        engine = self.engine(learner, self.model(stage, stage.learner))
        rationales, tokens = augment(
            engine,
            questions,
            source=stage.learner,
            prompt=learner.prompt,
            target=learner.target,
            grader=self.grader,
            decoding=Decoding(
                sampling.samples, sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens
            ),
            seed=stage.seed,
            journal=place / "journal.jsonl",
            chunk=CHUNK_BATCHES * sampling.batch_size,
            on_progress=self.progress,
        )
        write_jsonl(place / "out" / "rationales.jsonl", rationales)
        return {"rationales": _verdicts(rationales), "tokens": tokens, "engine": engine.name}

    def evaluate(self, stage: Stage, place: Path) -> dict[str, Any]:
        learner = self.learner(stage)
        engine = self.engine(learner, self.model(stage, stage.learner))
        questions = self.questions(stage, "test")
        predictions = self.predict(engine, learner, stage.learner, stage.seed, questions, place / "journal.jsonl")
        write_jsonl(place / "out" / "predictions.jsonl", predictions)
        tokens = sum(prediction.tokens for prediction in predictions)
        return {"predictions": _verdicts(predictions), "tokens": tokens, "engine": engine.name}

    def report(self, stage: Stage, place: Path) -> dict[str, Any]:
        made = provenance.summarised(map(self.files.record, stage.needs), provenance.here())
        return report(place / "out", read_inputs(self.recipe, self.files, stage, made))

    def _tell(self, faults: Any) -> list[str]:
        if self.recipe.data.strict:
            faults.raise_if_strict()
        lines: list[str] = faults.lines()
        for line in lines:
            self.note(line)
        return lines

    def _tell_encoding(self, stage: Stage, too_long: int, unknown: int, rows: int) -> None:
        if too_long:
            self.note(
                f"{stage.learner}: {too_long} of {rows} rows are too long and were left out (a cut row loses its answer)"
            )
        if unknown:
            self.note(f"{stage.learner}: {unknown} of {rows} rows hold characters that the vocabulary does not know")


def _verdicts(records: Iterable[Rationale | Prediction]) -> Mapping[str, int]:
    counts = {"correct": 0, "wrong": 0, "no_answer": 0}
    for record in records:
        counts[record.verdict] += 1
    return counts

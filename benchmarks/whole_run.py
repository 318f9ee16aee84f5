"""Both profiles of the whole method on the quickstart's task: nano models, a hundred validation questions.

Ours is the pipeline on a recipe, as `mentorkd run` calls it. The reference run follows the cost model of the paper's code with
the same questions, rationales, models, batch size, learning rate, number of epochs and way of choosing the epoch.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from svamp import reference_batch, reference_trainer
from transformers import GenerationConfig

from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.data.prompts import render_target
from mentorkd.data.readers import read_questions, read_rationales
from mentorkd.grading.grade import grade
from mentorkd.models import LoadedModel, load_model
from mentorkd.pipeline.run import Pipeline
from mentorkd.quickstart.task import write_recipe, write_task
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.records import Question

SEED, KD_WEIGHT, TEMPERATURE = 0, 0.3, 2.0
SAMPLES, SAMPLING_TEMPERATURE, LONGEST = 3, 0.7, 120
BATCH, SAMPLING_BATCH = 8, 16


@dataclass
class Outcome:
    """Seconds of a run and of its parts, and the student's validation accuracy at its chosen epoch."""

    seconds: float = 0.0
    accuracy: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


def recipe_of(folder: Path, questions: int, epochs: int) -> Recipe:
    """A mentor and its student over freshly written data: the quickstart's recipe with the paper's batches and whole epochs."""
    write_task(folder, seed=SEED, train=2 * questions, validation=100, test=200, annotated=questions)
    changes = [
        f"training.epochs={epochs}",
        "training.updates=null",
        f"training.batch_size={BATCH}",
        "training.schedule=constant",
        "training.warmup_ratio=0",
        "training.weight_decay=0.01",
        "training.max_grad_norm=0",
        "training.learning_rate=1e-3",
        "training.validate_every=1",
        "training.select_on=validation",
        f"sampling.max_new_tokens={LONGEST}",
    ]
    recipe = load_recipe(write_recipe(folder / "recipe.yaml"), changes)
    learners = {
        name: learner.model_copy(update={"training": recipe.training})
        for name, learner in recipe.learners.items()
        if name in ("mentor", "student")
    }
    return recipe.model_copy(update={"learners": learners, "seeds": [SEED]})


def our_run(questions: int, epochs: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe_of(Path(folder), questions, epochs)
        start = time.perf_counter()
        manifest = Pipeline(recipe, Path(folder) / "run").run()
        seconds = time.perf_counter() - start
    parts: dict[str, float] = {}
    for name, record in manifest["stages"].items():
        learner = name.split("/")[1] if "/" in name else ""
        kind = name.split("/")[-2 if "/score/" in name else -1]
        parts[f"{learner} {kind}".strip()] = record["seconds"]
    trained = manifest["stages"][f"learners/student/seed-{SEED}/train"]
    return Outcome(seconds, trained["validation_accuracy"], parts)


def reference_run(questions: int, epochs: int) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = recipe_of(folder, questions, epochs)
        train, validation, test = (
            read_questions(folder / f"{split}.jsonl", split=split, kind="number")
            for split in ("train", "validation", "test")
        )
        teacher = [
            (rationale.question_id, rationale.text)
            for rationale in read_rationales(folder / "teacher.jsonl", train, kind="number")
            if rationale.verdict == "correct"
        ]
        outcome, start = Outcome(), time.perf_counter()
        mentor = load_model(recipe.learners["mentor"].model, seed=SEED, device=torch.device("cpu"))
        student = load_model(recipe.learners["student"].model, seed=SEED, device=torch.device("cpu"))
        rate = recipe.training.learning_rate

        def timed(part: str, run: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            result = run()
            outcome.parts[part] = time.perf_counter() - began
            return result

        step = reference_trainer(mentor, None, kd_weight=0.0, temperature=1.0, learning_rate=rate)
        timed("mentor train", lambda: fit(mentor, step, rows_of(teacher, train, mentor), validation, epochs))
        written = timed("mentor augment", lambda: sampled(mentor, train, SAMPLES, SAMPLING_TEMPERATURE))
        right = [
            (question.id, text.partition("-->")[0])
            for question, texts in zip(train, written, strict=True)
            for text in texts
            if grade(text, question.answer, "number").verdict == "correct"
        ]
        both = rows_of(list(dict.fromkeys([*teacher, *right])), train, student)
        step = reference_trainer(
            student, mentor, kd_weight=KD_WEIGHT, temperature=TEMPERATURE, learning_rate=rate, tau_squared=True
        )
        outcome.accuracy = timed("student train", lambda: fit(student, step, both, validation, epochs))
        timed("student evaluate", lambda: accuracy(student, test))
        timed("mentor evaluate", lambda: accuracy(mentor, test))
        outcome.seconds = time.perf_counter() - start
        return outcome


def rows_of(rationales: Sequence[tuple[str, str]], questions: Sequence[Question], loaded: LoadedModel) -> list[Example]:
    asked = {question.id: question for question in questions}
    rows = [
        (str(number), asked[who].text, render_target(text, asked[who].answer, "arrow"))
        for number, (who, text) in enumerate(rationales)
    ]
    encoded, _ = encode_rows(
        rows, TextEncoder(loaded.tokenizer, "seq2seq"), max_source_tokens=160, max_target_tokens=160
    )
    return list(encoded)


def fit(
    loaded: LoadedModel,
    step: Callable[[dict[str, torch.Tensor]], float],
    rows: Sequence[Example],
    validation: Sequence[Question],
    epochs: int,
) -> float:
    """Epochs over rows padded to the longest of all, each followed by validation; the best weights stay."""
    longest = max(len(row.source_ids) for row in rows)
    longest_target = max(len(row.target_ids) for row in rows)
    shuffle = torch.Generator().manual_seed(SEED)
    best, weights = -1.0, loaded.model.state_dict()
    for _ in range(epochs):
        loaded.model.train()
        order = torch.randperm(len(rows), generator=shuffle).tolist()
        for first in range(0, len(order), BATCH):
            step(reference_batch([rows[i] for i in order[first : first + BATCH]], longest, longest_target))
        if (now := accuracy(loaded, validation)) >= best:
            best, weights = now, copy.deepcopy(loaded.model.state_dict())
    loaded.model.load_state_dict(weights)
    return best


def accuracy(loaded: LoadedModel, questions: Sequence[Question]) -> float:
    texts = sampled(loaded, questions, 1, 0.0)
    verdicts = [grade(one, q.answer, "number").verdict for q, (one,) in zip(questions, texts, strict=True)]
    return verdicts.count("correct") / len(verdicts)


@torch.inference_mode()
def sampled(loaded: LoadedModel, questions: Sequence[Question], n: int, temperature: float) -> list[list[str]]:
    """Texts of each question, in unsorted batches of 16 padded to the longest question."""
    loaded.model.eval()
    drawing = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    settings = GenerationConfig(
        **drawing,
        num_return_sequences=n,
        max_new_tokens=LONGEST,
        eos_token_id=loaded.tokenizer.eos_token_id,
        pad_token_id=loaded.tokenizer.pad_token_id,
        decoder_start_token_id=loaded.model.config.decoder_start_token_id,
    )
    longest = max(len(loaded.tokenizer(question.text)["input_ids"]) for question in questions)
    found: list[list[str]] = []
    for first in range(0, len(questions), SAMPLING_BATCH):
        prompts = [question.text for question in questions[first : first + SAMPLING_BATCH]]
        batch = loaded.tokenizer(prompts, padding="max_length", max_length=longest, return_tensors="pt")
        written = loaded.model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=settings
        )
        texts = loaded.tokenizer.batch_decode(written, skip_special_tokens=True)
        found += [texts[start : start + n] for start in range(0, len(texts), n)]
    return found

"""Damage to the files of a run: bits that flip and files that lose their second half, and what the next use makes of it."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mentorkd.distillation.likelihood import PerplexityScorer, likelihoods
from mentorkd.distillation.soft_labels import SoftLabelStore, SoftLabelWriter, StoreMeta
from mentorkd.errors import MentorkdError
from mentorkd.files import digest_path
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.resumable import sample_resumably
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import EvaluateRecord
from mentorkd.pipeline.run import open_run
from mentorkd.pipeline.run_folder import RunFolder, Stage, sealed
from mentorkd.pipeline.stages.report import read_inputs
from mentorkd.records import Question, Rationale
from mentorkd.reporting.write import read_results
from replay_engine import ReplayEngine
from tiny_training import learner, rows_for, run, weights

__all__ = ["Artefact", "finished_artefacts", "flip", "halve", "outcome", "outcomes", "unfinished_artefacts"]

AGAIN = "its stage runs again"


def flip(file: Path, rng: random.Random) -> None:
    """Flip one bit."""
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    _replace(file, bytes(data))


def halve(file: Path) -> None:
    data = file.read_bytes()
    _replace(file, data[: len(data) // 2])


def _replace(file: Path, data: bytes) -> None:
    file.unlink()  # it may be a hard link
    file.write_bytes(data)


@dataclass(frozen=True)
class Artefact:
    """A kind of file, and the use that reads it next. `use` gives what it made of the file, to compare."""

    name: str
    root: Path
    """Folder that is made whole again between trials."""
    file: str
    use: Callable[[], Any]


def outcome(artefact: Artefact, harm: Callable[[Path], None], expected: Any) -> str:
    """What the next use makes of a damaged file: `told` in an error of one line, `same` result as `expected` (healed, or the bit
    does not matter), `silent` other result, or the name of another exception."""
    pristine = artefact.root.with_name(f"{artefact.root.name}.pristine")
    if not pristine.exists():
        shutil.copytree(artefact.root, pristine)
    harm(artefact.root / artefact.file)
    try:
        value = artefact.use()
        return "same" if _same(value, expected) else "silent"
    except MentorkdError as error:
        return "told" if len(str(error).splitlines()) == 1 else "several lines"
    except Exception as error:
        return type(error).__name__
    finally:
        shutil.rmtree(artefact.root)
        shutil.copytree(pristine, artefact.root)


def outcomes(artefact: Artefact, flips: int, seed: int = 0) -> Counter[str]:
    """The outcomes of single flipped bits, and of half a file."""
    rng, pristine = random.Random(f"{seed} {artefact.name}"), artefact.root.with_name(f"{artefact.root.name}.pristine")
    shutil.copytree(artefact.root, pristine)
    expected = artefact.use()
    shutil.rmtree(artefact.root)
    shutil.copytree(pristine, artefact.root)
    counts = Counter(outcome(artefact, lambda file: flip(file, rng), expected) for _ in range(flips))
    counts[f"half: {outcome(artefact, halve, expected)}"] += 1
    shutil.rmtree(pristine)
    return counts


def _same(value: Any, expected: Any) -> bool:
    if isinstance(value, str) and value == AGAIN:
        return True
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(_same(value[key], expected[key]) for key in value)
    if isinstance(value, torch.Tensor):
        return torch.equal(value, expected)
    if isinstance(value, np.ndarray):
        return np.array_equal(value, expected)
    return bool(value == expected)


def finished_artefacts(root: Path) -> Iterator[Artefact]:
    """The artefacts of a copy of the small run."""

    def inputs() -> Any:
        pipeline = open_run(root)
        if any(planned.state != "done" for planned in pipeline.plan()):
            return AGAIN
        return read_inputs(pipeline.recipe, pipeline.folder, pipeline.stages[-1], pipeline.manifest())

    def model() -> Any:
        pipeline = open_run(root)
        if any(planned.state != "done" for planned in pipeline.plan()):
            return AGAIN
        return digest_path(pipeline.folder.model("learners/mentor/seed-1/train"))

    def report() -> Any:
        folder = RunFolder(root)
        return read_results(folder.report() if hasattr(folder, "report") else root / "report")

    def store() -> Any:
        store = SoftLabelStore(labels)
        return {each: dict(store.row(each)) for each in store.ids} | {"head": store.head()[0]}

    mentor = "learners/mentor/seed-1"
    labels = next((root / mentor / "soft_labels").iterdir())
    for name, file in {
        "questions": "data/questions.jsonl",
        "teacher's rationales": "teacher/rationales.jsonl",
        "a learner's rationales": f"{mentor}/rationales.jsonl",
        "predictions": "learners/student/seed-1/predictions.jsonl",
        "log of a training": f"{mentor}/metrics.jsonl",
        "mark of a training": f".stages/{mentor.replace('/', '.')}.train.json",
        "manifest": "manifest.json",
    }.items():
        yield Artefact(name, root, file, inputs)
    for file in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json"):
        yield Artefact(f"model: {file}", root, f"{mentor}/model/{file}", model)
    for file in ("results.json", "run.json"):
        yield Artefact(f"report: {file}", root, f"report/{file}", report)
    for file in sorted(labels.iterdir()):
        yield Artefact(f"soft labels: {file.name}", root, file.relative_to(root).as_posix(), store)


def unfinished_artefacts(root: Path, small_run: Path, *, checkpoints: bool) -> Iterator[Artefact]:
    """The artefacts that a killed run leaves, and caches: each in a folder in `root`. Checkpoints take a training each time."""
    yield _commit(root / "commit")
    if checkpoints:
        yield from _checkpoints(root / "training" / "checkpoints")
    yield _journal(root / "sampling")
    yield _likelihoods(root / "likelihoods")
    yield from _store(root / "store")
    yield _untrained(root / "untrained", small_run)


def _commit(root: Path) -> Artefact:
    stage = Stage("learners/a/seed-1/evaluate", "evaluate", "learners/a/seed-1", {}, "f1")
    folder = RunFolder(root)

    class Killed(Exception): ...

    def kill(workdir: Path) -> None:
        raise Killed

    folder._roll_forward = kill  # type: ignore[method-assign]
    with folder.lock():
        workdir = folder.begin(stage)
        (workdir / "out" / "predictions.jsonl").write_text('{"a": 1}\n')
        with suppress(Killed):
            record = EvaluateRecord(predictions={"correct": 1}, engine="transformers", seconds=7.25)
            folder.publish(stage, workdir, sealed(record, stage, workdir))

    def use() -> Any:
        with RunFolder(root).lock():
            pass
        return RunFolder(root).finished(stage) or AGAIN

    (file,) = root.glob(".work/*/commit.json")
    return Artefact("commit.json", root, file.relative_to(root).as_posix(), use)


def _checkpoints(root: Path) -> Iterator[Artefact]:
    class Killed(Exception): ...

    def training(stop: int | None) -> Any:
        step = 0

        def progress(done: int, steps: int) -> None:
            nonlocal step
            step = done
            if step == stop:
                raise Killed

        def validate() -> float:
            return 0.9 if step == 1 else 0.5

        student = learner(seed=2)
        with suppress(Killed):
            result = run(student, rows_for(student, 4), root, epochs=3, validate=validate, on_progress=progress)
            return weights(student) | {"losses": [row.get("loss") for row in result.history], "best": result.best_step}

    training(3)
    best, newest = sorted(root.glob("checkpoint-*"))
    for file in sorted(newest.iterdir()):
        if not file.name.startswith("."):
            yield Artefact(f"checkpoint: {file.name}", root, f"{newest.name}/{file.name}", lambda: training(None))
    (file,) = [each for each in best.glob("*.safetensors") if each.name != "objective.safetensors"]
    yield Artefact(f"best checkpoint: {file.name}", root, f"{best.name}/{file.name}", lambda: training(None))


def _journal(root: Path) -> Artefact:
    prompts = [f"How many are {n} and {n}?" for n in range(12)]

    def use() -> Any:
        engine = ReplayEngine({prompt: [f"They are {len(prompt)}.", "I do not know."] for prompt in prompts})
        params, journal = SamplingParams(n=2, temperature=0.7), root / "journal.jsonl"
        return sample_resumably(engine, prompts, params, seed=1, journal=journal, chunk=2, on_progress=lambda *p: None)

    root.mkdir(parents=True)
    use()
    return Artefact("journal of samples", root, "journal.jsonl", use)


def _likelihoods(root: Path) -> Artefact:
    loaded = learner(seed=1)
    questions = [Question.create(f"How many are {n} and {n}?", str(2 * n), "train") for n in range(8)]
    texts = [Rationale.create(q.id, f"{q.answer} it is", q.answer, "correct", "teacher", 0) for q in questions]

    def use() -> Any:
        scorer = PerplexityScorer(lambda: loaded, root / "likelihoods-1.jsonl")
        scores = likelihoods(scorer, texts, questions, on_progress=lambda *p: None)
        return {each: round(score, 3) for each, score in scores.items()}  # other batches round differently

    root.mkdir(parents=True)
    use()
    return Artefact("journal of likelihoods", root, "likelihoods-1.jsonl", use)


def _store(root: Path) -> Iterator[Artefact]:
    meta, make = StoreMeta("hidden", "m", "t", "arrow", 50, 8), np.random.default_rng(0)
    rows = {
        each: {"labels": make.integers(50, size=n), "hidden": make.integers(2**16, size=(n, 8)).astype(np.uint16)}
        for n, each in enumerate(["a1", "b2", "c3", "d4"], 2)
    }
    head = {"weight": torch.randn(50, 8, generator=torch.Generator().manual_seed(0))}

    def write(ids: list[str]) -> None:
        with closing(SoftLabelWriter(root, meta, head)) as writer:
            writer.append([(each, rows[each]) for each in ids if each not in writer.done])

    def use() -> Any:
        write(list(rows))
        SoftLabelWriter(root, meta, head).finish()
        store = SoftLabelStore(root)
        if missing := rows.keys() - set(store.ids):
            raise MentorkdError(f"no soft labels of {missing}")  # the training's words
        return {each: dict(store.row(each)) for each in rows} | {"head": store.head()[0]}

    write(["a1", "b2", "c3"])
    for file in sorted(root.iterdir()):
        yield Artefact(f"unfinished soft labels: {file.name}", root, file.name, use)


def _untrained(root: Path, small_run: Path) -> Artefact:
    recipe = open_run(small_run).recipe
    folder = RunFolder(root)

    def use() -> Any:
        return digest_path(RunContext(recipe, folder).model_folder("vanilla", 1, None))

    use()
    (model,) = folder.engines.glob("untrained-*")
    return Artefact("untrained model", root, (model / "model.safetensors").relative_to(root).as_posix(), use)

"""The page of rationales at 10^5 and 10^6 rows: seconds to make the copy of the table, and milliseconds of a page.

A made-up run with three rationales a question, as its files and marks would be: texts of 330 characters, a student that dropped what
is wrong, and one with likelihoods. A page is a whole answer of the application: 50 rows of HTML with false equations and search marked.
`new` is the first page of a view that nobody asked for before, `again` a second request for it; medians of several views, in
milliseconds of wall time and, in brackets, of processor time in all threads.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import arguments, hardware, versions

SAMPLES = 3
"""Rationales of a question."""
PAGE = "/run/run/rationales"
WORDS = (
    "the farmer sold some of his apples and then bought more books for each of her friends who had started with several boxes there",
    "were still left after giving away to find how many we need first subtract add total number divide multiply remaining days cost",
)

RECIPE = """\
name: made-up
task: {name: made-up, train: absent.jsonl, test: absent.jsonl, answer: number}
teacher: {rationales: absent.jsonl}
learners: {vanilla: {model: nano-t5-small}, student: {model: nano-t5-small}}
seeds: [1]
"""
VIEWS = {
    "no filter": [""],
    "last pages": ["page={last}", "page={before}"],
    "sorted": ["sort=length", "sort=-length", "sort=-nll&reader=student@seed-1"],
    "filtered": [
        "verdict=wrong",
        "outcome=dropped",
        "outcome=kept&verdict=correct",
        "outcome=correct&reader=vanilla@seed-1",
    ],
    "searched": ["q=apples", "q=boxes 7", "q=total+number", "q=+%3D+100", "q=nowhere"],
    "searched, filtered, sorted": ["q=friends&verdict=wrong&sort=-length", "q=days&outcome=kept&sort=length"],
}
"""Queries of the page by kind; those of a kind do not share a search or an order."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", help="rationales (default 100,000 and 1,000,000)")
    options = parser.parse_args()
    sizes = options.sizes or ([30_000] if options.short else [100_000, 1_000_000])
    result: dict[str, Any] = {"sizes": {size: measured(size, options.json) for size in sizes}}
    result |= {"hardware": hardware(), "versions": versions()}
    if options.json:
        print(json.dumps(result))


def measured(size: int, quiet: bool) -> dict[str, Any]:
    """Seconds of the copy and milliseconds of pages of a run with `size` rationales."""
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        write_run(Path(folder) / "run", size)
        row = look(Path(folder) / "run", size)
    if not quiet:
        print(
            f"{size:>9,}  copy {row['copy_seconds']:.1f} s, {row['copy_bytes'] / 2**20:.0f} MiB; opened in {row['open_ms']:.0f} ms"
        )
        for kind, times in row["pages"].items():
            new, again = (f"{times[f'{name}_ms']:6.0f} ms ({times[f'{name}_cpu_ms']:.0f})" for name in ("new", "again"))
            print(f"{'':>9}  {kind:<28} new {new}   again {again}")
    return row


def look(run: Path, size: int) -> dict[str, Any]:
    """Make the copy as a server does, then ask for pages."""
    from starlette.testclient import TestClient

    from mentorkd.web.app import build_app
    from mentorkd.web.copies import cache_folder

    def client() -> TestClient:
        return TestClient(build_app([run], token=None, host="127.0.0.1", port=8000), base_url="http://127.0.0.1:8000")

    def milliseconds(browser: TestClient, query: str) -> tuple[float, float]:
        """Of wall time, and of processor time in all threads."""
        start, cpu = time.perf_counter(), time.process_time()
        reply = browser.get(f"{PAGE}?{query}")
        assert reply.status_code == 200, reply.text
        return 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - cpu)

    browser, start = client(), time.perf_counter()
    while browser.get(PAGE).status_code == 202:
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    browser = client()
    opened, _ = milliseconds(browser, "")
    pages, last = {}, -(-size // 50)
    for kind, queries in VIEWS.items():
        filled = [query.format(last=last, before=last - 1) for query in queries]
        new = [milliseconds(browser, query) for query in filled]
        again = [milliseconds(browser, query) for query in filled]
        medians = [statistics.median(each) for times in (new, again) for each in zip(*times, strict=True)]
        pages[kind] = dict(zip(("new_ms", "new_cpu_ms", "again_ms", "again_cpu_ms"), medians, strict=True))
    size_of_copy = sum(file.stat().st_size for file in cache_folder().rglob("*") if file.is_file())
    return {"copy_seconds": seconds, "copy_bytes": size_of_copy, "open_ms": opened, "pages": pages}


def write_run(run: Path, size: int) -> None:
    """The run's folder: questions, the teacher's rationales, and the selection logs of two students."""
    from mentorkd.pipeline.records import AnnotateRecord, PrepareRecord, StageRecord, TrainRecord
    from mentorkd.pipeline.run_folder import RunFolder, Stage, sealed
    from mentorkd.records import EncodingCounts, Question, Rationale, write_jsonl

    folder, rng = RunFolder(run), random.Random(0)
    words = " ".join(WORDS).split()
    sentences = [" ".join(rng.choices(words, k=rng.randint(6, 14))).capitalize() for _ in range(20_000)]
    questions = [
        Question.create(f"{rng.choice(sentences)}. {rng.choice(sentences)}, {number}?", str(number % 997), "train")
        for number in range(-(-size // SAMPLES))
    ]

    def steps() -> Iterator[str]:
        for _ in range(rng.randint(2, 7)):
            one, other = rng.randint(1, 900), rng.randint(1, 90)
            slip = rng.random() < 0.03
            yield f"{rng.choice(sentences)} {one} + {other} = {one + other + slip}."

    def rationales() -> Iterator[Rationale]:
        usage = {
            "outcome": "ok",
            "usage": {"input_tokens": 100, "output_tokens": 90},
            "model": "made-up",
            "requests": ["0" * 64],
        }
        for number in range(size):
            question, verdict = questions[number // SAMPLES], rng.choice(("correct", "correct", "wrong", "no_answer"))
            text = " ".join(steps())
            yield Rationale.create(
                question.id,
                text,
                question.answer,
                verdict,  # type: ignore[arg-type]
                "teacher",
                number % SAMPLES,
                usage,
            )

    def publish(stage: Stage, record: StageRecord) -> None:
        folder.publish(stage, work[stage.name], sealed(record, stage, work[stage.name]))

    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(RECIPE)
    students = ("vanilla", "student")
    prepare = Stage("prepare", "prepare", "data", {}, "0" * 16)
    annotate = Stage("annotate", "annotate", "teacher", {"questions": "prepare"}, "0" * 16)
    training = [
        Stage(
            f"learners/{name}/seed-1/train",
            "train",
            f"learners/{name}/seed-1",
            {"questions": "prepare", "rationales/teacher": "annotate"},
            "0" * 16,
            learner=name,
            seed=1,
        )
        for name in students
    ]
    with folder.lock():
        work = {stage.name: folder.begin(stage) for stage in (prepare, annotate, *training)}
        write_jsonl(work["prepare"] / "out" / "questions.jsonl", questions)
        logs = [(work[stage.name] / "out" / "selection.jsonl").open("w") for stage in training]

        def logged() -> Iterator[Rationale]:
            for rationale in rationales():
                for stage, log in zip(training, logs, strict=True):
                    if rationale.verdict != "correct":
                        log.write(json.dumps({"rationale_id": rationale.id, "dropped_by": "correct"}) + "\n")
                    elif stage.learner == "student":
                        log.write(json.dumps({"rationale_id": rationale.id, "nll": round(rng.random(), 6)}) + "\n")
                yield rationale

        write_jsonl(work["annotate"] / "out" / "rationales.jsonl", logged())
        for log in logs:
            log.close()
        publish(prepare, PrepareRecord(questions={"train": len(questions), "validation": 0, "test": 0}, faults=[]))
        publish(annotate, AnnotateRecord(rationales={"correct": size, "wrong": 0, "no_answer": 0}, faults=[]))
        for stage in training:
            record = TrainRecord(
                filters=[],
                encoding=EncodingCounts(0, 0, 0, 0, 0, 0),
                rows=0,
                updates=1,
                epochs=1.0,
                target_tokens=1,
                matched=None,
                best_step=1,
                validation_accuracy=None,
                fused_loss=False,
                precision="float32",
                parameters=1,
            )
            publish(stage, record)


if __name__ == "__main__":
    main()

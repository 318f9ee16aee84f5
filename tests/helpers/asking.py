"""What tests of teachers that are asked share: questions, teachers, and a command that can be killed."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mentorkd.grading.grade import Graded, grade
from mentorkd.recipe.teacher import OpenAITeacherConfig
from mentorkd.records import Question
from mentorkd.teachers.annotation import SamplingResult
from mentorkd.teachers.cache import RequestCache
from mentorkd.teachers.openai import annotate_openai
from mentorkd.teachers.prompting import Prompter

KEY = "sk-the-secret-0123456789"
KEY_VARIABLE = "MENTORKD_TEST_KEY"


def sums(count: int) -> list[Question]:
    return [Question.create(f"What is {a} + {a * 7 % 101}?", str(a + a * 7 % 101), "train") for a in range(count)]


def recorded(path: Path, count: int) -> list[Question]:
    rows = json.loads(path.read_text())[:count]
    return [Question.create(row["input"], row["answer"], "train") for row in rows]


def graded(text: str, question: Question) -> Graded:
    return grade(text, question.answer, "number")


def teacher(url: str, **settings: Any) -> OpenAITeacherConfig:
    fixed = {"model": "m", "base_url": url, "api_key_env": KEY_VARIABLE, "max_tokens": 64}
    return OpenAITeacherConfig.model_validate(fixed | settings)


def annotate(url: str, cache: Path, questions: list[Question], **settings: Any) -> SamplingResult:
    os.environ[KEY_VARIABLE] = KEY
    config = teacher(url, **settings)
    prompter = Prompter(config.prompt, answer_kind="number", template=config.template)
    with RequestCache(cache) as opened:
        return annotate_openai(questions, config, prompter, opened, grade=graded, first_backoff=0.05)


def peak_megabytes() -> float:
    """Peak memory of this process. `ru_maxrss` starts with that of the process which started this one, on Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(peak) / 1024


def main() -> None:
    """asking.py URL CACHE QUESTIONS SETTINGS: annotate, then print the account, the traffic, the seconds and the peak memory in MB.

    QUESTIONS is a number of sums, or a file of `{input, answer}` of which the first ten are asked.

    On a machine that others use, `seconds` are those of the processor, since the clock's say nothing then.
    """
    url, cache, source, settings = sys.argv[1:]
    questions = sums(int(source)) if source.isdigit() else recorded(Path(source), 10)
    clock = time.process_time if os.getloadavg()[0] > 3 else time.perf_counter
    began = clock()
    annotation = annotate(url, Path(cache), questions, **json.loads(settings))
    seconds = clock() - began
    print(
        json.dumps(
            {
                "account": annotation.account(),
                "traffic": annotation.traffic,
                "seconds": seconds,
                "clock": clock.__name__,
                "megabytes": peak_megabytes(),
            }
        )
    )


if __name__ == "__main__":
    main()


def texts(annotation: SamplingResult) -> Counter[tuple[Any, ...]]:
    """The rationales without their sample numbers, since a server cannot know which sample it answers."""
    return Counter((r.question_id, r.text, r.predicted, r.verdict, r.meta["outcome"]) for r in annotation.rationales)

"""What tests of teachers that are asked share: questions, teachers, and a command that can be killed."""

from __future__ import annotations

import asyncio
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
from mentorkd.teachers.wire import build_request

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


async def post_plainly(url: str, questions: list[Question], concurrency: int) -> None:
    """The same requests, three a question, by httpx alone: no cache, no limits, no grading."""
    import httpx

    config, room = teacher(url), asyncio.Semaphore(concurrency)
    prompter = Prompter(config.prompt, answer_kind="number")
    async with httpx.AsyncClient(timeout=60) as client:

        async def post(question: Question) -> None:
            request = build_request(config, prompter.first(question.text), max_tokens=64, temperature=0.7)
            async with room:
                reply = await client.post(request["endpoint"], json=request["body"])
            reply.json()

        await asyncio.gather(*(post(question) for question in questions for _ in range(3)))


def peak_megabytes() -> float:
    """Peak memory of this process. `ru_maxrss` starts with that of the process which started this one, on Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(peak) / 1024


def main() -> None:
    """asking.py URL CACHE QUESTIONS SETTINGS: annotate, then print account, traffic, processor seconds and peak memory in MB.

    QUESTIONS is a number of sums, or a file of `{input, answer}` of which the first ten are asked. With `plainly` among the settings, also
    the processor seconds that the same requests take by httpx alone.
    """
    url, cache, source, settings = sys.argv[1:]
    questions = sums(int(source)) if source.isdigit() else recorded(Path(source), 10)
    given = json.loads(settings)
    plainly = given.pop("plainly", False)
    began = time.process_time()
    annotation = annotate(url, Path(cache), questions, **given)
    seconds, megabytes = time.process_time() - began, peak_megabytes()
    if plainly:
        began = time.process_time()
        asyncio.run(post_plainly(url, questions, given["concurrency"]))
    print(
        json.dumps(
            {
                "account": annotation.account(),
                "traffic": annotation.traffic,
                "seconds": seconds,
                "seconds_plainly": time.process_time() - began if plainly else None,
                "megabytes": megabytes,
            }
        )
    )


if __name__ == "__main__":
    main()


def texts(annotation: SamplingResult) -> Counter[tuple[Any, ...]]:
    """The rationales without their sample numbers, since a server cannot know which sample it answers."""
    return Counter((r.question_id, r.text, r.predicted, r.verdict, r.meta["outcome"]) for r in annotation.rationales)

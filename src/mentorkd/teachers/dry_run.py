"""What an annotation would ask and cost, without asking for anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mentorkd.recipe.teacher import AskedTeacher, OpenAITeacher
from mentorkd.records import Question
from mentorkd.teachers.cache import RequestCache, request_key
from mentorkd.teachers.limits import dollars_text, picodollars
from mentorkd.teachers.openai_client import characters_as_tokens
from mentorkd.teachers.prompting import ANSWER_TRIGGER, Prompter
from mentorkd.teachers.wire import build_request

__all__ = ["DryRun", "dry_run", "token_counter"]

SHOWN = 3
_AROUND = 16
"""Tokens that a chat's marks add to a prompt, generously: ChatML takes 9, and 5 more for a system message."""


@dataclass(frozen=True)
class DryRun:
    """An estimate. `requests` are those of the first round that no cache holds; `most_requests` those that
    `until_correct` could make of them, retries apart. Tokens and dollars are for these two counts likewise; replies are
    taken at `max_tokens`, so both are upper bounds as far as `counted_by` counts right. Dollars: None without a price.
    `cached` is None for a local teacher: what a cache holds of it is known by its weights, which are not loaded.
    """

    prompts: tuple[str, ...]
    cached: int | None
    requests: int
    most_requests: int
    input_tokens: int
    most_input_tokens: int
    output_tokens: int
    most_output_tokens: int
    picodollars: int | None
    most_picodollars: int | None
    counted_by: str

    def lines(self) -> list[str]:
        """The estimate to read, after the prompts."""

        def span(low: int, high: int, show: Callable[[int], str] = "{:,}".format) -> str:
            return show(low) if low == high else f"{show(low)} to {show(high)}"

        kept = "less those in the cache" if self.cached is None else f"and {self.cached:,} answered from the cache"
        lines = [
            f"requests: {span(self.requests, self.most_requests)}, {kept}",
            f"tokens: {span(self.input_tokens, self.most_input_tokens)} in (estimated by {self.counted_by}), "
            f"at most {span(self.output_tokens, self.most_output_tokens)} out",
        ]
        if self.picodollars is None or self.most_picodollars is None:
            return [*lines, "dollars: unknown, since the recipe gives no price"]
        return [*lines, f"dollars: at most {span(self.picodollars, self.most_picodollars, dollars_text)}"]


def dry_run(
    questions: Sequence[Question],
    teacher: AskedTeacher,
    prompter: Prompter,
    *,
    cache: RequestCache | None = None,
    count_tokens: Callable[[str], int] = characters_as_tokens,
    counted_by: str = "characters, four a token",
) -> DryRun:
    """Estimate the annotation of `questions`; `counted_by` says in words what `count_tokens` does."""
    prompts = [prompter.first(text) for text in {question.id: question.text for question in questions}.values()]
    calls = 2 if prompter.two_stage else 1
    tries = teacher.samples if teacher.until_correct is None else teacher.until_correct.tries
    around = 0
    if isinstance(teacher, OpenAITeacher) and teacher.endpoint == "chat":
        around = _AROUND + (count_tokens(teacher.system) if teacher.system else 0)
    cached = requests = most = read = most_read = 0
    for prompt in prompts:
        known = [_is_cached(prompt, sample, teacher, cache) for sample in range(tries)]
        first, every = known[: teacher.samples].count(False), known.count(False)
        # The second call repeats the first one's prompt and reply, and adds the trigger.
        again = teacher.max_tokens + count_tokens(ANSWER_TRIGGER) + 1 if prompter.two_stage else 0
        tokens = (count_tokens(prompt) + around) * calls + again
        cached += (teacher.samples - first) * calls
        requests += first * calls
        most += every * calls
        read += first * tokens
        most_read += every * tokens
    written = teacher.max_tokens + (teacher.answer_tokens if prompter.two_stage else 0)
    out, most_out = requests // calls * written, most // calls * written
    return DryRun(
        prompts=tuple(prompts[:SHOWN]),
        cached=cached if isinstance(teacher, OpenAITeacher) else None,
        requests=requests,
        most_requests=most,
        input_tokens=read,
        most_input_tokens=most_read,
        output_tokens=out,
        most_output_tokens=most_out,
        picodollars=_price(teacher, read, out),
        most_picodollars=_price(teacher, most_read, most_out),
        counted_by=counted_by,
    )


def token_counter(tokenizer: str | None) -> tuple[Callable[[str], int], str]:
    """What counts the tokens of a prompt, and how in words: a tokenizer (hub name, folder), or None for characters."""
    if tokenizer is None:
        return characters_as_tokens, "characters, four a token"
    from mentorkd.models import load_tokenizer
    from mentorkd.recipe.learner import ModelConfig

    loaded = load_tokenizer(ModelConfig(name=tokenizer))
    return lambda text: len(loaded(text)["input_ids"]), f"the tokenizer {tokenizer}"


def _is_cached(prompt: str, sample: int, teacher: AskedTeacher, cache: RequestCache | None) -> bool:
    """Whether the first call of a sample was answered before (its second call, if any, is taken to be as well)."""
    if cache is None or not isinstance(teacher, OpenAITeacher):
        return False
    request = build_request(teacher, prompt, max_tokens=teacher.max_tokens, temperature=teacher.temperature)
    return cache.get(request_key(request), sample) is not None


def _price(teacher: AskedTeacher, read: int, written: int) -> int | None:
    if not isinstance(teacher, OpenAITeacher):
        return 0
    if teacher.price is None:
        return None
    return read * picodollars(teacher.price.input, per=10**6) + written * picodollars(teacher.price.output, per=10**6)

"""What an annotation would ask for and cost. Nothing is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mentorkd.data.selection import CHARACTERS_PER_TOKEN, characters_as_tokens
from mentorkd.recipe.teacher import AskedTeacherConfig
from mentorkd.records import Question
from mentorkd.teachers.limits import dollars_text
from mentorkd.teachers.prompting import ANSWER_TRIGGER, Prompter

_SHOWN = 3
BY_CHARACTERS = f"characters, {CHARACTERS_PER_TOKEN} a token"


@dataclass(frozen=True)
class DryRun:
    """An estimate. `requests` counts the first round's requests that no cache holds; `most_requests` counts all
    that `until_correct` could send, without retries. Tokens and dollars are given for the same two counts. Replies count
    as `max_tokens` long, so both are upper bounds as far as `counted_by` counts correctly. Dollars are None without a price.
    `cached` is None for a local teacher: its cache is keyed by its weights, which are not loaded for an estimate.
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
    warnings: tuple[str, ...] = ()
    """What to know before anything is sent."""

    def lines(self) -> list[str]:
        """The estimate as text, a line each for requests, tokens and dollars."""

        def span(low: int, high: int, show: Callable[[int], str] = "{:,}".format) -> str:
            return show(low) if low == high else f"{show(low)} to {show(high)}"

        cached = "less those in the cache" if self.cached is None else f"and {self.cached:,} answered from the cache"
        lines = [f"warning: {warning}" for warning in self.warnings]
        lines += [
            f"requests: {span(self.requests, self.most_requests)}, {cached}",
            f"tokens: {span(self.input_tokens, self.most_input_tokens)} in (estimated by {self.counted_by}), "
            f"at most {span(self.output_tokens, self.most_output_tokens)} out",
        ]
        if self.picodollars is None or self.most_picodollars is None:
            return [*lines, "dollars: unknown, since the recipe gives no price"]
        return [*lines, f"dollars: at most {span(self.picodollars, self.most_picodollars, dollars_text)}"]


def dry_run(
    questions: Sequence[Question],
    teacher: AskedTeacherConfig,
    prompter: Prompter,
    *,
    is_cached: Callable[[str, int], bool] | None = None,
    cost: Callable[[int, int], int | None] = lambda read, written: 0,
    wrapping: int = 0,
    count_tokens: Callable[[str], int] = characters_as_tokens,
    counted_by: str = BY_CHARACTERS,
) -> DryRun:
    """Estimate the annotation of `questions`.

    Args:
        is_cached: whether the first call for (prompt, sample) was answered before, and with it the second call, if any;
            None if that is not known.
        cost: picodollars for (tokens read, tokens written); None without a price.
        wrapping: tokens that the teacher adds to each prompt.
        counted_by: what `count_tokens` does, in words.
    """
    prompts = [prompter.first(text) for text in {question.id: question.text for question in questions}.values()]
    calls = 2 if prompter.two_stage else 1
    tries = teacher.samples if teacher.until_correct is None else teacher.until_correct.tries
    # The second call repeats the first one's prompt and reply, and adds the trigger.
    again = teacher.max_tokens + count_tokens(ANSWER_TRIGGER) + 1 if prompter.two_stage else 0
    cached = requests = most = read = most_read = 0
    for prompt in prompts:
        known = [is_cached is not None and is_cached(prompt, sample) for sample in range(tries)]
        first, every = known[: teacher.samples].count(False), known.count(False)
        tokens = (count_tokens(prompt) + wrapping) * calls + again
        cached += (teacher.samples - first) * calls
        requests += first * calls
        most += every * calls
        read += first * tokens
        most_read += every * tokens
    reply = teacher.max_tokens + (teacher.answer_tokens if prompter.two_stage else 0)
    written, most_written = requests // calls * reply, most // calls * reply
    return DryRun(
        prompts=tuple(prompts[:_SHOWN]),
        cached=None if is_cached is None else cached,
        requests=requests,
        most_requests=most,
        input_tokens=read,
        most_input_tokens=most_read,
        output_tokens=written,
        most_output_tokens=most_written,
        picodollars=cost(read, written),
        most_picodollars=cost(most_read, most_written),
        counted_by=counted_by,
    )


def token_counter(tokenizer: str | None) -> tuple[Callable[[str], int], str]:
    """Counts the tokens of a text by a tokenizer (hub name or folder) or, for None, by characters; and says so in words."""
    if tokenizer is None:
        return characters_as_tokens, BY_CHARACTERS
    from mentorkd.models import load_tokenizer
    from mentorkd.recipe.learner import ModelConfig

    loaded = load_tokenizer(ModelConfig(name=tokenizer))
    return lambda text: len(loaded(text)["input_ids"]), f"the tokenizer {tokenizer}"

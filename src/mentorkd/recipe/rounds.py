"""The trainings of a learner that reads its own texts: what each of them reads, and its share of the updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

from mentorkd.recipe.learner import BySource, Learner, SamplingConfig
from mentorkd.records import SELF


class Share(NamedTuple):
    """The updates of one of several trainings that follow each other: part `number`, from 0, of `parts` equal ones."""

    number: int
    parts: int

    def of(self, updates: int) -> range:
        """The updates of this part, of all `updates`. The parts differ by one update at most, and together they are all."""
        return range(updates * self.number // self.parts, updates * (self.number + 1) // self.parts)


def rounds_of(learner: Learner) -> list[int]:
    """The numbers of a learner's trainings. Number 0 reads no own texts, and is left out if there is nothing else to read."""
    assert learner.own_texts is not None
    first = 0 if other_sources(learner) else 1
    return list(range(first, learner.own_texts.rounds + 1))


def share_of(learner: Learner, number: int) -> Share:
    """The share of a learner's updates that training `number` has."""
    numbers = rounds_of(learner)
    return Share(numbers.index(number), len(numbers))


def other_sources(learner: Learner) -> Sequence[str]:
    """The sources of a learner's text without its own."""
    return [source for source in learner.rationales if source != SELF]


def in_reading_order(learner: Learner) -> Sequence[str]:
    """The sources of a learner's text, its own last: a text that another source has, too, is that source's."""
    return [*other_sources(learner), *([SELF] if SELF in learner.rationales else [])]


def of_round(learner: Learner, number: int | None) -> Learner:
    """The learner as its training `number` has it; None for one that reads no own texts.

    Training 0 has the settings of the other sources alone. So learners that differ only in their own texts share it.
    """
    if learner.own_texts is None or number:
        return learner
    sources = other_sources(learner)
    reads = {source: learner.reads[source] for source in sources if source in learner.reads}
    part = learner.model_copy(update={"rationales": sources, "reads": reads})
    changes: dict[str, Any] = {key: part.by_source(key) for key in get_args(BySource)}
    if changes["kd_weight"] == 0:
        changes["soft_labels"] = None
    return part.model_copy(update=changes)


def own_sampling(learner: Learner) -> SamplingConfig:
    """How a learner samples its own texts. None is longer than a target may be: a cut text is trained on as far as it goes."""
    assert learner.own_texts is not None
    longest = min(learner.sampling.max_new_tokens, learner.training.max_target_tokens)
    own = learner.own_texts.model_dump(exclude={"rounds"}) | {"max_new_tokens": longest}
    return learner.sampling.model_copy(update=own)

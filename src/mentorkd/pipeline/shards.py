"""Shards: parts of a stage that run by themselves, each over the questions whose ids hash to its number.

The recipe or the size of the data decides how many there are, and never the machine: it is part of a shard's fingerprint. Stages
whose rows have the order of the questions are merged under the name of the whole. Soft labels stay in one store a shard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mentorkd.records import Question, Split, content_id

SHARD_QUESTIONS = 4096
"""Questions in a shard of `shards: auto`."""


@dataclass(frozen=True)
class Shards:
    """The number of shards of a recipe's stages."""

    wanted: int | Literal["auto"]
    questions: Mapping[Split, int] = field(default_factory=dict)
    """By split; empty while no stage has counted them, and `auto` then stands for 1."""

    def over(self, *splits: Split) -> int:
        """The number of shards of a stage that reads these splits."""
        if self.wanted != "auto":
            return self.wanted
        return max(1, math.ceil(sum(self.questions.get(split, 0) for split in splits) / SHARD_QUESTIONS))


def in_shard(questions: Sequence[Question], shard: tuple[int, int] | None) -> list[Question]:
    """The questions of a shard, given as its number and how many there are; all questions of a stage that is not cut."""
    if shard is None:
        return list(questions)
    number, shards = shard
    return [question for question in questions if int(content_id("shard", question.id), 16) % shards == number]


def shard_name(stage: str, number: int) -> str:
    """The name of a stage's shard."""
    return f"{stage}/shard-{number}"


def whole_name(stage: str) -> str:
    """The name of the stage that a stage is a shard of; its own name if it is none."""
    whole, _, last = stage.rpartition("/")
    return whole if last.startswith("shard-") else stage


def shard_role(role: str, number: int) -> str:
    """The role in which a stage reads one of the stores that the shards of a stage wrote; that of the first has no number."""
    return f"{role}/shard-{number}" if number else role


def read_in_role(inputs: Mapping[str, str], role: str) -> list[str]:
    """The stages that a stage reads in a role: one, or one a shard; none if it does not have the role."""
    return [stage for each, stage in inputs.items() if each == role or each.startswith(f"{role}/shard-")]

"""The selection log of a training: which rationales it did not read, and why. It is for people who look at a run; no stage reads it.

A line is a fact about a rationale: `{"rationale_id", "dropped_by"}`, the first filter that dropped it (`too_long`: the encoding did), or
`{"rationale_id", "nll"}`, its negative log-likelihood in nats a token under the model of the filter `perplexity`. What the learner's
sources wrote and no line drops was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mentorkd.records import Rationale

SELECTION = "selection.jsonl"
TOO_LONG = "too_long"


class SelectionLog:
    """Writes the facts as they become known."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def drop(self, by: str, rationale: Rationale) -> None:
        """A filter, or the encoding, dropped a rationale."""
        self._file.write(json.dumps({"rationale_id": rationale.id, "dropped_by": by}) + "\n")

    def score(self, nll: Mapping[str, float]) -> None:
        """Likelihoods of rationales; one that is infinite (of too long a text) is left out."""
        known = {key: round(value, 6) for key, value in nll.items() if math.isfinite(value)}
        self._file.writelines(json.dumps({"rationale_id": key, "nll": value}) + "\n" for key, value in known.items())


@contextmanager
def selection_log(file: Path) -> Iterator[SelectionLog]:
    """A new log in `file`, closed at the end."""
    with file.open("w", encoding="utf-8") as stream:
        yield SelectionLog(stream)

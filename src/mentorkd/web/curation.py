"""What people decided about a run's rationales, and what the run has made of it so far."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mentorkd.data.overlay import Action, Decision, append_decision, misplaced, read_overlay
from mentorkd.errors import RunError
from mentorkd.grading.grade import Grader
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.recipe.grader import grader_of
from mentorkd.records import TEACHER, Rationale
from mentorkd.teachers.curation import edited
from mentorkd.web.table import TableRow

MOST_WHY = 500
"""Characters of a reason."""


@dataclass(frozen=True)
class Decided:
    """A decision about a rationale of the table."""

    decision: Decision
    new: Rationale | None
    """The rationale with its edited text, graded again."""
    waits: bool
    """Whether the next `mentorkd run` changes something."""


class Curation:
    """The overlay of a run's recipe. Raises DataError for a file that is no overlay."""

    def __init__(self, run: OpenedRun) -> None:
        self.run = run
        overlay = run.recipe.teacher.overlay
        self.file = None if overlay is None else Path(overlay)

    @cached_property
    def decisions(self) -> Mapping[str, Decision]:
        """The last decision about each rationale, by its id."""
        return {} if self.file is None else read_overlay(self.file)

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be decided here, and what to do; None if it can."""
        if self.file is None:
            return (
                "To reject or edit rationales, give the recipe the key `teacher: {overlay: NAME.jsonl}`, a file beside it, and run it "
                "once more: nothing is done again"
            )
        if fault := misplaced(self.file, self.run.root):
            return fault
        if not self.file.parent.is_dir():
            return f"{self.file.parent} is not on this machine; look at the run where its recipe is"
        if not os.access(self.file if self.file.exists() else self.file.parent, os.W_OK):
            return f"{self.file} cannot be written; look at the run as a user who can write there"
        return None

    def decided(self, row: TableRow) -> Decided | None:
        """What was decided about a row; None if nothing was, and nothing of it is left in the run."""
        decision = self.decisions.get(row.rationale.id)
        if decision is None:
            return None
        new = None
        if decision.text is not None:
            new = edited(row.rationale, decision.text, row.question, self._grader)
        expected = {
            "reject": ("reject", None),
            "restore": (None, row.rationale.id),
            "edit": ("edit", new.id if new else None),
        }
        return Decided(decision, new, waits=(row.overlay, row.curated_id) != expected[decision.action])

    def decide(self, rationale: Rationale, action: str, *, why: str, text: str | None) -> Decision:
        """Append a decision of the user of this program. Raises RunError for one that cannot be made, or changes nothing."""
        if self.obstacle is not None or self.file is None:
            raise RunError(self.obstacle or "")
        known = self.decisions  # read in any case, so that nothing is appended to a file that is no overlay
        if rationale.source != TEACHER:
            raise RunError(
                f"got a rationale of {rationale.source}, which writes its texts again; expected one of the teacher"
            )
        actions: dict[str, Action] = {"reject": "reject", "restore": "restore", "edit": "edit"}
        if action not in actions:
            raise RunError(f"got the action {action!r}; expected one of {', '.join(actions)}")
        if len(why) > MOST_WHY:
            raise RunError(f"got a reason of {len(why):,} characters; expected at most {MOST_WHY}")
        if fault := _changes_nothing(rationale, known.get(rationale.id), action, text or ""):
            raise RunError(fault)
        decision = Decision.on(rationale, actions[action], by=_user(), why=why, text=text if action == "edit" else None)
        append_decision(self.file, decision)
        return decision

    @cached_property
    def _grader(self) -> Grader:
        return grader_of(self.run.recipe.task)


def _changes_nothing(rationale: Rationale, last: Decision | None, action: str, text: str) -> str | None:
    """Why a decision would change nothing after the last one about the rationale; None if it would."""
    stands = None if last is None or last.action == "restore" else last
    if action == "restore" and stands is None:
        return f"got `restore` for {rationale.id}, about which nothing was decided"
    if action == "reject" and stands is not None and stands.action == "reject":
        return f"got `reject` for {rationale.id}, which is rejected already"
    if action != "edit":
        return None
    if stands is not None and _as_sent(text) == _as_sent(rationale.text):
        return "got the text as the teacher wrote it; restore the rationale instead"
    now = stands.text if stands is not None and stands.text else rationale.text
    if not text.strip() or _as_sent(text) == _as_sent(now):
        return "got the text as it is; change it, or reject the rationale"
    return None


def _as_sent(text: str) -> str:
    """A text as a field of a browser sends it: with one kind of line end, and without NUL."""
    return text.strip().replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"

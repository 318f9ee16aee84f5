"""Curate: the teacher's rationales without those that people rejected, and with the texts that they edited."""

from __future__ import annotations

from pathlib import Path

from mentorkd.data.overlay import identity, in_effect
from mentorkd.data.rows import Rows
from mentorkd.errors import RunError
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.graph import stage_fingerprint
from mentorkd.pipeline.records import CurateRecord, count_verdicts
from mentorkd.pipeline.run_folder import Stage
from mentorkd.records import TEACHER, Rationale, write_jsonl
from mentorkd.teachers.curation import Curation


def curate(context: RunContext, stage: Stage, workdir: Path) -> CurateRecord:
    """Apply the decisions of `teacher.overlay`. Raises RunError if they have changed since the run began."""
    overlay = context.recipe.teacher.overlay
    decisions = in_effect(overlay)
    needs = [context.folder.record(need).fingerprint for need in stage.inputs.values()]
    if stage_fingerprint(stage.kind, identity(decisions.values()), needs) != stage.fingerprint:
        raise RunError(f"{overlay} has changed since the run began; run the recipe again")
    written = context.folder.rationales(stage.inputs[f"rationales/{TEACHER}"])
    questions = {question.id: question for question in context.questions(stage)}
    curation = Curation(decisions, questions, context.grader)
    curated = Rows.of(Rationale, curation.apply(written))
    write_jsonl(workdir / "out" / "rationales.jsonl", curated)
    if unmatched := curation.unmatched:
        context.note(
            f"{overlay}: {len(unmatched):,} of {len(decisions):,} decisions are about rationales that the teacher does not have, "
            f"the first about {unmatched[0]}; they change nothing"
        )
    return CurateRecord(
        rationales=count_verdicts(curated),
        before=len(written),
        rejected=curation.rejected,
        edited=curation.edited,
        unmatched=len(unmatched),
    )

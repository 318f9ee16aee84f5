"""Annotate: the teacher's rationales (Mentor-KD, section 3.1)."""

from __future__ import annotations

from pathlib import Path

from mentorkd.data.prepare import annotate as read_recorded
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import AnnotateRecord, TeacherUsage, count_verdicts
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.load import data_path
from mentorkd.recipe.schema import LocalSource, OpenAISource, RecordedTeacher
from mentorkd.records import write_jsonl
from mentorkd.teachers.annotate import account, ask, open_cache

__all__ = ["annotate"]


def annotate(context: RunContext, stage: Stage, workdir: Path) -> AnnotateRecord:
    """Read recorded rationales, or ask the teacher for rationales of the training questions."""
    teacher = context.recipe.teacher
    if isinstance(teacher, RecordedTeacher):
        return _read(context, stage, teacher, workdir)
    return _ask(context, stage, teacher, workdir)


def _read(context: RunContext, stage: Stage, teacher: RecordedTeacher, workdir: Path) -> AnnotateRecord:
    task = context.recipe.task
    rationales, faults = read_recorded(
        teacher,
        context.questions(stage),
        locate=lambda value: data_path(context.recipe, value),
        kind=context.grader.kind,
        choices=task.choices,
        columns=task.columns,
        limited=task.limit_train is not None,
    )
    lines = context.show_faults(faults)
    write_jsonl(workdir / "out" / "rationales.jsonl", rationales)
    return AnnotateRecord(rationales=count_verdicts(rationales), faults=lines)


def _ask(context: RunContext, stage: Stage, teacher: OpenAISource | LocalSource, workdir: Path) -> AnnotateRecord:
    with open_cache(context.recipe, context.folder.root) as cache:
        annotation = ask(
            context.recipe,
            context.questions(stage, "train"),  # those held out are not trained on, so nothing is paid for them
            cache=cache,
            grader=context.grader,
            device=context.device if isinstance(teacher, LocalSource) else None,
            engines=context.folder.engines,
            on_progress=context.progress,
            note=context.note,
        )
    verdicts = count_verdicts(annotation.rationales)
    if annotation.stopped is not None:
        context.note(f"teacher: {len(annotation.rationales)} rationales, {verdicts['correct']} of them correct")
    annotation.raise_if_stopped()
    usage = account(annotation, teacher)
    for line in usage["faults"]:
        context.note(line)
    write_jsonl(workdir / "out" / "rationales.jsonl", annotation.rationales)
    return AnnotateRecord(
        rationales=verdicts, faults=usage["faults"], asked=TeacherUsage(**usage["asked"]), tokens=usage["tokens"]
    )

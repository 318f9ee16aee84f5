"""Annotate: the teacher's rationales (Mentor-KD, section 3.1)."""

from __future__ import annotations

from pathlib import Path

from mentorkd.data.token_logprobs import check_has_logprobs
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import AnnotateRecord, TeacherUsage, count_verdicts, sum_usage, sum_verdicts
from mentorkd.pipeline.run_folder import Stage, is_remote
from mentorkd.pipeline.stages.merge import merge
from mentorkd.recipe.graph import imitates_teacher
from mentorkd.records import write_jsonl
from mentorkd.teachers.annotate import open_teacher
from mentorkd.teachers.teacher import AnnotationContext


def annotate(context: RunContext, stage: Stage, workdir: Path) -> AnnotateRecord:
    """Get the teacher's rationales for the questions: read the recorded ones, or ask a model."""
    if stage.merged:
        return _merged(context, stage, workdir)
    annotation = open_teacher(context.recipe).annotate(
        context.questions(stage),
        AnnotationContext(
            # Shards write at the same time, maybe on machines that share no locks: each attempt keeps its replies to itself.
            root=workdir if stage.shard is not None or is_remote(workdir) else context.folder.root,
            engines=context.folder.engines,
            device=lambda: context.device,
            on_progress=context.progress,
            note=context.note,
            accept_missing=stage.forced,
        ),
    )
    for line in annotation.faults:
        context.note(line)
    if imitates_teacher(context.recipe):
        check_has_logprobs(annotation.rationales)  # found now, and not after the mentors are trained
    write_jsonl(workdir / "out" / "rationales.jsonl", annotation.rationales)
    return AnnotateRecord(
        rationales=count_verdicts(annotation.rationales),
        faults=list(annotation.faults),
        asked=None if annotation.account is None else TeacherUsage(**annotation.account),
        tokens=annotation.tokens,
    )


def _merged(context: RunContext, stage: Stage, workdir: Path) -> AnnotateRecord:
    """The rationales of all shards and what the teacher did for them; the shards record the tokens."""
    questions = context.questions(stage, "train")
    shards = merge(context, stage, workdir, "rationales.jsonl", AnnotateRecord, questions)
    return AnnotateRecord(
        rationales=sum_verdicts(shard.rationales for shard in shards),
        faults=list(dict.fromkeys(fault for shard in shards for fault in shard.faults)),
        asked=sum_usage([shard.asked for shard in shards if shard.asked is not None]),
    )

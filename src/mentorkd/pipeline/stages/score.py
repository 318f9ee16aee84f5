"""Score: the mentor's distributions over the tokens of every text that its student reads (Mentor-KD, section 3.3)."""

from __future__ import annotations

from pathlib import Path

from mentorkd.data.encoding import TextEncoder
from mentorkd.distillation.scoring import score as write_soft_labels
from mentorkd.files import digest_path
from mentorkd.models import load_folder, vocabulary_size
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import ScoreRecord
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.training_rows import read_training_rows
from mentorkd.recipe.graph import initial_model


def score(context: RunContext, stage: Stage, workdir: Path) -> ScoreRecord:
    """Write the mentor's soft labels for the rationales of one source into a store."""
    learner = context.learner(stage)
    folder = context.model(stage, stage.mentor)
    mentor = load_folder(folder, device=context.device)
    rows = read_training_rows(context, stage, stage.learner, TextEncoder.of(mentor), scored=stage.source).rows
    top_k = learner.soft_label_store == "top_k"
    models = [initial_model(context.recipe, name) for name in (stage.learner, *learner.mentor_weights)]
    counts = write_soft_labels(
        mentor,
        rows,
        folder=workdir / "out" / stage.name.rpartition("/")[2],
        mode="top_k" if top_k else "hidden",
        top_k=learner.top_k,
        temperature=learner.temperature_of(stage.source),
        mentor_digest=digest_path(folder),
        target=learner.target,
        bfloat16=context.precision(context.recipe.learners[stage.mentor]) == "bfloat16",
        vocab_size=min(map(vocabulary_size, models)) if top_k else None,  # what all heads have; heads may be padded
        on_progress=context.progress,
    )
    return ScoreRecord(**counts)

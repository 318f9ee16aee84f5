"""How well the students of a finished run know their mentor's likelihoods, on the validation questions, which they were not trained on.

    python benchmarks/held_out_chunks.py RUN --mentor mentor

For the teacher's rationales of the validation questions: the divergence of each learner's chunk likelihoods from the mentor's (the
training loss of chunk labels), and each learner's negative log-likelihood, both over the tokens of the first student. Learners with
another vocabulary than the first student's are left out. The first seed is measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from common import arguments

from mentorkd.data.batching import IGNORE_INDEX, Collator
from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.data.examples import text_examples
from mentorkd.distillation.chunk_losses import MentorChunks, chunk_divergence, label_log_probs
from mentorkd.distillation.chunk_scoring import score_chunks
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.distillation.soft_labels import SoftLabelStore
from mentorkd.models import LoadedModel, load_folder, load_model, tokenizer_digest
from mentorkd.pipeline.run import open_run
from mentorkd.recipe.graph import initial_model
from mentorkd.records import TEACHER

CPU = torch.device("cpu")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--mentor", default="mentor")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or 1)
    pipeline = open_run(options.run)
    recipe, folder = pipeline.recipe, pipeline.folder
    held_out = {question.id: question for question in folder.questions("prepare", "validation")}
    written = [text for text in folder.rationales("annotate") if text.question_id in held_out]
    trained = {
        stage.learner: load_folder(folder.model(stage.name), device=CPU)
        for stage in pipeline.stages
        if stage.kind in ("train", "rounds") and stage.seed == recipe.seeds[0]
    }
    mentor = trained.pop(options.mentor)
    initial = load_model(initial_model(recipe, next(iter(trained))), seed=recipe.seeds[0], device=CPU)
    trained = {"before training": initial} | trained
    first = next(iter(trained.values()))
    learner = recipe.learners[list(trained)[1]]
    texts = [each for text in written for each in text_examples(text, held_out[text.question_id], learner, TEACHER)]
    encoder = TextEncoder.of(first)
    rows, _ = encode_rows(texts, encoder, max_source_tokens=512, max_target_tokens=512)
    with tempfile.TemporaryDirectory() as place:
        counts = score_chunks(
            mentor, texts, rows, encoder, folder=Path(place), mentor_digest="", target=learner.target, bfloat16=False,
            on_progress=lambda done, all_rows: None,
        )  # fmt: skip
        store = SoftLabelStore(Path(place))
        chunks = f"{counts['chunks']:,} chunks, {counts['unlabelled_chunks']} without a likelihood"
        print(f"{len(held_out)} questions, {len(rows)} texts, {chunks}")
        print("| learner | divergence from the mentor | negative log-likelihood |\n|---|---|---|")
        mentor_nll = -sum(float(torch.tensor(store.row(row.rationale_id)["log_probs"]).nansum()) for row in rows)
        tokens = sum(len(row.target_ids) for row in rows)
        print(f"| {options.mentor} | 0 | {mentor_nll / tokens:.3f} |")
        for name, model in trained.items():
            if tokenizer_digest(model.tokenizer) == tokenizer_digest(first.tokenizer):
                divergence, nll = measure(model, rows, store)
                print(f"| {name} | {divergence / tokens:.3f} | {nll / tokens:.3f} |", flush=True)


@torch.inference_mode()
def measure(student: LoadedModel, rows: Sequence[Example], store: SoftLabelStore) -> tuple[float, float]:
    """Sums over the rows: D in its limit, and the negative log-likelihood."""
    collate = Collator.for_model(student.kind, student.tokenizer, student.model.config)
    divergence = nll = 0.0
    for row in rows:
        batch, stored = collate([row]), store.row(row.rationale_id)
        labels_N = batch["labels"][batch["labels"] != IGNORE_INDEX]
        log_probs_N = label_log_probs(target_logits(student.model, batch).float(), labels_N)
        chunks = MentorChunks(torch.tensor(stored["log_probs"]), torch.tensor(stored["tokens"].astype("int64")))
        divergence += float(chunk_divergence(log_probs_N, [(1.0, chunks)], None))
        nll -= float(log_probs_N.sum())
    return divergence, nll


if __name__ == "__main__":
    main()

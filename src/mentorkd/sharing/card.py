"""The model card of a learner that leaves its run: that of its training, with lineage, measured accuracy and limits."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mentorkd.files import write_text
from mentorkd.pipeline.model_card import Extension, model_card
from mentorkd.pipeline.records import SearchRecord, TrainRecord
from mentorkd.recipe.load import dump_recipe
from mentorkd.recipe.search import with_values
from mentorkd.sharing.lineage import Lineage, Score, train_record
from mentorkd.sharing.privacy import Privacy
from mentorkd.sharing.source import Source

log = logging.getLogger(__name__)

LIBRARIES = {"hf": "transformers", "ctranslate2": "ctranslate2", "gguf": "gguf"}
"""The hub's name of the library that reads a form."""
EVAL_RESULTS = ".eval_results"


def write_card(
    source: Source,
    lineage: Lineage,
    folder: Path,
    *,
    form: str = "hf",
    dtype: str | None = None,
    use: str | None = None,
    checked: str | None = None,
    data_set: str | None = None,
) -> None:
    """Write README.md and recipe.yaml into a folder that holds the learner in a form.

    Args:
        use: how a model of the form is used; None for a plain Hugging Face folder.
        checked: the text about the checks of what was exported, if it was checked.
        data_set: the name on the hub of the data set with the run's rationales, if there is one.
    """
    privacy, recipe = Privacy.of(source), source.pipeline.recipe
    record = train_record(source)
    _warn_of_edits(source, record)
    if lineage.licence_is_unknown and lineage.base is not None:
        name = lineage.base.name
        log.warning("the licence of %s is not known here; `hf download %s README.md` makes it known", name, name)
    chosen = record.search.chosen if isinstance(record, SearchRecord) else {}
    yaml = privacy.public(dump_recipe(recipe))
    values = {
        "facts": _facts(source, lineage, form, data_set),
        "lineage": lineage,
        "form": form,
        "dtype": dtype,
        "use": use,
        "checked": checked,
        "recipe_yaml": yaml,
        "data_set": data_set,
    }
    extension = Extension("mentorkd.sharing", "card.md.jinja", values)
    learner = with_values(source.learner, chosen)
    card = model_card(recipe, source.name, learner, source.seed, record, extension=extension)
    write_text(folder / "README.md", privacy.public(card))
    write_text(folder / "recipe.yaml", yaml)


def _warn_of_edits(source: Source, record: TrainRecord) -> None:
    seal, card = (record.files or {}).get("model/README.md"), source.model() / "README.md"
    if seal is not None and card.is_file() and seal.damage(card):
        log.warning("%s was edited; what is written here is a new card, without these edits", card)


def _facts(source: Source, lineage: Lineage, form: str, data_set: str | None) -> dict[str, Any]:
    """The front matter: https://huggingface.co/docs/hub/model-cards."""
    data_sets = [*([data_set] if data_set else []), *lineage.data_sets]
    facts: dict[str, Any] = {
        "library_name": LIBRARIES.get(form, form),
        "tags": ["mentorkd", "knowledge-distillation", "chain-of-thought"],
        **lineage.licence,
    }
    if lineage.base is not None:
        facts |= {"base_model": lineage.base.name, "base_model_relation": "finetune"}
    if data_sets:
        facts["datasets"] = data_sets
    if lineage.score is not None:
        facts |= {"metrics": ["accuracy"], "model-index": [_index(source, lineage, form)]}
    return facts


def _index(source: Source, lineage: Lineage, form: str) -> dict[str, Any]:
    """The measured accuracies as the hub's `model-index`, in per cent."""
    task, hub = source.pipeline.recipe.task, lineage.benchmark
    data: dict[str, Any] = {"name": task.name, "type": hub.name if hub else task.name, "split": "test"}
    if hub and hub.config:
        data["config"] = hub.config
    measured = "" if form == "hf" else " before the conversion"
    metrics = [
        {"type": "accuracy", "name": f"{name}{measured}, {_interval(score)}", "value": round(100 * score.accuracy, 2)}
        for name, score in (
            (f"accuracy of seed {source.seed}", lineage.score),
            (f"mean accuracy of {len(source.pipeline.recipe.seeds)} seeds", lineage.mean),
        )
        if score is not None
    ]
    result = {"task": {"type": "text-generation"}, "dataset": data, "metrics": metrics}
    return {"name": f"{source.pipeline.recipe.name}: {source.name}", "results": [result]}


def _interval(score: Score) -> str:
    low, high = score.interval
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} on {score.questions:,} questions"


def eval_results(source: Source, lineage: Lineage, repository: str, *, report: bool) -> tuple[str, list[Any]] | None:
    """The name and the content of the hub's file of evaluation results (https://huggingface.co/docs/hub/eval-results).

    None if the learner is not evaluated, if its test questions are not the test split of a data set of the hub, which the format
    names, or if they chose the weights.
    """
    score, data = lineage.score, lineage.benchmark
    if score is None or data is None or source.learner.training.select_on == "test":
        return None
    entry: dict[str, Any] = {
        "dataset": {"id": data.name, "task_id": data.config or "default"},
        "value": round(100 * score.accuracy, 2),
        "notes": f"seed {source.seed}, greedy decoding, {_interval(score)}",
    }
    if report:
        entry["source"] = {"url": f"https://huggingface.co/{repository}/tree/main/report", "name": "Report"}
    return f"{EVAL_RESULTS}/{re.sub(r'[^a-z0-9]+', '-', data.name.lower()).strip('-')}.yaml", [entry]

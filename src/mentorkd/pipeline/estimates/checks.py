"""What a plan warns of, and what it does not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mentorkd.pipeline.estimates.assess import Assessment
from mentorkd.pipeline.estimates.machine import GB
from mentorkd.recipe.advice import rates_for
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.unread import unread_filters
from mentorkd.records import GOLD

_UNSEEN = 0.005
"""A share of rows that are too long which nobody needs to know."""


def warnings(assessment: Assessment) -> list[str]:
    """What will fail, waste time, or show nothing."""
    return [
        *unread_filters(assessment.estimates.recipe),
        *_memory_warnings(assessment),
        *_disk_warnings(assessment),
        *_length_warnings(assessment),
        *_rate_warnings(assessment),
        *(assessment.design.warnings() if assessment.design else ()),
    ]


def unknown(assessment: Assessment) -> list[str]:
    """What is not known, and why."""
    lines = []
    unsized = _by_model({name: assessment.models[name] for name, size in assessment.sizes.items() if size is None})
    for model, names in unsized.items():
        why = "no config of it is on this machine, and its name is none of the known ones, or its layers are of another family"
        lines.append(f"{', '.join(names)}: the size of {model} is not known, so neither is its time or memory ({why})")
    untold = _by_model(
        {
            name: assessment.models[name]
            for name, lengths in assessment.lengths.items()
            if lengths.too_long is None
            and assessment.estimates.recipe.learners[name].rationales not in ([], [GOLD])
            and _has_texts(assessment)
        }
    )
    for model, names in untold.items():
        why = "no tokenizer of it is on this machine"
        lines.append(f"{', '.join(names)}: whether rows are too long for {model} is not known ({why})")
    if assessment.estimates.dry_run is not None:
        lines.append(
            "the time of the teacher is not estimated: it is that of its endpoint, or of a model with a size of its own"
        )
    return lines


def _has_texts(assessment: Assessment) -> bool:
    return any(rationale for _, rationale, _ in assessment.estimates.sample)


def _memory_warnings(assessment: Assessment) -> Iterator[str]:
    limit = assessment.machine.memory
    for memory in assessment.memory:
        if limit is not None and memory.total > limit:
            ways = "a smaller `batch_size`, `gradient_checkpointing: true` or `lora`"
            if memory.work == "generate":
                ways = "a smaller `sampling.batch_size`"
            yield (
                f"{memory.learner}: to {memory.work} takes about {_gb(memory.total)}, and {assessment.machine.name} has "
                f"{_gb(limit)}; try {ways}"
            )


def _disk_warnings(assessment: Assessment) -> Iterator[str]:
    if assessment.disk.total > assessment.disk_free:
        yield f"the run writes about {_gb(assessment.disk.total)}, and {_gb(assessment.disk_free)} are free; name another folder with --run"


def _length_warnings(assessment: Assessment) -> Iterator[str]:
    lines: dict[str, list[str]] = {}
    for name, learner in assessment.estimates.recipe.learners.items():
        lengths, training = assessment.lengths[name], learner.training
        if not learner.rationales:
            continue
        if lengths.too_long and lengths.too_long > _UNSEEN * lengths.rows:
            limits = (
                f"`max_source_tokens: {training.max_source_tokens}`, `max_target_tokens: {training.max_target_tokens}`"
            )
            line = f"{lengths.too_long:,} of {lengths.rows:,} sampled rows are too long and would be dropped ({limits})"
            lines.setdefault(line, []).append(name)
        size = assessment.sizes[name]
        positions = None if size is None else size.positions
        most = training.max_source_tokens + training.max_target_tokens
        if positions is not None and lengths.longest_source + lengths.longest_target > positions:
            line = f"rows of up to {most:,} tokens are allowed, and the model has {positions:,} positions; lower the limits"
            lines.setdefault(line, []).append(name)
    yield from (f"{', '.join(names)}: {line}" for line, names in lines.items())


def _rate_warnings(assessment: Assessment) -> Iterator[str]:
    lines: dict[str, list[str]] = {}
    for name, learner in assessment.estimates.recipe.learners.items():
        size, rate = assessment.sizes[name], learner.training.learning_rate
        if size is None or not learner.rationales:
            continue
        rates = rates_for(size.parameters, size.kind, lora=assessment.models[name].lora is not None)
        if assessment.models[name].from_config is None and not rates.low <= rate <= rates.high:
            line = f"`learning_rate: {rate:g}` is unusual for {rates.who} ({rates.low:g} to {rates.high:g}); {rates.usual:g} is usual"
            lines.setdefault(line, []).append(name)
    yield from (f"{', '.join(names)}: {line}" for line, names in lines.items())


def _by_model(models: Mapping[str, ModelConfig]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, model in models.items():
        names.setdefault(str(model.name or (model.from_config or {}).get("model_type")), []).append(name)
    return names


def _gb(value: float) -> str:
    return f"{value / GB:.{1 if value < 100 * GB else 0}f} GB"

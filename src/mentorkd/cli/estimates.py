"""The estimates of a plan, as a table and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mentorkd.pipeline.estimates.assess import Assessment

_GB = 1e9


def duration(seconds: float) -> str:
    """A time in words: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def size(value: float) -> str:
    """Bytes in words: `12 MB`, `3.4 GB`."""
    if value < 0.9995e9:
        return f"{value / 1e6:.0f} MB"
    return f"{value / _GB:.{1 if value < 99.95e9 else 0}f} GB"


def estimate_lines(assessment: Assessment) -> list[list[str]]:
    """Time, memory, disk, dollars and minimum detectable effect, each with what it rests on."""
    untimed = len(assessment.untimed)
    time = f"about {duration(assessment.seconds_left)}"
    time += f", and {untimed} stage{'s' if untimed > 1 else ''} of unknown time" if untimed else ""
    return [
        ["time to go", time, assessment.time_basis],
        _memory_line(assessment),
        _disk_line(assessment),
        _dollars_line(assessment),
        *(
            [["minimum detectable effect", design.words, design.basis]]
            if (design := assessment.design) is not None
            else []
        ),
    ]


def _memory_line(assessment: Assessment) -> list[str]:
    memory, machine = assessment.most_memory, assessment.machine
    if memory is None:
        return ["memory", "not known", "no model of known size"]
    parts = ", ".join(f"{part} {size(value)}" for part, value in memory.parts.items())
    has = "" if machine.memory is None else f" of {size(machine.memory)}"
    return [
        "memory",
        f"about {size(memory.total)}{has}",
        f"to {memory.work} {memory.learner} on {machine.name}: {parts}",
    ]


def _disk_line(assessment: Assessment) -> list[str]:
    disk, free = assessment.disk, size(assessment.disk_free)
    unsized = [name for name, known in assessment.sizes.items() if known is None]
    if len(unsized) == len(assessment.sizes):
        return ["disk", f"not known ({free} free)", "no model of known size"]
    parts = {"models": disk.models, "soft labels": disk.soft_labels, "texts": disk.texts}
    named = ", ".join(f"{part} {size(value)}" for part, value in parts.items())
    while_running = f", checkpoints of one training {size(disk.checkpoints)}"
    without = f"; without {', '.join(unsized)}, of unknown size" if unsized else ""
    return ["disk", f"about {size(disk.total)} of {free} free", named + while_running + without]


def _dollars_line(assessment: Assessment) -> list[str]:
    asked = assessment.estimates.dry_run
    if asked is None:
        return ["dollars", "none", "the rationales are recorded: nobody is asked"]
    basis = f"the teacher's requests, each reply as long as `max_tokens` (tokens by {asked.counted_by})"
    if assessment.dollars is None:
        return ["dollars", "not known", f"the recipe gives no `price`; {asked.requests:,} requests"]
    first, most = assessment.dollars
    return ["dollars", f"at most {most:.2f}" if first == most else f"at most {first:.2f} to {most:.2f}", basis]


def estimates_as_json(assessment: Assessment) -> dict[str, Any]:
    """The estimates as PlanEstimatesOutput."""
    machine, disk, design, dollars = assessment.machine, assessment.disk, assessment.design, assessment.dollars
    return {
        "machine": {"device": machine.device, "name": machine.name, "memory": machine.memory, "flops": machine.flops},
        "seconds": round(assessment.seconds_left, 1),
        "untimed": assessment.untimed,
        "seconds_basis": assessment.time_basis,
        "memory": [
            {
                "learner": memory.learner,
                "work": memory.work,
                "bytes": round(memory.total),
                "parts": {part: round(value) for part, value in memory.parts.items()},
                "fits": None if machine.memory is None else memory.total <= machine.memory,
            }
            for memory in assessment.memory
        ],
        "disk": {
            "bytes": round(disk.total),
            "models": round(disk.models),
            "soft_labels": round(disk.soft_labels),
            "texts": round(disk.texts),
            "checkpoints": round(disk.checkpoints),
            "free": assessment.disk_free,
        },
        "dollars": None if dollars is None else list(dollars),
        "detectable_effect": None
        if design is None
        else {
            "effect": design.detectable,
            "questions": design.questions,
            "seeds": design.seeds,
            "arms": design.arms,
            "basis": design.basis,
        },
    }

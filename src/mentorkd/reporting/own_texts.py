"""The section on own texts: a table of rounds for each learner, what its columns mean, and collapses in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mentorkd.records import SELF
from mentorkd.reporting.collapse import advice, collapses
from mentorkd.reporting.format import format_count, format_seconds, format_share
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.schema import OwnTextsResult, Results, RoundResult
from mentorkd.reporting.views import shown_learners

UNKNOWN = "–"

ROUNDS = (
    "Each round, the model of the round before (the writer) writes texts, and the training of the round reads them. Round 0 reads no "
    "own texts. The model of the round with ✓ is the learner."
)

COLUMNS = {
    "correct %": "Correct: share of the texts with a correct answer, among those for questions whose answer is known.",
    "no end %": "No end: share of the texts without an end token, because they reached the limit. Where such a text is imitated, it is "
    "imitated as far as it goes.",
    "re-encoded %": "Re-encoded: share of the imitated texts that have another number of tokens when they are encoded again than when "
    "they were sampled.",
    "KL to the mentor": "KL to the mentor: KL(model || mentor), 0 where both give every token the same probability. The first number is "
    "of the writer, the second of the model after the training, both on the texts of the round.",
    "entropy": "Entropy: how undecided the model is about the next token, before and after the training; near 0, all its texts for a "
    "question are the same.",
    "overlap %": "Overlap: share of the writer's ten most likely tokens that are among those of the mentor.",
    "staleness": "Staleness: KL(writer || model after the training), how far the training moved from the model that wrote its texts.",
    "at the floor": "At the floor: questions with the smallest weight (weight: frontier), because nearly all own texts are correct, or "
    "nearly all are wrong.",
}
"""What a column of the table means, where its heading does not say it."""

UNITS = (
    "KL, entropy, overlap and staleness are means over the tokens of a sample of the round's texts. KL, entropy and staleness are "
    "in nats."
)

TIME = (
    "Time of a round with own texts, mean over rounds and seeds: the learner writes the texts, the mentors score them, and the learner "
    "is trained on them and on its other sources."
)


def round_tables(results: Results) -> dict[str, list[dict[str, str]]]:
    """A table of rounds for each learner with own texts; columns without a value are left out."""
    tables: dict[str, list[dict[str, str]]] = {}
    for learner in shown_learners(results):
        rounds = [row for row in results["rounds"] if row["learner"] == learner["name"]]
        rows = [_cells(row) for row in rounds]
        known = [name for name in (rows[0] if rows else ()) if any(row[name] != UNKNOWN for row in rows)]
        if rows:
            seeds = {} if len(results["seeds"]) > 1 else {"seed"}
            tables[learner["name"]] = [{name: row[name] for name in known if name not in seeds} for row in rows]
    return tables


def round_time_rows(results: Results) -> list[dict[str, str]]:
    """One row for each learner with own texts whose times are known."""
    rows = []
    for name in round_tables(results):
        rounds = [
            row for row in results["run"]["rounds"] if row["learner"] == name and row["writing_seconds"] is not None
        ]
        if rounds:
            times = ([row[f"{part}_seconds"] for row in rounds] for part in ("writing", "scoring", "training"))  # type: ignore[literal-required]
            means = [None if None in each else fmean(each) for each in times]
            rows.append(
                dict(
                    zip(("learner", "writing", "scoring", "training"), (name, *map(format_seconds, means)), strict=True)
                )
            )
    return rows


def round_notes(tables: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """A sentence or two for each column that needs one."""
    shown = {name for rows in tables.values() for name in rows[0]}
    return [ROUNDS, UNITS, *(text for name, text in COLUMNS.items() if name in shown)] if tables else []


def rounds_of(results: Results) -> dict[str, int]:
    """The number of rounds with own texts of each learner that has some."""
    return {row["learner"]: row["round"] for row in results["rounds"]}  # they are in order


def _cells(row: RoundResult) -> dict[str, str]:
    floor = [f"{each['source']} {each['at_floor']} of {each['questions']}" for each in row["frontier"]]
    return {
        "seed": str(row["seed"]),
        "round": f"{row['round']}{' ✓' if row['chosen'] else ''}",
        "updates": format_count(row["updates"]),
        "validation %": format_share(row["validation"]),
        **_own_text_cells(row["own_texts"]),
        "at the floor": ", ".join(floor) or UNKNOWN,
    }


OWN_TEXT_COLUMNS = (
    *("texts", "correct %", "tokens/text", "no end %", "re-encoded %"),
    *("KL to the mentor", "entropy", "overlap %", "staleness"),
)


def _own_text_cells(own: OwnTextsResult | None) -> dict[str, str]:
    if own is None:
        return dict.fromkeys(OWN_TEXT_COLUMNS, UNKNOWN)
    graded = own["texts"] - own["verdicts"].get("ungraded", 0)
    values = (
        format_count(own["texts"]),
        format_share(own["verdicts"]["correct"] / graded) if graded else UNKNOWN,
        f"{own['mean_tokens']:.1f}",
        format_share(own["unfinished"]),
        format_share(own["reencoded"]),
        _change(own["writer_kl"], own["trained_kl"]),
        _change(own["writer_entropy"], own["trained_entropy"]),
        format_share(own["overlap"]),
        f"{own['staleness']:.3f}",
    )
    return dict(zip(OWN_TEXT_COLUMNS, values, strict=True))


def _change(before: float | None, after: float | None) -> str:
    return UNKNOWN if before is None or after is None else f"{before:.3f} → {after:.3f}"


def collapse_lines(inputs: ReportInputs) -> list[str]:
    """A warning for each learner with a collapse in one of its rounds, with what to do about it."""
    chains: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in inputs.rounds:
        chains.setdefault((row["learner"], row["seed"]), []).append(row)
    found: dict[str, list[str]] = {}
    for (learner, seed), rows in chains.items():
        writers: list[float] = []
        for before, row in zip([None, *rows], rows, strict=False):
            own = row["own_texts"] or {"writer_entropy": None, "trained_entropy": None}
            entropy = own["writer_entropy"], own["trained_entropy"]
            accuracy = None if before is None else before["validation"]
            writers += [] if entropy[0] is None else [entropy[0]]
            for line in collapses(entropy, (accuracy, row["validation"]), writers):
                found.setdefault(learner, []).append(f"seed {seed}, round {row['round']}: {line}")
    return [
        f"The own texts of {info.name} collapsed ({'; '.join(lines)}). To prevent it, {_steps(info)}."
        for info in inputs.learners
        if (lines := found.get(info.name))
    ]


def _steps(info: LearnerInfo) -> str:
    return advice(imitated=bool(info.mentor_weights), alone=list(info.rationales) == [SELF])

"""Collapse of a learner that is trained on its own texts: the rule that recognises it in a round, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

HALF = 0.5
"""An entropy or an accuracy below this part of an earlier one is a collapse."""

LEAST_ENTROPY = 0.05
"""In nats per token. A model with less is nearly certain of every token already, and half of it says nothing."""

LEAST_ACCURACY = 0.1
"""A model with less validation accuracy has not learned the task, and the half of its few correct answers is chance."""


def collapses(
    entropy: tuple[float | None, float | None],
    accuracy: tuple[float | None, float | None],
    writers: Sequence[float] = (),
) -> list[str]:
    """What fell to less than half in a round, or since round 1, each in words; empty for a round without a collapse.

    A slow collapse halves no round's entropy. So a round whose writer has less than half of the entropy that the writer of round 1
    had is one too, and only the first such round is named. Falls from below LEAST_ENTROPY or LEAST_ACCURACY do not count.

    Args:
        entropy: nats per token on the round's own texts, of the model that wrote them and of the model after the training.
        accuracy: shares of validation questions, before and after the training. None for a value that is unknown.
        writers: nats per token of the writers of round 1 to this one, each on its own texts; empty where they are unknown.
    """
    lines = []
    if _halved(*entropy, LEAST_ENTROPY):
        lines.append(f"entropy fell from {entropy[0]:.3f} to {entropy[1]:.3f} nats per token")
    if [_halved(writers[0], writer, LEAST_ENTROPY) for writer in writers] == [False] * (len(writers) - 1) + [True]:
        lines.append(f"the writer's entropy fell from {writers[0]:.3f} in round 1 to {writers[-1]:.3f} nats per token")
    if _halved(*accuracy, LEAST_ACCURACY):
        before, after = (f"{100 * (share or 0.0):.1f}" for share in accuracy)
        lines.append(f"validation accuracy fell from {before} to {after} %")
    return lines


def _halved(before: float | None, after: float | None, least: float) -> bool:
    return before is not None and after is not None and before >= least and after < HALF * before


def advice(*, imitated: bool, alone: bool) -> str:
    """What to do about a collapse, of a learner whose own texts are `imitated`, or that reads them `alone`."""
    steps = ["lower `training.learning_rate`"]
    steps += ["set `divergence` to {self: forward_kl} or {self: jsd}"] if imitated else []
    steps.append(f"{'add' if alone else 'keep'} `teacher` among its `rationales`")
    return f"{', '.join(steps)}, or make fewer updates a round (more `own_texts.rounds`, or fewer `training.epochs`)"

"""What was exported is evaluated again over the run's test questions, and stands beside the original."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mentorkd.errors import MissingExtraError
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.run import Reporter
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.stages.evaluate import grade_completions, predict
from mentorkd.records import Prediction
from mentorkd.reporting.statistics import Interval, compare, signed_points
from mentorkd.sharing.form import Form
from mentorkd.sharing.source import Source


@dataclass(frozen=True)
class Check:
    """Accuracies of an exported model and of the original on the same test questions; shares, not per cent."""

    way: str
    """Who asked the exported model: the engine `transformers` or `ctranslate2`, or the `endpoint` that OpenAI clients use."""
    questions: int
    original: float
    exported: float
    interval: Interval
    """Interval of `exported` - `original`, paired by question."""
    p_value: float
    only_original: int
    """Questions that only the original answers correctly."""
    only_exported: int
    agreeing: int
    """Questions with the same answer of both, correct or not."""
    equal_texts: int
    """Questions with the same text of both."""

    @property
    def difference(self) -> float:
        return self.exported - self.original

    @property
    def worse(self) -> bool:
        """Whether the exported model is shown to be worse."""
        return self.interval.high < 0 and self.p_value < 0.05


def require(form: Form) -> None:
    """Raise MissingExtraError if a check of this form needs a package that is not installed."""
    if form.served and find_spec("starlette") is None:
        raise MissingExtraError(
            "`--check` asks the exported folder through the endpoint of `mentorkd serve`, which", "serve"
        )


def check(source: Source, form: Form, folder: Path, dtype: str | None, reporter: Reporter) -> list[Check]:
    """Ask what was exported all test questions, in each way in which it can be asked, and compare with the run's predictions.

    Raises RunError if the run has no predictions of the learner yet.
    """
    original = source.predictions()
    ways = [_by_engine, _by_endpoint] if form.served else [_by_engine]
    checks = []
    for number, ask in enumerate(ways, 1):
        stage = Stage(f"{source.name}/seed-{source.seed} exported", "evaluate", "", {}, "")
        reporter.started(stage, number, len(ways))
        context = RunContext(source.pipeline.recipe, source.pipeline.folder, partial(reporter.progress, stage))
        way, predictions = ask(context, source, form, folder, dtype)
        reporter.close()  # the bar of this one
        checks.append(compared(way, original, predictions))
    return checks


def _by_engine(
    context: RunContext, source: Source, form: Form, folder: Path, dtype: str | None
) -> tuple[str, list[Prediction]]:
    assert form.open is not None, "only models are checked"
    with closing(form.open(source, folder, dtype)) as engine, tempfile.TemporaryDirectory() as scratch:
        journal = Path(scratch) / "journal.jsonl"
        return engine.name, predict(context, engine, source.name, source.seed, source.test_questions(), journal)


def _by_endpoint(
    context: RunContext, source: Source, form: Form, folder: Path, dtype: str | None
) -> tuple[str, list[Prediction]]:
    from mentorkd.sharing.ask_endpoint import ask_endpoint

    questions = source.test_questions()
    completions = ask_endpoint(source.learner, folder, context.device, questions, context.progress)
    samples = [[completion] for completion in completions]
    return "endpoint", grade_completions(context, source.name, source.seed, questions, samples)


def compared(way: str, original: Sequence[Prediction], exported: Sequence[Prediction]) -> Check:
    """The check of predictions for the same questions, in the same order."""
    a_QS, b_QS = (np.array([[p.verdict == "correct"] for p in predictions]) * 1 for predictions in (exported, original))
    contrast = compare(a_QS, b_QS)
    pairs = list(zip(original, exported, strict=True))
    return Check(
        way=way,
        questions=len(pairs),
        original=float(b_QS.mean()),
        exported=float(a_QS.mean()),
        interval=contrast.interval,
        p_value=contrast.p_value,
        only_original=contrast.only_b,
        only_exported=contrast.only_a,
        agreeing=sum(a.predicted == b.predicted for a, b in pairs),
        equal_texts=sum(a.text == b.text for a, b in pairs),
    )


def checked_section(checks: Sequence[Check]) -> str:
    """The checks as the text of a card's section."""
    rows = [f"| {' | '.join(row)} |" for row in check_rows(checks)]
    return "\n".join(
        [
            f"What was exported was asked the {checks[0].questions} test questions of the run again.",
            "",
            f"| {' | '.join(COLUMNS)} |",
            f"|---|{'---:|' * (len(COLUMNS) - 1)}",
            *rows,
        ]
    )


COLUMNS = ("asked by", "exported %", "original %", "difference (95 %)", "same answers")


def check_rows(checks: Sequence[Check]) -> list[list[str]]:
    """The checks as rows of a table with `COLUMNS`."""
    return [
        [
            one.way,
            f"{100 * one.exported:.1f}",
            f"{100 * one.original:.1f}",
            f"{signed_points(one.difference)} [{signed_points(one.interval.low)}, {signed_points(one.interval.high)}]",
            f"{one.agreeing} of {one.questions}",
        ]
        for one in checks
    ]

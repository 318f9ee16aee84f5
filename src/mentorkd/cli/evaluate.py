"""Commands that ask a trained learner: `evaluate` and `ask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mentorkd.cli.console import open_reporter, say, show_across, show_json, show_table
from mentorkd.cli.options import AsJson, NoVerify, Quiet, RunPath, new_file
from mentorkd.cli.outputs import LearnerAccuracy, SeedAccuracy
from mentorkd.errors import DataError, RunError
from mentorkd.generation.engine import SamplingParams
from mentorkd.pipeline.records import count_verdicts
from mentorkd.pipeline.run import Pipeline, Reporter, open_run
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.schema import Recipe
from mentorkd.records import TEACHER, Prediction, Question, write_jsonl

if TYPE_CHECKING:
    from mentorkd.data.audit import DataFaults
    from mentorkd.reporting.schema import SampledResult


def evaluate(
    folder: RunPath,
    questions: Annotated[
        str | None,
        typer.Option(
            help="Questions with answers: a file in any supported shape, or hub:NAME. Default: the run's own test questions."
        ),
    ] = None,
    learner: Annotated[
        list[str] | None,
        typer.Option(help="A learner to ask; may be repeated. Default: all learners."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1, help="Sample this many texts per question, and report pass@k, in place of one greedy answer."
        ),
    ] = None,
    vote: Annotated[
        bool, typer.Option("--vote", help="With --samples: also report the accuracy of their majority vote.")
    ] = False,
    temperature: Annotated[
        float | None,
        typer.Option(help="With --samples: the softmax temperature. Default: that of the learner's `sampling`."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the predictions here, as JSON Lines.")] = None,
    no_verify: NoVerify = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Grade trained learners on their test questions, or on others of the same task; questions that the run has trained on are left out."""
    if samples is None and (vote or temperature is not None):
        option = "--vote" if vote else "--temperature"
        raise RunError(f"got {option} without --samples; give the number of texts per question, e.g. --samples 8")
    if output is not None:
        new_file(output)
    pipeline = open_run(folder, verify=not no_verify)
    names = list(dict.fromkeys(learner or pipeline.recipe.learners))
    for name in names:
        _learner(pipeline.recipe, name)
    sampling = {name: _sampling(pipeline.recipe.learners[name], samples, temperature) for name in names}
    test, faults = _test_questions(pipeline, questions)
    title = "the test questions" if questions is None else Path(questions).name
    with open_reporter(quiet=quiet, as_json=as_json) as reporter:
        for line in faults.lines():
            reporter.note(line, Stage("evaluate", "evaluate", "", {}, ""))
        predictions = _predictions(pipeline, sampling, test, title, reporter)
    if output is not None:
        write_jsonl(output, [row for rows in predictions.values() for row in rows])
    number = f"{len(test)} {'test ' if questions is None else ''}question{'' if len(test) == 1 else 's'}"
    heading = number if questions is None else f"{number} of {questions}"
    about: dict[str, Any] = {"questions": len(test), "faults": faults.counts}
    if samples is None:
        accuracies = _accuracies(pipeline.recipe, names, predictions)
        if as_json:
            show_json(about | {"learners": accuracies})
        else:
            _show_accuracies(heading, accuracies)
    else:
        sampled = _sampled(pipeline.recipe, sampling, predictions, test, vote)
        if as_json:
            show_json(about | {"learners": sampled})
        else:
            _show_sampled(heading, sampled)


def _sampling(learner: Learner, samples: int | None, temperature: float | None) -> SamplingParams:
    """How a learner is asked: once, greedily, or `samples` times by its own settings."""
    own = learner.sampling
    if samples is None:
        return SamplingParams(max_new_tokens=own.max_new_tokens)
    from mentorkd.pipeline.stages.sample import sampling_params

    params = sampling_params(own, samples)
    return params if temperature is None else replace(params, temperature=temperature)


def _show_accuracies(title: str, rows: Sequence[LearnerAccuracy]) -> None:
    show_table(
        title,
        ["learner", "accuracy %", "95 %", "seeds", "each seed %", "no answer %"],
        [
            [
                row["learner"],
                f"{100 * row['accuracy']:.1f}",
                "{:.1f} - {:.1f}".format(*(100 * edge for edge in row["interval"])),
                str(len(row["seeds"])),
                " ".join(f"{100 * seed['accuracy']:.1f}" for seed in row["seeds"]),
                f"{100 * row['no_answer']:.1f}",
            ]
            for row in rows
        ],
    )


def _show_sampled(title: str, rows: Sequence[SampledResult]) -> None:
    from mentorkd.reporting.rows import sampled_shares

    shares = sampled_shares(rows)
    show_across(title, [{"learner": row["learner"], **cells} for row, cells in zip(rows, shares, strict=True)])


def _test_questions(pipeline: Pipeline, source: str | None) -> tuple[list[Question], DataFaults]:
    """The questions of a source without those with faults, audited as a run audits its test questions; with None, the run's own."""
    from mentorkd.data.audit import DataFaults, audit
    from mentorkd.data.prepare import read_split

    if source is None:
        return pipeline.folder.questions("prepare", "test"), DataFaults({})
    recipe = pipeline.recipe
    assert recipe.task.answer is not None, "the recipe's checks fill this in"
    used = {q.id: q.split for q in pipeline.folder.questions("prepare") if q.split != "test"}
    read = read_split(recipe, "test", source)
    audited = audit(read.questions, kind=recipe.task.answer, choices=recipe.task.choices, rows=read.rows, seen=used)
    audited.faults.raise_if_strict(recipe.data.strict)
    if not audited.questions:
        raise DataError("\n  ".join([f"{source}: no question remains to ask", *audited.faults.lines()]))
    return audited.questions, audited.faults


def _predictions(
    pipeline: Pipeline,
    sampling: Mapping[str, SamplingParams],
    questions: Sequence[Question],
    title: str,
    reporter: Reporter,
) -> dict[tuple[str, int], list[Prediction]]:
    """The answers of every learner in `sampling`, and of every seed."""
    import tempfile

    from mentorkd.pipeline.context import RunContext
    from mentorkd.pipeline.stages.evaluate import predict

    runs = [(name, seed) for name in sampling for seed in pipeline.recipe.seeds]
    # Here, so that an unfinished or outdated one is named before the first is asked.
    trained = {run: pipeline.trained(*run) for run in runs}
    predictions = {}
    for number, (name, seed) in enumerate(runs, 1):
        stage = Stage(f"{name}/seed-{seed} on {title}", "evaluate", "", {}, "")
        with tempfile.TemporaryDirectory() as scratch:
            reporter.started(stage, number, len(runs))
            context = RunContext(pipeline.recipe, pipeline.folder, partial(reporter.progress, stage))
            model = context.model_folder(name, seed, trained[name, seed])
            journal = Path(scratch) / "journal.jsonl"
            with closing(context.engine(pipeline.recipe.learners[name], model)) as engine:
                predictions[name, seed] = predict(context, engine, name, seed, questions, journal, sampling[name])
            reporter.close()  # the bar of this one
    return predictions


def _accuracies(
    recipe: Recipe, names: Sequence[str], predictions: Mapping[tuple[str, int], Sequence[Prediction]]
) -> list[LearnerAccuracy]:
    """Each learner's mean over seeds with the interval of the report: peers are trained learners of the same model."""
    import numpy as np

    from mentorkd.reporting.statistics import accuracy_interval, wilson_interval

    correct = {
        name: np.array([[p.verdict == "correct" for p in predictions[name, seed]] for seed in recipe.seeds]).T * 1
        for name in names
    }
    rows: list[LearnerAccuracy] = []
    for name in names:
        peers = [correct[other] for other in _peers(recipe, name, names)]
        different = {peer.tobytes(): peer for peer in peers if peer.tobytes() != correct[name].tobytes()}
        interval = accuracy_interval(correct[name], peers=list(different.values()))
        seeds: list[SeedAccuracy] = []
        for seed in recipe.seeds:
            verdicts = count_verdicts(predictions[name, seed])
            own = wilson_interval(verdicts["correct"], len(predictions[name, seed]))
            share = verdicts["correct"] / len(predictions[name, seed])
            seeds.append(
                {
                    "seed": seed,
                    "correct": verdicts["correct"],
                    "wrong": verdicts["wrong"],
                    "no_answer": verdicts["no_answer"],
                    "accuracy": share,
                    "interval": [own.low, own.high],
                }
            )
        answers = len(seeds) * len(predictions[name, recipe.seeds[0]])
        rows.append(
            {
                "learner": name,
                "accuracy": float(correct[name].mean()),
                "interval": [interval.low, interval.high],
                "no_answer": sum(seed["no_answer"] for seed in seeds) / answers,
                "seeds": seeds,
            }
        )
    return rows


def _peers(recipe: Recipe, name: str, names: Sequence[str]) -> list[str]:
    """The other trained learners of the same model, for a trained learner."""
    learners = recipe.learners
    alike = [other for other in names if other != name and learners[other].model == learners[name].model]
    return [other for other in alike if learners[name].rationales and learners[other].rationales]


def _sampled(
    recipe: Recipe,
    sampling: Mapping[str, SamplingParams],
    predictions: Mapping[tuple[str, int], Sequence[Prediction]],
    questions: Sequence[Question],
    vote: bool,
) -> list[SampledResult]:
    """Each learner's pass@k and majority vote with the intervals of the report."""
    from mentorkd.reporting.votes import Sampled, build_sampled, count_ballots

    ids, names = [question.id for question in questions], list(sampling)
    sampled = {
        name: Sampled(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            ballots={seed: count_ballots(predictions[name, seed], ids) for seed in recipe.seeds},
            peers=_peers(recipe, name, names),
        )
        for name, params in sampling.items()
    }
    return build_sampled(sampled, vote=vote)


def ask(
    folder: RunPath,
    question: Annotated[str, typer.Argument(help="A question of the task.")],
    learner: Annotated[
        str | None,
        typer.Option(help="The learner to ask. Default: the student of the report's headline."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Its seed. Default: the first of the recipe.")] = None,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
) -> None:
    """Show the rationale and the answer of a trained learner to a question."""
    from mentorkd.data.prompts import render_prompt, split_target
    from mentorkd.pipeline.context import RunContext

    pipeline = open_run(folder, verify=not no_verify)
    seeds = pipeline.recipe.seeds
    if seed is not None and seed not in seeds:
        raise RunError(f"got --seed {seed}; expected one of {', '.join(map(str, seeds))}, the recipe's seeds")
    name, seed = learner or pipeline.headline_student(), seeds[0] if seed is None else seed
    config = _learner(pipeline.recipe, name)
    context = RunContext(pipeline.recipe, pipeline.folder)
    model = context.model_folder(name, seed, pipeline.trained(name, seed))
    prompt = render_prompt(question, config.eval_prompt)
    params = SamplingParams(max_new_tokens=config.sampling.max_new_tokens)
    with closing(context.engine(config, model)) as engine:
        [[completion]] = engine.sample([prompt], params, seed=0)
    finished = completion.finish_reason == "stop"
    rationale, _ = split_target(completion.text, config.target)
    answer = context.grader.find(completion.text, Question.create(question, "", "test"))
    if as_json:
        show_json({"learner": name, "seed": seed, "rationale": rationale, "answer": answer, "finished": finished})
        return
    say(f"{name}, seed {seed}:")
    say(rationale)
    say(f"answer: {answer}" if answer is not None else "answer: none found")
    if not finished:
        say(f"(cut off after {completion.tokens} tokens; raise `sampling.max_new_tokens`)")


def _learner(recipe: Recipe, name: str) -> Learner:
    if name not in recipe.learners:
        hint = " (the teacher is not a trained model)" if name == TEACHER else ""
        raise RunError(f"got learner {name}{hint}; expected one of {', '.join(recipe.learners)}")
    return recipe.learners[name]

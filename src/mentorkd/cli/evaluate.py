"""Commands that ask a trained learner: `evaluate` and `ask`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mentorkd.cli.console import open_reporter, show_table
from mentorkd.cli.options import AsJson, NoVerify, Quiet, RunPath, new_file
from mentorkd.errors import RunError
from mentorkd.pipeline.records import count_verdicts
from mentorkd.pipeline.run import open_run
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.schema import Recipe
from mentorkd.records import TEACHER, Prediction, Question, write_jsonl


def evaluate(
    folder: RunPath,
    learner: Annotated[str, typer.Option(help="The learner to ask.")],
    questions: Annotated[Path, typer.Option(help="Questions with answers, in any supported shape.")],
    output: Annotated[Path | None, typer.Option(help="Write the predictions here, as JSON Lines.")] = None,
    no_verify: NoVerify = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Grade a trained learner on other questions of the same task, for each of its seeds."""
    import tempfile

    if output is not None:
        new_file(output)
    from mentorkd.data.readers import read_questions
    from mentorkd.pipeline.context import RunContext
    from mentorkd.pipeline.stages.evaluate import predict
    from mentorkd.statistics import wilson_interval

    pipeline = open_run(folder, verify=not no_verify)
    config, task = _learner(pipeline.recipe, learner), pipeline.recipe.task
    assert task.answer is not None
    test = read_questions(questions, split="test", kind=task.answer, choices=task.choices, columns=task.columns)
    rows: list[dict[str, Any]] = []
    predictions: list[Prediction] = []
    seeds = pipeline.recipe.seeds
    for number, seed in enumerate(seeds, 1):
        stage = Stage(f"{learner}/seed-{seed} on {questions.name}", "evaluate", "", {}, "")
        with open_reporter(quiet=quiet, as_json=as_json) as reporter, tempfile.TemporaryDirectory() as scratch:
            reporter.started(stage, number, len(seeds))
            context = RunContext(pipeline.recipe, pipeline.folder, partial(reporter.progress, stage))
            model = context.model_folder(learner, seed, pipeline.stage_of("train", learner, seed))
            journal = Path(scratch) / "journal.jsonl"
            answers = predict(context, context.engine(config, model), learner, seed, test, journal)
        verdicts = count_verdicts(answers)
        interval = wilson_interval(verdicts["correct"], len(answers))
        rows.append(
            {
                "learner": learner,
                "seed": seed,
                "questions": len(answers),
                "correct": verdicts["correct"],
                "accuracy": verdicts["correct"] / len(answers),
                "interval": [interval.low, interval.high],
                "no_answer": verdicts["no_answer"],
            }
        )
        predictions += answers
    if output is not None:
        write_jsonl(output, predictions)
    if as_json:
        print(json.dumps(rows))
        return
    show_table(
        f"{learner} on {questions.name}",
        ["seed", "questions", "accuracy", "95 % interval", "no answer"],
        [
            [
                str(row["seed"]),
                str(row["questions"]),
                f"{100 * row['accuracy']:.1f} %",
                "{:.1f} - {:.1f}".format(*(100 * edge for edge in row["interval"])),
                str(row["no_answer"]),
            ]
            for row in rows
        ],
    )


def ask(
    folder: RunPath,
    question: Annotated[str, typer.Argument(help="A question of the task.")],
    learner: Annotated[
        str | None, typer.Option(help="The learner to ask. Default: the last one of the recipe.")
    ] = None,
    no_verify: NoVerify = False,
    as_json: AsJson = False,
) -> None:
    """Show the rationale and the answer of a trained learner to a question."""
    from mentorkd.data.prompts import render_prompt, split_target
    from mentorkd.generation.engine import SamplingParams
    from mentorkd.pipeline.context import RunContext

    pipeline = open_run(folder, verify=not no_verify)
    name, seed = learner or list(pipeline.recipe.learners)[-1], pipeline.recipe.seeds[0]
    config = _learner(pipeline.recipe, name)
    context = RunContext(pipeline.recipe, pipeline.folder)
    model = context.model_folder(name, seed, pipeline.stage_of("train", name, seed))
    prompt = render_prompt(question, config.eval_prompt)
    params = SamplingParams(max_new_tokens=config.sampling.max_new_tokens)
    [[completion]] = context.engine(config, model).sample([prompt], params, seed=0)
    finished = completion.finish_reason == "stop"
    rationale, _ = split_target(completion.text, config.target)
    answer = context.grader.find(completion.text, Question.create(question, "", "test"))
    if as_json:
        reply = {"learner": name, "rationale": rationale, "answer": answer, "finished": finished}
        print(json.dumps(reply, ensure_ascii=False))
        return
    print(rationale)
    print(f"answer: {answer}" if answer is not None else "answer: none found")
    if not finished:
        print(f"(cut off after {completion.tokens} tokens; raise `sampling.max_new_tokens`)")


def _learner(recipe: Recipe, name: str) -> Learner:
    if name not in recipe.learners:
        hint = " (the teacher is not a trained model)" if name == TEACHER else ""
        raise RunError(f"got learner {name}{hint}; expected one of {', '.join(recipe.learners)}")
    return recipe.learners[name]

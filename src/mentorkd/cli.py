"""The command line. Imports torch only inside commands that train or generate.

Exit codes: 0 done, 1 an unforeseen fault (with traceback), 2 a user's mistake (one clear line), 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from mentorkd import __version__
from mentorkd.cli_options import (
    AsJson,
    Jobs,
    Overrides,
    Quiet,
    RecipePath,
    RunOption,
    RunPath,
    load_named,
    shipped_recipes,
)
from mentorkd.compare_cli import compare
from mentorkd.console import ConsoleReporter, JsonReporter, ranges, show_results, show_table
from mentorkd.data_cli import data_app, import_data
from mentorkd.errors import MentorkdError, RunError
from mentorkd.init_cli import init
from mentorkd.pipeline.provenance import cores
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.schema import Recipe
from mentorkd.records import TEACHER, Question, write_jsonl
from mentorkd.reproduce_cli import reproduce
from mentorkd.teacher_cli import annotate, cache_app

__all__ = ["app", "main"]

# Models this small do not fill two cores; two of them at a time do.
QUICKSTART_JOBS = min(2, cores())

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.command()(annotate)
app.command("import")(import_data)
app.command()(init)
app.command()(reproduce)
app.command()(compare)


def _version(asked: bool) -> None:
    if asked:
        print(f"mentorkd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From questions with known answers to a small language model that reasons, by way of a mentor."""


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    folder: RunOption = None,
    force: Annotated[
        list[str] | None, typer.Option(help="A stage or kind of stage to run again, with all after it.")
    ] = None,
    jobs: Jobs = 1,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe from its questions to its report; what is finished is not done again."""
    _run(load_named(recipe, overrides), folder, force or (), jobs, quiet, as_json)


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """List the recipes that are shipped: `mentorkd run NAME` runs one on the data in the folder `data`."""
    about = {
        name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, path in shipped_recipes().items()
    }
    if as_json:
        print(json.dumps(about))
        return
    for name, line in about.items():
        print(f"{name:<24}{line}")


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option("--run", help="The run folder.")] = Path("runs/quickstart"),
    overrides: Overrides = None,
    jobs: Jobs = QUICKSTART_JOBS,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the embedded task and recipe, and run it to a report: no network, no key, no GPU, no file needed."""
    from mentorkd.quickstart import write_recipe, write_task
    from mentorkd.recipe.load import load_recipe

    recipe = folder / "task" / "recipe.yaml"
    if not recipe.exists():  # written last; what is there may have been edited since
        write_task(recipe.parent)
        write_recipe(recipe)
    if not (quiet or as_json):
        print(f"the recipe, to edit for your own data: {recipe}", file=sys.stderr)
    _run(load_recipe(recipe, overrides or ()), folder, (), jobs, quiet, as_json)


def _run(recipe: Recipe, folder: Path | None, force: Sequence[str], jobs: int, quiet: bool, as_json: bool) -> None:
    from mentorkd.pipeline.run import Pipeline

    reporter = JsonReporter() if as_json else ConsoleReporter(quiet=quiet)
    root = folder or Path("runs") / recipe.name
    pipeline = Pipeline(recipe, root, reporter)
    try:
        pipeline.run(force=force, jobs=jobs)
    finally:
        reporter.close()
    show_results(root / "report", as_json)


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None, folder: RunOption = None, as_json: AsJson = False) -> None:
    """Show the graph of a recipe: its stages, what is done, what will run, rows and estimated tokens."""
    from mentorkd.pipeline.plan import estimate
    from mentorkd.pipeline.run import Pipeline

    loaded = load_named(recipe, overrides)
    root = folder or Path("runs") / loaded.name
    planned = Pipeline(loaded, root).plan()
    estimates = estimate(loaded, root)
    rows = [
        {"stage": p.stage.name, "state": p.state, "needs": list(p.stage.needs), **estimates.of(p.stage)}
        for p in planned
    ]
    if as_json:
        print(json.dumps({"recipe": loaded.name, "stages": rows, "notes": estimates.notes}, ensure_ascii=False))
        return
    numbers = {p.stage.name: number for number, p in enumerate(planned, 1)}
    show_table(
        loaded.name,
        ["stage", "#", "needs", "state", "rows", "updates", "tokens"],
        [
            [
                p.stage.name,
                str(numbers[p.stage.name]),
                ranges(sorted(numbers[need] for need in p.stage.needs)),
                p.state,
                _number(row.get("rows")) + (f" x {row['epochs']:g}" if "epochs" in row else ""),
                _number(row.get("updates")),
                _number(row.get("tokens")),
            ]
            for p, row in zip(planned, rows, strict=True)
        ],
        whole=True,
    )
    for note in estimates.notes:
        print(note)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


@app.command()
def evaluate(
    folder: RunPath,
    learner: Annotated[str, typer.Option(help="The learner to ask.")],
    questions: Annotated[Path, typer.Option(help="Questions with answers, in any supported shape.")],
    output: Annotated[Path | None, typer.Option(help="Write the predictions here, as JSON Lines.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Grade a trained learner on other questions of the same task, with each of its seeds."""
    import tempfile

    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise RunError(f"got --output {output}; expected a file in a folder that exists")
    from mentorkd.data.readers import read_questions
    from mentorkd.statistics import wilson_interval

    pipeline, work, reporter = _opened(folder, quiet, as_json)
    config = _learner(pipeline.recipe, learner)
    task = pipeline.recipe.task
    assert task.answer is not None
    asked = read_questions(questions, split="test", kind=task.answer, choices=task.choices, columns=task.columns)
    rows, predictions = [], []
    seeds = pipeline.recipe.seeds
    for number, seed in enumerate(seeds, 1):
        name = f"{learner}/seed-{seed} on {questions.name}"
        stage = Stage(name, "evaluate", "", {}, "")
        reporter.started(stage, number, len(seeds))
        work.progress = partial(reporter.progress, stage)
        with tempfile.TemporaryDirectory() as scratch:
            journal = Path(scratch) / "journal.jsonl"
            model = work.model_folder(learner, seed, pipeline.made("train", learner, seed))
            made = work.predict(work.engine(config, model), config, learner, seed, asked, journal)
        right = sum(p.verdict == "correct" for p in made)
        interval = wilson_interval(right, len(made))
        silent = sum(p.verdict == "no_answer" for p in made)
        rows.append(
            {
                "learner": learner,
                "seed": seed,
                "questions": len(made),
                "correct": right,
                "accuracy": right / len(made),
                "interval": [interval.low, interval.high],
                "no_answer": silent,
            }
        )
        predictions += made
        reporter.close()
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


@app.command()
def ask(
    folder: RunPath,
    question: Annotated[str, typer.Argument(help="A question of the task.")],
    learner: Annotated[
        str | None, typer.Option(help="Who answers; the last learner of the recipe if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the rationale and the answer that a trained learner gives to a question."""
    from mentorkd.data.prompts import render_prompt, split_target

    pipeline, work, reporter = _opened(folder, True, as_json)
    name = learner or list(pipeline.recipe.learners)[-1]
    config = _learner(pipeline.recipe, name)
    seed = pipeline.recipe.seeds[0]
    model = work.model_folder(name, seed, pipeline.made("train", name, seed))
    [[completion]] = work.engine(config, model).sample(
        [render_prompt(question, config.asked)],
        n=1,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=config.sampling.max_new_tokens,
        seed=0,
    )
    reporter.close()
    rationale, _ = split_target(completion.text, config.target)
    answer = work.grader.find(completion.text, Question.create(question, "", "test"))
    if as_json:
        print(
            json.dumps(
                {"learner": name, "rationale": rationale, "answer": answer, "finished": completion.finished},
                ensure_ascii=False,
            )
        )
        return
    print(rationale)
    print(f"answer: {answer}" if answer is not None else "answer: none found")
    if not completion.finished:
        print(f"(cut off after {completion.tokens} tokens; raise `sampling.max_new_tokens`)")


@app.command()
def report(folder: RunPath, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Make the report of a finished run anew."""
    from mentorkd.pipeline.run import open_run

    reporter = JsonReporter() if as_json else ConsoleReporter(quiet=quiet)
    pipeline = open_run(folder, reporter)
    unfinished = [p.stage.name for p in pipeline.plan() if p.state != "done" and p.stage.kind != "report"]
    if unfinished:
        raise RunError(
            f"{folder} is not finished ({len(unfinished)} stages left, first {unfinished[0]}); use `mentorkd run`"
        )
    try:
        pipeline.run(force=["report"])
    finally:
        reporter.close()
    show_results(folder / "report", as_json)


@app.command()
def inspect(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A folder of stored soft labels.")],
    sample: Annotated[int, typer.Option(help="Rationales to measure on.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Show what a soft-label store holds: size, bytes a token, the mentor's NLL, what top-k kept."""
    from mentorkd.distillation.inspect import inspect_store

    found = inspect_store(store, sample=sample)
    if as_json:
        print(json.dumps(found))
        return
    show_table(
        str(store),
        ["", ""],
        [
            [key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)]
            for key, value in found.items()
        ],
    )


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from mentorkd.recipe.load import recipe_schema

    print(json.dumps(recipe_schema(), indent=1))


def _opened(folder: Path, quiet: bool, as_json: bool) -> Any:
    from mentorkd.pipeline.context import Workbench
    from mentorkd.pipeline.run import open_run

    reporter = JsonReporter() if as_json else ConsoleReporter(quiet=quiet)
    pipeline = open_run(folder, reporter)
    return pipeline, Workbench(pipeline.recipe, pipeline.folder, lambda done, total: None, lambda text: None), reporter


def _learner(recipe: Recipe, name: str) -> Any:
    if name not in recipe.learners:
        hint = " (the teacher is not a trained model)" if name == TEACHER else ""
        raise RunError(f"got learner {name}{hint}; expected one of {', '.join(recipe.learners)}")
    return recipe.learners[name]


def main() -> None:
    """Entry point: a MentorkdError, or a path that cannot be used, becomes one line on stderr and exit code 2."""
    # Progress bars and warnings of libraries are not ours to show; set before they are imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except MentorkdError as error:
        print(f"mentorkd: {error}", file=sys.stderr)
        sys.exit(2)
    except (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:  # not about a path
            raise
        print(f"mentorkd: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:  # typer makes this of a KeyboardInterrupt
            print("mentorkd: interrupted; run the same command to go on", file=sys.stderr)
        raise

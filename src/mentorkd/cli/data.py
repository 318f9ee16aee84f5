"""Commands for data: import a file into the package's format, download the paper's data, start a recipe."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from mentorkd.cli.console import say, show_json, show_table
from mentorkd.cli.options import AsJson, Quiet
from mentorkd.errors import RunError
from mentorkd.pipeline.records import count_verdicts
from mentorkd.records import AnswerKind, write_jsonl

data_app = typer.Typer(no_args_is_help=True, help="Download data.")


def import_data(
    file: Annotated[str, typer.Argument(help="A data file in a supported format, or hub:NAME.")],
    task: Annotated[str | None, typer.Option(help="One of the paper's tasks; sets the kind of answer.")] = None,
    answer: Annotated[
        str | None, typer.Option(help="Kind of answer of your own task: number, choice, yes_no, text or math.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS, e.g. question=problem; may be repeated.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the questions: train, validation or test.")] = "train",
    output: Annotated[Path, typer.Option(help="Folder for questions.jsonl and rationales.jsonl.")] = Path("data"),
    force: Annotated[bool, typer.Option("--force", help="Replace the files of an earlier import.")] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a data file to normalised JSON Lines and count its records."""
    from mentorkd.data.audit import audit
    from mentorkd.data.readers import columns_of, read_questions, read_rationales

    kind, choices = _answer_kind(task, answer)
    if split not in ("train", "validation", "test"):
        raise RunError(f"got --split {split}; expected train, validation or test")
    targets = [output / "questions.jsonl", output / "rationales.jsonl"]
    if not force and (present := [str(target) for target in targets if target.exists()]):
        raise RunError(
            f"{' and '.join(present)} would be overwritten; choose another --output, or replace with --force"
        )
    if file.startswith("hub:") and ":" not in file.removeprefix("hub:"):
        file = f"{file}:{split}"
    pairs = [text.partition("=") for text in column or ()]
    columns = {ours: theirs for ours, _, theirs in pairs}
    names = columns_of(file, columns)
    if "question" not in names:
        raise RunError(
            f"{file} has rationale records without questions; give the file with the questions, or the original file"
        )
    questions = read_questions(file, split=split, kind=kind, choices=choices, columns=columns)  # type: ignore[arg-type]
    rationales = []
    if "rationale" in names:
        rationales = read_rationales(file, questions, kind=kind, choices=choices, columns=columns)
    # Rationales of test questions are a fault in a run, which would train on them; this command only converts them.
    audited = audit([replace(q, split="train") for q in questions], rationales, kind=kind, choices=choices)
    unique = [replace(q, split=split) for q in audited.questions]  # type: ignore[arg-type]
    output.mkdir(parents=True, exist_ok=True)
    counts: dict[str, Any] = {"questions": write_jsonl(targets[0], unique)}
    targets[1].unlink(missing_ok=True)  # rationales of an earlier import belong to other questions
    if audited.rationales:
        counts["rationales"] = write_jsonl(targets[1], audited.rationales)
        counts["verdicts"] = count_verdicts(audited.rationales)
    counts["faults"] = audited.faults.counts
    if as_json:
        show_json(counts)
        return
    for line in audited.faults.lines():
        say(f"! {line}")
    rows = [[name, str(value)] for name, value in counts.items() if isinstance(value, int)]
    rows += [[f"  {verdict}", str(count)] for verdict, count in counts.get("verdicts", {}).items()]
    show_table(str(output), ["", "count"], rows)
    for target in targets:
        if target.exists():
            say(f"{target.stem}: {target}")


@data_app.command("paper")
def data_paper(
    folder: Annotated[Path, typer.Argument(help="Folder for the files.")],
    base_url: Annotated[str | None, typer.Option(help="Mirror of the reference repository's raw files.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Download the paper's data files from the reference repository and verify them. Existing files are kept."""
    from rich.console import Console
    from rich.progress import Progress

    from mentorkd.paper.download import RAW_URL, fetch_paper_data

    with Progress(console=Console(stderr=True), transient=True, disable=quiet or as_json) as bar:
        job = bar.add_task("paper data", total=None)
        fetched = fetch_paper_data(
            folder,
            base_url=base_url or RAW_URL,
            on_progress=lambda done, total: bar.update(job, completed=done, total=total),
        )
    if as_json:
        show_json(asdict(fetched))
        return
    say(
        f"{folder}: {len(fetched.fetched)} files downloaded, {len(fetched.replaced)} replaced (they differed from the published "
        f"ones), {len(fetched.present)} already present; all verified, {fetched.bytes / 2**20:.1f} MB"
    )


def _answer_kind(task: str | None, answer: str | None) -> tuple[AnswerKind, Sequence[str] | None]:
    from mentorkd.paper.tasks import PAPER_TASKS, find_task

    if answer is not None:
        if answer not in get_args(AnswerKind):
            raise RunError(f"got --answer {answer}; expected one of {', '.join(get_args(AnswerKind))}")
        return answer, None  # type: ignore[return-value]
    known = find_task(task) if task else None
    if known is None:
        kinds = ", ".join(get_args(AnswerKind))
        got = (
            f"`{task}` is not a task of the paper ({', '.join(PAPER_TASKS)})" if task else "no kind of answer is given"
        )
        raise RunError(f"{got}; for a task of your own give --answer with one of {kinds}")
    return known.answer, known.choices


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of your data; created if absent.")],
    model: Annotated[
        str | None,
        typer.Option(help="The student: a hub name, a folder or a GGUF file. Default: the package's tiny model."),
    ] = None,
) -> None:
    """Write a commented recipe for your own data, with settings that fit the model; edit four lines and run it."""
    from mentorkd.quickstart.task import write_own_recipe
    from mentorkd.recipe.starter import starter_recipe

    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; give a folder")
    recipe = folder / "recipe.yaml"
    if recipe.exists():
        raise RunError(f"{recipe} already exists; give another folder, or remove the file")
    if model is not None and folder.resolve() == Path(model).resolve():
        raise RunError(f"{folder} would be taken for the model {model}; give another folder for your data")
    # What no folder of every system can be called (`name` in recipe/schema.py).
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]+', "-", unicodedata.normalize("NFC", folder.resolve().name))
    name = name.lstrip(" .-").rstrip() or "mine"
    starter = None if model is None else starter_recipe(name, model)
    folder.mkdir(parents=True, exist_ok=True)
    if starter is None:
        write_own_recipe(recipe, name)
    else:
        recipe.write_text(starter.text, encoding="utf-8")
        say(f"assumed: {starter.assumed}")
    quoted = shlex.quote(str(recipe))
    say(f'edit the four lines marked "yours" in {recipe}, then: mentorkd plan {quoted}, and: mentorkd run {quoted}')

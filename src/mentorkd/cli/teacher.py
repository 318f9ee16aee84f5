"""The commands of teachers: `annotate`, and `cache` for the files that keep replies."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mentorkd.cli.console import open_reporter, say, show_json, show_table
from mentorkd.cli.options import (
    AsJson,
    NoVerify,
    Overrides,
    Overwrite,
    Quiet,
    RecipePath,
    RunOption,
    load_named,
    new_file,
)
from mentorkd.errors import RunError
from mentorkd.pipeline.records import AnnotateRecord
from mentorkd.recipe.schema import Recipe

cache_app = typer.Typer(no_args_is_help=True, help="Merge and export the files that keep a teacher's replies.")
_CachePath = Annotated[
    Path, typer.Argument(metavar="CACHE", help="A run folder, or a cache file such as runs/x/teacher/requests.sqlite.")
]


def annotate(
    recipe: RecipePath,
    overrides: Overrides = None,
    folder: RunOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show three prompts and estimate requests, tokens and dollars. Asks for nothing."
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Annotate again: ask for the samples that have no reply, and continue without those that get none, even if "
            "these are most.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    no_verify: NoVerify = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Get the teacher's rationales and stop there; `run` continues from them."""
    from mentorkd.pipeline.run import Pipeline

    loaded = load_named(recipe, overrides)
    root = folder or Path("runs") / loaded.name
    if dry_run:
        _show_preview(loaded, root, as_json)
        return
    with open_reporter(quiet=quiet, as_json=as_json) as reporter:
        pipeline = Pipeline(loaded, root, reporter, verify=not no_verify)
        pipeline.run(force=["annotate"] if force else (), until="annotate", overwrite=overwrite)
    _show_record(pipeline.folder.record_of(AnnotateRecord, "annotate"), root, as_json)


def _show_preview(recipe: Recipe, root: Path, as_json: bool) -> None:
    from mentorkd.data.prepare import prepare_recipe
    from mentorkd.teachers.annotate import open_teacher

    teacher, (questions, _) = open_teacher(recipe), prepare_recipe(recipe)
    estimate = teacher.estimate(questions, root).dry_run
    if estimate is None:
        name = teacher.describe().name
        raise RunError(f"the teacher of this recipe is {name}, so nobody is asked; --dry-run is for other kinds")
    if as_json:
        show_json(asdict(estimate))
        return
    training = sum(question.split == "train" for question in questions)
    for number, prompt in enumerate(estimate.prompts, 1):
        say(f"--- prompt {number} of {training} " + "-" * 60)
        say(prompt)
    say("-" * 78)
    say("\n".join(estimate.lines()))


def _show_record(record: AnnotateRecord, root: Path, as_json: bool) -> None:
    file = root / "teacher" / "rationales.jsonl"
    usage = {} if record.asked is None else asdict(record.asked)
    if as_json:
        show_json({"rationales": record.rationales, **usage, "file": str(file)})
        return
    from mentorkd.reporting.rows import teacher_rows

    rows = teacher_rows(usage) if usage else record.rationales
    show_table("teacher", ["", "count"], [[name.replace("_", " "), str(value)] for name, value in rows.items()])
    say(f"rationales: {file}")


@cache_app.command()
def merge(
    into: Annotated[Path, typer.Argument(metavar="INTO", help="The cache to add to; created if it does not exist.")],
    others: Annotated[list[Path], typer.Argument(metavar="FROM...", help="Caches to copy replies from.")],
    as_json: AsJson = False,
) -> None:
    """Copy the replies of other caches; replies that are there already stay as they are."""
    from mentorkd.teachers.cache import RequestCache

    sources = {str(other): _existing(other) for other in others}  # before the cache to add to is created
    with RequestCache(_file(into)) as cache:
        added = {name: cache.merge(source) for name, source in sources.items()}
        total = len(cache)
    if as_json:
        show_json({"added": added, "replies": total})
        return
    for other, count in added.items():
        say(f"{count:,} new replies from {other}")
    say(f"{_file(into)}: {total:,} replies")


@cache_app.command()
def export(
    source: _CachePath,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="JSON Lines: key, sample, at, request, reply.")],
    as_json: AsJson = False,
) -> None:
    """Write every reply with its request as JSON Lines."""
    from mentorkd.teachers import cache

    count = cache.export(_existing(source), new_file(output))
    if as_json:
        show_json({"replies": count, "file": str(output)})
        return
    say(f"{output}: {count:,} replies")


def _existing(place: Path) -> Path:
    file = _file(place)
    if not file.is_file():
        raise RunError(f"{file}: no such cache; give a run folder that has one, or a cache file")
    return file


def _file(place: Path) -> Path:
    """The cache file at a path that may be a run folder."""
    from mentorkd.teachers.asked import CACHE

    return place / CACHE if place.is_dir() else place

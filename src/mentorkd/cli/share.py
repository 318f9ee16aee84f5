"""Commands that take results out of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mentorkd.cli.console import open_reporter, say, show_json, show_table
from mentorkd.cli.options import AsJson, NoVerify, Quiet, RunPath
from mentorkd.cli.outputs import CheckOutput

if TYPE_CHECKING:
    from mentorkd.sharing.check import Check


def export(
    folder: RunPath,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The new folder to write.")],
    form: Annotated[str, typer.Option("--as", metavar="FORM", help="The form to write.")] = "hf",
    learner: Annotated[
        str | None, typer.Option(help="The learner. Default: the student of the report's headline.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Its seed. Default: the first of the recipe.")] = None,
    dtype: Annotated[str | None, typer.Option(help="The type of the weights, for forms with a choice.")] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Ask the exported model the test questions again, and write the result in its card."
        ),
    ] = False,
    no_verify: NoVerify = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained learner, or what its run holds, in a form that other tools read."""
    from mentorkd.errors import RunError
    from mentorkd.sharing.export import export as write
    from mentorkd.sharing.forms import form_of
    from mentorkd.sharing.source import open_source

    source, chooses = open_source(folder, learner, seed, verify=not no_verify), form_of(form).chooses
    for option, value in (("learner", learner), ("seed", seed)):
        if value is not None and option not in chooses:
            raise RunError(
                f"got --{option} {value} with --as {form}, which has the texts of every {option}; leave it out"
            )
    with open_reporter(quiet=quiet, as_json=as_json) as reporter:
        written = write(source, form, to, dtype=dtype, check=check, reporter=reporter)
    if as_json:
        fields = {
            "folder": str(to),
            "form": form,
            "dtype": written.dtype,
            "learner": source.name if "learner" in chooses else None,
            "seed": source.seed if "seed" in chooses else None,
        }
        show_json({**fields, "checks": [_as_json(one) for one in written.checks]})
        return
    if written.checks:
        _show_checks(written.checks)
    say(str(to))


def push(
    folder: RunPath,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model's repository on the hub.")],
    learner: Annotated[
        str | None, typer.Option(help="The learner. Default: the student of the report's headline.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Its seed. Default: the first of the recipe.")] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Push all rationales of the run, too, as this data set.")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Push the run's report beside the model.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    dry_run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Send nothing; write what would be sent to this new folder."),
    ] = None,
    no_verify: NoVerify = False,
) -> None:
    """Push a trained learner to the Hugging Face hub, with a card that says where every part came from."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from mentorkd.sharing.export import new_folder
    from mentorkd.sharing.push import gather, known_token, send, write_tree
    from mentorkd.sharing.source import open_source

    source = open_source(folder, learner, seed, verify=not no_verify)
    with TemporaryDirectory() as generated:
        gathered = partial(gather, source, repository, Path(generated), data_set=dataset, report=report)
        if dry_run is not None:
            with new_folder(dry_run, source) as half:
                write_tree(gathered(), half)
            say(str(dry_run))
            return
        token = known_token()  # before the files are made, which can take minutes
        repositories = gathered()
        send(repositories, token, private=private)
    for each in repositories:
        say(each.url)


def _show_checks(checks: Sequence[Check]) -> None:
    from mentorkd.sharing.check import COLUMNS, check_rows

    show_table(f"{checks[0].questions} test questions", COLUMNS, check_rows(checks))
    for one in checks:
        if one.worse:
            say(f"! the exported model is worse than the original, asked by {one.way}", error=True)


def _as_json(check: Check) -> CheckOutput:
    return {
        "way": check.way,
        "questions": check.questions,
        "accuracy": check.exported,
        "original_accuracy": check.original,
        "difference": check.difference,
        "interval": [check.interval.low, check.interval.high],
        "p": check.p_value,
        "only_exported": check.only_exported,
        "only_original": check.only_original,
        "agreeing": check.agreeing,
        "equal_texts": check.equal_texts,
    }

"""Commands that take results out of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mentorkd.cli.console import say
from mentorkd.cli.options import NoVerify, RunPath


def export(
    folder: RunPath,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The new folder to write.")],
    form: Annotated[str, typer.Option("--as", metavar="FORM", help="The form to write.")] = "hf",
    learner: Annotated[
        str | None, typer.Option(help="The learner. Default: the student of the report's headline.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Its seed. Default: the first of the recipe.")] = None,
    dtype: Annotated[str | None, typer.Option(help="The type of the weights, for forms with a choice.")] = None,
    no_verify: NoVerify = False,
) -> None:
    """Write a trained learner, or what its run holds, in a form that other tools read."""
    from mentorkd.sharing.export import export as write
    from mentorkd.sharing.source import open_source

    source = open_source(folder, learner, seed, verify=not no_verify)
    say(str(write(source, form, to, dtype=dtype)))


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
    from tempfile import TemporaryDirectory

    from mentorkd.sharing.export import new_folder
    from mentorkd.sharing.push import gather, send, write_tree
    from mentorkd.sharing.source import open_source

    source = open_source(folder, learner, seed, verify=not no_verify)
    with TemporaryDirectory() as generated:
        repositories = gather(source, repository, Path(generated), data_set=dataset, report=report)
        if dry_run is not None:
            with new_folder(dry_run) as half:
                write_tree(repositories, half)
            say(str(dry_run))
            return
        send(repositories, private=private)
    for each in repositories:
        say(each.url)

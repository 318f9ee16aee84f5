"""Exports: a form is written to a temporary folder beside its target, checked, and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from mentorkd.errors import RunError
from mentorkd.pipeline.run import Reporter
from mentorkd.sharing.card import write_card
from mentorkd.sharing.form import Form
from mentorkd.sharing.forms import form_of
from mentorkd.sharing.lineage import trace
from mentorkd.sharing.source import Source

if TYPE_CHECKING:
    from mentorkd.sharing.check import Check


@dataclass(frozen=True)
class Export:
    """What was exported."""

    folder: Path
    dtype: str | None
    """The type of the weights; None for a form without a choice."""
    checks: Sequence[Check] = ()


def export(
    source: Source,
    form: str,
    target: Path,
    *,
    dtype: str | None = None,
    check: bool = False,
    reporter: Reporter | None = None,
) -> Export:
    """Write a learner, or what its run holds, to the new folder `target`.

    `check` asks what was exported the test questions again, and adds a section to its card.

    Raises RunError for an unknown form or type, for a target that exists, for a run without what the form needs, and for a check
    of a form that is no model.
    """
    chosen = form_of(form)
    if dtype is not None and dtype not in chosen.dtypes:
        expected = f"expected one of {', '.join(chosen.dtypes)}" if chosen.dtypes else f"{form} has no choice of types"
        raise RunError(f"got --dtype {dtype}; {expected}")
    if check:
        _check_possible(source, form, chosen)
    dtype = dtype or (chosen.dtypes[0] if chosen.dtypes else None)
    lineage = None if chosen.open is None else trace(source)
    with new_folder(target, source) as half:
        use = chosen.write(source, half, dtype)
        checks, checked = _checked(source, chosen, half, dtype, reporter or Reporter()) if check else ([], None)
        if lineage is not None:
            write_card(source, lineage, half, form=form, dtype=dtype, use=use, checked=checked)
    return Export(target, dtype, checks)


def _check_possible(source: Source, name: str, form: Form) -> None:
    if form.open is None:
        raise RunError(f"got --check with --as {name}, which is no model; leave it out")
    from mentorkd.sharing.check import require

    require(form)
    source.predictions()


def _checked(
    source: Source, form: Form, folder: Path, dtype: str | None, reporter: Reporter
) -> tuple[list[Check], str]:
    """The checks of what was written, and their text in its card."""
    from mentorkd.sharing.check import check, checked_section

    checks = check(source, form, folder, dtype, reporter)
    return checks, checked_section(checks)


@contextmanager
def new_folder(target: Path, source: Source) -> Iterator[Path]:
    """An empty folder that becomes `target` at the end of the block, and is removed if the block raises.

    Raises RunError if `target` exists, the folder that it shall lie in does not, or it would lie in the run folder.
    """
    run, parent = source.pipeline.folder.root.resolve(), target.absolute().parent
    there = target.exists() or target.is_symlink()
    if there or not parent.is_dir():
        why = "which exists already" if there else f"but there is no folder {parent}"
        raise RunError(f"got the output {target}, {why}; expected a new folder in one that exists")
    if parent.resolve().is_relative_to(run):
        raise RunError(f"got the output {target}, which lies in the run folder {run}; expected a folder outside it")
    half = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    half.mkdir()
    try:
        yield half
        half.rename(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)

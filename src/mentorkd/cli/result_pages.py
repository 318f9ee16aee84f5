"""The pages of committed results: their tables are made of results.json files, and checked against them.

A page marks a table with a comment on the line before it:

    <!-- table: self-taught/results.json learners; by hand: learns from, earlier run -->
    <!-- table: quickstart/*/results.json joined -->

It names the file, relative to the page, what a row of the table is, and the columns that are not in the file. The other columns have
the names of `COLUMNS`. The first cell of a row names what the row is of: `learners` by name, `comparisons` as two names, `parts`
of a decomposition in their words. Two kinds read several files: `joined` has two names and what the runs show of them together, and
`runs` the folder of each file, with learners and pairs as columns. A cell that is bold as a whole stays so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mentorkd.errors import RunError
from mentorkd.reporting.joined import join

RESULTS = "results.json"
_MARK = re.compile(r"<!-- table: (?P<file>\S+) (?P<kind>\w+)(?:; by hand: (?P<by_hand>[^>]+?))? -->")
_NAME = re.compile(r"`([^`]+)`")
SHOWN = 0.05
"""A comparison with a larger p shows nothing."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Disagreement:
    """A number that the results do not give, with its place."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


def check_pages(folder: Path) -> list[Disagreement]:
    """What disagrees in the pages of `folder` (`NAME.md`) and in their results (`NAME/results.json`, `NAME/RUN/results.json`).

    Raises RunError if there are no results.
    """
    files = sorted(folder.glob(f"*/**/{RESULTS}"))
    if not files:
        raise RunError(
            f"got {folder}; expected a folder with NAME.md and NAME/{RESULTS}, such as docs/results of a clone"
        )
    found = [fault for file in files for fault in check_results(file)]
    for file in files:
        place = file.relative_to(folder)
        page = folder / f"{place.parts[0]}.md"
        if not page.is_file():
            found.append(Disagreement(str(file), f"no page {page}"))
        elif not any(place.match(mark["file"]) for mark in _MARK.finditer(page.read_text(encoding="utf-8"))):
            found.append(Disagreement(str(page), f"no table is marked as one of {place.as_posix()}"))
    return found + [fault for page in sorted(folder.glob("*.md")) for fault in rewritten(page)[1]]


def rewrite_pages(folder: Path) -> None:
    """Write the numbers of the results into the marked tables of all pages in `folder`."""
    for page in sorted(folder.glob("*.md")):
        text, found = rewritten(page)
        if found:
            page.write_text(text, encoding="utf-8")


def check_results(file: Path) -> Iterator[Disagreement]:
    """Accuracies that are not those of the bits a question, or in results of earlier versions of the counts, of their seeds."""
    for learner in json.loads(file.read_text(encoding="utf-8"))["learners"]:
        seeds = learner["per_seed"]
        for row in seeds:
            where = f"{learner['name']}, seed {row['seed']}"
            if "verdicts" in row and (row["verdicts"].count("1"), len(row["verdicts"])) != (
                row["correct"],
                row["questions"],
            ):
                counts = f"{row['correct']} of {row['questions']} correct"
                yield Disagreement(str(file), f"{where}: {counts}, its verdicts give {row['verdicts'].count('1')}")
            if _differ(row["accuracy"], share := row["correct"] / row["questions"]):
                yield Disagreement(str(file), f"{where}: accuracy {row['accuracy']}, its counts give {share:.6f}")
        if seeds and _differ(learner["accuracy"], mean := sum(row["accuracy"] for row in seeds) / len(seeds)):
            yield Disagreement(
                str(file), f"{learner['name']}: accuracy {learner['accuracy']}, its seeds give {mean:.6f}"
            )


def _differ(rounded: float, exact: float) -> bool:
    return abs(rounded - exact) > 2e-6


def rewritten(page: Path) -> tuple[str, list[Disagreement]]:
    """The page with the numbers of its results in its marked tables, and what was different."""
    lines, found = page.read_text(encoding="utf-8").split("\n"), []
    for number, line in enumerate(lines):
        if line.startswith("<!-- table:"):
            if (mark := _MARK.fullmatch(line)) is None:
                what = f"got {line!r}; expected <!-- table: FILE KIND; by hand: COLUMN, COLUMN -->"
                found.append(Disagreement(f"{page}, line {number + 1}", what))
            else:
                found += _rewrite_table(page, lines, number + 1, mark)
    return "\n".join(lines), found


def _rewrite_table(page: Path, lines: list[str], start: int, mark: re.Match[str]) -> Iterator[Disagreement]:
    """Rewrite the lines of the table that starts at the line of this index."""
    kind, by_hand = mark["kind"], [name.strip() for name in (mark["by_hand"] or "").split(",")]
    place = f"{page}, line {start}"
    if kind not in COLUMNS:
        yield Disagreement(place, f"got the rows {kind}; expected one of {', '.join(COLUMNS)}")
        return
    files = sorted(page.parent.glob(mark["file"]))
    if not files:
        yield Disagreement(place, f"no file {page.parent / mark['file']}")
        return
    results = {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}
    if (kind in _OF_ONE) != (len(results) == 1) or len(results) < len(files):
        expected = "one file" if kind in _OF_ONE else "two or more files, in folders of different names,"
        yield Disagreement(place, f"got {len(files)} of {mark['file']}; expected {expected} for the rows {kind}")
        return
    rows = _OF_ONE[kind](*results.values()) if kind in _OF_ONE else _OF_SEVERAL[kind](results)
    columns = COLUMNS[kind]
    if not lines[start].startswith("|"):
        yield Disagreement(place, "no table follows")
        return
    header = _cells(lines[start])
    for name in [name for name in header[1:] if name not in by_hand and _column(columns, name) is None]:
        known = ", ".join(columns)
        yield Disagreement(place, f"the column `{name}` is not one of {known}; name it after `by hand:`")
    for index in range(start + 2, len(lines)):
        if not lines[index].startswith("|"):
            return
        cells = _cells(lines[index])
        row = rows.get(_key(cells[0], kind))
        where = f"{page}, line {index + 1}"
        if row is None:
            yield Disagreement(where, f"{cells[0]} is not in {mark['file']}")
            continue
        if len(cells) != len(header):
            yield Disagreement(where, f"got {len(cells)} cells; expected {len(header)}, as in the table's first line")
            continue
        for number, (name, cell) in enumerate(zip(header, cells, strict=True)):
            column = None if number == 0 or name in by_hand else _column(columns, name)
            if column is not None and (given := column(row, name)) != cell.replace("**", ""):
                yield Disagreement(where, f"{cells[0]}, {name}: got {cell or 'nothing'}; {mark['file']} gives {given}")
                cells[number] = f"**{given}**" if cell.startswith("**") and cell.endswith("**") else given
        lines[index] = f"| {' | '.join(cells)} |".replace("|  |", "| |")


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def _key(cell: str, kind: str) -> str:
    """What a row is of, by its first cell: the names in code, or for parts and runs the words."""
    return cell.replace("**", "") if kind in ("parts", "runs") else " - ".join(_NAME.findall(cell))


Column = Callable[[Row, str], str]


def _column(columns: Mapping[str, Column], name: str) -> Column | None:
    """The column of a name: its own, or that of a name that ends in ..., which begins it."""
    exact = columns.get(name)
    return exact or next((c for key, c in columns.items() if key.endswith("...") and name.startswith(key[:-3])), None)


def _learners(results: Row) -> dict[str, Row]:
    return {row["name"]: row for row in results["learners"]}


def _comparisons(results: Row) -> dict[str, Row]:
    """Every pair, in both orders."""
    rows = {f"{row['a']} - {row['b']}": row for row in results["comparisons"]}
    turned = {
        f"{row['b']} - {row['a']}": {
            **row,
            "difference": -row["difference"],
            "interval": [-row["interval"][1], -row["interval"][0]],
        }
        for row in results["comparisons"]
    }
    return turned | rows


def _parts(results: Row) -> dict[str, Row]:
    return {_PARTS[part["part"]]: part for split in results["decompositions"] for part in split["parts"]}


def _joined(results: Mapping[str, Any]) -> dict[str, Row]:
    """Every pair that all runs compare, in both orders."""
    runs = list(results.values())
    shared = set.intersection(*(set(_comparisons(run)) for run in runs))
    return {pair: join(runs, *pair.split(" - "))._asdict() for pair in shared}


def _runs(results: Mapping[str, Any]) -> dict[str, Row]:
    """The learners and the pairs of each run, by the column that shows them."""
    return {
        name: {f"`{learner}`": f"{100 * row['accuracy']:.1f}" for learner, row in _learners(run).items()}
        | {
            " - ".join(f"`{each}`" for each in pair.split(" - ")): _points("difference")(row, "")
            for pair, row in _comparisons(run).items()
        }
        for name, run in results.items()
    }


_OF_ONE: dict[str, Callable[[Row], dict[str, Row]]] = {
    "learners": _learners,
    "comparisons": _comparisons,
    "parts": _parts,
}
_OF_SEVERAL: dict[str, Callable[[Mapping[str, Any]], dict[str, Row]]] = {"joined": _joined, "runs": _runs}
_PARTS = {
    "more_updates": "more updates",
    "rationales": "mentor's rationales",
    "soft_labels": "soft labels",
    "interaction": "interaction",
    "total": "all together",
}


def _accuracy(row: Row, _: str) -> str:
    low, high = row["interval"]
    return f"{100 * row['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _by_seed(row: Row, name: str) -> str:
    """The accuracies of the seeds in the column's name."""
    seeds = {str(each["seed"]): each["accuracy"] for each in row["per_seed"]}
    named = name.removeprefix("seeds ").split(", ")
    return ", ".join(f"{100 * seeds[seed]:.1f}" if seed in seeds else "?" for seed in named)


def _counts(key: str) -> Column:
    def counts(row: Row, _: str) -> str:
        least, most = f"{min(row[key]):,}", f"{max(row[key]):,}"
        return least if least == most else f"{least} to {most}"

    return counts


def _points(key: str) -> Column:
    def points(row: Row, _: str) -> str:
        low, high = row["interval"]
        return f"{100 * row[key]:+.1f} [{100 * low:.1f}, {100 * high:.1f}]".replace("+0.0 ", "0.0 ")

    return points


def _p_value(row: Row, _: str) -> str:
    p = row["p_adjusted"] if "p_adjusted" in row else row["p"]  # parts of earlier versions have one p
    text = f"{p:.2f}" if p >= 0.095 else f"{p:.3f}" if p >= 0.00095 else f"{p:.4f}" if p >= 0.0001 else "< 0.0001"
    return text if p <= SHOWN else f"{text}: not shown"


def _plain_p_value(row: Row, name: str) -> str:
    return _p_value(row, name).removesuffix(": not shown")


def _mean(row: Row, _: str) -> str:
    return f"{100 * row['mean']:+.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


COLUMNS: dict[str, dict[str, Column]] = {
    "learners": {
        "accuracy % [95 %]": _accuracy,
        "seeds ...": _by_seed,
        "rows": _counts("rows"),
        "updates": _counts("updates"),
    },
    "comparisons": {"difference...": _points("difference"), "p": _p_value, "p (...": _p_value},
    "parts": {"points [95 %]": _points("gain"), "p": _plain_p_value},
    "joined": {
        "mean difference [95 %]": _mean,
        "smallest": lambda row, _: f"{100 * row['smallest']:+.1f}",
        "above 0": lambda row, _: f"{row['above']} of {row['runs']}",
        "shown by a run alone": lambda row, _: f"{row['shown']} of {row['runs']}",
    },
    "runs": {"...": lambda row, name: row.get(name, "?")},
}
"""The columns that a file gives, by what a row is of. A name that ends in ... is the beginning of the column's name."""

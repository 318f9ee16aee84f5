"""`mentorkd reproduce --check`: the committed pages agree with their results, and a number that does not is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mentorkd.cli.app import app
from mentorkd.cli.result_pages import check_pages, rewrite_pages
from mentorkd.errors import RunError
from one_run import one_run
from places import ROOT

PAGES = ROOT / "docs" / "results"


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A copy of one page with its results."""
    (tmp_path / "self-taught").mkdir()
    for name in ("self-taught.md", "self-taught/results.json"):
        shutil.copy(PAGES / name, tmp_path / name)
    return tmp_path


def edit(page: Path, old: str, new: str) -> None:
    text = page.read_text(encoding="utf-8")
    assert old in text
    page.write_text(text.replace(old, new, 1), encoding="utf-8")


def told(pages: Path) -> list[str]:
    return [str(fault).replace(f"{pages}/", "") for fault in check_pages(pages)]


def test_the_committed_pages_agree_with_their_results() -> None:
    assert check_pages(PAGES) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("| 56.3 [51.0, 61.5] |", "| 56.4 [51.0, 61.5] |",
         "`vanilla`, accuracy % [95 %]: got 56.4 [51.0, 61.5]; self-taught/results.json gives 56.3 [51.0, 61.5]"),
        ("| 51.5, 59.0, 58.5 |", "| 51.5, 59.0 |",
         "`vanilla`, seeds 1, 2, 3: got 51.5, 59.0; self-taught/results.json gives 51.5, 59.0, 58.5"),
        ("| +7.2 [0.9, 13.6] |", "| +7.2 [-0.9, 13.6] |",
         "`student` - `vanilla`, difference: got +7.2 [-0.9, 13.6]; self-taught/results.json gives +7.2 [0.9, 13.6]"),
        ("| 0.36: not shown |", "| 0.036 |", "`self-taught` - `vanilla`, p: got 0.036; self-taught/results.json gives 0.36"),
        ("| +7.2 [0.9, 13.6] | 0.028 |", "| +7.2 [0.9, 13.6] |", "got 2 cells; expected 3, as in the table's first line"),
        ("| `vanilla` | teacher", "| `plain` | teacher", "`plain` is not in self-taught/results.json"),
        ("| accuracy % [95 %] |", "| accuracy |", "the column `accuracy` is not one of accuracy % [95 %], seeds"),
        ("results.json comparisons", "results.json pairs", "got the rows pairs; expected one of learners, comparisons, parts"),
        ("self-taught/results.json comparisons", "other/results.json comparisons", "no file"),
        ("results.json comparisons -->", "results.json -->", "expected <!-- table: FILE KIND; by hand: COLUMN, COLUMN -->"),
        ("results.json comparisons -->\n", "results.json comparisons -->\n\n", "no table follows"),
    ],
)  # fmt: skip
def test_what_disagrees_is_one_line_with_its_place(pages: Path, old: str, new: str, message: str) -> None:
    edit(pages / "self-taught.md", old, new)
    [fault] = told(pages)
    assert fault.startswith("self-taught.md, line ")
    assert message in fault


def test_bold_is_no_part_of_a_number(pages: Path) -> None:
    edit(pages / "self-taught.md", "| 56.3 [51.0, 61.5] |", "| **56.3** [51.0, 61.5] |")
    assert told(pages) == []


def test_results_must_agree_with_their_own_bits(pages: Path) -> None:
    file = pages / "self-taught" / "results.json"
    results = json.loads(file.read_text(encoding="utf-8"))
    first = results["learners"][0]["per_seed"][0]
    first["verdicts"] = "1" + first["verdicts"][1:]
    results["learners"][1]["accuracy"] = 0.6
    file.write_text(json.dumps(results), encoding="utf-8")
    bits, mean, *cells = told(pages)
    assert bits == "self-taught/results.json: vanilla, seed 1: 206 of 400 correct, its verdicts give 207"
    assert "self-taught: accuracy 0.6, its seeds give 0.64" in mean
    assert len(cells) == 1  # the page has the old accuracy


def test_results_need_a_page_with_a_table_of_theirs(pages: Path) -> None:
    edit(pages / "self-taught.md", "<!-- table: self-taught/results.json learners", "<!-- tables: learners")
    edit(pages / "self-taught.md", "<!-- table: self-taught/results.json comparisons", "<!-- tables: comparisons")
    assert told(pages) == ["self-taught.md: no table is marked as one of self-taught/results.json"]
    (pages / "self-taught.md").unlink()
    assert told(pages) == ["self-taught/results.json: no page self-taught.md"]
    shutil.rmtree(pages / "self-taught")
    with pytest.raises(RunError, match=r"expected a folder with NAME.md and NAME/results.json"):
        check_pages(pages)


def test_a_page_collects_the_results_of_several_runs(pages: Path) -> None:
    (pages / "outside").mkdir()
    (pages / "self-taught").rename(pages / "outside" / "somebody")
    (pages / "self-taught.md").rename(pages / "outside.md")
    assert "outside.md: no table is marked as one of outside/somebody/results.json" in told(pages)
    page = pages / "outside.md"
    page.write_text(page.read_text(encoding="utf-8").replace("self-taught/results", "outside/somebody/results"))
    assert told(pages) == []
    edit(page, "| 56.3 [51.0, 61.5] |", "| 56.4 [51.0, 61.5] |")
    assert len(told(pages)) == 1


def test_rewriting_gives_the_committed_page_again(pages: Path) -> None:
    page = pages / "self-taught.md"
    before = page.read_text(encoding="utf-8")
    edit(page, "| +7.2 [0.9, 13.6] | 0.028 |", "| **0.0** | |")
    rewrite_pages(pages)
    assert page.read_text(encoding="utf-8") == before.replace("+7.2 [0.9, 13.6]", "**+7.2 [0.9, 13.6]**", 1)


def test_the_command_tells_all_lines_and_fails(pages: Path) -> None:
    check = ["reproduce", "--check", "--pages", str(pages)]
    assert CliRunner().invoke(app, check).exit_code == 0
    edit(pages / "self-taught.md", "| +7.2 [0.9, 13.6] | 0.028 |", "| +7.3 [0.9, 13.6] | 0.03 |")
    error = CliRunner().invoke(app, check).exception
    assert isinstance(error, RunError)
    assert str(error).startswith(
        "2 disagreements between pages and results; `mentorkd reproduce --rewrite` corrects tables\n"
    )
    assert CliRunner().invoke(app, ["reproduce", "--rewrite", "--pages", str(pages)]).exit_code == 0
    assert CliRunner().invoke(app, check).exit_code == 0
    assert isinstance(CliRunner().invoke(app, [*check, "table2"]).exception, RunError)


JOINED = """<!-- table: many/*/results.json joined -->
| pair | mean difference [95 %] | smallest | above 0 | shown by a run alone |
|---|---|---|---|---|
| `student` - `vanilla` | +15.0 [-48.5, 78.5] | +10.0 | 2 of 2 | 1 of 2 |

<!-- table: many/*/results.json runs -->
| master seed | `student` | `student` - `vanilla` |
|---|---|---|
| 0 | 60.0 | +10.0 [-20.0, 20.0] |
| 7 | 70.0 | +20.0 [-20.0, 20.0] |
"""


def test_tables_of_several_runs_agree_with_their_files(tmp_path: Path) -> None:
    for name, difference in (("0", 0.1), ("7", 0.2)):
        folder = tmp_path / "many" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(one_run(difference, "a_better" if name == "7" else "unclear")))
    (tmp_path / "many.md").write_text(JOINED)
    assert told(tmp_path) == []

    for old, new, message in (
        (
            "+15.0",
            "+16.0",
            "mean difference [95 %]: got +16.0 [-48.5, 78.5]; many/*/results.json gives +15.0 [-48.5, 78.5]",
        ),
        ("1 of 2", "2 of 2", "shown by a run alone: got 2 of 2; many/*/results.json gives 1 of 2"),
        ("| 7 | 70.0", "| 7 | 71.0", "7, `student`: got 71.0; many/*/results.json gives 70.0"),
        ("| 7 |", "| 8 |", "8 is not in many/*/results.json"),
        ("`student` |", "`pupil` |", "0, `pupil`: got 60.0; many/*/results.json gives ?"),
        ("json runs", "json learners", "got 2 of many/*/results.json; expected one file for the rows learners"),
        (
            "many/*/results.json joined",
            "many/7/results.json joined",
            "got 1 of many/7/results.json; expected two or more files",
        ),
    ):
        (tmp_path / "many.md").write_text(JOINED.replace(old, new))
        assert message in told(tmp_path)[0]

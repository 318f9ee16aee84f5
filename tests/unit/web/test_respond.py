from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from finished import copy_run
from mentorkd.web.respond import here, run_url, to_csv
from web_client import web_client


def request(query: str) -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": []})


@pytest.mark.parametrize(
    ("query", "changes", "expected"),
    [
        ("a=1&b=2", {"b": 3}, "?a=1&b=3"),
        ("a=1&b=2", {"b": None}, "?a=1"),
        ("run=x&run=y", {"format": "json"}, "?run=x&run=y&format=json"),
        ("", {"q": "a b&c"}, "?q=a+b%26c"),
    ],
)
def test_here_changes_the_query(query: str, changes: dict[str, Any], expected: str) -> None:
    assert here(request(query), **changes) == expected


def test_addresses_of_runs_are_quoted() -> None:
    assert run_url("runs/a b?#%", "ask") == "/run/runs/a%20b%3F%23%25/ask"
    assert run_url("runs/a") == "/run/runs/a/"


def test_fields_send_back_what_texts_show_escaped(small_run: Path, tmp_path: Path) -> None:
    copy_run(small_run / "run", tmp_path / "a\u200f\x1b<")
    page = web_client(tmp_path).get("/", params={"q": "\u200f"}).text
    assert f'name="run" value="{tmp_path.name}/a\u200f\x1b&lt;"' in page
    assert 'name="q" value="\u200f"' in page
    assert f">{tmp_path.name}/a\\u200f\\u001b&lt;</a>" in page


def test_csv_has_every_column_and_survives_a_round_trip() -> None:
    rows = [{"a": 'x, "y"\nz', "b": None}, {"a": "é", "c": [1, {"d": 2}]}]
    read = list(csv.DictReader(io.StringIO(to_csv(rows), newline="")))
    assert read == [{"a": 'x, "y"\nz', "b": "", "c": ""}, {"a": "é", "b": "", "c": '[1, {"d": 2}]'}]
    assert to_csv([]) == "\r\n"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-1,234.5", "-1,234.5"),
        ("+7", "+7"),
        (-2.5, "-2.5"),
        ("\x1b[31m\u202e", "\\u001b[31m\\u202e"),
        (["\x1b"], '["\\u001b"]'),
    ],
)
def test_cells_are_no_formulas_and_have_no_control_characters(value: Any, cell: str) -> None:
    assert list(csv.reader(io.StringIO(to_csv([{"a": value}]), newline=""))) == [["a"], [cell]]

"""Input files that URLs name, in fsspec's file systems of memory and disk."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from mentorkd.data.prepare import prepare_recipe
from mentorkd.data.sources import read_rows, source_identity
from mentorkd.errors import DataError, MissingExtraError, RecipeError
from mentorkd.pipeline.graph import compile_stages
from mentorkd.recipe.load import data_path, load_recipe, parse_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.teachers.annotate import open_teacher

ROWS = [{"question": f"{n} + {n}?", "answer": str(2 * n), "rationale": f"{n} and {n} is {2 * n}."} for n in range(6)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of an empty folder in memory."""
    system = fsspec.filesystem("memory")
    yield "memory://inputs"
    if system.exists("/inputs"):
        system.rm("/inputs", recursive=True)


def write(url: str, text: str) -> str:
    with fsspec.open(url, "w") as stream:
        stream.write(text)
    return url


def test_a_url_gives_the_rows_and_the_identity_of_the_file(memory: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(LINES)
    for url in (write(f"{memory}/data.jsonl", LINES), path.as_uri()):
        rows = read_rows(url)
        assert [dict(row.fields) for row in rows] == ROWS
        assert {row.source for row in rows} == {url}
        assert source_identity(url) == source_identity(str(path))


def test_a_changed_file_is_read_again(memory: str) -> None:
    url = write(f"{memory}/data.jsonl", LINES)
    before = source_identity(url)
    write(url, LINES.replace("and", "or "))  # as long as before
    assert source_identity(url) != before
    assert read_rows(url).first.fields["rationale"] == "0 or  0 is 0."


def test_messages_name_the_url(memory: str) -> None:
    url = write(f"{memory}/data.jsonl", LINES + "{")
    with pytest.raises(DataError, match=r"^memory://inputs/data\.jsonl, row 7: not JSON"):
        read_rows(url)
    with pytest.raises(DataError, match=r"^memory://inputs/data\.doc: unknown file type"):
        read_rows(write(f"{memory}/data.doc", LINES))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://inputs/absent.jsonl", "memory://inputs/absent.jsonl: no such file; check its address"),
        ("file:///absent/data.jsonl", "file:///absent/data.jsonl: no such file; check its address"),
        ("memory://inputs", "memory://inputs: got a folder, expected a file"),
        ("s5://b/data.jsonl", "s5://b/data.jsonl: Protocol not known: s5; expected a protocol of fsspec, such as"),
        ("http://127.0.0.1:9/data.jsonl", r"http://127.0.0.1:9/data.jsonl: (no such file|cannot be read \()"),
    ],
)
def test_what_cannot_be_had(memory: str, url: str, message: str) -> None:
    write(f"{memory}/data.jsonl", LINES)
    for read in (read_rows, source_identity):
        with pytest.raises(DataError, match=f"^{message}") as caught:
            read(url)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("url", "package"), [("s3://bucket/data.jsonl", "s3fs"), ("gs://bucket/data.jsonl", "gcsfs")])
def test_an_absent_package_is_named_with_its_command(url: str, package: str) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    extra = {"s3fs": "s3", "gcsfs": "gcs"}[package]
    with pytest.raises(MissingExtraError, match=rf"{url}: reading .*pip install .*\[{extra}\]"):
        read_rows(url)


RECIPE = """
name: remote
task: {name: sums, train: URL/train.jsonl, test: URL/test.jsonl, validation: URL/validation.jsonl, answer: number}
teacher: {rationales: URL/teacher.jsonl}
learners: {vanilla: {model: some/model}}
"""


def recipe_of(url: str, folder: Path) -> Recipe:
    for name, text in {
        "train": LINES,
        "teacher": LINES,
        "test": LINES.replace(" +", " times 1 +"),
        "validation": LINES.replace(" +", " times 2 +"),
    }.items():
        write(f"{url}/{name}.jsonl", text)
    (folder / "recipe.yaml").write_text(RECIPE.replace("URL", url))
    return load_recipe(folder / "recipe.yaml")


def test_a_recipe_whose_files_are_urls(memory: str, tmp_path: Path) -> None:
    recipe = recipe_of(memory, tmp_path)
    assert data_path(recipe, recipe.task.train) == f"{memory}/train.jsonl"
    questions, faults = prepare_recipe(recipe)
    assert ([question.split for question in questions].count("train"), faults.lines()) == (6, [])
    rationales = open_teacher(recipe).estimate(questions, tmp_path).recorded
    assert [rationale.text for rationale in rationales] == [row["rationale"] for row in ROWS]


def test_the_content_behind_a_url_decides_the_fingerprints(memory: str, tmp_path: Path) -> None:
    recipe = recipe_of(memory, tmp_path)

    def marks() -> dict[str, str]:
        return {stage.name: stage.fingerprint for stage in compile_stages(recipe)}

    first = marks()
    assert marks() == first
    write(f"{memory}/teacher.jsonl", LINES.replace("and", "plus"))
    changed = marks()
    assert changed["prepare"] == first["prepare"]
    assert changed["annotate"] != first["annotate"]


def test_a_folder_of_all_data_is_no_url() -> None:
    text = RECIPE.replace("URL/", "") + "data: {root: 's3://bucket/data'}\n"
    with pytest.raises(RecipeError, match=r"data\.root: got the URL s3://bucket/data, expected a folder"):
        parse_recipe(text, source="recipe", base=Path("/"))

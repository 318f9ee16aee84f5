"""Pushing to the hub: what a stand-in receives is the dry run to the byte, and every mistake is one line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants, parse_eval_result_entries
from huggingface_hub.repocard import DatasetCard, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from command_line import Cli
from hub_server import TOKEN, Hub, hub_server
from mentorkd.data.sources import hub_data
from mentorkd.recipe.load import load_recipe
from mentorkd.sharing.card import eval_results
from mentorkd.sharing.lineage import benchmark_of, trace
from mentorkd.sharing.parquet import texts_of
from mentorkd.sharing.privacy import Privacy
from mentorkd.sharing.push import gather, write_tree
from mentorkd.sharing.source import open_source

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's client

ARGUMENTS = ["--learner", "student", "--dataset", "jane/totals", "--report"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running stand-in, with a token for it."""
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in has LFS alone
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def tree(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a dry run writes of the small run's student."""
    folder, work = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("work")
    source = open_source(small_run / "run", "student", None)
    write_tree(gather(source, "jane/student", work, data_set="jane/totals", report=True), folder)
    return folder


def content(folder: Path) -> dict[str, dict[str, bytes]]:
    """The files of each repository of a dry run, as the stand-in keeps them."""
    repositories = [path for kind in folder.iterdir() for owner in kind.iterdir() for path in owner.iterdir()]
    return {
        repository.relative_to(folder).as_posix(): {
            file.relative_to(repository).as_posix(): file.read_bytes()
            for file in repository.rglob("*")
            if file.is_file()
        }
        for repository in repositories
    }


def test_the_hub_receives_the_dry_run_to_the_byte(
    small_run: Path, hub: Hub, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_run / "run"
    shown = cli("push", run, "jane/student", *ARGUMENTS, "--dry-run", tmp_path / "dry")
    assert (shown.code, shown.err) == (0, "")
    assert not hub.repositories  # nothing was sent
    sent = cli("push", run, "jane/student", *ARGUMENTS, "--private")
    assert (sent.code, sent.err) == (0, "")
    assert sent.out.split() == [f"{hub.url}/datasets/jane/totals", f"{hub.url}/jane/student"]
    assert hub.repositories == content(tmp_path / "dry")
    assert hub.private == {"datasets/jane/totals": True, "models/jane/student": True}
    assert hub.commits == ["datasets/jane/totals", "models/jane/student"]
    again = cli("push", run, "jane/student", "--learner", "student")  # an existing repository gets a further commit
    assert again.code == 0
    assert hub.commits[2:] == ["models/jane/student"]


def test_what_is_sent_holds_no_path_of_this_machine(small_run: Path, tree: Path) -> None:
    recipe = load_recipe(small_run / "run" / "recipe.yaml", check_files=False)
    local = [str(small_run), str(Path(recipe.data.root).parent), str(Path.home()), str(Path.cwd())]
    files = [file for file in tree.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} >= {".md", ".yaml", ".json", ".parquet", ".html", ".safetensors"}
    for file in files:
        texts = texts_of(file) if file.suffix == ".parquet" else [file.read_bytes().decode("latin-1")]
        assert not [path for text in texts for path in local if path in text], file
    public = load_recipe(tree / "models" / "jane" / "student" / "recipe.yaml", check_files=False)
    assert public.learners["student"].soft_labels == recipe.learners["student"].soft_labels


def test_a_vocabulary_is_sent_as_it_is(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Privacy, "public", lambda self, text: text.replace("o", "0")
    )  # /root is a word of many vocabularies
    source = open_source(small_run / "run", "student", None)
    [model] = gather(source, "jane/student", tmp_path, data_set=None, report=False)
    kept = {name for name, file in model.files.items() if file.parent == source.model()}
    assert kept == {"model.safetensors", "tokenizer.json"}


def test_the_cards_are_what_the_hub_reads(small_run: Path, tree: Path) -> None:
    card = ModelCard.load(tree / "models" / "jane" / "student" / "README.md")
    facts = card.data.to_dict()
    assert facts["datasets"] == ["jane/totals"]
    assert "license" not in facts  # the model is from scratch
    assert "base_model" not in facts
    name, (result,) = model_index_to_eval_results(facts["model-index"])
    assert (name, result.dataset_name, result.metric_type) == ("small: student", "totals", "accuracy")
    source = open_source(small_run / "run", "student", None)
    right = sum(each.verdict == "correct" for each in source.predictions())
    assert result.metric_value == 10.0 * right  # of ten questions
    lineage = trace(source)
    for text in (*lineage.weights.values(), *(each.sha256 for each in lineage.texts)):
        assert f"`{text[:16]}`" in card.text
    assert "| mentor (seed 1) | t5 1x24 from scratch | rationales, soft labels |" in card.text
    assert "mentorkd export run --learner student --seed 1 --as hf --to student" in card.text
    assert "## Out of scope" in card.text
    DatasetCard.load(tree / "datasets" / "jane" / "totals" / "README.md")
    assert (tree / "models" / "jane" / "student" / "report" / "index.html").is_file()


def test_results_on_a_data_set_of_the_hub_have_their_file(small_run: Path) -> None:
    source = open_source(small_run / "run", "student", None)
    lineage = trace(source)
    assert eval_results(source, lineage, "jane/student", report=True) is None  # the test questions are a file
    of_hub = replace(lineage, benchmark=hub_data("hub:openai/gsm8k@main:test"))
    found = eval_results(source, of_hub, "jane/student", report=True)
    assert found is not None
    path, entries = found
    assert path == ".eval_results/openai-gsm8k.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(yaml.safe_dump(entries)))
    assert (entry.dataset_id, entry.task_id) == ("openai/gsm8k", "main")
    assert entry.source_url == "https://huggingface.co/jane/student/tree/main/report"


@pytest.mark.parametrize(
    ("change", "known"),
    [({}, True), ({"test": "hub:openai/gsm8k@main"}, True), ({"test": "hub:openai/gsm8k@main:test[:100]"}, False),
     ({"test": "hub:openai/gsm8k@main:train"}, False), ({"limit_test": 100}, False)],
)  # fmt: skip
def test_a_part_of_a_benchmark_is_not_called_the_benchmark(
    small_run: Path, change: dict[str, Any], known: bool
) -> None:
    source = open_source(small_run / "run", "student", None)
    task = source.pipeline.recipe.task.model_copy(update={"test": "hub:openai/gsm8k@main:test"} | change)
    assert (benchmark_of(task) is not None) == known


def test_mistakes_are_one_line(small_run: Path, hub: Hub, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run / "run"

    def refused(*arguments: object) -> str:
        outcome = cli("push", run, *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.count("\n") == 1
        return outcome.err

    assert "got the repository student (no owner); expected OWNER/NAME" in refused("student")
    assert "got the repository jane/my student" in refused("jane/my student")
    assert "got learner nobody" in refused("jane/student", "--learner", "nobody")
    hub.forbidden = "acme"
    assert "the hub refused the model acme/student (403): the token may not write there" in refused("acme/student")
    hub.repositories["models/jane/open"], hub.private["models/jane/open"] = {}, False
    assert "exists and is public" in refused("jane/open", "--private")
    assert hub.repositories["models/jane/open"] == {}
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_and_secret")
    wrong = refused("jane/student")
    assert "the hub does not know the token" in wrong
    assert "hf_wrong" not in wrong
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(run / "none"))
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    assert "got no token for the Hugging Face hub" in refused("jane/student")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "the hub cannot be reached for the model jane/student" in refused("jane/student")
    assert not hub.commits


def test_a_key_in_the_report_is_not_sent(
    small_run: Path, hub: Hub, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "Tom has 3 apples. ")
    run, readme = small_run / "run", "learners/student/seed-1/model/generation_config.json"
    text = (run / readme).read_text()
    try:
        (run / readme).write_text(text.replace("{", '{"note": "Tom has 3 apples. ",', 1))
        refused = cli("push", run, "jane/student", "--learner", "student", "--dry-run", tmp_path / "dry", "--no-verify")
    finally:
        (run / readme).write_text(text)
    assert refused.code == 2
    assert "jane/student: generation_config.json holds the value of $TEACHER_KEY" in refused.err
    assert not (tmp_path / "dry").exists()

"""The nano models: small, loadable as they lie, able in their skills, and strangers to the quickstart's texts."""

from __future__ import annotations

import csv
import importlib.util
import random
import re
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from mentorkd import quickstart
from mentorkd.quickstart.problems import generate_problems
from mentorkd.quickstart.teacher import PHRASINGS
from places import ROOT

MODELS = Path(quickstart.__file__).with_name("models")
NAMES = ("nano-t5-small", "nano-t5-large")
MILLIONS = {"nano-t5-small": (1.0, 1.5), "nano-t5-large": (4.0, 6.0)}

needs_weights = pytest.mark.skipif(
    not all((MODELS / name / "model.safetensors").is_file() for name in NAMES),
    reason="the nano weights are not in the package yet; `python scripts/pretrain_nano.py` makes them",
)


@pytest.fixture(scope="module")
def skills() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nano_skills", ROOT / "scripts" / "nano_skills.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def examples(skills: ModuleType) -> list[tuple[str, str]]:
    rng = random.Random("a test")
    return [skills.example(rng) for _ in range(20_000)]


def test_both_together_are_small_enough_to_ship() -> None:
    files = [file for file in MODELS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 14e6
    assert not [file.name for file in files if file.suffix in (".bin", ".pt", ".pkl")]


@needs_weights
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_loads_and_has_the_promised_size(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    model = AutoModelForSeq2SeqLM.from_pretrained(MODELS / name)
    least, most = MILLIONS[name]
    assert least <= model.num_parameters() / 1e6 <= most
    assert model.config.vocab_size == len(tokenizer)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 1
    assert model.generation_config.decoder_start_token_id == 0
    assert (MODELS / name / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: apache-2.0")


@needs_weights
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_half_precision_and_the_tied_embedding_is_stored_once(name: str) -> None:
    with safe_open(MODELS / name / "model.safetensors", "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        assert {file.get_slice(key).get_dtype() for key in shapes} == {"F16"}
    vocabulary = len(AutoTokenizer.from_pretrained(MODELS / name))
    assert [key for key, shape in shapes.items() if shape[0] == vocabulary] == ["shared.weight"]


@needs_weights
def test_the_family_has_one_vocabulary_and_the_script_makes_it(skills: ModuleType) -> None:
    small, large = ((MODELS / name / "tokenizer.json").read_bytes() for name in NAMES)
    assert small == large
    built = skills.build_tokenizer()
    assert built.get_vocab() == AutoTokenizer.from_pretrained(MODELS / NAMES[0]).get_vocab()
    assert 400 <= len(built) <= 600


def test_the_vocabulary_gives_text_back_and_holds_numbers_of_two_digits() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / NAMES[0])
    for problem in islice(generate_problems(11), 300):
        ids = tokenizer(problem.question).input_ids
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == problem.question
        assert len(ids) < 100
    odd = 'She said: "(A) 1,250.50 or {x}/7?" \\boxed{42} --> $3 50%'
    assert tokenizer.decode(tokenizer(odd).input_ids, skip_special_tokens=True) == odd
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("12 --> 345 7").input_ids)
    assert pieces == ["▁12", "▁-->", "▁3", "4", "5", "▁7", "</s>"]


def test_no_question_of_the_quickstart_is_among_the_skills(examples: list[tuple[str, str]]) -> None:
    """Neither a question nor one of its sentences, whatever the numbers and names in it."""
    seen = "\n".join(f"{source}\n{target}" for source, target in examples)
    assert not [p.question for p in islice(generate_problems(0), 1700) if p.question in seen]
    sentences = {
        re.sub(r"\d+", "#", sentence)
        for problem in islice(generate_problems(0), 1700)
        for sentence in re.split(r"(?<=[.?]) ", problem.question)
    }
    masked = re.sub(r"\d+", "#", seen)
    assert len(sentences) > 1000
    assert not [sentence for sentence in sentences if sentence in masked]


def test_no_rationale_template_is_among_the_skills(examples: list[tuple[str, str]]) -> None:
    templates = {
        text
        for phrasing in PHRASINGS
        for text in (phrasing.opening, phrasing.gain, phrasing.loss, phrasing.closing)
        if text
    }
    assert len(templates) == 12
    for template in templates:
        pattern = re.escape(template).replace(r"\{plan\}", ".*")
        pattern = re.sub(r"\\\{[abn]\\\}", r"\\d+", pattern).replace(r"\{T\}", r"\w+")
        assert re.search(pattern, template.format(a=1, n=2, b=3, T="nuts", plan=", add 2")), "the search itself works"
        assert not [pair for pair in examples if re.search(pattern, pair[0]) or re.search(pattern, pair[1])], template


@needs_weights
@pytest.mark.parametrize(("name", "least"), [("nano-t5-small", 0.8), ("nano-t5-large", 0.9)])
def test_pretraining_taught_sums_and_running_totals(name: str, least: float, skills: ModuleType) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    model = AutoModelForSeq2SeqLM.from_pretrained(MODELS / name).eval()
    rng = random.Random("unseen")
    pairs = [skill(rng, 1.0) for skill in (skills.sums, skills.running_totals) for _ in range(40)]
    inputs = tokenizer([source for source, _ in pairs], return_tensors="pt", padding=True)
    with torch.no_grad():
        written = tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=80), skip_special_tokens=True)
    assert sum(text == target for text, (_, target) in zip(written, pairs, strict=True)) / len(pairs) >= least


@needs_weights
def test_the_loss_curve_is_committed_and_falls() -> None:
    with (ROOT / "docs" / "results" / "nano-pretraining.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in NAMES:
        losses = [float(row["loss"]) for row in rows if row["model"] == name]
        assert losses[-1] < 0.1 < 1.0 < losses[0]

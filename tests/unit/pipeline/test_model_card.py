"""The model card: its snippet is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from made_up_records import train_record
from mentorkd.data.prompts import render_prompt
from mentorkd.generation import open_engine
from mentorkd.generation.engine import SamplingParams
from mentorkd.models import load_model, save_model
from mentorkd.pipeline.model_card import model_card
from mentorkd.recipe.schema import Recipe
from tiny_models import tiny_gpt2, tiny_t5, tiny_tokenizer

CHAT = "{% for m in messages %}<s>{{ m.content }}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"


@pytest.mark.parametrize(("make", "chat"), [(tiny_t5, None), (tiny_gpt2, None), (tiny_gpt2, CHAT)])
def test_the_snippet_says_what_evaluation_reads(make, chat, tmp_path, monkeypatch, capsys):
    base, folder = tmp_path / "base", tmp_path / "model"
    tokenizer = tiny_tokenizer(append_eos=make is tiny_t5)
    tokenizer.chat_template = chat
    for part in (tokenizer, make(tokenizer, seed=1)):  # of seed 0, the T5 writes special tokens alone
        part.save_pretrained(base)
    recipe = Recipe.model_validate(
        {
            "name": "small",
            "task": {"name": "totals", "train": "a", "test": "b", "answer": "number"},
            "teacher": {"rationales": "c"},
            "learners": {
                "vanilla": {"model": str(base), "prompt": 'Q: "{question}"\nA:', "sampling": {"max_new_tokens": 12}}
            },
        }
    )
    learner = recipe.learners["vanilla"]
    loaded = load_model(learner.model, seed=0, device=torch.device("cpu"))
    save_model(loaded, folder, card=model_card(recipe, "vanilla", learner, 42, train_record()))
    engine = open_engine("transformers", loaded=loaded, device=torch.device("cpu"), batch_size=1)
    prompts = [render_prompt("Tom has 3 apples?", learner.prompt)]
    ((completion,),) = engine.sample(prompts, SamplingParams(max_new_tokens=12), seed=0)

    card = Path(folder / "README.md").read_text()
    snippet = re.search(r"^```python\n(.*?)\n```$", card, flags=re.DOTALL | re.MULTILINE)[1]
    monkeypatch.chdir(folder)
    exec(snippet.replace('question = "..."', 'question = "Tom has 3 apples?"'), {})
    assert capsys.readouterr().out.strip() == completion.text.strip() != ""


def test_the_card_says_where_the_test_accuracy_stands(tmp_path):
    tiny_t5(tiny_tokenizer()).save_pretrained(tmp_path)
    recipe = Recipe.model_validate(
        {
            "name": "small",
            "task": {"name": "totals", "train": "a", "test": "b", "answer": "number"},
            "teacher": {"rationales": "c"},
            "learners": {"vanilla": {"model": str(tmp_path)}},
        }
    )
    card = model_card(recipe, "vanilla", recipe.learners["vanilla"], 42, train_record(epochs=5.4321))
    assert "- updates: 5 (5.4 passes over the rows), weights of update 5" in card
    assert "[paper on Mentor-KD](https://arxiv.org/abs/2410.09037)" in card
    assert "`report/index.html` in the run folder" in card
    assert "- rows: 8 of 9 of the selected rationales, the others too long" in card
    assert "| teacher | correct | 9 | 9 |" in card
    assert "- accuracy on the validation set: 50.0 %" in card
    two_tasks = recipe.learners["vanilla"].model_copy(update={"objective": "step_by_step"})
    card = model_card(recipe, "vanilla", two_tasks, 42, train_record())
    assert "- rows: 8 of 9 of the selected rationales (2 rows per rationale; 1 for a bare answer), the others" in card


def test_the_card_of_a_round_is_that_of_a_learner_with_all_its_trainings(tmp_path):
    tiny_t5(tiny_tokenizer()).save_pretrained(tmp_path)
    own = {"rationales": ["teacher", "self"], "own_texts": {"rounds": 4}}
    recipe = Recipe.model_validate(
        {
            "name": "small",
            "task": {"name": "totals", "train": "a", "test": "b", "answer": "number"},
            "teacher": {"rationales": "c"},
            "learners": {
                "vanilla": {"model": str(tmp_path)},
                "own": {"model": {"learner": "vanilla"}, **own},
                "reader": {"model": str(tmp_path), "rationales": ["own"]},
            },
        }
    )

    def card(number: int, part: range) -> str:
        record = train_record(updates=len(part))
        return model_card(recipe, "own", recipe.learners["own"], 42, record, number=number, part=part)

    third = card(2, range(10, 15))
    assert "- weights before the first training: those of vanilla after its training\n" in third
    assert "- training 3 of 5 (from the weights of the training before)\n- rationales by" in third
    assert "- updates: 5 (1 passes over the rows), weights of update 5; 15 in all, with those of" in third
    assert "before\n- learning rate" in third
    first = card(0, range(5))
    assert "- training 1 of 5\n" in first
    assert "weights of update 5\n" in first
    reader = model_card(recipe, "reader", recipe.learners["reader"], 42, train_record())
    assert "- weights before training: " in reader
    assert f"- rationales by: own ({tmp_path.name})" in reader

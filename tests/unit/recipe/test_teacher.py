"""The recipe's asked teachers: defaults, faults, and that a pasted key is not repeated."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mentorkd.recipe.teacher import AskedTeacherConfig, LocalTeacherConfig, OpenAITeacherConfig


def test_the_readme_form_is_read() -> None:
    teacher = OpenAITeacherConfig.model_validate(
        {
            "kind": "openai",
            "model": "gpt-4o-mini",
            "base_url": "http://127.0.0.1:8000/v1/",
            "api_key_env": "OPENAI_API_KEY",
            "prompt": "zero_shot_cot",
            "samples": 3,
            "temperature": 0.7,
            "max_tokens": 512,
            "until_correct": {"want": 3, "tries": 8},
            "concurrency": 32,
            "requests_per_minute": 500,
            "tokens_per_minute": 200_000,
            "budget": {"dollars": 5.00, "requests": 20_000, "tokens": 10_000_000},
            "price": {"input": 0.15, "output": 0.60},
        }
    )
    assert teacher.base_url == "http://127.0.0.1:8000/v1"
    assert teacher.until_correct is not None
    assert teacher.until_correct.tries == 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0.0}, "alike"),
        ({"prompt": "custom"}, "`template` need each other"),
        ({"template": "{{ question }}"}, "`template` need each other"),
        ({"prompt": "few_shot"}, "needs `exemplars`"),
        ({"until_correct": {"want": 1, "tries": 2}}, "lower one or raise the other"),
        ({"budget": {"dollars": 1.0}}, "needs `price"),
        ({"base_url": "localhost:8000"}, "expected an address"),
        ({"base_url": "https://user:word@host/v1"}, "out of the address"),
        ({"extra_body": {"n": 3}}, "n cannot stand here"),
        ({"extra_body": {"seed": 3}}, "seed cannot stand here"),
        ({"system": "Be brief.", "endpoint": "completions"}, "needs `endpoint: chat`"),
    ],
)
def test_faults_say_what_to_do(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        OpenAITeacherConfig.model_validate({"model": "m", **change})
    assert said in caught.value.errors()[0]["msg"]


def test_a_key_pasted_as_the_variable_name_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        OpenAITeacherConfig(model="m", api_key_env="sk-secret-1234")
    assert "sk-secret-1234" not in str(caught.value)
    assert "NAME" in str(caught.value)


@pytest.mark.parametrize("model", [OpenAITeacherConfig, LocalTeacherConfig])
def test_every_field_is_documented_and_survives_json(model: type[AskedTeacherConfig]) -> None:
    bare = [name for name, field in model.model_fields.items() if not field.description and name != "kind"]
    assert bare == []
    teacher = model.model_validate({"model": "m", "samples": 2})
    assert model.model_validate(teacher.model_dump(mode="json")) == teacher

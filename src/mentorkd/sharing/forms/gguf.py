"""The form `gguf`: one file with weights, sizes, tokenizer and chat template, for llama.cpp and what is built on it."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch

from mentorkd.data.prompts import render_prompt
from mentorkd.errors import MissingExtraError
from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine
from mentorkd.models import chat_template, config_of, load_folder, load_tokenizer, resolve_device
from mentorkd.recipe.learner import ModelConfig
from mentorkd.sharing.form import Form
from mentorkd.sharing.gguf.check import check_file, read_back
from mentorkd.sharing.gguf.vocabulary import read_vocabulary
from mentorkd.sharing.gguf.writer import GgufType, check_architecture, write_gguf
from mentorkd.sharing.prompt_template import prompt_template
from mentorkd.sharing.source import Source

_TYPES: dict[str, GgufType] = {"f16": "F16", "q8_0": "Q8_0", "f32": "F32"}

_MODELFILE = '''\
FROM ./{file}
TEMPLATE """{template}"""
PARAMETER temperature 0
PARAMETER repeat_penalty 1
PARAMETER num_predict {limit}
'''

_USE = """\
`{file}` is a GGUF file with weights in {kind}. Its chat template {template}. Decode greedily, as the learner was evaluated.

```
llama-cli --model {file} --temp 0 --n-predict {limit} --jinja --single-turn --prompt "QUESTION"      # llama.cpp
ollama create {name} -f Modelfile && ollama run {name} "QUESTION"      # Ollama
lms import {file}      # LM Studio
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".", gguf_file="{file}")
tokenizer = AutoTokenizer.from_pretrained(".", gguf_file="{file}")
```

The file was read back by transformers: the token ids of {questions} test questions are equal, the weights are within the rounding of
their types, and the logits differ from those of the model by {mean:.2g} on average, by {largest:.2g} at most (the largest logit is
{scale:.3g}). After {likeliest:.1%} of the tokens the likeliest token is the same."""


def _write(source: Source, folder: Path, dtype: str | None) -> str:
    if find_spec("gguf") is None:
        raise MissingExtraError("`--as gguf`", "gguf")
    assert dtype is not None, "the form has types"
    model, kind = source.model(), _TYPES[dtype]
    check_architecture(config_of(ModelConfig(name=str(model))))
    loaded = load_folder(model, device=torch.device("cpu"), dtype=torch.float32)
    vocabulary = read_vocabulary(loaded.tokenizer, loaded.model.get_input_embeddings().weight.shape[0])
    template, own = prompt_template(loaded.tokenizer, source.learner.eval_prompt), chat_template(loaded.tokenizer)
    name = f"{source.pipeline.recipe.name}-{source.name}"
    file = f"{name}-{kind}.gguf"
    chat = own or template.jinja(bos=vocabulary.adds_bos)
    types = write_gguf(folder / file, loaded, vocabulary, kind=kind, name=name, chat_template=chat)
    questions = [(one.text, render_prompt(one.text, source.learner.eval_prompt)) for one in source.test_questions()]
    change = check_file(folder / file, loaded, types, questions)
    limit = source.learner.sampling.max_new_tokens
    modelfile = _MODELFILE.format(file=file, template=template.go(), limit=limit)
    (folder / "Modelfile").write_text(modelfile, encoding="utf-8")
    says = "is the one of the model" if own else "holds the prompt of the learner and asks the last message"
    about = {"file": file, "name": name, "kind": kind, "template": says, "limit": limit, "questions": len(questions)}
    return _USE.format(**about, **asdict(change))


def _open(source: Source, folder: Path, dtype: str | None) -> Engine:
    [file] = folder.glob("*.gguf")
    device = resolve_device(source.pipeline.recipe.device)
    loaded = read_back(file, device)
    if not chat_template(load_tokenizer(ModelConfig(name=str(source.model())))):
        loaded.tokenizer.chat_template = None  # it holds the learner's prompt, which evaluation renders itself
    return open_engine("transformers", loaded=loaded, device=device, batch_size=source.learner.sampling.rows)


GGUF = Form(_write, dtypes=tuple(_TYPES), open=_open)

"""The form `ctranslate2`: the model converted for CTranslate2, with the tokenizer beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast, get_args

from mentorkd.generation.ctranslate2_engine import CTranslate2Engine, convert_model
from mentorkd.generation.engine import Engine, EngineDtype
from mentorkd.models import kind_of, load_tokenizer, resolve_device
from mentorkd.recipe.learner import ModelConfig
from mentorkd.sharing.form import Form
from mentorkd.sharing.prompt_template import prompt_template
from mentorkd.sharing.source import Source

_USE = """\
A conversion for [CTranslate2](https://opennmt.net/CTranslate2/) with weights in {dtype}; `config.json` is the one of CTranslate2.

```python
import ctranslate2
from transformers import AutoTokenizer

folder = "."  # of this card
tokenizer = AutoTokenizer.from_pretrained(folder)
question = "..."
{ask}
print(tokenizer.decode(tokenizer.convert_tokens_to_ids(tokens), skip_special_tokens=True))
```"""

_SEQ2SEQ = """\
ids = tokenizer.encode({template!r}.replace("{{question}}", question))
model = ctranslate2.Translator(folder)
[result] = model.translate_batch(
    [tokenizer.convert_ids_to_tokens(ids)], beam_size=1, max_decoding_length={limit}, max_input_length=0
)
tokens = result.hypotheses[0]"""

_CAUSAL = """\
ids = tokenizer.encode({prompt}, add_special_tokens={special})
model = ctranslate2.Generator(folder)
[result] = model.generate_batch(
    [tokenizer.convert_ids_to_tokens(ids)], beam_size=1, max_length={limit}, include_prompt_in_result=False
)
tokens = result.sequences[0]"""


def _write(source: Source, folder: Path, dtype: str | None) -> str:
    model = source.model()
    convert_model(model, folder, cast(EngineDtype, dtype), "export it with `--as hf`")
    load_tokenizer(ModelConfig(name=str(model))).save_pretrained(folder)
    shutil.copy(model / "generation_config.json", folder)
    return _USE.format(dtype=dtype, ask=_ask(source, model))


def _ask(source: Source, model: Path) -> str:
    """Python that asks the model as evaluation does."""
    limit, template = source.learner.sampling.max_new_tokens, source.learner.eval_prompt
    config = ModelConfig(name=str(model))
    if kind_of(config) == "seq2seq":
        return _SEQ2SEQ.format(template=template, limit=limit)
    tokenizer = load_tokenizer(config)
    prompt = " + question + ".join(map(repr, prompt_template(tokenizer, template, bos=True).texts))
    return _CAUSAL.format(prompt=prompt, special=not tokenizer.chat_template, limit=limit)


def _open(source: Source, folder: Path, dtype: str | None) -> Engine:
    device = resolve_device(source.pipeline.recipe.device)
    batch_size = source.learner.sampling.rows
    return CTranslate2Engine(source.model(), converted=folder, device=device, batch_size=batch_size)


CTRANSLATE2 = Form(_write, dtypes=get_args(EngineDtype), open=_open)

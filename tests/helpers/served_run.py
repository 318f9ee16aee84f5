"""A run folder of untrained models that can be served, and the endpoint over it in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from mentorkd.recipe.load import dump_recipe, load_recipe
from mentorkd.web.endpoint import build_endpoint
from mentorkd.web.server import listen
from mentorkd.web.serving import ServedLearners
from small_recipe import small_recipe
from tiny_models import tiny_llama, tiny_tokenizer

__all__ = ["CHAT", "endpoint_over", "make_served_run"]

CHAT = (
    "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_served_run(folder: Path, **changes: Any) -> Path:
    """Learners `t5` and `converted` (by CTranslate2), causal `plain`, and `chat` with a chat template; texts of at most 24 tokens."""
    recipe = small_recipe(folder)
    for name, template in (("plain", None), ("chat", CHAT)):
        tokenizer = tiny_tokenizer(append_eos=False)
        tokenizer.chat_template = template
        tiny_llama(tokenizer).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    t5 = recipe["learners"]["vanilla"]["model"]
    recipe["learners"] = {
        "chat": {"model": str(folder / "chat"), "rationales": [], "prompt": "Solve: {question}"},
        "plain": {"model": str(folder / "plain"), "rationales": []},
        "converted": {"model": t5, "rationales": [], "sampling": {"engine": "ctranslate2"}},
        "t5": {"model": t5, "rationales": [], "prompt": "Solve: {question}"},
        **changes,
    }
    recipe["seeds"] = [1, 2]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    run = folder / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(load_recipe(folder / "recipe.yaml")))
    return run


@contextmanager
def endpoint_over(served: ServedLearners, *, token: str | None = None) -> Iterator[str]:
    """The base URL of a server, while it runs."""
    sock = listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    app = build_endpoint(served, token=token, host="127.0.0.1", port=port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join()
        sock.close()

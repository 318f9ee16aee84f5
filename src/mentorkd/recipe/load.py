"""From a recipe's text to a checked `Recipe`, and back; every fault is found before any is reported.

The way of a recipe: YAML -> overrides -> recipe-level `training` and `sampling` merged into every learner -> paths made
absolute -> pydantic and the checks that look at several keys at once -> `Recipe`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from mentorkd.errors import Fault, RecipeError
from mentorkd.paper.tasks import PAPER_TASKS, find_task
from mentorkd.quickstart import MODELS
from mentorkd.recipe.checks import Finding, combined_faults, learnable_filters, mapping, plain_faults, unused_settings
from mentorkd.recipe.defaults import fill_known_task, fill_protocol, merge_defaults
from mentorkd.recipe.graph import learning_order, mentors, scorers, writers
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.search import merge_search, search_faults
from mentorkd.recipe.sweep import attribute_to_sweep, expand_sweep
from mentorkd.recipe.teacher import model_keys
from mentorkd.recipe.yaml import KeyPath, Places, dump_yaml, read_yaml, set_override, suggestion
from mentorkd.records import AnswerKind

__all__ = [
    "data_path",
    "dump_recipe",
    "learning_order",
    "load_recipe",
    "mentors",
    "missing_files",
    "parse_recipe",
    "recipe_schema",
    "scorers",
    "set_override",
    "writers",
]

_DATA_FILES = (
    *(("task", "train"), ("task", "validation"), ("task", "test")),
    *(("teacher", "rationales"), ("teacher", "exemplars")),
)
_TEMPLATE_FILE = "file:"


def load_recipe(path: Path, overrides: Sequence[str] = (), *, check_files: bool = True) -> Recipe:
    """The recipe in the file `path` with `key.path=value` overrides; its data files must exist if `check_files`.

    Raises RecipeError with all faults found.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), [Fault("", f"not UTF-8 text ({error.reason}); save it as UTF-8")]) from None
    except OSError as error:
        raise RecipeError(str(path), [Fault("", f"cannot be read: {error.strerror}; expected a YAML recipe")]) from None
    return parse_recipe(text, source=str(path), overrides=overrides, base=path.parent, check_files=check_files)


def parse_recipe(
    text: str, *, source: str, overrides: Sequence[str] = (), base: Path, check_files: bool = False
) -> Recipe:
    """The recipe in `text`; `source` names it in errors, and relative paths start from the folder `base`.

    Raises RecipeError with all faults found.
    """
    try:
        raw, places, faults = read_yaml(text)
    except RecipeError as error:
        raise RecipeError(source, error.faults) from None
    if not isinstance(raw, dict):
        got = "nothing" if raw is None else f"{raw!r}"
        raise RecipeError(source, [Fault("", f"got {got}; expected a mapping with name, task, teacher and learners")])
    written = list(mapping(raw.get("learners")))
    for assignment in overrides:
        try:
            places.overridden.append(set_override(raw, assignment))
        except RecipeError as error:
            faults.extend(error.faults)
    places.overridden += [("learners", name) for name in mapping(raw.get("learners")) if name not in written]
    fill_known_task(raw)
    found: list[Finding] = []
    if raw.get("variants") and any(given[0] == "sweep" for given in places.overridden):
        found.append((("sweep",), "this recipe was expanded before; give a sweep to the one that it was made from"))
    found += expand_sweep(raw)
    fill_protocol(raw)
    inherited = merge_defaults(raw) | merge_search(raw)
    _resolve_paths(raw, places, base)
    recipe, more = _validate(raw, inherited)
    found += [*more, *combined_faults(raw), *search_faults(raw), *_task_faults(raw)]
    if check_files:
        found += _absent(raw)
    found = _unknown_learners(attribute_to_sweep(found, raw), written)
    told = {fault.key for fault in faults}
    faults += [fault for fault in (places.fault(where, what) for where, what in found) if fault.key not in told]
    if faults or recipe is None:
        raise RecipeError(source, sorted(dict.fromkeys(faults), key=lambda fault: fault.line or len(text)))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """YAML of the recipe with every value written out; it loads back to an equal Recipe.

    Settings of learners that have no effect are left out.
    """
    raw = recipe.model_dump(mode="json")
    for learner in raw["learners"].values():
        for key in unused_settings(learner):
            del learner[key]
        for key in ("name", "tokenizer"):  # by name, wherever the package lies when this is read
            if (value := learner["model"][key]) and Path(value).parent == MODELS:
                learner["model"][key] = Path(value).name
    return dump_yaml(raw)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of recipes, for editors."""
    schema = Recipe.model_json_schema()
    model = schema["$defs"]["Learner"]["properties"]["model"]
    full = {"$ref": model.pop("$ref")}
    model["anyOf"] = [{"type": "string"}, full]
    schema["required"].remove("teacher")  # as the files of a task of the paper, filled in
    schema["$defs"]["TaskConfig"]["required"] = ["name"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def data_path(recipe: Recipe, value: str) -> str:
    """Where the data file `value` of a recipe is: joined with `data.root`, unless absolute or `hub:NAME`."""
    return _joined(recipe.data.root, value)


def missing_files(recipe: Recipe) -> list[Fault]:
    """A Fault for every data file and local model of the recipe that does not exist."""
    return [Places().fault(where, what) for where, what in _absent(recipe.model_dump())]


def _unknown_learners(found: list[Finding], written: Sequence[str]) -> list[Finding]:
    """Replace the faults of a learner that an override made by mistake: it has no model, and is not `written`."""
    lacking = {where[1] for where, _ in found if where[::2] == ("learners", "model") and len(where) == 3}
    strangers = [name for name in lacking if isinstance(name, str) and name not in written]
    kept = [(where, what) for where, what in found if where[:2] not in [("learners", name) for name in strangers]]
    return kept + [(("learners", name), f"no such learner{suggestion(name, written)}") for name in strangers]


def _resolve_paths(raw: dict[str, Any], places: Places, base: Path) -> None:
    """Make `data.root` and local models absolute: from the recipe's folder, or if overridden the working folder."""

    def folders(*path: str) -> list[Path]:
        return [Path.cwd(), base] if places.is_overridden(path) else [base, Path.cwd()]

    data = raw.setdefault("data", {})
    if isinstance(data, dict) and isinstance(data.setdefault("root", "."), str):
        data["root"] = _joined(str(folders("data", "root")[0].absolute()), data["root"])
    _resolve_teacher(mapping(raw.get("teacher")), folders)
    for name, learner in mapping(raw.get("learners")).items():
        if isinstance(learner, dict) and isinstance(learner.get("model"), str):
            if places.is_overridden(("learners", name, "model")):
                places.overridden.append(("learners", name, "model", "name"))
            learner["model"] = {"name": learner["model"]}
        model = mapping(mapping(learner).get("model"))
        for key in ("name", "tokenizer"):
            if isinstance(model.get(key), str):
                model[key] = _local(model[key], folders("learners", name, "model", key))
    for place, judge in learnable_filters(raw):
        if isinstance(judge.get("model"), str) and judge["model"] not in mapping(raw.get("learners")):
            judge["model"] = _local(judge["model"], folders(*map(str, place), "model"))


def _resolve_teacher(teacher: dict[str, Any], folders: Callable[..., list[Path]]) -> None:
    """Make the models, the template and the cache of a teacher that is asked absolute."""
    for key in model_keys(teacher.get("kind")):
        if isinstance(teacher.get(key), str):
            teacher[key] = _local(teacher[key], folders("teacher", key))
    if isinstance(teacher.get("cache"), str):
        teacher["cache"] = _joined(str(folders("teacher", "cache")[0].absolute()), teacher["cache"])
    template = teacher.get("template")
    if isinstance(template, str) and template.startswith(_TEMPLATE_FILE):
        file = template.removeprefix(_TEMPLATE_FILE).strip()
        teacher["template"] = _TEMPLATE_FILE + _joined(str(folders("teacher", "template")[0].absolute()), file)


def _local(name: str, folders: Sequence[Path]) -> str:
    """The absolute path of a model that is on disk or in this package, or can be nowhere else; a hub name as it is."""
    paths = [_joined(str(folder.absolute()), name) for folder in folders]
    if name and "/" not in name:
        paths.append(str(MODELS / name))
    found = [path for path in paths if name and os.path.exists(path)]
    return found[0] if found else paths[0] if _is_path(name) else name


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith(".model") or name.count("/") > 1


def _joined(root: str, value: str) -> str:
    return value if value.startswith("hub:") else os.path.normpath(os.path.join(root, os.path.expanduser(value)))


def _validate(raw: dict[str, Any], inherited: set[KeyPath]) -> tuple[Recipe | None, list[Finding]]:
    try:
        return Recipe.model_validate(raw), []
    except ValidationError as error:
        found = plain_faults(error, raw)
        return None, [
            (where, what) for where, what in found if not any(where[: len(place)] == place for place in inherited)
        ]


def _task_faults(raw: dict[str, Any]) -> Iterator[Finding]:
    task = mapping(raw.get("task"))
    name = task.get("name")
    if isinstance(name, str) and task.get("answer") is None and find_task(name) is None:
        why = f"missing, and `{name}` is not a known task{suggestion(name, PAPER_TASKS)}"
        kinds = ", ".join(get_args(AnswerKind))
        yield ("task", "answer"), f"{why}; give one of {kinds}, or a known task: {', '.join(PAPER_TASKS)}"


def _absent(raw: Mapping[str, Any]) -> Iterator[Finding]:
    root = mapping(raw.get("data")).get("root")
    for section, key in _DATA_FILES:
        value = mapping(raw.get(section)).get(key)
        if (key, value) == ("exemplars", "train"):
            continue  # those in the training file
        if isinstance(root, str) and isinstance(value, str) and not value.startswith("hub:"):
            path = _joined(root, value)
            if not os.path.exists(path):
                hint = "`data.root=DIR` says where data is"
                if find_task(str(mapping(raw.get("task")).get("name"))):
                    hint = f"`mentorkd data paper DIR` fetches the paper's data, {hint}"
                yield (section, key), f"no file at {path}; {hint}"
    teacher = mapping(raw.get("teacher"))
    template = teacher.get("template")
    if isinstance(template, str) and template.startswith(_TEMPLATE_FILE):
        path = template.removeprefix(_TEMPLATE_FILE)
        if not os.path.exists(path):
            yield ("teacher", "template"), f"no file at {path}"
    models: list[tuple[KeyPath, Any]] = [
        (("teacher", key), teacher.get(key)) for key in model_keys(teacher.get("kind"))
    ]
    for name, learner in mapping(raw.get("learners")).items():
        model = mapping(mapping(learner).get("model"))
        models += [(("learners", name, "model", key), model.get(key)) for key in ("name", "tokenizer")]
    models += [((*place, "model"), judge.get("model")) for place, judge in learnable_filters(raw)]
    for where, value in models:
        if isinstance(value, str) and _is_path(value) and not os.path.exists(value):
            yield where, f"no file or folder at {value}"

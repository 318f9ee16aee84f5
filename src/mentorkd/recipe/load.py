"""From a recipe's text to a checked `Recipe`, and back; every fault is found before any is reported.

The steps: YAML -> overrides -> new names for old keys -> the sweep's variants -> recipe-level `training` and `sampling`
merged into every learner -> absolute paths -> pydantic, and the checks of several keys at once -> `Recipe`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from mentorkd.errors import Fault, RecipeError
from mentorkd.files import is_url
from mentorkd.hub import GGUF
from mentorkd.paper.tasks import PAPER_TASKS, find_task
from mentorkd.quickstart.task import MODELS
from mentorkd.recipe.aliases import filters_in, keep_old_defaults, rename_old_keys
from mentorkd.recipe.checks import Finding, combined_faults, plain_faults, unused_settings
from mentorkd.recipe.defaults import fill_known_task, fill_protocol, merge_defaults
from mentorkd.recipe.grader import grader_faults, missing_grader, resolved
from mentorkd.recipe.plateau import plateau_faults
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.search import merge_search, search_faults, size_faults
from mentorkd.recipe.sweep import attribute_to_sweep, expand_sweep
from mentorkd.recipe.teacher import model_keys
from mentorkd.recipe.yaml import KeyPath, Places, dump_yaml, mapping, read_yaml, set_override, suggestion
from mentorkd.records import AnswerKind

_DATA_FILES = (
    "task.train",
    "task.validation",
    "task.test",
    "task.unlabelled",
    "teacher.rationales",
    "teacher.exemplars",
)
_TEMPLATE_FILE = "file:"


def load_recipe(path: Path, overrides: Sequence[str] = (), *, check_files: bool = True) -> Recipe:
    """The recipe in the file `path` with `key.path=value` overrides; its data files must exist if `check_files`.

    Raises RecipeError with all faults.
    """
    if path.exists() and not (path.is_file() or path.is_fifo()):  # a pipe holds what a shell's <(...) writes
        raise RecipeError(str(path), [Fault("", "a folder or a device; expected a file, a YAML recipe")])
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), [Fault("", f"not UTF-8 text ({error.reason}); save it as UTF-8")]) from None
    except OSError as error:
        raise RecipeError(str(path), [Fault("", f"cannot be read: {error.strerror}; expected a YAML recipe")]) from None
    stored = (path.parent / ".stages").is_dir()  # in a run folder, with every default, under the names of its version
    return parse_recipe(
        text, source=str(path), overrides=overrides, base=path.parent, check_files=check_files, stored=stored
    )


def parse_recipe(
    text: str,
    *,
    source: str,
    overrides: Sequence[str] = (),
    base: Path,
    check_files: bool = False,
    stored: bool = False,
) -> Recipe:
    """As `load_recipe`, from a text; `source` names it in errors, and relative paths start from the folder `base`.

    `stored` says that mentorkd wrote the text, so nobody is warned of the names in it.
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
    findings = list(rename_old_keys(raw, places, stored=stored))
    if raw.get("variants") and any(path[0] == "sweep" for path in places.overridden):
        findings.append((("sweep",), "this recipe is the result of a sweep; give a sweep to the recipe before it"))
    findings += expand_sweep(raw)
    findings += rename_old_keys(raw, places, stored=stored)  # in values of the sweep
    if stored:
        keep_old_defaults(raw)
    fill_protocol(raw)
    inherited = merge_defaults(raw) | merge_search(raw)
    _resolve_paths(raw, places, base)
    recipe = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        # A fault of an inherited value is reported once, at the value's own place.
        invalid = plain_faults(error, raw)
        findings += [each for each in invalid if not any(each[0][: len(place)] == place for place in inherited)]
    findings += [*combined_faults(raw), *search_faults(raw), *plateau_faults(raw), *size_faults(raw)]
    findings += [*_task_faults(raw), *grader_faults(raw), *_root_faults(raw)]
    if check_files:
        findings += _absent(raw)
    findings = _unknown_learners(attribute_to_sweep(findings, raw), written)
    reported = {fault.key for fault in faults}
    more = (places.fault(place, message) for place, message in findings)
    faults += [fault for fault in more if fault.key not in reported]
    if faults or recipe is None:
        raise RecipeError(source, sorted(dict.fromkeys(faults), key=lambda fault: fault.line or len(text)))
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """YAML of the recipe with all values that have an effect, defaults included; it loads back to an equal Recipe."""
    raw = recipe.model_dump(mode="json")
    for learner in raw["learners"].values():
        for key in unused_settings(learner):
            del learner[key]
        for key in ("name", "tokenizer"):  # the name alone, since the package may lie elsewhere when this is read
            if (value := learner["model"][key]) and Path(value).parent == MODELS:
                learner["model"][key] = Path(value).name
    return dump_yaml(raw)


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of recipes, for editors."""
    schema = Recipe.model_json_schema()
    model = schema["$defs"]["Learner"]["properties"]["model"]
    full = {"$ref": model.pop("$ref")}
    model["anyOf"] = [{"type": "string"}, full]
    schema["required"].remove("teacher")  # a task of the paper brings its teacher and its files
    schema["$defs"]["TaskConfig"]["required"] = ["name"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def data_path(recipe: Recipe, value: str) -> str:
    """The path of a recipe's data file `value`: joined with `data.root`, unless it is absolute, a URL or `hub:NAME`."""
    return _joined(recipe.data.root, value)


def missing_files(recipe: Recipe) -> list[Fault]:
    """A Fault for every data file and local model of the recipe that does not exist."""
    return [Places().fault(place, message) for place, message in _absent(recipe.model_dump())]


def _unknown_learners(findings: list[Finding], written: Sequence[str]) -> list[Finding]:
    """Replace the faults of learners that a mistyped override made: they have no model and are not `written` in the recipe."""
    incomplete = {place[1] for place, _ in findings if place[::2] == ("learners", "model") and len(place) == 3}
    unknown = [name for name in incomplete if isinstance(name, str) and name not in written]
    others = [finding for finding in findings if finding[0][:2] not in [("learners", name) for name in unknown]]
    return others + [(("learners", name), f"no such learner{suggestion(name, written)}") for name in unknown]


def _resolve_paths(raw: dict[str, Any], places: Places, base: Path) -> None:
    """Make paths and local models absolute: relative to the recipe's folder, or to the working folder if overridden."""

    def folders(path: KeyPath) -> list[str]:
        folders = [str(base.absolute()), os.getcwd()]
        return folders[::-1] if places.is_overridden(path) else folders

    def absolute(path: KeyPath, value: str) -> str:
        return _joined(folders(path)[0], value)

    data, teacher = raw.setdefault("data", {}), mapping(raw.get("teacher"))
    if isinstance(data, dict) and isinstance(data.setdefault("root", "."), str):
        data["root"] = absolute(("data", "root"), data["root"])
    task = mapping(raw.get("task"))
    if isinstance(task.get("grader"), str):
        task["grader"] = resolved(task["grader"], folders(("task", "grader"))[0])
    for key in ("cache", "overlay"):
        if isinstance(teacher.get(key), str):
            teacher[key] = absolute(("teacher", key), teacher[key])
    template = teacher.get("template")
    if isinstance(template, str) and template.startswith(_TEMPLATE_FILE):
        file = template.removeprefix(_TEMPLATE_FILE).strip()
        teacher["template"] = _TEMPLATE_FILE + absolute(("teacher", "template"), file)
    for name, learner in mapping(raw.get("learners")).items():
        if isinstance(learner, dict) and isinstance(learner.get("model"), str):
            if places.is_overridden(("learners", name, "model")):
                places.overridden.append(("learners", name, "model", "name"))
            learner["model"] = {"name": learner["model"]}
    for place, part, key in _models_in(raw):
        part[key] = _local(part[key], folders((*place, key)))


def _models_in(raw: Mapping[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any], str]]:
    """The models and tokenizers in a raw recipe that may be local: the place of the mapping, the mapping, the key."""
    teacher, learners = mapping(raw.get("teacher")), mapping(raw.get("learners"))
    models: list[tuple[KeyPath, dict[str, Any], str]]
    models = [(("teacher",), teacher, key) for key in model_keys(teacher.get("kind"))]
    for name, learner in learners.items():
        model = mapping(mapping(learner).get("model"))
        models += [(("learners", name, "model"), model, key) for key in ("name", "tokenizer")]
    perplexity = [((*place, "perplexity"), mapping(filters.get("perplexity"))) for place, filters in filters_in(raw)]
    models += [(place, each, "model") for place, each in perplexity if str(each.get("model")) not in learners]
    yield from (model for model in models if isinstance(model[1].get(model[2]), str))


def _local(name: str, folders: Sequence[str]) -> str:
    """The absolute path of a model that is on disk, in this package, or named by a path; a hub name unchanged."""
    paths = [_joined(folder, name) for folder in folders]
    if name and "/" not in name:
        paths.append(str(MODELS / name))
    present = [path for path in paths if name and os.path.exists(path)]
    return present[0] if present else paths[0] if _is_path(name) else name


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith((".model", GGUF)) or name.count("/") > 1


def _joined(root: str, value: str) -> str:
    if value.startswith("hub:") or is_url(value):
        return value
    return os.path.normpath(os.path.join(root, os.path.expanduser(value)))


def _task_faults(raw: dict[str, Any]) -> Iterator[Finding]:
    task = mapping(raw.get("task"))
    name = task.get("name")
    if isinstance(name, str) and task.get("answer") is None and find_task(name) is None:
        why = f"missing, and `{name}` is not a known task{suggestion(name, PAPER_TASKS)}"
        kinds = ", ".join(get_args(AnswerKind))
        yield ("task", "answer"), f"{why}; give one of {kinds}, or a known task: {', '.join(PAPER_TASKS)}"


def _root_faults(raw: dict[str, Any]) -> Iterator[Finding]:
    root = mapping(raw.get("data")).get("root")
    if isinstance(root, str) and is_url(root):
        yield ("data", "root"), f"got the URL {root}, expected a folder; write the whole URL of each file"


def _absent(raw: Mapping[str, Any]) -> Iterator[Finding]:
    root = mapping(raw.get("data")).get("root")
    for section, key in (name.split(".") for name in _DATA_FILES):
        value = mapping(raw.get(section)).get(key)
        if (key, value) == ("exemplars", "train"):
            continue  # the exemplars are in the training file
        if isinstance(root, str) and isinstance(value, str):
            path = _joined(root, value)
            if path == value and (value.startswith("hub:") or is_url(value)):
                continue  # whoever reads it asks its server
            if not os.path.exists(path):
                hint = "`data.root=DIR` sets the folder of the data"
                if find_task(str(mapping(raw.get("task")).get("name"))):
                    hint = f"`mentorkd data paper DIR` fetches the paper's data, {hint}"
                yield (section, key), f"no file at {path}; {hint}"
            elif not os.path.isfile(path):
                yield (
                    (section, key),
                    f"{path} is a folder or a device; expected a file, or hub:{path} for a data set in a folder",
                )
    yield from missing_grader(raw)
    overlay = mapping(raw.get("teacher")).get("overlay")
    if isinstance(overlay, str) and os.path.exists(overlay) and not os.path.isfile(overlay):
        yield ("teacher", "overlay"), f"{overlay} is a folder or a device; expected a file of decisions, or none yet"
    elif isinstance(overlay, str) and not os.path.isdir(os.path.dirname(overlay)):
        yield (
            ("teacher", "overlay"),
            f"no folder {os.path.dirname(overlay)} for the overlay; make it, or name a file beside the recipe",
        )
    template = str(mapping(raw.get("teacher")).get("template"))
    path = template.removeprefix(_TEMPLATE_FILE)
    if path != template and not os.path.isfile(path):
        yield ("teacher", "template"), f"no file at {path}"
    for place, part, key in _models_in(raw):
        if _is_path(part[key]) and not (os.path.isfile(part[key]) or os.path.isdir(part[key])):
            yield (*place, key), f"no file or folder at {part[key]}"
